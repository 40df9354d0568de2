"""Loads, calibrates and warms up a configured model, in the device's thread."""

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch

from sidecar.batching import Limits
from sidecar.cost import CostModel, Measured
from sidecar.loaded import LoadedModel
from sidecar.logs import log
from sidecar.scoring import checkpoint, graph, hardware
from sidecar.scoring.base import Pair, Scorer
from sidecar.scoring.bi_encoder import BiEncoder
from sidecar.scoring.cross_encoder import CrossEncoder
from sidecar.scoring.failures import is_out_of_memory
from sidecar.scoring.onnx import OnnxCrossEncoder
from sidecar.settings import ModelSettings

_PAIRS = (1, 4, 16, 64, 256)
_LENGTHS = (32, 128, 512)
_COMPARED_TOKENS = 1024
"""Tokens of each batch that backends are compared on."""
_REPEATS = 2
_ENOUGH = 3
"""Measured shapes after which those predicted to take longer than a batch may are left out."""
_SLOW_S = 1.0
"""A shape that takes longer is run only once."""


class Backend(Scorer, Protocol):
    """A scorer that the loader makes; see :class:`CrossEncoder`."""

    halved: int
    """How often a batch did not fit the memory and was halved."""
    number_type: str
    """Number type of the arithmetic: ``float32``, ``bfloat16``, ``float16`` or ``int8``."""

    @property
    def packed(self) -> bool:
        """See :class:`sidecar.loaded.Packs`."""
        ...

    def prepare(self, tokens: int) -> None:
        """Do in advance the one-off work of the first batch of each size up to ``tokens``."""
        ...


def load(name: str, settings: ModelSettings) -> LoadedModel:
    """Load a model, fit its cost model on this device, and run its largest legal batch once.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        HardwareError: the device is missing, or its memory cannot hold the weights and one pair.
    """
    device = hardware.pick_device(settings)
    dtype = hardware.pick_dtype(settings, device)
    if hardware.emulates(dtype, device):
        log.warning("number_type_emulated", model=name, dtype=settings.dtype, hint="`dtype: auto` is many times faster")
    if hardware.leaves_a_gpu_unused(settings):
        log.warning(
            "gpu_not_used", model=name, hint="torch cannot use the NVIDIA card: no access to it, or an old driver"
        )
    with _shortage_told(
        device, f"does not hold the weights of checkpoint {settings.checkpoint!r}; set a smaller model"
    ):
        scorer = scorer_of(settings, device, dtype)
    one = f"one pair of {scorer.max_length} tokens of checkpoint {settings.checkpoint!r}"
    with _shortage_told(device, f"holds not even {one}; set a smaller `max_length` or a smaller model"):
        _check_finite(scorer, settings, dtype)
        loaded = fitted(name, scorer, calibrate(scorer, settings), settings)
    log.info("model_loaded", model=name, device=str(device), dtype=scorer.number_type, packed=scorer.packed)
    return loaded


@contextmanager
def _shortage_told(device: torch.device, lack: str) -> Iterator[None]:
    """Turn an out-of-memory error into :class:`hardware.HardwareError`; ``lack`` completes "the memory of DEVICE"."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise hardware.HardwareError(f"the memory of {device} {lack}") from error


def scorer_of(settings: ModelSettings, device: torch.device, dtype: torch.dtype) -> Backend:
    """Load the model as its settings ask, without calibrating it.

    Raises:
        CheckpointError: the checkpoint cannot be used.
    """
    if device.type == "cpu":
        hardware.keep_freed_memory()
        hardware.use_threads(settings.threads or hardware.usable_cpus())
    else:
        hardware.keep_from_cudnn_attention()
    if settings.kind == "bi_encoder":
        return BiEncoder(*checkpoint.load_encoder(settings, device, dtype), settings)
    quantised = graph.of(settings, device)
    model, tokenizer = checkpoint.load(settings, device, dtype)
    if quantised is None:
        return CrossEncoder(model, tokenizer, settings)
    onnx = OnnxCrossEncoder(quantised, model, tokenizer, settings)
    if settings.backend == "onnx":
        return onnx
    return faster({"torch": CrossEncoder(model, tokenizer, settings), "onnx": onnx}, settings.checkpoint)


def fitted(name: str, scorer: Backend, cost: CostModel, settings: ModelSettings) -> LoadedModel:
    """Warm the model up and prepare it for batches of any size.

    ``max_batch_tokens`` is halved until the largest batch fits the memory, and stays so in service.

    Raises:
        RuntimeError: not even a single pair fits the memory; on CUDA it is a ``torch.OutOfMemoryError``.
        MemoryError: the same with ONNX Runtime.
    """
    while True:
        loaded = LoadedModel.of(name, scorer, cost, settings)
        before = scorer.halved
        run_largest(loaded)
        if scorer.halved == before:
            scorer.prepare(most_tokens(loaded.limits))
            return loaded
        settings = settings.model_copy(update={"max_batch_tokens": settings.max_batch_tokens // 2})
        log.warning("largest_batch_halved", model=name, max_batch_tokens=settings.max_batch_tokens)


def _check_finite(scorer: Scorer, settings: ModelSettings, dtype: torch.dtype) -> None:
    """Raise CheckpointError for scores that are not finite.

    Weights trained in one number type may overflow in another, and a checkpoint may be broken.
    """
    if not np.isfinite(scorer.score(dummies(scorer, 2, min(_LENGTHS[0], scorer.max_length)))).all():
        raise checkpoint.CheckpointError(
            f"checkpoint {settings.checkpoint!r} gives scores that are not finite in {dtype}; try `dtype: float32`"
        )


def calibrate(scorer: Scorer, settings: ModelSettings) -> CostModel:
    """Measure batches of growing size, as far as the settings allow them, and fit the cost model."""
    measured: list[Measured] = []
    for pairs, length in _shapes(scorer.max_length):
        cost = CostModel.fit(measured) if len(measured) >= _ENOUGH else CostModel()
        if Limits(settings.max_batch_tokens, settings.max_batch_ms / 1e3, cost.predict_s).fits(pairs, length):
            measured.append(Measured(pairs, length, _seconds(scorer, pairs, length)))
    return CostModel.fit(measured)


def _shapes(max_length: int) -> list[tuple[int, int]]:
    """(pairs, tokens of each) to measure, those with the fewest tokens in all first."""
    lengths = {min(length, max_length) for length in (*_LENGTHS, max_length)}
    return sorted(((pairs, length) for pairs in _PAIRS for length in lengths), key=lambda shape: shape[0] * shape[1])


def _seconds(scorer: Scorer, pairs: int, length: int) -> float:
    """Seconds of the fastest of a few runs after one that warms up; for a slow shape, of that one."""
    runs = _timed_runs(scorer, dummies(scorer, pairs, length))
    first = next(runs)
    return first if first > _SLOW_S else min(next(runs) for _ in range(_REPEATS))


def _timed_runs(scorer: Scorer, batch: list[Pair]) -> Iterator[float]:
    while True:
        started = time.perf_counter()
        scorer.score(batch)
        yield time.perf_counter() - started


def faster(
    scorers: Mapping[str, Backend],
    checkpoint_name: str,
    seconds: Callable[[Backend, int, int], float] = _seconds,
) -> Backend:
    """The scorer, of those by backend, that takes the least time for short, medium and long pairs together.

    ``seconds`` measures a batch of (scorer, pairs, tokens of each).
    """
    most = min(scorer.max_length for scorer in scorers.values())
    lengths = sorted({min(length, most) for length in _LENGTHS})
    took_s = {
        backend: sum(seconds(scorer, max(1, _COMPARED_TOKENS // length), length) for length in lengths)
        for backend, scorer in scorers.items()
    }
    best = min(took_s, key=lambda backend: took_s[backend])
    times = {f"{backend}_ms": round(took * 1e3, 1) for backend, took in took_s.items()}
    log.info("backend_chosen", checkpoint=checkpoint_name, backend=best, version=scorers[best].version, **times)
    return scorers[best]


def run_largest(loaded: LoadedModel) -> None:
    """Run the largest batch that the limits allow, so that its memory is taken before the first call."""
    length, limits = loaded.scorer.max_length, loaded.limits
    at_most = max(1, limits.max_batch_tokens // length)
    pairs = next(count for count in range(at_most, 0, -1) if limits.fits(count, length))
    loaded.scorer.score(dummies(loaded.scorer, pairs, length))


def most_tokens(limits: Limits) -> int:
    """Tokens of the largest batch of short pairs, which holds more tokens than one of long pairs."""
    length = _LENGTHS[0]
    return length * bisect_right(
        range(1, limits.max_batch_tokens // length + 1), False, key=lambda pairs: not limits.fits(pairs, length)
    )


def dummies(scorer: Scorer, pairs: int, length: int) -> list[Pair]:
    """``pairs`` pairs of ``length`` tokens, made from a real one so that they take its path through the model."""
    return [scorer.encode("a", ["a " * length])[0].stretched(length)] * pairs
