"""The contestants, all on the same pairs: our scorer and scheduler, sentence-transformers, infinity, ONNX Runtime.

Each scores a query and its passages and returns raw scores. The constructor of one that cannot run here raises
:class:`Unavailable` with the reason.
"""

import asyncio
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sidecar.deadline import Deadline
from sidecar.loaded import LoadedModel
from sidecar.metrics import Metrics
from sidecar.scheduler import Scheduler
from sidecar.scoring import checkpoint, export, float32_graph, hardware, loader
from sidecar.scoring.base import Pair
from sidecar.scoring.padding import padded
from sidecar.settings import BUNDLED, ModelSettings
from sidecar.tokenization import PairEncoder
from tests.bench import infinity_environment
from tests.bench.machine import device

Floats = NDArray[np.float32]
_BUDGET_S = 600.0
IN_INT8 = "sidecar, int8 (ONNX Runtime)"
_BATCH_SIZES = (8, 16, 32, 100)
_WORKER_START_S = 180.0
_WORKER_CALL_S = 120.0


class Unavailable(Exception):
    """A contestant cannot run here; the message says why."""


class Contestant(Protocol):
    """A scorer of query and passages that takes part in the race."""

    name: str
    dtype: str

    def score(self, query: str, texts: Sequence[str]) -> Floats:
        """Raw scores of all pairs, in the order of the texts."""
        ...

    def close(self) -> None:
        """Release processes and memory."""
        ...


class Sidecar:
    """The sidecar's own path from texts to scores without gRPC: encode, submit, wait."""

    def __init__(self, name: str = "sidecar", **settings: Any) -> None:
        chosen = ModelSettings(**settings)
        self.name = name
        self.dtype = str(hardware.pick_dtype(chosen, hardware.pick_device(chosen))).removeprefix("torch.")
        self._runner = asyncio.Runner()
        self._scheduler = Scheduler(100_000, Metrics())
        self.model: LoadedModel = self._scheduler.device.submit(loader.load, "bench", chosen).result()  # as the server

    def score(self, query: str, texts: Sequence[str]) -> Floats:
        """See :class:`Contestant`."""
        return self.score_pairs(self.model.scorer.encode(query, texts))

    def score_pairs(self, pairs: Sequence[Pair], model: LoadedModel | None = None) -> Floats:
        """Scores of encoded pairs by ``model``; None: by the model that was loaded."""

        async def scored() -> Floats:
            deadline = Deadline.earliest(time.monotonic(), _BUDGET_S)
            submitted = self._scheduler.submit(model or self.model, [[pair] for pair in pairs], deadline)
            return (await self._scheduler.result(submitted)).scores

        return self._runner.run(scored())

    def close(self) -> None:
        """See :class:`Contestant`."""
        self._scheduler.stop()
        self._runner.close()


def in_int8() -> Sidecar:
    """The sidecar with the int8 graph that ``rerank-sidecar export`` writes."""
    if device() != "cpu":
        raise Unavailable("the sidecar runs int8 on a CPU only")
    with tempfile.TemporaryDirectory() as made:
        try:
            export.write(ModelSettings(), Path(made))
        except checkpoint.CheckpointError as error:
            raise Unavailable(str(error)) from error
        runner = Sidecar(IN_INT8, checkpoint=made, backend="onnx")
    runner.dtype = "int8"
    return runner


@contextmanager
def as_torch_comes() -> Iterator[None]:
    """Restore torch's own choice of attention, which the sidecar changes for the process that both run in."""
    sidecars = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(sidecars)


class SentenceTransformers:
    """``CrossEncoder.predict``, which sorts by length itself; in batches of 32, or as :meth:`tune` finds best."""

    def __init__(self, name: str, dtype: str, *, tuned: bool = False) -> None:
        try:
            from sentence_transformers import CrossEncoder
        except ImportError:
            raise Unavailable("sentence-transformers is not installed") from None
        self.name, self.dtype = name, dtype
        kwargs = {"dtype": getattr(torch, dtype)}
        self._model = CrossEncoder(checkpoint.location(BUNDLED), device=device(), model_kwargs=kwargs)
        self._batch_size = 32
        self._tuned_name = f"{name} tuned, batch {{}}" if tuned else None

    def tune(self, query: str, texts: Sequence[str]) -> None:
        """Keep the fastest of several batch sizes on these texts, and say so in the name; nothing unless ``tuned``."""
        if self._tuned_name:
            self.score(query, texts)
            self._batch_size = min(_BATCH_SIZES, key=lambda size: self._seconds(size, query, texts))
            self.name = self._tuned_name.format(self._batch_size)

    def _seconds(self, batch_size: int, query: str, texts: Sequence[str]) -> float:
        self._batch_size = batch_size
        return seconds(lambda: self.score(query, texts))

    def score(self, query: str, texts: Sequence[str]) -> Floats:
        """See :class:`Contestant`."""
        pairs = [(query, text) for text in texts]
        with as_torch_comes():
            scores = self._model.predict(
                pairs, batch_size=self._batch_size, show_progress_bar=False, activation_fn=torch.nn.Identity()
            )
        return np.asarray(scores, np.float32)

    def close(self) -> None:
        """See :class:`Contestant`."""
        del self._model


class OnnxLoop:
    """A plain loop: sort by length, pad batches of 32, run the session. The graph is exported here, in float32."""

    name, dtype = "ONNX Runtime loop, batch 32", "float32"
    _BATCH = 32

    def __init__(self) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise Unavailable("onnxruntime is not installed") from None
        provider = "CUDAExecutionProvider" if device() == "cuda" else "CPUExecutionProvider"
        if provider not in onnxruntime.get_available_providers():
            raise Unavailable(f"this build of onnxruntime has no {provider}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        with tempfile.TemporaryDirectory() as made:
            file = Path(made, "model.onnx")
            self._tokenizer = _export(file)
            self._session = onnxruntime.InferenceSession(str(file), options, providers=[provider])
        self._names = [one.name for one in self._session.get_inputs()]

    def score(self, query: str, texts: Sequence[str]) -> Floats:
        """See :class:`Contestant`."""
        order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
        scores = np.empty(len(texts), np.float32)
        for start in range(0, len(order), self._BATCH):
            places = order[start : start + self._BATCH]
            pairs = [query] * len(places), [texts[place] for place in places]
            batch = self._tokenizer(*pairs, padding=True, truncation="only_second", max_length=512, return_tensors="np")
            scores[places] = self._session.run(None, {name: batch[name] for name in self._names})[0][:, 0]
        return scores

    def close(self) -> None:
        """See :class:`Contestant`."""
        del self._session


def _export(file: Path) -> Any:
    """Write the bundled model as a float32 graph, and return its tokenizer."""
    model, tokenizer = checkpoint.load(ModelSettings(), torch.device("cpu"), torch.float32)
    pairs = PairEncoder(tokenizer, 512).encode("a b", ["c d e", "f"])
    try:
        float32_graph.write(float32_graph.Plain, model, padded(pairs, int(tokenizer.pad_token_id or 0)), file)
    except (checkpoint.CheckpointError, float32_graph.NoGraph) as error:
        raise Unavailable(str(error)) from error
    return tokenizer


class Infinity:
    """infinity-emb's engine, in a process and an environment of its own: it requires numpy < 2."""

    def __init__(self, dtype: str) -> None:
        self.name, self.dtype = "infinity", dtype
        try:
            python = infinity_environment.python()
        except infinity_environment.NotInstalled as error:
            raise Unavailable(f"infinity: {error}") from error
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), **infinity_environment.QUIET}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the worker
        self._worker = subprocess.Popen(
            [str(python), infinity_environment.WORKER, checkpoint.location(BUNDLED), dtype, device()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
        )
        try:
            self.name = f"infinity {self._answer(_WORKER_START_S)['version']}"
        except Unavailable:
            self.close()
            raise

    def score(self, query: str, texts: Sequence[str]) -> Floats:
        """See :class:`Contestant`."""
        assert self._worker.stdin is not None
        self._worker.stdin.write(json.dumps({"query": query, "texts": list(texts)}).encode() + b"\n")
        self._worker.stdin.flush()
        return np.array(self._answer(_WORKER_CALL_S)["scores"], np.float32)

    def _answer(self, limit_s: float) -> dict[str, Any]:
        """The worker's next line; raises Unavailable if there is none within ``limit_s``."""
        assert self._worker.stdout is not None
        ready, _, _ = select.select([self._worker.stdout], [], [], limit_s)
        line = self._worker.stdout.readline() if ready else b""
        if not line:
            self._log.seek(0)
            said = self._log.read().decode(errors="replace").strip().splitlines()
            why = said[-1] if said else f"no answer within {limit_s:.0f} s"
            raise Unavailable(f"infinity failed: {why[:160]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """See :class:`Contestant`."""
        self._worker.kill()
        self._worker.communicate()
        self._log.close()


def seconds(work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
