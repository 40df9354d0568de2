"""Writes a checkpoint's folder anew with an int8 graph in it, for ONNX Runtime on a CPU.

Only the weights of linear layers become int8: a scale for each output channel, activations scaled batch by batch, and
the rest (embeddings, norms, attention, the head) stays float32. Weights take 7 bits of the 8: processors without VNNI
add two products in 16 bits, which would overflow silently, and one file is to give the right scores on each of them.
"""

import ctypes
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import try_to_load_from_cache
from transformers import PreTrainedModel

from sidecar.scoring import checkpoint, graph, hardware, loader
from sidecar.scoring.base import Pair, Scorer
from sidecar.scoring.checkpoint import CheckpointError
from sidecar.scoring.cross_encoder import CrossEncoder
from sidecar.scoring.onnx import OnnxCrossEncoder
from sidecar.scoring.padding import padded
from sidecar.settings import ModelSettings

_CPU = torch.device("cpu")
_LEFT_BEHIND = {".onnx", ".h5", ".msgpack", ".ot"}
"""Graphs, and weights of other frameworks."""
_NEAR = 1e-3
"""How far rounding may move a score, absolute and relative: what is farther is another model."""
_SAMPLE = ("a", "", "a b c d e " * 4, "a b c d e " * 9, "f g h " * 1000)


@contextmanager
def finished(folder: Path) -> Iterator[Path]:
    """A new folder to write into, which becomes ``folder`` when the block ends well, and else is as if it never was.

    Raises:
        CheckpointError: ``folder`` is there and not empty, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists and is not empty; name a new folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as unfinished:
            made = Path(unfinished, "made")
            made.mkdir()
            yield made
            made.replace(folder)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written: {error.strerror or error}") from error


def write(settings: ModelSettings, folder: Path) -> None:
    """Copy a checkpoint's files into ``folder``, which is there and empty, and add the int8 graph.

    Raises:
        CheckpointError: ONNX or its runtime is not installed, the checkpoint is refused by the loader, its architecture
            has no graph, or its graph gives other scores in float32.
    """
    _check_installed()
    model, tokenizer = checkpoint.load(settings, _CPU, torch.float32)
    # It may change how its model attends, so it has one of its own.
    want = CrossEncoder(*checkpoint.load(settings, _CPU, torch.float32), settings)
    pairs = want.encode("a b", _SAMPLE)
    _copy(_files_of(settings), folder)
    with tempfile.TemporaryDirectory() as scratch:  # the float32 graph is no faster than torch, so it is not kept
        exact = Path(scratch, "model.onnx")
        float32_graph(model, pairs[1:4], int(tokenizer.pad_token_id or 0), exact)
        _check_equal(want, OnnxCrossEncoder(graph.open_graph(exact, settings), model, tokenizer, settings), model)
        _quantise(exact, folder / graph.NAME, {graph.MADE_OF: graph.digest(folder)})


def _check_equal(want: Scorer, got: Scorer, model: PreTrainedModel) -> None:
    """What was traced may depend on the sample's shapes; that shows in other ones."""
    scores, pairs = want.score(want.encode("a b", _SAMPLE)), got.encode("a b", _SAMPLE)
    try:
        found = np.concatenate([got.score(pairs), got.score(pairs[-1:])])
    except Exception as error:  # ONNX Runtime's errors have no other class in common
        raise _no_graph(model, f"its graph does not run: {_first_line(error)}") from error
    expected = np.append(scores, scores[-1])
    off = np.abs(found - expected)
    if not (off <= _NEAR * np.maximum(1, np.abs(expected))).all():
        raise _no_graph(model, f"its graph's scores are off by up to {off.max():.3g} in float32")


def backends(settings: ModelSettings, folder: Path) -> dict[str, Scorer]:
    """The ways to run a written folder on this CPU, by name: exactly, as torch does by itself, by its int8 graph."""
    there = settings.model_copy(update={"checkpoint": str(folder), "revision": None, "backend": "torch"})
    dtypes = dict.fromkeys([torch.float32, hardware.pick_dtype(there, _CPU)])
    scorers: dict[str, Scorer] = {
        f"torch {str(dtype).removeprefix('torch.')}": loader.scorer_of(there, _CPU, dtype) for dtype in dtypes
    }
    by_graph = there.model_copy(update={"backend": "onnx"})
    return {**scorers, "ONNX Runtime int8": loader.scorer_of(by_graph, _CPU, torch.float32)}


def _check_installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise CheckpointError(graph.NOT_INSTALLED) from error


def _files_of(settings: ModelSettings) -> Path:
    """The folder of a checkpoint that is loaded: for a hub id, that of its download."""
    where = checkpoint.location(settings.checkpoint)
    if Path(where).is_dir():
        return Path(where)
    config = try_to_load_from_cache(where, "config.json", revision=settings.revision)
    if not isinstance(config, str):
        raise CheckpointError(f"the download of checkpoint {where!r} cannot be found; export a local folder of it")
    return Path(config).parent


def _copy(source: Path, folder: Path) -> None:
    for file in source.iterdir():
        left = file.suffix in _LEFT_BEHIND or file.name == checkpoint.ENCODER or file.name.startswith(".")
        if file.is_file() and not left:
            shutil.copyfile(file, folder / file.name)


class _Logits(torch.nn.Module):
    """A model that takes its inputs by place and returns the logits alone, as the exporter wants it."""

    def __init__(self, model: PreTrainedModel, names: Sequence[str]) -> None:
        super().__init__()
        self._model, self._names = model, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Logits of shape (pairs, labels)."""
        logits: torch.Tensor = self._model(**dict(zip(self._names, inputs, strict=True))).logits
        return logits


def float32_graph(model: PreTrainedModel, pairs: Sequence[Pair], pad_id: int, file: Path) -> None:
    """Write the graph that ``model`` is, traced on ``pairs``; it takes any number of pairs of any length.

    Raises:
        CheckpointError: the model cannot be traced.
    """
    inputs = {name: torch.from_numpy(array) for name, array in padded(pairs, pad_id).items()}
    try:
        model.set_attn_implementation("eager")  # the others choose kernels by the mask's content
        with warnings.catch_warnings(action="ignore"), _unheard(), torch.inference_mode():  # scores are compared later
            torch.onnx.export(
                _Logits(model, list(inputs)),
                tuple(inputs.values()),
                str(file),
                input_names=list(inputs),
                output_names=["logits"],
                dynamic_axes={name: {0: "pairs", 1: "tokens"} for name in inputs},
                dynamo=False,  # the new exporter needs two more packages
            )
    except Exception as error:  # torch and its exporter raise what they like
        raise _no_graph(model, f"{type(error).__name__}: {_first_line(error)}") from error


@contextmanager
def _unheard() -> Iterator[None]:
    """Nothing reaches stdout: the exporter's C++ prints the whole graph when it fails."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)


def _quantise(exact: Path, file: Path, about: dict[str, str]) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    linear = {"op_types_to_quantize": ["MatMul"], "weight_type": QuantType.QInt8}
    with _silent_root():
        quantize_dynamic(exact, file, per_channel=True, reduce_range=True, **linear)
    made: Any = onnx.load(file)
    onnx.helper.set_model_props(made, about)
    onnx.save(made, file)


@contextmanager
def _silent_root() -> Iterator[None]:
    """The quantiser warns through the root logger of what made no difference here, and would give it a handler."""
    root, nowhere = logging.getLogger(), logging.NullHandler()
    root.addHandler(nowhere)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        root.removeHandler(nowhere)


def _no_graph(model: PreTrainedModel, why: str) -> CheckpointError:
    return CheckpointError(
        f"a model of type {model.config.model_type!r} cannot be exported: {why}; it runs with `backend: torch`"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
