"""The bench of a Search around the forward, on its own server with a scorer that costs nothing."""

import argparse
import multiprocessing

import pytest

from tests.bench import outside


def test_rows_of_calls_with_kept_tokens_and_with_kept_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "WARM_UP", 12)
    found = outside.measure(argparse.Namespace(quick=False, calls=12))
    assert found.name == "outside"
    p50 = {(row["known"], row["what"]): row["p50_ms"] for row in found.rows}
    names = (outside.WHOLE_CALL, *outside.STAGES, outside.OUTSIDE)
    assert list(p50) == [(known, name) for known in (outside.TOKENS_KNOWN, outside.SCORES_KNOWN) for name in names]
    for known in (outside.TOKENS_KNOWN, outside.SCORES_KNOWN):
        whole, inside = p50[known, outside.WHOLE_CALL], p50[known, outside.OUTSIDE]
        assert isinstance(whole, float)
        assert isinstance(inside, float)
        assert 0 < inside < whole, "the reply is built and sent after the server's own total"
    assert p50[outside.TOKENS_KNOWN, "score_ms"] != 0
    assert p50[outside.SCORES_KNOWN, "score_ms"] == 0
    assert set(found.meaning) == {key for row in found.rows for key in row}


def test_a_server_is_ended_when_its_calls_fail() -> None:
    with pytest.raises(RuntimeError, match="a call failed"), outside.server_process() as address:
        raise RuntimeError(f"a call failed at {address}")
    assert not multiprocessing.active_children()
