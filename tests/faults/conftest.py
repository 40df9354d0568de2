"""What the log says is kept for the test instead of being printed: formatting a traceback would take its time."""

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

Logged = list[MutableMapping[str, Any]]


@pytest.fixture(autouse=True)
def logged() -> Iterator[Logged]:
    """The entries logged so far."""
    with capture_logs() as entries:
        yield entries
