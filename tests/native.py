"""The library of ``sidecar/scoring/native``: compiled anew, also for a processor whose AMX is emulated."""

import ctypes
import shutil
import subprocess
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sidecar.scoring import native

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "sidecar/scoring/native/native.c"

# AMX in plain C, each thread with tiles of its own, for processors without it.
_EMULATED = """
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
static _Thread_local struct { uint16_t halves[16][32]; float sums[16][16]; } tiles[8];
static float as_float(uint16_t half) { uint32_t bits = (uint32_t)half << 16; float x; memcpy(&x, &bits, 4); return x; }
static void loaded(int t, const void *from, long stride) {
    for (int r = 0; r < 16; r++) memcpy(tiles[t].halves[r], (const char *)from + r * stride, 64);
}
static void stored(int t, void *to, long stride) {
    for (int r = 0; r < 16; r++) memcpy((char *)to + r * stride, tiles[t].sums[r], 64);
}
static void multiplied(int to, int a, int b) {
    for (int r = 0; r < 16; r++)
        for (int n = 0; n < 16; n++)
            for (int k = 0; k < 32; k++)
                tiles[to].sums[r][n] +=
                    as_float(tiles[a].halves[r][k]) * as_float(tiles[b].halves[k / 2][2 * n + k % 2]);
}
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stream_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#undef _tile_loadconfig
#undef _tile_release
#define _tile_zero(t) memset(tiles[t].sums, 0, sizeof tiles[t].sums)
#define _tile_loadd(t, from, stride) loaded(t, from, stride)
#define _tile_stream_loadd(t, from, stride) loaded(t, from, stride)
#define _tile_stored(t, to, stride) stored(t, to, stride)
#define _tile_dpbf16ps(to, left, right) multiplied(to, left, right)
#define _tile_loadconfig(config) ((void)(config))
#define _tile_release() ((void)0)
#define syscall(...) 0
"""


def compiles() -> bool:
    """Whether there is a C compiler, and not too old a one."""
    asked = ["cc", "-mamx-bf16", "-mavx512bf16", "-E", "-x", "c", "/dev/null"]
    return shutil.which("cc") is not None and subprocess.run(asked, capture_output=True, check=False).returncode == 0


needs_compiler = pytest.mark.skipif(not compiles(), reason="needs a C compiler that knows AMX")


def extension() -> dict[str, Any]:
    """What pyproject.toml says of how the library is compiled."""
    (only,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"]
    return dict(only)


def with_emulated_tiles(folder: Path) -> Path:
    """The library in ``folder``, compiled for a processor whose AMX is emulated."""
    header, made = folder / "amx.h", folder / "emulated.so"
    header.write_text(_EMULATED)
    command = ["cc", *extension()["extra-compile-args"], "-shared", "-fPIC", "-include", header, "-o", made, SOURCE]
    subprocess.run(command, check=True, timeout=60)
    return made


def built() -> Path:
    """The library that was built when this package was installed."""
    found = find_spec(native._MODULE)
    assert found
    assert found.origin
    return Path(found.origin)


def library(file: Path) -> native.Library:
    """The library in ``file``."""
    return native.Library(ctypes.CDLL(str(file), use_errno=True))
