"""Scripted misbehaviour of the memory connector, for trying out how an application takes it."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from connectors.errors import ConnectorError
from connectors.hits import Json

Operation = Literal["search", "fetch", "resolve", "info"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to misbehave: late, failing, malformed or forgetful, and any of these together.

    ``delay_s`` is waited first, within the call's own time limit. Then ``error`` is raised, or ``answer`` stands for
    the engine's whole JSON answer, or the share ``missing`` (0 to 1) of the documents of a fetch is left out, spread
    evenly. ``on`` limits the fault to one operation. It happens once, or with ``always`` at every call.

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
            raise ValueError(f"`delay_s` is {self.delay_s}; a delay is not negative")
        if not 0 <= self.missing <= 1:
            raise ValueError(f"`missing` is {self.missing}; a share is from 0 to 1")
        if self.error is not None and self.answer is not None:
            raise ValueError("`error` and `answer` exclude each other: a call that raises has no answer")

    def forgets(self, place: int) -> bool:
        """Whether the document at this place of a fetch is left out."""
        return int((place + 1) * self.missing) > int(place * self.missing)


class Script:
    """The faults still to come. Each call takes the first one that is for its operation; without one it goes well."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._faults = deque(faults)

    def __len__(self) -> int:
        return len(self._faults)

    def append(self, fault: Fault) -> None:
        """Add one at the end."""
        self._faults.append(fault)

    def clear(self) -> None:
        """Behave from now on."""
        self._faults.clear()

    def take(self, operation: Operation) -> Fault:
        """The fault of this call, removed unless it is for always; ``Fault()`` when there is none."""
        for fault in self._faults:
            if fault.on in (None, operation):
                if not fault.always:
                    self._faults.remove(fault)
                return fault
        return Fault()
