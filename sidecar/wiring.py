"""Builds the configured connectors; a search client is imported only if a connector uses it."""

from collections.abc import Collection, Mapping

from connectors.base import Connector
from sidecar.connector_settings import AnyConnector, ElasticsearchSettings, MemorySettings
from sidecar.metrics import Metrics
from sidecar.observed import ObservedConnector
from sidecar.settings import Settings


class WiringError(Exception):
    """A connector cannot be built; the message names it and says why."""


def connectors_of(
    settings: Settings,
    metrics: Metrics,
    *,
    only: Collection[str] | None = None,
    given: Mapping[str, Connector] | None = None,
) -> dict[str, Connector]:
    """Build the connectors, by name, without connecting. ``only``: their names (None: all); ``given``: used instead.

    Raises:
        WiringError: a file cannot be read, options exclude each other, or a library is not installed.
    """
    if given is not None:
        return {name: one for name, one in given.items() if only is None or name in only}
    built: dict[str, Connector] = {}
    for name, one in settings.connectors.items():
        if only is not None and name not in only:
            continue
        try:
            built[name] = ObservedConnector(_build(name, one), one.type, metrics)
        except (ValueError, OSError) as error:
            raise WiringError(f"connectors.{name}: {error}") from error
    return built


def _build(name: str, settings: AnyConnector) -> Connector:
    if isinstance(settings, MemorySettings):
        from connectors.memory import MemoryConnector

        return MemoryConnector.from_files(name, settings.indices)
    if isinstance(settings, ElasticsearchSettings):
        from connectors.elasticsearch import ElasticsearchConnector

        return ElasticsearchConnector(name, settings.options())
    from connectors.opensearch import OpenSearchConnector

    return OpenSearchConnector(name, settings.options())
