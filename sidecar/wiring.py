"""From settings to connectors. Imports a search client only when it is configured."""

from connectors.base import Connector
from connectors.options import HttpOptions
from sidecar.metrics import Metrics
from sidecar.observed import ObservedConnector
from sidecar.settings import (
    AnyConnector,
    ElasticsearchSettings,
    HttpConnectorSettings,
    MemorySettings,
    Settings,
    reveal,
)


class WiringError(Exception):
    """A connector cannot be built; the message names it and says why."""


def connectors_of(settings: Settings, metrics: Metrics) -> dict[str, Connector]:
    """All configured connectors by name; none is connected yet.

    Raises:
        WiringError: a file cannot be read, or options exclude each other.
    """
    built = {}
    for name, one in settings.connectors.items():
        try:
            built[name] = ObservedConnector(_build(name, one), one.type, metrics)
        except (ValueError, OSError) as error:
            raise WiringError(f"connectors.{name}: {error}") from error
    return dict(built)


def _build(name: str, settings: AnyConnector) -> Connector:
    if isinstance(settings, MemorySettings):
        from connectors.memory import MemoryConnector

        return MemoryConnector.from_files(name, settings.indices)
    options = _http_options(settings)
    if isinstance(settings, ElasticsearchSettings):
        from connectors.elasticsearch import ElasticsearchConnector

        return ElasticsearchConnector(name, options, api_key=reveal(settings.api_key) if settings.api_key else None)
    from connectors.opensearch import OpenSearchConnector

    return OpenSearchConnector(name, options)


def _http_options(settings: HttpConnectorSettings) -> HttpOptions:
    basic = settings.basic_auth
    return HttpOptions(
        settings.hosts,
        basic_auth=(basic.username, reveal(basic.password)) if basic else None,
        ca_certs=settings.ca_certs,
        verify_certs=settings.verify_certs,
        max_attempts=settings.max_attempts,
        connections=settings.connections,
    )
