"""How a search engine is reached over HTTP."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Host:
    """One node's address, read from a URL."""

    scheme: str
    name: str
    port: int
    path: str

    @property
    def url(self) -> str:
        """The address as a URL with its port."""
        name = f"[{self.name}]" if ":" in self.name else self.name
        return f"{self.scheme}://{name}:{self.port}{self.path}"


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """Addresses, credentials and limits of one engine; a combination that makes no sense is a ``ValueError``.

    ``hosts`` are URLs of nodes of one cluster, all http or all https; a port left out is that of the scheme (80, 443),
    and a path is put before every call's. ``basic_auth`` is a user name and a password. ``ca_certs`` is a file or
    folder of the CA certificates to trust. ``max_attempts`` (1 to 5) counts the first try. ``connections`` (1 to 1024)
    is the most kept open to one node.

    Example:
        >>> HttpOptions(("http://localhost:9200",)).nodes
        (Host(scheme='http', name='localhost', port=9200, path=''),)
    """

    hosts: Sequence[str]
    basic_auth: tuple[str, str] | None = field(default=None, repr=False)
    ca_certs: str | Path | None = None
    verify_certs: bool = True
    max_attempts: int = 2
    connections: int = 32
    nodes: tuple[Host, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.hosts, str) or not self.hosts:
            raise ValueError("`hosts` needs a list of at least one URL, such as `http://localhost:9200`")
        object.__setattr__(self, "nodes", tuple(_host(url) for url in self.hosts))
        if len({node.scheme for node in self.nodes}) > 1:
            raise ValueError("`hosts` mixes http and https; the nodes of one cluster are reached one way")
        _check_range("max_attempts", self.max_attempts, 5)
        _check_range("connections", self.connections, 1024)
        self._check_certificates()
        if self.basic_auth is not None and ":" in self.basic_auth[0]:
            raise ValueError("the user name of `basic_auth` holds a colon, which HTTP does not allow")

    @property
    def headers(self) -> dict[str, str]:
        """The ``Authorization`` header in UTF-8, as both engines read it (their clients know ASCII or Latin-1 only)."""
        if self.basic_auth is None:
            return {}
        return {"authorization": f"Basic {b64encode(':'.join(self.basic_auth).encode()).decode()}"}

    @property
    def tls(self) -> bool:
        """Whether the nodes are reached by https."""
        return self.nodes[0].scheme == "https"

    def _check_certificates(self) -> None:
        if not self.tls and (self.ca_certs is not None or not self.verify_certs):
            raise ValueError("`ca_certs` and `verify_certs` are about https, but `hosts` are http")
        if self.ca_certs is None:
            return
        if not self.verify_certs:
            raise ValueError(
                "`ca_certs` is given, but `verify_certs` is false, so that nothing would be checked by them"
            )
        if not Path(self.ca_certs).exists():
            raise ValueError(f"`ca_certs` names {str(self.ca_certs)!r}, which does not exist")


def _host(url: str) -> Host:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError("a host has a port or an address that cannot be read") from error
    if parts.username is not None or parts.password is not None:
        raise ValueError("a host holds a user name or password; give them as `basic_auth`")
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise ValueError(f"{url!r} is not a URL: write `http://host:port` or `https://host:port`")
    if parts.query or parts.fragment:
        raise ValueError(f"{url!r} has a query or a fragment; a host ends with its path")
    return Host(parts.scheme, parts.hostname, port or DEFAULT_PORTS[parts.scheme], parts.path.rstrip("/"))


def _check_range(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise ValueError(f"`{name}` is {value}; it must be from 1 to {most}")
