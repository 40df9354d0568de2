"""Searches on a real engine whose replies are compared with the engine's own, and what the model read of their hits."""

from typing import Any

from connectors.hits import Json
from sidecar.client import Page
from sidecar.v1 import rerank_pb2 as pb
from tests.engines.conftest import SidecarOn
from tests.engines.engine import Engine

QUERY = "apple tart"


def reading(*fields: Any, **text: Any) -> Json:
    """A policy that reads these fields."""
    return {"text": {"fields": fields or ["title", "body"], **text}, "budget_ms": 5000}


def own_hits(engine: Engine, index: str, body: Json) -> dict[str, Json]:
    """The engine's own hits by index and id."""
    hits = engine.call("POST", f"/{index}/_search", body)["hits"]["hits"]
    return {f"{hit['_index']}/{hit['_id']}": hit for hit in hits}


async def searched(sidecar_on: SidecarOn, engine: Engine, index: str, body: Json, policy: Json, **more: Any) -> Page:
    """The reply to a search, whose hits have been compared with the engine's own."""
    own = own_hits(engine, index, body)
    async with sidecar_on(engine, policy=policy, **more) as (client, _):
        page = await client.search(index, QUERY, body, options=pb.Options(return_passages=True))
    assert len(page.hits) == len(own)
    assert {f"{hit['_index']}/{hit['_id']}": hit for hit in page.hits} == own
    return page


def ids(page: Page) -> list[str]:
    return [hit["_id"] for hit in page.hits]


def passages(page: Page) -> dict[str, str]:
    return {result.id: result.passage for result in page.results}


def has_fetched(page: Page) -> bool:
    return bool(page.message.meta.timings.fetch_ms > 0)
