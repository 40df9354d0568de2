"""Search and SearchProgressive through a real gRPC server."""

from typing import Any

from tests.conftest import Serve

QUERY = "apple varieties for winter storage"
BODY: dict[str, Any] = {"query": {"match": {"body": "apple winter"}}}


def ids(hits: list[dict[str, Any]]) -> list[str]:
    return [hit["_id"] for hit in hits]


async def test_reranked_page_holds_the_engines_own_hits_in_a_better_order(serve: Serve) -> None:
    async with serve() as (client, _):
        page = await client.search("docs", QUERY, BODY)
    assert page.outcome == "RERANKED"
    assert page.reason == "UNSPECIFIED"
    assert page.hits[0]["_id"] == "d3"
    assert [result.id for result in page.results] == ids(page.hits)
    assert sorted(result.original_rank for result in page.results) == list(range(5))
