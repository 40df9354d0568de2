"""The library compiled from ``native/``: how it is found, checked and run.

Building this package compiles it if there is a C compiler; without it, and on other CPUs, torch's operations are used.
"""

import ctypes
import os
import platform
import sys
from collections.abc import Callable
from enum import IntEnum
from importlib.util import find_spec
from typing import ClassVar, TypeVar

import torch

from sidecar.logs import log

Made = TypeVar("Made")
_MODULE = "sidecar.scoring._native"
_VERSION = 2
"""VERSION of ``native/native.h``: a library compiled from another one is refused."""
_OTHER_VERSION = "compiled from another version of its source: install the package again"
_ALIGNMENT = 64


class Way(IntEnum):
    """Number type of the rows, and how they are multiplied: the names and numbers of ``native/native.h``."""

    BY_TILES = 0
    BY_VECTORS = 1
    FLOAT32_AVX512 = 2
    FLOAT32_AVX2 = 3

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the rows."""
        return torch.bfloat16 if self in (Way.BY_TILES, Way.BY_VECTORS) else torch.float32


class Work(ctypes.Structure):
    """``Work`` of ``native/native.h``, with which each task begins."""

    _fields_ = (
        ("way", ctypes.c_int64),
        ("scratch", ctypes.c_void_p),
        ("threads", ctypes.c_int64),
        *((name, ctypes.c_longlong) for name in ("next_thread", "next_item")),
    )


class Task(ctypes.Structure):
    """A structure of ``native/native.h`` that begins with its ``Work``."""

    function: ClassVar[str]
    """Name of what computes it, but for ``sidecar_``; with ``_bytes`` it is the name of what says its size."""
    work: Work


class Library:
    """The compiled library, run by the OpenMP that torch itself uses: a second one would compete with it for the cores.

    Raises:
        AttributeError: ``library`` lacks a function, here or in any method, or torch's OpenMP has no ``GOMP_parallel``.
        ValueError: it was compiled from another version of its source.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._parallel = ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p)
        if self.number("version") != _VERSION:
            raise ValueError(_OTHER_VERSION)

    def check(self, task: type[Task]) -> None:
        """Raise :exc:`ValueError` unless the library knows ``task`` by the size that it has here."""
        if self.number(f"{task.function}_bytes") != ctypes.sizeof(task):
            raise ValueError(_OTHER_VERSION)

    def number(self, function: str, *arguments: int) -> int:
        """The result of a function from integers to an integer."""
        called = getattr(self._library, f"sidecar_{function}")
        called.argtypes, called.restype = (ctypes.c_int64,) * len(arguments), ctypes.c_int64
        return int(called(*arguments))

    def permits_tiles(self) -> bool:
        """Ask the operating system for AMX tiles; whether it permits them to this process."""
        if self._library.sidecar_request_tiles() == 0:
            return True
        log.warning("amx_not_permitted", reason=os.strerror(ctypes.get_errno()), hint="by a sandbox, perhaps")
        return False

    def run(self, task: Task, way: Way, scratch_bytes: int = 0) -> None:
        """Compute ``task`` with ``scratch_bytes`` for each thread."""
        threads = torch.get_num_threads()
        scratch = torch.empty(threads * scratch_bytes + _ALIGNMENT, dtype=torch.uint8)
        task.work = Work(way=way, threads=threads, scratch=-(-scratch.data_ptr() // _ALIGNMENT) * _ALIGNMENT)
        function = getattr(self._library, f"sidecar_{task.function}")
        function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_void_p), None
        function(ctypes.byref(task), self._parallel)


def on_linux_x86_64() -> bool:
    """Whether this is the only platform that the library is compiled for."""
    return (sys.platform, platform.machine()) == ("linux", "x86_64")


def made_by(make: Callable[[Library], Made | None]) -> Made | None:
    """What ``make`` makes of the library, None with a line in the log if that is missing or unusable.

    ``make`` returns None if the numbers of what it made are wrong; it may raise what :class:`Library` does.
    """
    found = find_spec(_MODULE)
    if found is None or found.origin is None:
        log.info("native_missing", hint="faster here if it is installed where there is gcc 11, clang 12 or newer")
        return None
    try:
        made = make(Library(ctypes.CDLL(found.origin, use_errno=True)))
        if made is not None:
            return made
        why = "its numbers are wrong"
    except (AttributeError, OSError, ValueError) as error:
        why = str(error)
    log.warning("native_unusable", file=found.origin, reason=why)
    return None
