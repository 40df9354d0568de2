"""Whether a file has changed."""

from pathlib import Path

Stamp = tuple[int, int, int] | None
"""Inode, size and time of change of a file, its rights included; None where there is none."""


def stamp_of(file: Path) -> Stamp:
    """What is different once a file has changed."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_ctime_ns
