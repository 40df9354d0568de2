"""Engines for the tests: one at a time, each started once, its tests one after the other."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, asynccontextmanager, suppress
from typing import Any, Protocol

import pytest

from connectors.base import Connector
from sidecar.app import App
from sidecar.client import RerankClient
from sidecar.scoring.base import Scorer
from tests.conftest import Serve, settings
from tests.connector_fixtures import connect
from tests.engines.catalog import ENGINES, EngineError, Missing, spec_of
from tests.engines.engine import Engine, Indices, indices, started
from tests.engines.jars import place_of, prepare
from tests.engines.targets import VARIABLES, named_engine, read_targets

TARGETS = read_targets(os.environ)
ALL = list(dict.fromkeys([*TARGETS.plain, *TARGETS.secured]))
ENGINE_FIXTURES = {"engine", "secured_engine", "any_engine"}

FreshNode = Callable[..., Engine]
ConnectorOf = Callable[..., AbstractAsyncContextManager[Connector]]


class SidecarOn(Protocol):
    """See the fixture ``sidecar_on``."""

    def __call__(
        self,
        engine: Engine,
        *,
        policy: dict[str, Any] | None = None,
        scorer: Scorer | None = None,
        connector: Connector | None = None,
        **changes: Any,
    ) -> AbstractAsyncContextManager[tuple[RerankClient, App]]: ...


class Slot:
    """Holds one running engine; the one before is stopped first, so that memory is that of one node."""

    def __init__(self) -> None:
        self._closing = ExitStack()
        self._held: Engine | None = None

    def hold(self, name: str) -> Engine:
        """The engine of that name, started instead of the one before unless it is the same."""
        if self._held is None or self._held.name != name:
            self.clear()
            named = name in VARIABLES
            self._held = named_engine(name, os.environ) if named else self._closing.enter_context(_start(name))
        return self._held

    def clear(self) -> None:
        """Stop what runs."""
        self._held = None
        self._closing.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests without an engine first, then those of each engine together, then those that start nodes of their own."""

    def turn(item: pytest.Item) -> int:
        if name := _engine_of(item):
            return 1 + ALL.index(name)
        return 1 + len(ALL) if "fresh_node" in getattr(item, "fixturenames", ()) else 0

    items.sort(key=turn)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Download what is missing before the first test, so that no test's time limit covers it."""
    chosen = {_engine_of(item) for item in session.items}
    for name in [name for name in ALL if name in chosen and name in ENGINES]:
        if session.config.option.collectonly or place_of(spec_of(name)).is_dir():
            continue
        session.config.get_terminal_writer().line(f"preparing {name}")
        with suppress(EngineError):  # the fixture says it again, as the reason to skip or fail
            prepare(spec_of(name))


def _engine_of(item: pytest.Item) -> str | None:
    """The engine that a test is about."""
    parameters = getattr(item, "callspec", None)
    chosen = parameters.params if parameters else {}
    names = [chosen[fixture] for fixture in ENGINE_FIXTURES if chosen.get(fixture) in ALL]
    return str(names[0]) if names else None


@pytest.fixture(scope="session")
def _slot() -> Iterator[Slot]:
    slot = Slot()
    yield slot
    slot.clear()


@pytest.fixture(scope="session", params=TARGETS.plain)
def engine(request: pytest.FixtureRequest, _slot: Slot) -> Engine:
    """Each engine in turn, reached by http without credentials unless it is a cluster that somebody named."""
    return _slot.hold(request.param)


@pytest.fixture(scope="session", params=TARGETS.secured)
def secured_engine(request: pytest.FixtureRequest, _slot: Slot) -> Engine:
    """Each engine with TLS and users in turn; not to be asked for together with ``engine``."""
    return _slot.hold(request.param)


@pytest.fixture(scope="session", params=ALL)
def any_engine(request: pytest.FixtureRequest, _slot: Slot) -> Engine:
    """Each engine of either sort in turn."""
    return _slot.hold(request.param)


@pytest.fixture
def fresh_node(request: pytest.FixtureRequest, _slot: Slot) -> Iterator[FreshNode]:
    """Start a node that is this test's own, to be killed: ``fresh_node("opensearch-3", heap="256m")``."""
    if not ENGINE_FIXTURES & set(request.fixturenames):
        _slot.clear()
    with ExitStack() as nodes:
        yield lambda name, **options: nodes.enter_context(_start(name, **options))


def _start(name: str, **options: Any) -> AbstractContextManager[Engine]:
    check(name)
    return started(name, **options)


def check(name: str) -> None:
    """Skip the test, or fail it when engines are required, where this machine or this run lacks the engine."""
    if name not in ALL:
        pytest.skip(f"{name} is not among the engines of this run")
    try:
        prepare(spec_of(name))
    except Missing as problem:
        if TARGETS.required:
            pytest.fail(f"ENGINES is required, but {problem}", pytrace=False)
        pytest.skip(str(problem))


@pytest.fixture
def index_name(request: pytest.FixtureRequest) -> Iterator[Indices]:
    """Gives names of indices, made and filled when asked, which are deleted after the test; see ``Indices``."""
    (name,) = ENGINE_FIXTURES & set(request.fixturenames)
    with indices(request.getfixturevalue(name)) as names:
        yield names


@pytest.fixture
def connector_of() -> ConnectorOf:
    """The project's own connector to an engine: ``async with connector_of(engine, max_attempts=1) as connector``."""
    return connected


def connected(engine: Engine, **options: Any) -> AbstractAsyncContextManager[Connector]:
    """The connector with the engine's credentials; options are those of ``HttpOptions``."""
    if engine.api_key:
        options.setdefault("api_key", engine.api_key)
    elif engine.user:
        options.setdefault("basic_auth", (engine.user, engine.password or ""))
    if engine.ca_certs:
        options.setdefault("ca_certs", engine.ca_certs)
    return connect(engine.kind, engine.url, name="main", **options)


@pytest.fixture
def sidecar_on(serve: Serve) -> SidecarOn:
    """A sidecar in front of an engine: ``async with sidecar_on(engine, policy={...}, scorer=...) as (client, app)``.

    ``connector`` stands in for the engine's own, and ``changes`` are further parts of the settings.
    """

    @asynccontextmanager
    async def start(
        engine: Engine,
        *,
        policy: dict[str, Any] | None = None,
        scorer: Scorer | None = None,
        connector: Connector | None = None,
        **changes: Any,
    ) -> AsyncIterator[tuple[RerankClient, App]]:
        configured = settings(policy, **changes)
        async with connected(engine) as own, serve(scorer, connector=connector or own, configured=configured) as served:
            yield served

    return start
