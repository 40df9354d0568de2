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
        self.unreadable = self.deep = False
        self.path = folder / "number"
        self.path.write_text("1")
        self.metrics = Metrics()
        self.file = WatchedFile(self.read, "number", self.path, metrics=self.metrics)

    def is_current(self) -> bool:
        return self.metrics.registry.get_sample_value("sidecar_file_current", {"file": "number"}) == 1

    def read(self) -> int:
        if self.unreadable:
            raise PermissionError("not allowed")
        if self.deep:
            raise RecursionError("maximum recursion depth exceeded")
        return int(self.path.read_text())

    def becomes(self, text: str) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.path)

    def after_a_look(self) -> int:
        self.file.look()
        return self.file.current()

    def after_two_looks(self) -> int:
        self.file.look()
        return self.after_a_look()

    def changes(self, outcome: str) -> float | None:
        labels = {"file": "number", "outcome": outcome}
        return self.metrics.registry.get_sample_value("sidecar_file_changes_total", labels)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_a_change_counts_when_two_looks_have_found_the_same(watched: Watched) -> None:
    """A file that is being written is valid now and then, and holds half of what it will."""
    for half in ("2", "23", "235"):
        watched.becomes(half)
        assert watched.after_a_look() == 1
    assert watched.after_a_look() == 235
    assert (watched.changes("applied"), watched.changes("refused")) == (1, 0)


def test_a_change_of_rights_alone_is_one(watched: Watched) -> None:
    watched.becomes("2")
    assert watched.after_two_looks() == 2
    watched.path.chmod(0o600)
    assert watched.after_two_looks() == 2
    assert watched.changes("applied") == 2


def test_what_cannot_be_used_is_told_once_and_tried_when_it_changes(watched: Watched) -> None:
    watched.becomes("no number")
    with capture_logs() as told:
        assert [watched.after_two_looks() for _ in range(3)] == [1, 1, 1]
        assert not watched.is_current()
        watched.becomes("3")
        assert watched.after_two_looks() == 3
        assert watched.is_current()
    assert [line["event"] for line in told] == ["number_not_replaced", "number_replaced"]
    assert (watched.changes("applied"), watched.changes("refused")) == (1, 1)


def test_what_cannot_be_read_now_is_tried_again(watched: Watched) -> None:
    watched.becomes("2")
    watched.unreadable = True
    with capture_logs() as told:
        assert [watched.after_two_looks() for _ in range(3)] == [1, 1, 1]
        watched.unreadable = False
        assert watched.after_two_looks() == 2
    assert [line["event"] for line in told] == ["number_not_replaced", "number_replaced"]


def test_a_pipe_in_its_place_is_not_waited_for(watched: Watched) -> None:
    watched.path.unlink()
    os.mkfifo(watched.path)
    assert watched.after_two_looks() == 1
    assert not watched.is_current()
    watched.becomes("2")
    assert watched.after_two_looks() == 2


def test_a_file_that_is_gone_changes_nothing(watched: Watched) -> None:
    watched.path.unlink()
    watched.unreadable = True
    assert watched.after_two_looks() == 1


def test_a_file_that_is_nested_too_deeply_is_refused_like_any_other(watched: Watched) -> None:
    watched.deep = True
    watched.becomes("2")
    with capture_logs() as told:
        assert [watched.after_two_looks() for _ in range(3)] == [1, 1, 1]
    assert [line["event"] for line in told] == ["number_not_replaced"]
    assert (watched.is_current(), watched.changes("refused")) == (False, 1)
