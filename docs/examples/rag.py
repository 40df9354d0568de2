"""Rerank plain texts, as a RAG pipeline does before it fills the prompt; no search engine takes part. Blocking.

python docs/examples/rag.py [TARGET]
"""

import sys

from sidecar.client import BlockingRerankClient
from sidecar.v1 import rerank_pb2 as pb

PASSAGES = [
    "Apple reported higher revenue from phones this quarter.",
    "Wrapped in paper and kept in a cool cellar, Bramley and Fuji apples last until spring.",
    "An apple corer removes the core without cutting the fruit open.",
]


def main(target: str = "127.0.0.1:50051") -> None:
    """Print the two best passages for a question, with their place in the list above."""
    with BlockingRerankClient(target) as client:
        reply = client.rerank("how do I store apples over winter?", PASSAGES, top_n=2)
    print(pb.Outcome.Name(reply.outcome))
    for result in reply.results:
        print(f"{result.normalized_score:.3f}  {PASSAGES[result.original_rank]}")


main(*sys.argv[1:])
