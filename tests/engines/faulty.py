"""A sidecar that reaches a real engine through a proxy that spoils answers, and what its replies are compared with."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from sidecar.app import App
from sidecar.client import RerankClient
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.settings import Settings
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import QUERY, Reply, reply
from tests.conftest import loader, settings
from tests.engines.engine import Engine
from tests.engines.rest import Json

BUDGET_S = 1.2
SEARCH_TIMEOUT_S = 1.5
QUICK_S = 1.0
"""What an answer takes at most that nothing holds up, on a machine that is busy with something else."""
BODY: Json = {"query": {"match": {"body": "apple winter"}}}
UNHURRIED = pb.Options(budget_ms=5000)
"""For a call that is to be reranked however busy the machine is."""
BARE: Json = {**BODY, "_source": False}
"""The same hits without their text, which is then fetched."""
TEXTS: Json = {"mappings": {"properties": {"title": {"type": "text"}, "body": {"type": "text"}}}}


def hits_of(engine: Engine, index: str, body: Json = BODY) -> list[Json]:
    """The hits that the engine itself gives, asked directly."""
    return list(engine.call("POST", f"/{index}/_search", body)["hits"]["hits"])


def configured(
    engine: Engine,
    url: str,
    policy: Mapping[str, Any] | None = None,
    connector: Mapping[str, Any] | None = None,
    server: Mapping[str, Any] | None = None,
) -> Settings:
    """Settings with a budget of BUDGET_S, and searches of SEARCH_TIMEOUT_S at most."""
    main: Json = {"type": engine.kind, "hosts": [url], "search_timeout_ms": int(SEARCH_TIMEOUT_S * 1e3)}
    if engine.user:
        main["basic_auth"] = {"username": engine.user, "password": engine.password or ""}
    if engine.ca_certs:
        main["ca_certs"] = engine.ca_certs
    return settings(
        {"budget_ms": int(BUDGET_S * 1e3), **(policy or {})},
        connectors={"main": {**main, **(connector or {})}},
        server={
            "address": "127.0.0.1:0",
            "metrics_address": None,
            "shutdown_grace_s": 1,
            "score_cache_mib": 0,
            **(server or {}),
        },
    )


@asynccontextmanager
async def sidecar_for(
    engine: Engine, url: str = "", **changes: Mapping[str, Any]
) -> AsyncIterator[tuple[RerankClient, App]]:
    """A sidecar that reaches the engine at ``url``, its own if empty; for ``changes`` see :func:`configured`."""
    app = App(configured(engine, url or engine.url, **changes), load=loader(WordOverlapScorer()))
    await app.start()
    await app.ready()
    try:
        async with RerankClient(f"127.0.0.1:{app.port}") as client:
            yield client, app
    finally:
        await app.stop()


async def search(client: RerankClient, index: str, body: Json = BODY, **call: Any) -> Reply:
    """One search of that index."""
    page = await client.search(index, QUERY, body, **call)
    assert [hit["_id"] for hit in page.hits] == [result.id for result in page.results]
    return reply(page.message)
