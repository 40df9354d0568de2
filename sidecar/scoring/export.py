"""Copies a checkpoint's folder and adds an int8 graph, for ONNX Runtime on a CPU.

Only the weights of linear layers become int8, with a scale for each output channel; activations are scaled batch by
batch, and the rest (embeddings, norms, attention, the head) stays float32. Weights use 7 of the 8 bits: processors
without VNNI add two products in 16 bits, which would overflow silently, and one file must give right scores on all.
"""

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import try_to_load_from_cache

from sidecar.logs import log
from sidecar.scoring import checkpoint, float32_graph, graph, hardware, loader
from sidecar.scoring.base import Pair, Scorer, Scores
from sidecar.scoring.checkpoint import CheckpointError
from sidecar.scoring.cross_encoder import CrossEncoder
from sidecar.scoring.float32_graph import NoGraph
from sidecar.scoring.onnx import OnnxCrossEncoder
from sidecar.scoring.padding import padded
from sidecar.settings import ModelSettings

_CPU = torch.device("cpu")
_LEFT_BEHIND = {".onnx", ".h5", ".msgpack", ".ot"}
"""Suffixes of files that are not copied: graphs, and weights of other frameworks."""
_NEAR = 1e-3
"""How far rounding may move a score, absolute and relative; a larger difference means another model."""
_SAMPLE = ("a", "", "a b c d e " * 4, "a b c d e " * 9, "f g h " * 1000)


@contextmanager
def finished(folder: Path) -> Iterator[Path]:
    """A new folder to write into, which becomes ``folder`` if the block succeeds and is removed if it fails.

    Raises:
        CheckpointError: ``folder`` exists and is not an empty folder, or it cannot be written (any OSError).
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
    """Copy a checkpoint's files into ``folder``, which must exist and be empty, and add the int8 graph.

    Raises:
        CheckpointError: ONNX or its runtime is not installed, the loader refuses the checkpoint, its architecture has
            no graph, its graph gives other scores in float32, or scores that are not finite in int8.
    """
    _check_installed()
    model, tokenizer = checkpoint.load(settings, _CPU, torch.float32)
    # CrossEncoder may change its model's attention, so it gets a model of its own.
    want = CrossEncoder(*checkpoint.load(settings, _CPU, torch.float32), settings)
    pairs, pad_id = want.encode("a b", _SAMPLE), int(tokenizer.pad_token_id or 0)
    _copy(_files_of(settings), folder)

    def opened(file: Path) -> Scorer:
        return OnnxCrossEncoder(graph.open_graph(file, settings), model, tokenizer, settings)

    with tempfile.TemporaryDirectory() as scratch:  # the float32 graph is not kept: torch serves in float32
        exact = Path(scratch, "model.onnx")

        def write_exact(form: float32_graph.Form) -> None:
            float32_graph.write(form, model, padded(pairs[1:4], pad_id), exact)
            _check_equal(want, opened(exact))

        try:
            _first_possible(write_exact, float32_graph.forms(model))
            _quantise(exact, folder / graph.NAME, {graph.MADE_OF: graph.digest(folder)})
            _check_finite(opened(folder / graph.NAME))
        except NoGraph as error:
            kind = model.config.model_type
            raise CheckpointError(
                f"a model of type {kind!r} cannot be exported: {error}; it runs with `backend: torch`"
            ) from error


def _first_possible(write_exact: Callable[[float32_graph.Form], None], forms: Sequence[float32_graph.Form]) -> None:
    """Write the first form that works; the errors of the last one are raised.

    Checkpoints differ in what a form of our own may leave out, and releases of ONNX Runtime in what they accept.
    """
    *better, plain = forms
    for form in better:
        try:
            return write_exact(form)
        except NoGraph as error:
            log.warning("traced_as_transformers_has_it", reason=str(error))
    return write_exact(plain)


def _check_equal(want: Scorer, got: Scorer) -> None:
    """Raise NoGraph if scores differ: a trace may depend on its sample's shapes, which shows with other shapes."""
    scores, pairs = want.score(want.encode("a b", _SAMPLE)), got.encode("a b", _SAMPLE)
    found = np.concatenate([_scores(got, pairs), _scores(got, pairs[-1:])])
    expected = np.append(scores, scores[-1])
    off = np.abs(found - expected)
    if not (off <= _NEAR * np.maximum(1, np.abs(expected))).all():
        raise NoGraph(f"its graph's scores are off by up to {off.max():.3g} in float32")


def _check_finite(int8: Scorer) -> None:
    if not np.isfinite(_scores(int8, int8.encode("a b", _SAMPLE))).all():
        raise NoGraph("its int8 graph gives scores that are not finite")


def _scores(scorer: Scorer, pairs: Sequence[Pair]) -> Scores:
    try:
        return scorer.score(pairs)
    except Exception as error:  # ONNX Runtime's errors have no narrower common class
        raise NoGraph(f"its graph does not run: {float32_graph.first_line(error)}") from error


def backends(settings: ModelSettings, folder: Path) -> dict[str, Scorer]:
    """Scorers of a written folder on this CPU, by name: torch in float32, torch as configured, and the int8 graph."""
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
    """The folder of a loaded checkpoint; for a hub id, that of its download."""
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


def _quantise(exact: Path, file: Path, about: dict[str, str]) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    linear = {"op_types_to_quantize": float32_graph.OPERATIONS, "weight_type": QuantType.QInt8}
    with _silent_root():
        quantize_dynamic(exact, file, per_channel=True, reduce_range=True, **linear)
    made: Any = onnx.load(file)
    onnx.helper.set_model_props(made, about)
    onnx.save(made, file)


@contextmanager
def _silent_root() -> Iterator[None]:
    """Silence the root logger: the quantiser logs irrelevant warnings to it, and would add a handler."""
    root, nowhere = logging.getLogger(), logging.NullHandler()
    root.addHandler(nowhere)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        root.removeHandler(nowhere)
