"""Which engines a run of the tests is about, read from the environment.

``ENGINES`` is a list with commas of names to run, and of ``required``, which makes what is missing a failure.
``ES_URL`` and ``OS_URL`` name a cluster that stands in for all nodes of its kind, and are names for ``ENGINES`` as
well; beside them go ``ES_USER``, ``ES_PASSWORD``, ``ES_CA_CERTS``, ``ES_API_KEY``, and all but the last with ``OS``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tests.engines.catalog import ENGINES, EngineError, Kind
from tests.engines.engine import Engine
from tests.engines.node import basic
from tests.engines.rest import Access

VARIABLES: dict[str, Kind] = {"ES_URL": "elasticsearch", "OS_URL": "opensearch"}
REQUIRED = "required"


@dataclass(frozen=True)
class Targets:
    """Names of engines without and with security, and whether a missing program is a failure."""

    plain: tuple[str, ...]
    secured: tuple[str, ...]
    required: bool


def read_targets(environment: Mapping[str, str]) -> Targets:
    """What the environment asks for; ``EngineError`` names a word of ``ENGINES`` that is no engine."""
    words = [word.strip() for word in environment.get("ENGINES", "").split(",") if word.strip()]
    wanted = [word for word in words if word != REQUIRED]
    for word in wanted:
        if word not in ENGINES and word not in VARIABLES:
            raise EngineError(f"ENGINES names {word!r}; there are {REQUIRED}, {', '.join([*ENGINES, *VARIABLES])}")
    plain = [name for name in _offered(environment, secured=False) if not wanted or name in wanted]
    secured = [name for name in _offered(environment, secured=True) if not wanted or name in wanted]
    return Targets(tuple(plain), tuple(secured), REQUIRED in words)


def _offered(environment: Mapping[str, str], *, secured: bool) -> list[str]:
    named = {kind: variable for variable, kind in VARIABLES.items() if environment.get(variable)}
    nodes = [spec.name for spec in ENGINES.values() if bool(spec.user) == secured and spec.kind not in named]
    clusters = [variable for variable in named.values() if not secured or _has_security(environment, variable)]
    return [*clusters, *nodes]


def _has_security(environment: Mapping[str, str], variable: str) -> bool:
    """Whether it is reached by TLS as a user, who has to be one that may make users and roles."""
    user = environment.get(variable.replace("URL", "USER"))
    return bool(user) and environment[variable].startswith("https")


def named_engine(variable: str, environment: Mapping[str, str]) -> Engine:
    """The cluster that ``ES_URL`` or ``OS_URL`` names; ``EngineError`` when it is of the other kind."""
    given = {
        key: environment.get(variable.replace("URL", key)) or None
        for key in ("USER", "PASSWORD", "CA_CERTS", "API_KEY")
    }
    user, password, api_key = given["USER"], given["PASSWORD"], given["API_KEY"]
    authorization = f"ApiKey {api_key}" if api_key else basic(user, password or "") if user else None
    access = Access(environment[variable].rstrip("/"), authorization, given["CA_CERTS"])
    version = access.call("GET", "/")["version"]
    kind: Kind = "opensearch" if version.get("distribution") == "opensearch" else "elasticsearch"
    if kind != VARIABLES[variable]:
        raise EngineError(f"{variable} names a cluster of {kind}")
    return Engine(variable, kind, version["number"], access, user, password, api_key)
