"""The race is fair and goes on without contestants that fail; one that cannot run here is reported, not raised."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.bench import server, throughput
from tests.bench.contestants import Floats, Infinity, Unavailable, as_torch_comes


class Runner:
    """A contestant of known speed, whose scores are off by ``offset``."""

    def __init__(self, name: str, ran: list[str], took_s: float = 0.0, offset: float = 0.0, fails_at: int = -1) -> None:
        self.name, self.dtype = name, "float32"
        self._ran, self._took_s, self._offset, self._fails_at = ran, took_s, offset, fails_at
        self.texts: list[Sequence[str]] = []

    def score(self, query: str, texts: Sequence[str]) -> Floats:
        self._ran.append(self.name)
        if len(self.texts) == self._fails_at:
            raise Unavailable(f"{self.name} broke")
        self.texts.append(texts)
        time.sleep(self._took_s)
        return np.arange(len(texts), dtype=np.float32) + np.float32(self._offset)

    def close(self) -> None: ...


def test_all_score_the_same_texts_by_turns_and_one_that_fails_leaves_the_race() -> None:
    ran: list[str] = []
    ours = Runner("sidecar", ran, took_s=0.01)
    theirs = Runner(throughput.AS_IT_COMES, ran, took_s=0.04)
    wrong = Runner("wrong", ran, offset=0.5)
    broken = Runner("broken", ran, fails_at=2)
    rows, failed = throughput.race([ours, theirs, wrong, broken], 85, rounds=3, advance=lambda: None)
    assert [row["who"] for row in rows] == ["sidecar", throughput.AS_IT_COMES, "wrong"]
    assert failed == ["broken broke"]
    assert ours.texts == theirs.texts
    assert len({tuple(texts) for texts in ours.texts}) == 4, "every round has new texts, so that no cache helps"
    assert {ran[start] for start in (0, 4, 8)} == {"broken", "sidecar", throughput.AS_IT_COMES}, "each begins a round"
    assert rows[0]["sidecar_is_faster_by"] == 1.0
    ratio = rows[1]["sidecar_is_faster_by"]
    assert isinstance(ratio, float)
    assert 2 < ratio < 5
    assert [row["largest_difference"] for row in rows] == [0.0, 0.0, 0.5]
    assert {row["rounds"] for row in rows} == {3}


def test_infinity_that_cannot_be_imported_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFINITY_PYTHON", sys.executable)
    with pytest.raises(Unavailable, match="infinity failed: ModuleNotFoundError"):
        Infinity("float32")


def test_infinity_whose_process_ends_at_once_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nothing = tmp_path / "python"
    nothing.write_text("#!/bin/sh\nexit 3\n")
    nothing.chmod(0o755)
    monkeypatch.setenv("INFINITY_PYTHON", str(nothing))
    started = time.monotonic()
    with pytest.raises(Unavailable, match="infinity failed"):
        Infinity("float32")
    assert time.monotonic() - started < 10


def test_a_server_whose_model_fails_is_told_with_the_end_of_its_log() -> None:
    model = {"checkpoint": "./no-such-folder"}
    with pytest.raises(server.ServerDied, match="no-such-folder"), server.running(policy={}, model=model):
        pass


def test_a_rival_has_torchs_own_choice_of_attention_and_the_sidecar_its_own_again() -> None:
    was = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(False)
        with as_torch_comes():
            assert torch.backends.cuda.cudnn_sdp_enabled()
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(was)
