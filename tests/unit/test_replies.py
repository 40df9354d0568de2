"""Replies and JSON on their way out."""

from unittest.mock import Mock

import pytest

from sidecar.calls import Answer, Result
from sidecar.replies import rerank_response, search_response, to_json
from sidecar.types import Candidate, Outcome, Ranked, Ranking, Timings
from sidecar.v1 import rerank_pb2 as pb


def test_text_is_written_as_it_is() -> None:
    assert to_json({"a": ["東", 1.5, None]}) == '{"a":["東",1.5,null]}'


def test_a_lone_surrogate_stays_escaped() -> None:
    assert to_json({"a": "\ud800"}) == '{"a":"\\ud800"}'


def test_results_are_made_inside_their_reply_since_memory_of_their_own_costs_others_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = [Ranked(rank, 1.0 / (rank + 1), f"passage {rank}") for rank in (2, 0, 1)]
    results = [Result(Candidate(place.rank, text=place.passage), place) for place in places]
    answer = Answer(results, Ranking(places, Outcome.RERANKED), None, Timings(), response="{}")
    monkeypatch.setattr(pb, "Result", Mock(side_effect=AssertionError("a message by itself")))
    for reply in (rerank_response, search_response):
        made = reply(answer, "id", return_passages=True).results
        assert [(one.original_rank, one.passage) for one in made] == [(rank, f"passage {rank}") for rank in (2, 0, 1)]
