"""Brings a configured model to life: load, warm up, calibrate. Runs in the device's thread."""

import time

import torch

from sidecar.cost import CostModel, Measured
from sidecar.loaded import LoadedModel
from sidecar.scoring import checkpoint, hardware
from sidecar.scoring.base import Pair, Scorer
from sidecar.scoring.cross_encoder import CrossEncoder
from sidecar.settings import ModelSettings

_SHAPES = ((1, 32), (1, 128), (8, 64), (16, 128), (4, 256), (2, 512), (32, 64))
"""(pairs, tokens) that the cost model is fitted on."""
_REPEATS = 2


def load(name: str, settings: ModelSettings) -> LoadedModel:
    """A model that has run its largest legal batch once, with a cost model fitted on this device.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        HardwareError: the device is not there.
    """
    device = hardware.pick_device(settings)
    if device.type == "cpu":
        torch.set_num_threads(settings.threads or hardware.usable_cpus())
    model, tokenizer = checkpoint.load(settings, device, hardware.pick_dtype(settings, device))
    scorer = CrossEncoder(model, tokenizer, settings)
    loaded = LoadedModel.of(name, scorer, calibrate(scorer, settings), settings)
    run_largest(loaded)
    hardware.release_unused_memory()
    return loaded


def calibrate(scorer: Scorer, settings: ModelSettings) -> CostModel:
    """Measure a few shapes and fit the cost model; each shape runs once unmeasured, then the fastest run counts."""
    shapes = [(pairs, length) for pairs, length in _SHAPES if length <= scorer.max_length]
    shapes = [shape for shape in shapes if shape[0] * shape[1] <= settings.max_batch_tokens]
    return CostModel.fit([Measured(*shape, seconds=_seconds(scorer, *shape)) for shape in shapes or [(1, 16)]])


def _seconds(scorer: Scorer, pairs: int, length: int) -> float:
    batch = dummies(pairs, length)
    scorer.score(batch)
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        scorer.score(batch)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def run_largest(loaded: LoadedModel) -> None:
    """Run the largest batch that the limits allow, so that its memory is taken before the first call."""
    length, limits, pairs = loaded.scorer.max_length, loaded.limits, 1
    while limits.fits(pairs * 2, length):
        pairs *= 2
    loaded.scorer.score(dummies(pairs, length))


def dummies(pairs: int, length: int) -> list[Pair]:
    """Pairs of ``length`` tokens that every vocabulary has; only their shape matters."""
    return [Pair([1] * length) for _ in range(pairs)]
