"""The configuration that calls are served by: one object, exchanged whole, so that no call sees half of a change."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client import Gauge

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
    """What is switched off by hand, whatever the configuration says; forgotten with the process.

    ``gauge`` is that of a policy: 1 while it is off.
    """

    gauge: Gauge
    all_off: bool = False
    off: set[str] = field(default_factory=set)

    def is_off(self, policy: str) -> bool:
        """Whether a policy is to leave the engine's order alone."""
        return self.all_off or policy in self.off

    def turn(self, policy: str, *, on: bool) -> None:
        """Switch one policy, or with an empty name all of them; those that were off by themselves before all were stay
        off when all are on again, until that is said once more."""
        if policy and on:
            self.off.discard(policy)
        elif policy:
            self.off.add(policy)
        elif on and not self.all_off:
            self.off.clear()
        else:
            self.all_off = not on

    def show(self, policies: Iterable[str], gone: Iterable[str] = ()) -> None:
        """Tell of the policies that are configured, and no more of those that are gone."""
        for name in policies:
            self.gauge.labels(name).set(int(self.is_off(name)))
        for name in set(gone) - set(policies):
            self.gauge.remove(name)


class Current:
    """Holds what is live now."""

    def __init__(self, live: Live) -> None:
        self.live = live
