"""The int8 graph beside a checkpoint's weights: where it lies, whether it belongs to them, and how it is opened."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sidecar.logs import log
from sidecar.scoring import hardware
from sidecar.scoring.checkpoint import CheckpointError, location
from sidecar.settings import ModelSettings

NAME = "model_int8.onnx"
"""Name of the graph in a checkpoint's folder."""
MADE_OF = "rerank_sidecar_made_of"
"""Key of the graph's metadata that holds :func:`digest` of the weights it was made of."""
NOT_INSTALLED = "ONNX Runtime is not installed: pip install 'rerank-sidecar[onnx]'"
_WEIGHTS = ("config.json", "*.safetensors", "*.bin")
_SPIN_US = "50"
"""Microseconds that a thread spins for work before it sleeps, as long as torch's threads do.

Two cores of an AMD EPYC, 100 pairs of 85 tokens: 715 ms sleeping at once, 629 ms with this value, 666 ms with the
default of milliseconds; with two busy neighbours 1.26, 1.47 and 2.00 s."""
_SLOWER = ("SkipLayerNormFusion",)
"""Fusions that are disabled in ONNX Runtime: its fused sum and layer norm takes four times as long as the norm alone.

The same cores and pairs: 256 ms with it, 232 ms without; with AVX-512 hidden from all libraries 505 ms and 476 ms."""
_FATAL = 4
"""Log level of ONNX Runtime, which writes coloured text between our JSON lines; exceptions hold its errors too."""


@dataclass(frozen=True, eq=False)
class Graph:
    """An open graph; ``inputs`` are the names of its inputs, ``digest`` the SHA-256 of its file."""

    session: Any
    inputs: frozenset[str]
    digest: str


def of(settings: ModelSettings, device: torch.device) -> Graph | None:
    """The graph that ``settings.backend`` requires or allows; None if only torch is to run.

    Raises:
        CheckpointError: the backend is ``onnx`` and the graph cannot be used; with ``auto`` the log says why.
    """
    folder = Path(location(settings.checkpoint))
    asked = settings.backend == "onnx"
    if settings.backend == "torch" or (not asked and (device.type != "cpu" or not (folder / NAME).is_file())):
        return None
    try:
        return _fitting(folder, settings, device)
    except CheckpointError as error:
        if asked:
            raise
        log.warning("int8_graph_not_used", reason=str(error))
        return None


def _fitting(folder: Path, settings: ModelSettings, device: torch.device) -> Graph:
    """Open the graph in ``folder``, and check that it was made of the weights beside it."""
    file, name = folder / NAME, repr(settings.checkpoint)
    again = f"run `rerank-sidecar export {settings.checkpoint} NEW_FOLDER` and set `checkpoint` to the new folder"
    if device.type != "cpu":
        raise CheckpointError(
            f"`backend: onnx` runs on a CPU only, and the device is {device}; set `device: cpu` or `backend: torch`"
        )
    if not file.is_file():
        raise CheckpointError(f"checkpoint {name} has no int8 graph ({NAME}), as `backend: onnx` needs: {again}")
    opened = open_graph(file, settings)
    made_of = opened.session.get_modelmeta().custom_metadata_map.get(MADE_OF)
    if made_of is None:
        raise CheckpointError(f"{file} was not written by `rerank-sidecar export`: {again}")
    if made_of != digest(folder):
        raise CheckpointError(f"{file} was made of other weights or another config.json than lie beside it: {again}")
    return opened


def open_graph(file: Path, settings: ModelSettings) -> Graph:
    """Open a graph's file, to run on a CPU in as many threads as the settings say.

    Raises:
        CheckpointError: ONNX Runtime is not installed, or rejects the file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise CheckpointError(NOT_INSTALLED) from error
    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(_FATAL)
    try:
        session = onnxruntime.InferenceSession(
            str(file),
            _options(onnxruntime, settings),
            providers=["CPUExecutionProvider"],
            disabled_optimizers=_SLOWER,
        )
    except Exception as error:  # its errors have no narrower common class
        raise CheckpointError(f"{file} is no graph that ONNX Runtime takes: {str(error).splitlines()[0]}") from error
    with file.open("rb") as content:
        made = hashlib.file_digest(content, "sha256").hexdigest()
    return Graph(session, frozenset(one.name for one in session.get_inputs()), made)


def _options(onnxruntime: Any, settings: ModelSettings) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = settings.threads or hardware.usable_cpus()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_US)
    options.enable_mem_pattern = False  # it is kept for each shape, and no two batches have the same
    options.enable_cpu_mem_arena = False  # it only grows; `hardware.keep_freed_memory` is as fast
    return options


def digest(folder: Path) -> str:
    """SHA-256 of the weights and the config in a checkpoint's folder."""
    files = sorted(file for pattern in _WEIGHTS for file in folder.glob(pattern))
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            whole.update(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()
