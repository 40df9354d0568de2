"""Stamps that tell whether a file has changed."""

from pathlib import Path

Stamp = tuple[int, int, int] | None
"""Inode, size and ctime in ns, which changes with the permissions, too; None if the file cannot be examined."""


def stamp_of(file: Path) -> Stamp:
    """Return a value that differs once the file has changed."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_ctime_ns
