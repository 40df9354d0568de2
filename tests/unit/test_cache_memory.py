"""What a cache counts is what the process grows by."""

import subprocess
import sys
from pathlib import Path

import pytest

_FILL = """
import os, sys
from sidecar.bounded_cache import ENTRY_BYTES, BoundedCache

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

value_bytes, most = int(sys.argv[1]), 24 * 2**20
cache = BoundedCache(most, len)
before = resident()
while cache.size_bytes < 0.99 * most:
    cache.keep({os.urandom(32): bytes(value_bytes) for _ in range(100)})
for _ in range(2 * most // (ENTRY_BYTES + value_bytes) // 100):  # as many again, twice: what it is like when it is full
    cache.keep({os.urandom(32): bytes(value_bytes) for _ in range(100)})
print((resident() - before) / cache.size_bytes)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("value_bytes", [24, 400, 2000])
def test_a_full_cache_takes_about_what_it_says(value_bytes: int) -> None:
    filled = subprocess.run(
        [sys.executable, "-c", _FILL, str(value_bytes)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert 0.7 < float(filled.stdout) < 1.2
