"""What the figures were measured on: hardware, versions, commit."""

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

ISA_FEATURES = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx_vnni", "avx512f", "avx2")
"""Flags of /proc/cpuinfo that decide how fast a matrix product is, fastest first."""
_LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS")
_NO_NAMES = ("cpu", "processor")
_PACKAGES = ("torch", "transformers", "sentence-transformers", "onnxruntime", "tokenizers", "grpcio", "numpy")


def describe() -> dict[str, Any]:
    """The machine as the tables and the document name it; ``slug`` tells machines apart in file names."""
    import torch

    from sidecar.scoring import hardware

    cpuinfo = Path("/proc/cpuinfo")
    named, isa = processor_of(cpuinfo.read_text() if cpuinfo.is_file() else "")
    processor = named or platform.processor() or platform.machine()
    threads = hardware.usable_cpus()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "slug": slug(gpu, processor, isa, threads),
        "gpu": gpu,
        "processor": processor,
        "isa": isa,
        "threads": threads,
        "limits": {name: os.environ[name] for name in _LIMITS if name in os.environ},
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def device() -> str:
    """The device that everything here runs on: ``cuda`` where there is one, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def processor_of(cpuinfo: str) -> tuple[str, list[str]]:
    """Model name and the features of :data:`ISA_FEATURES` that the text of /proc/cpuinfo lists."""
    name = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    listed = set(flags[1].split()) if flags else set()
    return (name[1].strip() if name else ""), [feature for feature in ISA_FEATURES if feature in listed]


def slug(gpu: str | None, processor: str, isa: list[str], threads: int) -> str:
    """A short name for files.

    >>> slug(None, "Intel(R) Xeon(R) Processor", ["amx_bf16", "avx2"], 2), slug("NVIDIA H100 80GB HBM3", "", [], 16)
    ('intel-xeon-amx-bf16-2', 'nvidia-h100-80gb-hbm3')
    """
    words = [word for word in re.sub(r"\(\w+\)", " ", processor.lower()).split() if word not in _NO_NAMES]
    name = gpu or f"{' '.join(words)}-{isa[0] if isa else 'plain'}-{threads}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def in_words(machine: Mapping[str, Any]) -> str:
    """One line: what a table's title says of the machine."""
    cpu = f"{machine['processor']} ({', '.join(machine['isa']) or 'no vector features known'}), "
    limits = "".join(f", {name}={value}" for name, value in machine["limits"].items())
    return (f"{machine['gpu']}; " if machine["gpu"] else "") + cpu + f"{machine['threads']} threads{limits}"


def commit() -> str:
    """The variable COMMIT if set, else the code's commit, ``-dirty`` with changes on top; ``unknown`` without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=8", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        found = ""
    return os.environ.get("COMMIT") or found or "unknown"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
