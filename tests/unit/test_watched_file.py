"""A small file is read again when it changes; what cannot be used changes nothing, and is told once."""

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sidecar.metrics import Metrics
from sidecar.watched_file import WatchedFile


class Watched:
    """A file with a number in it."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.unreadable = False
        self.path = folder / "number"
        self.path.write_text("1")
        self.metrics = Metrics()
        self.file = WatchedFile(self.read, "number", self.path, metrics=self.metrics, clock=lambda: self.now)

    def is_current(self) -> bool:
        return self.metrics.registry.get_sample_value("sidecar_file_current", {"file": "number"}) == 1

    def read(self) -> int:
        if self.unreadable:
            raise PermissionError("not allowed")
        return int(self.path.read_text())

    def becomes(self, text: str) -> None:
        changed_ns = self.path.stat().st_mtime_ns + 10**6
        self.path.write_text(text)
        os.utime(self.path, ns=(changed_ns, changed_ns))

    def after_a_second(self) -> int:
        self.now += 1.0
        return self.file.current()


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_it_is_looked_at_once_a_second(watched: Watched) -> None:
    watched.becomes("2")
    assert watched.file.current() == 1
    assert watched.after_a_second() == 2


def test_what_cannot_be_used_is_told_once_and_tried_when_it_changes(watched: Watched) -> None:
    watched.becomes("no number")
    with capture_logs() as told:
        assert [watched.after_a_second() for _ in range(3)] == [1, 1, 1]
        assert not watched.is_current()
        watched.becomes("3")
        assert watched.after_a_second() == 3
        assert watched.is_current()
    assert [line["event"] for line in told] == ["number_not_replaced", "number_replaced"]


def test_what_cannot_be_read_now_is_tried_again(watched: Watched) -> None:
    watched.becomes("2")
    watched.unreadable = True
    with capture_logs() as told:
        assert [watched.after_a_second() for _ in range(3)] == [1, 1, 1]
        watched.unreadable = False
        assert watched.after_a_second() == 2
    assert [line["event"] for line in told] == ["number_not_replaced", "number_replaced"]


def test_a_file_that_is_gone_changes_nothing(watched: Watched) -> None:
    watched.path.unlink()
    watched.unreadable = True
    assert watched.after_a_second() == 1
