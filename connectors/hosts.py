"""Addresses of a cluster's nodes, from URLs and Elastic Cloud ids. Pure, no I/O."""

import re
from base64 import b64decode
from dataclasses import dataclass
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


def host_of(url: str) -> Host:
    """Parse the URL of a node; the default port is that of the scheme, 80 or 443.

    Raises:
        ValueError: it is not an http or https URL, or holds a user name, a password, a query or a fragment.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError("a host has a port or an address that cannot be read") from error
    if parts.username is not None or parts.password is not None:
        raise ValueError("a host holds a user name or password; give them as `basic_auth`")
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or port == 0:
        raise ValueError(f"{url!r} is not a node's URL: write `http://host:port` or `https://host:port`")
    if parts.query or parts.fragment:
        raise ValueError(f"{url!r} has a query or a fragment; a host ends with its path")
    return Host(parts.scheme, parts.hostname, port or DEFAULT_PORTS[parts.scheme], parts.path.rstrip("/"))


def cloud_url(cloud_id: str) -> str:
    """Return the URL of the Elasticsearch that an Elastic Cloud id names.

    The id is a label, which is ignored, a colon, and in base64 the domain, the name of Elasticsearch and that of
    Kibana, with ``$`` between them. The port is that of the name, else of the domain, else 443.

    Raises:
        ValueError: it is not such an id.

    >>> cloud_url("shop:" + __import__("base64").b64encode(b"eu.cloud.example$abc$def").decode())
    'https://abc.eu.cloud.example:443'
    """
    try:
        domain, name, *_ = b64decode(cloud_id.rpartition(":")[2], validate=True).decode("ascii").split("$")
    except ValueError:
        domain = name = ""
    domain, _, port = domain.partition(":")
    name, _, own_port = name.partition(":")
    port = own_port or port or "443"
    words = re.fullmatch(r"[\w-]+(\.[\w-]+)*", domain, re.ASCII) and re.fullmatch(r"[\w-]+", name, re.ASCII)
    if not words or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("`cloud_id` cannot be read; copy it as the Elastic Cloud console shows it")
    return f"https://{name}.{domain}:{port}"
