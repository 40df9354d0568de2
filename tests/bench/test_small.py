"""Times of the small parts of a call; `make test` runs each once, `make bench` measures them.

python -m pytest tests/bench/test_small.py --benchmark-only
"""

import json
from collections.abc import Callable
from typing import Any

import pytest
from transformers import AutoTokenizer

from connectors.answer_text import AnswerText
from sidecar import parsing, ranking, replies
from sidecar.calls import Answer, Clock, Result
from sidecar.scoring import checkpoint
from sidecar.settings import BUNDLED, Fusion
from sidecar.tokenization import PairEncoder
from sidecar.types import Candidate, Outcome, Ranked, Ranking, Timings
from sidecar.v1 import rerank_pb2 as pb
from tests.bench import texts

pytest.importorskip("pytest_benchmark")
Benchmark = Callable[..., Any]

HITS, CHARACTERS = 100, 500
PASSAGES = texts.of_characters(CHARACTERS, HITS)
pytestmark = pytest.mark.benchmark(group=f"{HITS} hits of {CHARACTERS} characters")


def test_tokenise(benchmark: Benchmark) -> None:
    encoder = PairEncoder(AutoTokenizer.from_pretrained(checkpoint.location(BUNDLED)), 512)
    pairs = benchmark(encoder.encode, texts.QUERY, PASSAGES)
    assert len(pairs) == HITS
    assert all(50 < pair.tokens < 200 for pair in pairs)


def test_order(benchmark: Benchmark) -> None:
    original = [float(HITS - rank) for rank in range(HITS)]
    relevance = {rank: (rank * 37 % HITS) / HITS for rank in range(HITS)}
    order = benchmark(ranking.order, original, relevance, Fusion())
    assert sorted(order) == list(range(HITS))
    assert order != list(range(HITS))


def test_parse(benchmark: Benchmark) -> None:
    sent = pb.RerankRequest(query=texts.QUERY, candidates=[pb.Candidate(text=text) for text in PASSAGES])
    raw = sent.SerializeToString()
    call = benchmark(lambda: parsing.rerank_call(pb.RerankRequest.FromString(raw), Clock(0.0, None)))
    assert [candidate.text for candidate in call.candidates] == PASSAGES


def test_reply(benchmark: Benchmark) -> None:
    places = [Ranked(rank, 1.0 / (rank + 1), text) for rank, text in enumerate(PASSAGES)]
    results = [Result(Candidate(place.rank, text=place.passage), place) for place in places]
    answer = Answer(results, Ranking(places, Outcome.RERANKED), None, Timings())
    raw = benchmark(lambda: replies.rerank_response(answer, "id", return_passages=False).SerializeToString())
    assert [result.original_rank for result in pb.RerankResponse.FromString(raw).results] == list(range(HITS))


def test_answer_text(benchmark: Benchmark) -> None:
    hits = [{"_id": str(rank), "_score": 1.0, "_source": {"text": text}} for rank, text in enumerate(PASSAGES)]
    answer = json.dumps({"took": 1, "hits": {"total": {"value": HITS}, "hits": hits}})
    backwards = list(reversed(range(HITS)))
    reordered = json.loads(benchmark(lambda: AnswerText(answer).with_hits(backwards)))
    assert reordered["hits"]["hits"] == hits[::-1]
