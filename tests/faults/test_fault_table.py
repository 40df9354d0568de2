"""Every stage of a call, and everything that can go wrong there: the reply is in time, complete, and says why.

Before there are hits a fault is a gRPC status; from then on it is the engine's own page with a reason.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any

import grpc
import numpy as np
import pytest

from connectors.errors import (
    AnswerTooLarge,
    ConnectorError,
    EngineRefused,
    EngineTimeout,
    EngineUnavailable,
    IndexNotFound,
    InvalidQuery,
    MalformedAnswer,
    NotAuthenticated,
    NotPermitted,
)
from connectors.hits import Json
from connectors.memory import Fault, MemoryConnector
from sidecar.cost import CostModel
from sidecar.loaded import LoadedModel
from sidecar.scoring.base import Pair, Scores
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.settings import ModelSettings
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import (
    BODY,
    BUDGET_S,
    QUERY,
    SEARCH_TIMEOUT_S,
    SLACK_S,
    WAYS,
    Held,
    Way,
    assert_engines_order,
    quick,
    reply,
    request_id_of,
    search,
    search_progressive,
    short_queue,
    status,
    within,
)
from tests.conftest import DOCUMENTS, Serve, loader

SEARCHES = [search, search_progressive]


def engine(*faults: Fault) -> MemoryConnector:
    return MemoryConnector("main", {"docs": DOCUMENTS}, faults=faults)


class TestSearchStage:
    @pytest.mark.parametrize("way", SEARCHES)
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (EngineUnavailable("connector 'main': refused"), "UNAVAILABLE"),
            (EngineUnavailable("connector 'main': busy", status=503), "UNAVAILABLE"),
            (EngineUnavailable("connector 'main': certificate", transient=False), "UNAVAILABLE"),
            (MalformedAnswer("connector 'main': not JSON"), "UNAVAILABLE"),
            (AnswerTooLarge("connector 'main': too large"), "RESOURCE_EXHAUSTED"),
            (EngineTimeout("connector 'main': late"), "DEADLINE_EXCEEDED"),
            (InvalidQuery("connector 'main': 400", status=400, reason="no [foo] query"), "INVALID_ARGUMENT"),
            (NotAuthenticated("connector 'main': 401", status=401), "UNAUTHENTICATED"),
            (NotPermitted("connector 'main': 403", status=403), "PERMISSION_DENIED"),
            (IndexNotFound("connector 'main': 404", status=404), "NOT_FOUND"),
            (EngineRefused("connector 'main': 409", status=409), "FAILED_PRECONDITION"),
        ],
    )
    async def test_an_error_of_the_engine_is_a_status(
        self, serve: Serve, way: Way, error: ConnectorError, code: str
    ) -> None:
        async with (
            serve(connector=engine(Fault(error=error, on="search", always=True)), configured=quick()) as (client, _),
            within(BUDGET_S),
        ):
            failed = await status(way(client))
        assert failed.code() is grpc.StatusCode[code]
        assert str(error) in (failed.details() or "")
        assert getattr(error, "reason", "") in (failed.details() or "")
        assert request_id_of(failed)

    @pytest.mark.parametrize("way", SEARCHES)
    @pytest.mark.parametrize(
        "answer",
        [{"took": 1}, {"hits": []}, {"hits": {"hits": [1]}}, {"hits": {"hits": [{"_id": "1"}]}}, {"hits": {"hits": 1}}],
    )
    async def test_an_answer_that_is_none_is_unavailable(self, serve: Serve, way: Way, answer: Json) -> None:
        async with serve(connector=engine(Fault(answer=answer, on="search")), configured=quick()) as (client, _):
            failed = await status(way(client))
        assert failed.code() is grpc.StatusCode.UNAVAILABLE
        assert "hit" in (failed.details() or "")

    @pytest.mark.parametrize("way", SEARCHES)
    async def test_slower_than_the_budget_is_the_engines_order_as_soon_as_it_is_there(
        self, serve: Serve, way: Way
    ) -> None:
        delay_s = BUDGET_S + 0.1
        scorer = WordOverlapScorer()
        slow = engine(Fault(delay_s=delay_s, on="search"))
        async with serve(scorer, connector=slow, configured=quick()) as (client, _), within(delay_s):
            got = await way(client)
        await assert_engines_order(got, "ORIGINAL_ORDER", "BUDGET_EXHAUSTED")
        assert scorer.calls == 0

    @pytest.mark.parametrize("way", SEARCHES)
    async def test_slower_than_the_search_timeout_is_a_status(self, serve: Serve, way: Way) -> None:
        async with (
            serve(connector=engine(Fault(delay_s=30, on="search")), configured=quick()) as (client, _),
            within(SEARCH_TIMEOUT_S),
        ):
            failed = await status(way(client))
        assert failed.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "no complete answer within" in (failed.details() or "")


async def rerank_by_id(client: Any, keys: Sequence[str] = tuple(DOCUMENTS)) -> Any:
    """Rerank stored documents whose text the sidecar has to fetch."""
    return reply(await client.rerank(QUERY, [pb.Candidate(id=key) for key in keys], index="docs"))


class TestFetchStage:
    async def test_all_is_well(self, serve: Serve) -> None:
        async with serve(configured=quick()) as (client, _):
            got = await rerank_by_id(client)
        assert (got.outcome, got.ids[0], sorted(got.ids)) == ("RERANKED", "d3", sorted(DOCUMENTS))
        assert got.meta.timings.fetch_ms > 0

    @pytest.mark.parametrize(
        "fault",
        [
            Fault(error=EngineUnavailable("connector 'main': refused"), on="fetch"),
            Fault(error=MalformedAnswer("connector 'main': not JSON"), on="fetch"),
            Fault(error=AnswerTooLarge("connector 'main': too large"), on="fetch"),
            Fault(error=EngineTimeout("connector 'main': late"), on="fetch"),
            Fault(error=NotPermitted("connector 'main': 403", status=403), on="fetch"),
            Fault(answer={"took": 1}, on="fetch"),
            Fault(answer={"docs": [None, 1, {}]}, on="fetch"),
            Fault(missing=1.0, on="fetch"),
        ],
    )
    async def test_no_text_at_all_is_the_callers_order(self, serve: Serve, fault: Fault) -> None:
        scorer = WordOverlapScorer()
        async with serve(scorer, connector=engine(fault), configured=quick()) as (client, _), within(BUDGET_S):
            got = await rerank_by_id(client)
        assert (got.outcome, got.reason, got.ids) == ("ORIGINAL_ORDER", "TEXT_UNAVAILABLE", list(DOCUMENTS))
        assert got.meta.detail
        assert scorer.calls == 0

    async def test_slower_than_the_budget_is_the_callers_order(self, serve: Serve) -> None:
        async with (
            serve(connector=engine(Fault(delay_s=30, on="fetch")), configured=quick()) as (client, _),
            within(BUDGET_S),
        ):
            got = await rerank_by_id(client)
        assert got.outcome == "ORIGINAL_ORDER"
        assert got.reason in ("BUDGET_EXHAUSTED", "TEXT_UNAVAILABLE")
        assert got.ids == list(DOCUMENTS)

    async def test_half_of_the_documents_missing_keep_their_places(self, serve: Serve) -> None:
        async with serve(connector=engine(Fault(missing=0.5, on="fetch")), configured=quick()) as (client, _):
            got = await rerank_by_id(client)
        assert (got.outcome, got.meta.scored, got.meta.candidates) == ("RERANKED", 3, 6)
        assert sorted(got.ids) == sorted(DOCUMENTS)
        for place in (1, 3, 5):
            assert got.ids[place] == f"d{place}"
            assert not got.results[place].HasField("relevance_score")

    async def test_a_failed_fetch_costs_only_what_had_no_text(self, serve: Serve) -> None:
        broken = engine(Fault(error=EngineUnavailable("connector 'main': refused"), on="fetch"))
        candidates = [
            pb.Candidate(text="pears"),
            pb.Candidate(id="d3", index="docs"),
            pb.Candidate(text="apple varieties for storage"),
        ]
        async with serve(connector=broken, configured=quick()) as (client, _):
            got = reply(await client.rerank(QUERY, candidates))
        assert (got.outcome, got.meta.scored) == ("RERANKED", 2)
        assert [result.original_rank for result in got.results] == [2, 1, 0]

    async def test_a_lone_document_is_not_there(self, serve: Serve) -> None:
        async with serve(configured=quick()) as (client, _):
            got = await rerank_by_id(client, ["nobody", "knows"])
        assert (got.outcome, got.reason, got.ids) == ("ORIGINAL_ORDER", "TEXT_UNAVAILABLE", ["nobody", "knows"])


def raising(error: BaseException) -> Callable[[int, Sequence[Pair]], Scores]:
    def fault(_: int, __: Sequence[Pair]) -> Scores:
        raise error

    return fault


def returning(scores: Callable[[int], Any]) -> Callable[[int, Sequence[Pair]], Any]:
    return lambda _, pairs: scores(len(pairs))


SCORER_FAULTS = {
    "raises": (raising(RuntimeError("cuda")), "MODEL_ERROR"),
    "raises a timeout": (raising(TimeoutError("cuda")), "MODEL_ERROR"),
    "out of memory": (raising(MemoryError()), "MODEL_ERROR"),
    "stops an iteration": (raising(StopIteration()), "MODEL_ERROR"),
    "is cancelled": (raising(CancelledError()), "MODEL_ERROR"),
    "is cancelled by asyncio": (raising(asyncio.CancelledError()), "MODEL_ERROR"),
    "ends the process": (raising(SystemExit(1)), "MODEL_ERROR"),
    "NaN": (returning(lambda count: np.full(count, np.nan)), "NON_FINITE_SCORE"),
    "one NaN": (returning(lambda count: np.array([np.nan, *range(count - 1)])), "NON_FINITE_SCORE"),
    "one infinity": (returning(lambda count: np.array([*range(count - 1), np.inf])), "NON_FINITE_SCORE"),
    "minus infinity": (returning(lambda count: np.full(count, -np.inf)), "NON_FINITE_SCORE"),
    "beyond float32": (returning(lambda count: np.full(count, 1e300)), "NON_FINITE_SCORE"),
    "one too few": (returning(lambda count: np.zeros(count - 1)), "MODEL_ERROR"),
    "one too many": (returning(lambda count: np.zeros(count + 1)), "MODEL_ERROR"),
    "none": (returning(lambda count: np.zeros(0)), "MODEL_ERROR"),
    "two labels": (returning(lambda count: np.zeros((count, 2))), "MODEL_ERROR"),
    "a column": (returning(lambda count: np.zeros((count, 1))), "MODEL_ERROR"),
    "one number": (returning(lambda count: 0.5), "MODEL_ERROR"),
    "words": (returning(lambda count: ["good"] * count), "MODEL_ERROR"),
    "ragged": (returning(lambda count: [[0.0]] * (count - 1) + [[0.0, 1.0]]), "MODEL_ERROR"),
}


class TestScoreStage:
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize(("fault", "reason"), SCORER_FAULTS.values(), ids=SCORER_FAULTS)
    async def test_a_wrong_forward_pass(self, serve: Serve, way: Way, fault: Any, reason: str) -> None:
        scorer = WordOverlapScorer(fault=fault)
        async with serve(scorer, configured=quick()) as (client, _):
            async with within(BUDGET_S):
                got = await way(client)
            await assert_engines_order(got, "ORIGINAL_ORDER", reason)
            scorer.fault = None
            again = await way(client)
            assert again.outcome == "RERANKED", f"{again.reason}: {again.meta.detail}"

    async def test_a_list_of_the_right_length_is_as_good_as_an_array(self, serve: Serve) -> None:
        scorer = WordOverlapScorer(fault=returning(lambda count: [float(number) for number in range(count)]))
        async with serve(scorer, configured=quick()) as (client, _):
            assert (await search(client)).outcome == "RERANKED"

    @pytest.mark.parametrize("way", WAYS)
    async def test_slower_than_the_budget(self, serve: Serve, way: Way) -> None:
        with Held() as hanging:
            async with serve(WordOverlapScorer(fault=hanging), configured=quick()) as (client, _):
                for _ in range(2):  # the second one waits behind the first
                    async with within(BUDGET_S):
                        got = await way(client)
                    await assert_engines_order(got, "ORIGINAL_ORDER", "BUDGET_EXHAUSTED")
                hanging.release()

    async def test_well_again_when_the_device_is_free_again(self, serve: Serve) -> None:
        with Held() as hanging:
            async with serve(WordOverlapScorer(fault=hanging), configured=quick()) as (client, _):
                assert (await search(client)).reason == "BUDGET_EXHAUSTED"
                hanging.release()
                assert (await search(client)).outcome == "RERANKED"

    @pytest.mark.parametrize("way", WAYS)
    async def test_known_to_be_late_is_refused_at_once(self, serve: Serve, way: Way) -> None:
        """But for the first one, which is tried: only that can show that the prediction is wrong."""
        scorer = WordOverlapScorer()
        async with serve(scorer, configured=quick(), cost=CostModel(overhead_s=10)) as (client, app):
            while not (tried := scorer.calls):
                await way(client)
            got = await way(client)
            shed = app.metrics.registry.get_sample_value("sidecar_shed_pairs_total", {"reason": "refused"})
        await assert_engines_order(got, "ORIGINAL_ORDER", "OVERLOADED")
        assert got.meta.timings.total_ms < BUDGET_S * 1e3 / 2
        assert (scorer.calls, shed) == (tried, len(got.ids))

    @pytest.mark.parametrize("way", WAYS)
    async def test_queue_full(self, serve: Serve, way: Way) -> None:
        configured = short_queue(3)
        async with serve(configured=configured) as (client, _):
            got = await way(client)
        await assert_engines_order(got, "ORIGINAL_ORDER", "OVERLOADED")
        assert "at most 3" in got.meta.detail

    async def test_under_load_the_window_shrinks_where_the_policy_allows(self, serve: Serve) -> None:
        configured = short_queue(3, {"min_rank_window_size": 2})
        async with serve(configured=configured) as (client, _):
            got = await search(client)
        assert (got.outcome, got.meta.scored, got.meta.candidates) == ("PARTIAL", 3, 5)
        assert [result.original_rank for result in got.results][3:] == [3, 4]
        assert not any(result.HasField("relevance_score") for result in got.results[3:])


class TokenizerFails(WordOverlapScorer):
    """It raises when asked for tokens, or gives too few."""

    def encode(self, query: str, passages: Sequence[str]) -> list[Pair]:
        if self.version == "raises":
            raise RuntimeError("tokenizer")
        return super().encode(query, passages)[1:]


class TestTokenizeStage:
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("how", ["raises", "counts wrong"])
    async def test_a_broken_tokenizer(self, serve: Serve, way: Way, how: str) -> None:
        async with serve(TokenizerFails(version=how), configured=quick()) as (client, _), within(BUDGET_S):
            got = await way(client)
        await assert_engines_order(got, "ORIGINAL_ORDER", "MODEL_ERROR")

    @pytest.mark.parametrize("way", WAYS)
    async def test_a_query_that_fills_the_model(self, serve: Serve, way: Way) -> None:
        async with serve(WordOverlapScorer(max_length=4), configured=quick()) as (client, _):
            got = await way(client)
        await assert_engines_order(got, "ORIGINAL_ORDER", "QUERY_TOO_LONG")


class TestModel:
    @pytest.mark.parametrize("way", WAYS)
    async def test_still_loading(self, serve: Serve, way: Way, loading: threading.Event) -> None:
        def load(name: str, settings: ModelSettings) -> LoadedModel:
            loading.wait(60)
            return loader(WordOverlapScorer())(name, settings)

        async with serve(load=load, configured=quick()) as (client, app):
            async with within(BUDGET_S):
                got = await way(client)
            await assert_engines_order(got, "ORIGINAL_ORDER", "MODEL_NOT_READY")
            loading.set()
            await app.ready()
            assert (await way(client)).outcome == "RERANKED"

    @pytest.fixture
    def loading(self) -> Iterator[threading.Event]:
        event = threading.Event()
        yield event
        event.set()

    @pytest.mark.parametrize("way", WAYS)
    async def test_failed_to_load(self, serve: Serve, way: Way) -> None:
        def load(name: str, settings: ModelSettings) -> LoadedModel:
            raise ValueError("the checkpoint has no head")

        async with serve(load=load, configured=quick()) as (client, app):
            await app.ready()
            got = await way(client)
        await assert_engines_order(got, "ORIGINAL_ORDER", "MODEL_NOT_READY")
        assert "could not be loaded" in got.meta.detail
        assert "no head" not in got.meta.detail, "the log says why, not the client: it may name paths"


class DeadlyCost(CostModel):
    """A fault of the device's thread itself, not of the scorer: it fails when told how long a batch took."""

    def observe(self, pairs: int, length: float, actual_s: float) -> float:
        raise ZeroDivisionError


class TestScheduler:
    @pytest.mark.parametrize("way", WAYS)
    async def test_a_dead_loop_answers_its_waiters_and_all_later_ones(self, serve: Serve, way: Way) -> None:
        async with serve(configured=quick(), cost=DeadlyCost(overhead_s=1e-4)) as (client, _):
            for _ in range(3):
                async with within(BUDGET_S):
                    got = await way(client)
                await assert_engines_order(got, "ORIGINAL_ORDER", "MODEL_ERROR")


class TestClientGone:
    async def test_in_the_middle_of_the_search(self, serve: Serve) -> None:
        slow = engine(Fault(delay_s=0.2, on="search"))
        scorer = WordOverlapScorer()
        async with serve(scorer, connector=slow, configured=quick()) as (client, _):
            call = asyncio.create_task(client.search("docs", QUERY, BODY))
            await asyncio.sleep(0.05)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.sleep(0.2 + SLACK_S)
            assert scorer.calls == 0
            assert (await search(client)).outcome == "RERANKED"
