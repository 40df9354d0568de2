"""Rerank through a real gRPC server: plain texts, the engine's hits, and ids whose text the sidecar fetches."""

import json
import math
from collections.abc import Sequence

import grpc
import pytest

from connectors.hits import DocumentRef, Json
from connectors.memory import MemoryConnector
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import BODY, QUERY, engine_ids, reply, status
from tests.conftest import DOCUMENTS, Serve, settings

TEXTS = ["pears", "apple storage", "apple varieties for winter storage", "apple"]


async def test_plain_texts(serve: Serve) -> None:
    async with serve() as (client, _):
        got = reply(await client.rerank(QUERY, TEXTS))
    assert (got.outcome, got.reason, got.meta.detail) == ("RERANKED", "UNSPECIFIED", "")
    assert [result.original_rank for result in got.results] == [2, 1, 3, 0]
    assert [result.relevance_score for result in got.results] == pytest.approx([1.0, 0.4, 0.2, 0.0])
    for result in got.results:
        assert result.normalized_score == pytest.approx(1 / (1 + math.exp(-result.relevance_score)))
        assert (result.id, result.index, result.passage, result.HasField("original_score")) == ("", "", "", False)


async def test_ties_stay_in_the_callers_order(serve: Serve) -> None:
    async with serve() as (client, _):
        got = reply(await client.rerank("apple", ["pear", "apple", "plum", "apple", "pear", "apple"]))
    assert [result.original_rank for result in got.results] == [1, 3, 5, 0, 2, 4]


async def test_the_engines_hits_as_they_came(serve: Serve) -> None:
    engine = MemoryConnector("engine", {"docs": DOCUMENTS})
    hits = (await engine.search("docs", BODY, timeout_s=5)).hits
    async with serve() as (client, app):
        got = reply(await client.rerank(QUERY, [pb.Candidate(hit=json.dumps(hit.raw)) for hit in hits]))
        fetches = {"connector": "main", "engine": "memory", "operation": "fetch", "outcome": "ok"}
        assert app.metrics.registry.get_sample_value("sidecar_connector_requests_total", fetches) is None
        searched = await client.search("docs", QUERY, BODY)
    assert got.ids == [hit["_id"] for hit in searched.hits]
    for result in got.results:
        assert result.index == "docs"
        assert result.original_score == pytest.approx(hits[result.original_rank].score)


async def test_ids_alone_are_fetched_in_one_call(serve: Serve) -> None:
    connector = CountingConnector()
    async with serve(connector=connector) as (client, _):
        got = reply(await client.rerank(QUERY, [pb.Candidate(id=key) for key in DOCUMENTS], index="docs"))
    assert (got.outcome, got.ids[0], sorted(got.ids)) == ("RERANKED", "d3", sorted(DOCUMENTS))
    assert connector.fetched == [len(DOCUMENTS)]


async def test_only_what_is_missing_is_fetched(serve: Serve) -> None:
    connector = CountingConnector()
    candidates = [
        pb.Candidate(id="d0", index="docs", text="apple"),
        pb.Candidate(hit='{"_id": "d1", "_index": "docs", "_source": {"title": "pie"}}'),
        pb.Candidate(hit='{"_id": "d3", "_index": "docs"}'),
        pb.Candidate(hit='{"_id": "d5", "_index": "docs", "_source": {"colour": "red"}}'),
    ]
    async with serve(connector=connector) as (client, _):
        got = reply(await client.rerank(QUERY, candidates))
    assert (got.outcome, got.ids[0], got.meta.scored, connector.fetched) == ("RERANKED", "d3", 4, [2])


class CountingConnector(MemoryConnector):
    """A memory connector that keeps how many documents each fetch asked for."""

    def __init__(self) -> None:
        super().__init__("main", {"docs": DOCUMENTS})
        self.fetched: list[int] = []

    async def fetch(
        self, refs: Sequence[DocumentRef], fields: Sequence[str], *, timeout_s: float
    ) -> dict[DocumentRef, Json]:
        """See :meth:`connectors.base.Connector.fetch`."""
        self.fetched.append(len(refs))
        return await super().fetch(refs, fields, timeout_s=timeout_s)


async def test_the_fields_given_win_over_the_hit(serve: Serve) -> None:
    hit = '{"_id": "inner", "_index": "a", "_score": 1.0, "_source": {"title": "pears"}}'
    mine = pb.Candidate(id="outer", index="b", score=2.0, text="apple winter storage", hit=hit)
    async with serve() as (client, _):
        options = pb.Options(return_passages=True)
        got = reply(await client.rerank(QUERY, [pb.Candidate(text="apple"), mine], options=options))
    first = got.results[0]
    assert (first.id, first.index, first.original_score) == ("outer", "b", 2.0)
    assert first.passage == "apple winter storage"


@pytest.mark.parametrize("top_n", [1, 2, 4, 5, 1000])
async def test_top_n_cuts_the_new_order(serve: Serve, top_n: int) -> None:
    async with serve() as (client, _):
        got = reply(await client.rerank(QUERY, TEXTS, top_n=top_n))
    assert [result.original_rank for result in got.results] == [2, 1, 3, 0][:top_n]
    assert got.meta.candidates == 4


async def test_what_lies_behind_the_window_follows_in_its_own_order(serve: Serve) -> None:
    async with serve(configured=settings({"rank_window_size": 2})) as (client, _):
        got = reply(await client.rerank(QUERY, TEXTS))
    assert [result.original_rank for result in got.results] == [1, 0, 2, 3]
    assert [result.HasField("relevance_score") for result in got.results] == [True, True, False, False]


async def test_min_score_leaves_out_what_was_scored_lower_and_nothing_else(serve: Serve) -> None:
    candidates: list[str | pb.Candidate] = [*TEXTS, pb.Candidate(text="")]
    async with serve() as (client, _):
        got = reply(await client.rerank(QUERY, candidates, options=pb.Options(min_score=0.3)))
    assert [result.original_rank for result in got.results] == [2, 1, 4]


async def test_what_was_not_scored_does_not_move_up_for_what_min_score_left_out(serve: Serve) -> None:
    candidates = [pb.Candidate(text=text) for text in [*TEXTS, "", *["apple"] * 3]]
    options = pb.Options(min_score=0.3, rank_window_size=5)
    async with serve() as (client, _):
        got = [reply(await client.rerank(QUERY, candidates, top_n=most, options=options)) for most in (3, 5, 7)]
    assert [one.outcome for one in got] == ["RERANKED"] * 3
    assert [[result.original_rank for result in one.results] for one in got] == [[2, 1], [2, 1, 4], [2, 1, 4, 5, 6]]


async def test_a_lone_candidate_is_scored(serve: Serve) -> None:
    """Its score is what the caller came for, though there is nothing to reorder."""
    async with serve() as (client, _):
        got = reply(await client.rerank(QUERY, ["apple"]))
    assert got.outcome == "RERANKED"
    assert got.results[0].relevance_score == pytest.approx(0.2)


async def test_pinned_candidates_keep_their_places(serve: Serve) -> None:
    candidates = [pb.Candidate(id=f"c{place}", text=text) for place, text in enumerate(TEXTS)]
    async with serve() as (client, _):
        got = reply(await client.rerank(QUERY, candidates, options=pb.Options(pinned_ids=["c0", "unknown"])))
        assert got.ids == ["c0", "c2", "c1", "c3"]
        all_pinned = pb.Options(pinned_ids=["c0", "c1", "c2", "c3"])
        got = reply(await client.rerank(QUERY, candidates, options=all_pinned))
        assert got.ids == ["c0", "c1", "c2", "c3"]
        assert (got.outcome, got.reason) == ("SKIPPED", "NO_CANDIDATES"), "as asked for: no alert counts it"
        assert "pinned" in got.meta.detail


async def test_a_long_document_is_as_good_as_its_best_passage(serve: Serve) -> None:
    configured = settings({"text": {"fields": ["body"], "passages": {"words": 8, "stride": 8}}})
    long = "nothing to see in here at all today " + "apple varieties for winter storage are many here"
    async with serve(configured=configured) as (client, _):
        options = pb.Options(return_passages=True)
        got = reply(await client.rerank(QUERY, ["apple storage", long], options=options))
    assert [result.original_rank for result in got.results] == [1, 0]
    assert got.results[0].passage == "apple varieties for winter storage are many here"


async def test_fusion_needs_a_score_of_every_candidate(serve: Serve) -> None:
    configured = settings({"fusion": {"method": "linear", "model_weight": 0.0}, "cosine": None})
    with_scores = [pb.Candidate(text=text, score=float(9 - rank)) for rank, text in enumerate(TEXTS)]
    async with serve(configured=configured) as (client, _):
        got = reply(await client.rerank(QUERY, with_scores))
        assert got.meta.fusion == "linear"
        assert [result.original_rank for result in got.results] == [0, 1, 2, 3]
        got = reply(await client.rerank(QUERY, [*with_scores[:3], pb.Candidate(text=TEXTS[3])]))
        assert got.meta.fusion == "replace"
        assert [result.original_rank for result in got.results] == [2, 1, 3, 0]


async def test_the_same_call_gives_the_same_answer(serve: Serve) -> None:
    async with serve() as (client, _):
        answers = [
            [result.SerializeToString() for result in (await client.rerank(QUERY, TEXTS)).results] for _ in "abc"
        ]
    assert answers[0] == answers[1] == answers[2]


async def test_meta_tells_how_the_answer_was_made(serve: Serve) -> None:
    async with serve() as (client, _):
        call = client.stub.Rerank(pb.RerankRequest(query=QUERY, candidates=[pb.Candidate(text=text) for text in TEXTS]))
        meta = (await call).meta
        trailing = dict(await call.trailing_metadata() or ())
    assert trailing["x-request-id"] == meta.request_id
    assert (meta.policy, meta.model, meta.model_version, meta.fusion) == (
        "default",
        "default",
        "word-overlap",
        "replace",
    )
    assert len(meta.policy_version) == 12
    assert (meta.candidates, meta.scored) == (4, 4)
    assert meta.timings.total_ms >= meta.timings.tokenize_ms + meta.timings.score_ms > 0
    assert (meta.timings.search_ms, meta.timings.fetch_ms) == (0, 0)


async def test_a_policy_that_is_switched_off_or_missing(serve: Serve) -> None:
    for policy, reason in (({"enabled": False}, "POLICY_DISABLED"), (None, "NO_POLICY")):
        configured = settings(policy) if policy else settings({"match": []}, default_policy=None)
        scorer = WordOverlapScorer()
        async with serve(scorer, configured=configured) as (client, _):
            got = reply(await client.rerank(QUERY, TEXTS))
            assert (got.outcome, got.reason, len(got.results)) == ("SKIPPED", reason, 4)
            assert got.meta.detail
            page = await client.search("docs", QUERY, BODY)
            assert (page.outcome, page.reason) == ("SKIPPED", reason)
            assert [hit["_id"] for hit in page.hits] == await engine_ids()
        assert scorer.calls == 0


ONLY_DOCS = settings(connectors={"main": {"type": "memory", "indices": {"docs": "unused"}, "allow_indices": ["docs"]}})
TWO_INDICES = {"docs": DOCUMENTS, "secret": {"s": {"title": "apple", "body": "the secret recipe"}}}


class TestIndicesThatAreNotAllowed:
    async def test_a_text_to_fetch_from_there_is_denied(self, serve: Serve) -> None:
        connector = MemoryConnector("main", TWO_INDICES)
        async with serve(connector=connector, configured=ONLY_DOCS) as (client, _):
            for candidate in (
                pb.Candidate(id="s", index="secret"),
                pb.Candidate(hit='{"_id": "s", "_index": "secret"}'),
                pb.Candidate(id="s", index="docs,secret"),
                pb.Candidate(id="s", index="*"),
            ):
                failed = await status(client.rerank(QUERY, [pb.Candidate(text="apple"), candidate]))
                assert failed.code() is grpc.StatusCode.PERMISSION_DENIED
                failed = await status(client.search(candidate.index or "secret", QUERY, BODY))
                assert failed.code() is grpc.StatusCode.PERMISSION_DENIED

    @pytest.mark.parametrize("source", ["{}", '{"colour": "red"}', '{"title": ""}', '{"title": []}'])
    async def test_a_hit_that_claims_to_be_from_there_fetches_nothing(self, serve: Serve, source: str) -> None:
        """A hit with a source but none of the policy's fields must not open the index that it names."""
        connector = MemoryConnector("main", TWO_INDICES)
        forged = pb.Candidate(hit=f'{{"_id": "s", "_index": "secret", "_source": {source}}}')
        async with serve(connector=connector, configured=ONLY_DOCS) as (client, _):
            options = pb.Options(return_passages=True)
            for others in ([], [pb.Candidate(text="apple")], [pb.Candidate(id="d3", index="docs")]):
                got = reply(await client.rerank(QUERY, [forged, *others], options=options))
                assert "recipe" not in str(got)
                assert not any(result.HasField("relevance_score") for result in got.results if result.id == "s")

    async def test_a_hit_that_brings_its_text_is_reranked_wherever_it_is_from(self, serve: Serve) -> None:
        mine = pb.Candidate(hit='{"_id": "x", "_index": "elsewhere", "_source": {"title": "apple winter"}}')
        async with serve(configured=ONLY_DOCS) as (client, _):
            got = reply(await client.rerank(QUERY, [pb.Candidate(text="pear"), mine]))
        assert (got.outcome, got.ids) == ("RERANKED", ["x", ""])
