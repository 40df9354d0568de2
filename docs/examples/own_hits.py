"""Rerank hits that the app has already: by id (the sidecar fetches the text) or as the engine's own JSON. Asyncio.

python docs/examples/own_hits.py INDEX "QUERY" ID [ID ...]
"""

import asyncio
import sys

import grpc

from sidecar.client import RerankClient
from sidecar.v1 import rerank_pb2 as pb


async def main(index: str, query: str, *ids: str) -> None:
    """Print the ids in their new order."""
    async with RerankClient("127.0.0.1:50051") as client:
        reply = await client.rerank(query, [pb.Candidate(id=one) for one in ids], index=index)
    print(pb.Outcome.Name(reply.outcome), pb.Reason.Name(reply.reason), reply.meta.detail)
    for result in reply.results:
        print(result.id, f"(was {result.original_rank})")


if len(sys.argv) < 3:
    sys.exit(__doc__)
try:
    asyncio.run(main(*sys.argv[1:]))
except grpc.RpcError as error:
    sys.exit(f"{error.code().name}: {error.details()}")
