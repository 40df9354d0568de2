"""Scripted misbehaviour of the memory connector, to test how an application copes with it."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from connectors.errors import ConnectorError
from connectors.hits import Json

Operation = Literal["search", "fetch", "resolve", "info"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a call: a delay, and then an error, another answer, or missing documents.

    ``delay_s`` is waited first, within the call's own time limit. Then ``error`` is raised, or ``answer`` replaces the
    engine's whole JSON answer, or the share ``missing`` (0 to 1) of the documents of a fetch is left out, spread
    evenly. ``on`` limits the fault to one operation. It applies to one call, or with ``always`` to every call.

    Example:
        >>> Fault(delay_s=0.5, on="search")
        Fault(delay_s=0.5, error=None, answer=None, missing=0.0, on='search', always=False)
    """

    delay_s: float = 0.0
    error: ConnectorError | None = None
    answer: Json | None = None
    missing: float = 0.0
    on: Operation | None = None
    always: bool = False

    def __post_init__(self) -> None:
        if not self.delay_s >= 0:
            raise ValueError(f"`delay_s` is {self.delay_s}; a delay must be 0 or more")
        if not 0 <= self.missing <= 1:
            raise ValueError(f"`missing` is {self.missing}; a share is from 0 to 1")
        if self.error is not None and self.answer is not None:
            raise ValueError("`error` and `answer` exclude each other: a call that raises has no answer")

    def forgets(self, place: int) -> bool:
        """Whether the document at this place of a fetch is left out."""
        return int((place + 1) * self.missing) > int(place * self.missing)


class Script:
    """The faults to come. Each call takes the first one for its operation; without one it succeeds."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._faults = deque(faults)

    def __len__(self) -> int:
        return len(self._faults)

    def append(self, fault: Fault) -> None:
        """Add a fault at the end."""
        self._faults.append(fault)

    def clear(self) -> None:
        """Remove all faults."""
        self._faults.clear()

    def take(self, operation: Operation) -> Fault:
        """Return the fault of this call, and remove it unless it is ``always``; ``Fault()`` if there is none."""
        for fault in self._faults:
            if fault.on in (None, operation):
                if not fault.always:
                    self._faults.remove(fault)
                return fault
        return Fault()
