"""Search through the sidecar, asyncio.

python docs/examples/search.py INDEX "QUERY" [TARGET]
"""

import asyncio
import sys

import grpc

from sidecar.client import RerankClient


async def main(index: str, query: str, target: str = "127.0.0.1:50051") -> None:
    """Print the reranked hits, and say so when they are not reranked."""
    body = {"query": {"multi_match": {"query": query, "fields": ["title", "text"]}}, "size": 5}
    async with RerankClient(target) as client:
        page = await client.search(index, query, body)
    print(page.outcome, "" if page.outcome == "RERANKED" else f"({page.reason}: {page.message.meta.detail})")
    for hit, result in zip(page.hits, page.results, strict=True):
        print(f"{result.relevance_score:+7.2f}  was {result.original_rank:2}  {hit['_id']}  {hit['_source']['title']}")


if len(sys.argv) < 3:
    sys.exit(__doc__)
try:
    asyncio.run(main(*sys.argv[1:]))
except grpc.RpcError as error:
    sys.exit(f"{error.code().name}: {error.details()}")
