"""The configuration in use: one object, replaced as a whole, so that no call sees half of a change."""

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
    """Everything built from one configuration, except its models. A call keeps the one that it began with."""

    settings: Settings
    connectors: Mapping[str, Connector]
    names: Names
    retrieval: Retrieval
    authentication: Authentication


@dataclass
class Switches:
    """Policies that an admin switched off, whatever the configuration says; a restart forgets them.

    ``gauge`` is labelled by policy: 1 while that policy is off.
    """

    gauge: Gauge
    all_off: bool = False
    off: set[str] = field(default_factory=set)

    def is_off(self, policy: str) -> bool:
        """Whether a policy is switched off, by itself or with all others."""
        return self.all_off or policy in self.off

    def turn(self, policy: str, *, on: bool) -> None:
        """Switch one policy, or all if the name is empty. Policies that were switched off by name stay off when all are
        switched on again; switching all on a second time switches these on, too."""
        if policy and on:
            self.off.discard(policy)
        elif policy:
            self.off.add(policy)
        elif on and not self.all_off:
            self.off.clear()
        else:
            self.all_off = not on

    def show(self, policies: Iterable[str], gone: Iterable[str] = ()) -> None:
        """Set the gauge of each configured policy, and remove it for those that are ``gone``."""
        for name in policies:
            self.gauge.labels(name).set(int(self.is_off(name)))
        for name in set(gone) - set(policies):
            self.gauge.remove(name)


class Current:
    """Holds the :class:`Live` in use."""

    def __init__(self, live: Live) -> None:
        self.live = live
