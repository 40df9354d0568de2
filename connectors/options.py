"""How a search engine is reached over HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from connectors import credentials
from connectors.bad_option import BadOption
from connectors.hosts import Host, host_of
from connectors.tls import Tls

AWS_SERVICES = ("es", "aoss")


@dataclass(frozen=True, slots=True)
class Aws:
    """Sign each request with AWS SigV4: ``service`` is `es` (OpenSearch Service) or `aoss` (OpenSearch Serverless).

    The credentials come from the standard chain: environment, shared files, container, instance.
    """

    region: str
    service: str = "es"

    def __post_init__(self) -> None:
        if not self.region:
            raise BadOption("aws", "`aws` needs a region, such as `eu-central-1`")
        if self.service not in AWS_SERVICES:
            sentence = f"`aws` has the service {self.service!r}; allowed: {', '.join(AWS_SERVICES)}"
            raise BadOption("aws", sentence)


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """Addresses, credentials and limits of one engine; a bad value or contradictory combination raises ``BadOption``.

    ``hosts`` are URLs of nodes of one cluster, all http or all https; the default port is that of the scheme (80, 443),
    and a path is prepended to every call's. At most one of ``basic_auth`` (a user name and a password), ``api_key`` (in
    its encoded form), ``bearer_token`` and ``aws`` may be given. ``ca_certs`` to ``client_key_password`` are those of
    :class:`connectors.tls.Tls`. ``max_attempts`` (1 to 5) includes the first try. ``connections`` (1 to 1024) is the
    most open to one node. ``connect_timeout_s`` (over 0, at most 60) is how long connecting may take before another
    node is tried, never more than half of the call's remaining time. ``compress`` applies to requests and answers.
    ``max_answer_mib`` (1 to 1024) is the largest answer that is read, after decompression.

    Example:
        >>> HttpOptions(("http://localhost:9200",)).nodes
        (Host(scheme='http', name='localhost', port=9200, path=''),)
    """

    hosts: Sequence[str]
    basic_auth: tuple[str, str] | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    bearer_token: str | None = field(default=None, repr=False)
    aws: Aws | None = None
    ca_certs: str | Path | None = None
    verify_certs: bool = True
    certificate_fingerprints: Sequence[str] = ()
    client_cert: str | Path | None = None
    client_key: str | Path | None = None
    client_key_password: str | None = field(default=None, repr=False)
    max_attempts: int = 2
    connections: int = 32
    connect_timeout_s: float = 1.0
    compress: bool = False
    max_answer_mib: int = 64
    nodes: tuple[Host, ...] = field(init=False, repr=False)
    tls: Tls | None = field(init=False, repr=False)
    authorization: str | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.hosts, str) or not self.hosts:
            raise BadOption("hosts", "`hosts` needs a list of at least one URL, such as `http://localhost:9200`")
        object.__setattr__(self, "nodes", tuple(map(_node, self.hosts)))
        if len({node.scheme for node in self.nodes}) > 1:
            raise BadOption("hosts", "`hosts` mixes http and https; the nodes of one cluster are reached one way")
        object.__setattr__(self, "tls", self._tls())
        object.__setattr__(self, "authorization", self._authorization())
        _check_range("max_attempts", self.max_attempts, 5)
        _check_range("connections", self.connections, 1024)
        _check_range("max_answer_mib", self.max_answer_mib, 1024)
        if not 0 < self.connect_timeout_s <= 60:
            sentence = f"`connect_timeout_s` is {self.connect_timeout_s}; it must be over 0, and 60 at most"
            raise BadOption("connect_timeout_s", sentence)

    def _tls(self) -> Tls | None:
        given = (
            self.ca_certs,
            self.verify_certs,
            self.certificate_fingerprints,
            self.client_cert,
            self.client_key,
            self.client_key_password,
        )
        if self.nodes[0].scheme == "https":
            return Tls(*given)
        if given != (None, True, (), None, None, None):
            raise BadOption("hosts", "certificate options need https, but `hosts` are http")
        return None

    def _authorization(self) -> str | None:
        """The ``Authorization`` header of every call; None without credentials, or if calls are signed instead."""
        ways = {
            "basic_auth": self.basic_auth,
            "api_key": self.api_key,
            "bearer_token": self.bearer_token,
            "aws": self.aws,
        }
        given = [name for name, way in ways.items() if way is not None]
        if len(given) > 1:
            raise BadOption(
                given[1], f"give `{given[0]}` or `{given[1]}`, not both: only one kind of credentials may be given"
            )
        if self.basic_auth is not None:
            return credentials.basic(*self.basic_auth)
        if self.api_key is not None:
            return credentials.api_key(self.api_key)
        return None if self.bearer_token is None else credentials.bearer(self.bearer_token)


def _node(url: str) -> Host:
    try:
        return host_of(url)
    except ValueError as error:
        raise BadOption("hosts", str(error)) from None


def _check_range(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise BadOption(name, f"`{name}` is {value}; it must be from 1 to {most}")
