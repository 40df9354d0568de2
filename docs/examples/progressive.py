"""Show the engine's order at once and the better one when it is there. Asyncio.

python docs/examples/progressive.py INDEX "QUERY"
"""

import asyncio
import sys

import grpc

from sidecar.client import RerankClient


async def main(index: str, query: str) -> None:
    """Print the ids of both answers."""
    body = {"query": {"multi_match": {"query": query, "fields": ["title", "text"]}}, "size": 5}
    async with RerankClient("127.0.0.1:50051") as client:
        async for page in client.search_progressive(index, query, body):
            print(f"{page.outcome:12}", *(hit["_id"] for hit in page.hits))


if len(sys.argv) < 3:
    sys.exit(__doc__)
try:
    asyncio.run(main(*sys.argv[1:]))
except grpc.RpcError as error:
    sys.exit(f"{error.code().name}: {error.details()}")
