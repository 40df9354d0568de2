"""Scores with infinity-emb's engine; run by :class:`tests.bench.contestants.Infinity` in an environment of its own.

    python infinity_worker.py FOLDER DTYPE DEVICE

One JSON line in (query, texts), one out (scores in the order of the texts). Imports nothing of this repository.
"""

import asyncio
import json
import sys
from importlib import metadata


async def serve(folder: str, dtype: str, device: str) -> None:
    """Answer until the input ends."""
    from infinity_emb import AsyncEmbeddingEngine, EngineArgs  # type: ignore[import-not-found] # of its own environment
    from infinity_emb.primitives import Device, Dtype  # type: ignore[import-not-found]

    arguments = EngineArgs(
        model_name_or_path=folder,
        dtype=Dtype(dtype),
        device=Device(device),
        bettertransformer=False,  # optimum no longer supports it
        model_warmup=False,
    )
    engine = AsyncEmbeddingEngine.from_args(arguments)
    async with engine:
        _say({"version": metadata.version("infinity-emb")})
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            found, _ = await engine.rerank(query=asked["query"], docs=asked["texts"], raw_scores=True)
            by_place = sorted(found, key=lambda one: one.index)
            _say({"scores": [float(one.relevance_score) for one in by_place]})


def _say(answer: dict[str, object]) -> None:
    _OUT.write(json.dumps(answer) + "\n")
    _OUT.flush()


if __name__ == "__main__":
    _OUT = sys.stdout
    sys.stdout = sys.stderr  # whatever the libraries print must not come between the answers
    asyncio.run(serve(*sys.argv[1:4]))
