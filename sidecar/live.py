"""The configuration that calls are served by: one object, exchanged whole, so that no call sees half of a change."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from connectors.base import Connector
from sidecar.authentication import Authentication
from sidecar.names import Names
from sidecar.retrieval import Retrieval
from sidecar.settings import Settings


@dataclass(frozen=True)
class Live:
    """All that follows from one configuration, models left aside. A call keeps the one that it began with."""

    settings: Settings
    connectors: Mapping[str, Connector]
    names: Names
    retrieval: Retrieval
    authentication: Authentication


@dataclass
class Switches:
    """What is switched off by hand, whatever the configuration says; forgotten with the process."""

    all_off: bool = False
    off: set[str] = field(default_factory=set)

    def is_off(self, policy: str) -> bool:
        """Whether a policy is to leave the engine's order alone."""
        return self.all_off or policy in self.off

    def turn(self, policy: str, *, on: bool) -> None:
        """Switch one policy, or with an empty name all of them."""
        if not policy:
            self.all_off = not on
            self.off.clear()
        elif on:
            self.off.discard(policy)
        else:
            self.off.add(policy)


class Current:
    """Holds what is live now."""

    def __init__(self, live: Live) -> None:
        self.live = live
