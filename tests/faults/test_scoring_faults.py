"""What scorers do wrong, in the middle of other jobs: only who is hit falls back, and all is well again afterwards.

The same table for the scorer without a model and, where it can be provoked, for a real cross-encoder.
"""

import ast
import asyncio
import gc
import math
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.app import App, load_model
from sidecar.breaker import TRY_EVERY_S
from sidecar.cost import CostModel
from sidecar.deadline import Deadline
from sidecar.errors import BudgetExhausted, ModelError, Overloaded
from sidecar.loaded import LoadedModel
from sidecar.metrics import Metrics
from sidecar.scheduler import STALLED_AFTER_S, Scheduler
from sidecar.scoring.base import Pair, Scorer, Scores
from sidecar.scoring.cross_encoder import CrossEncoder
from sidecar.scoring.fake import LaunchedScorer, WordOverlapScorer
from sidecar.settings import ModelSettings
from sidecar.v1 import rerank_pb2 as pb
from tests import checkpoints
from tests.calls import (
    BUDGET_S,
    PATIENCE_S,
    QUERY,
    Held,
    busy,
    quick,
    raw_channel,
    reply,
    score,
    search,
    until,
    within,
)
from tests.conftest import Serve, settings

RERANKING = "sidecar.v1.RerankService"
POISON = "poison"


@pytest.fixture
async def scheduler() -> AsyncIterator[Scheduler]:
    one = Scheduler(1_000_000, Metrics())
    yield one
    one.stop()


def loaded(scorer: Scorer) -> LoadedModel:
    return LoadedModel.of("default", scorer, CostModel(overhead_s=1e-4), ModelSettings())


def in_s(seconds: float) -> Deadline:
    return Deadline(time.monotonic() + seconds)


def grouped(pairs: Sequence[Pair]) -> list[list[Pair]]:
    return [[pair] for pair in pairs]


async def together(scheduler: Scheduler, model: LoadedModel, jobs: Sequence[Sequence[Pair]]) -> list[Any]:
    """What becomes of jobs that come while the device is busy, so that they share batches."""
    async with busy(scheduler):
        tasks = [asyncio.create_task(score(scheduler, model, grouped(pairs), in_s(PATIENCE_S))) for pairs in jobs]
        await until(lambda: len(scheduler._queue) == len(jobs))
    return await asyncio.gather(*tasks, return_exceptions=True)


def raises_on(condition: Callable[[int, Sequence[Pair]], bool]) -> Callable[[int, Sequence[Pair]], Scores | None]:
    def fault(number: int, pairs: Sequence[Pair]) -> Scores | None:
        if condition(number, pairs):
            raise RuntimeError("the device")
        return None

    return fault


def has(token: int) -> Callable[[int, Sequence[Pair]], bool]:
    return lambda _, pairs: any(token in pair.input_ids for pair in pairs)


def nan_for(token: int) -> Callable[[int, Sequence[Pair]], Scores]:
    def fault(_: int, pairs: Sequence[Pair]) -> Scores:
        return np.array([math.nan if token in pair.input_ids else 0.5 for pair in pairs], np.float32)

    return fault


@pytest.fixture
def fake() -> WordOverlapScorer:
    """Its tokens are known from the start."""
    return WordOverlapScorer()


@pytest.fixture
def launched() -> WordOverlapScorer:
    """The same, on a device that works by itself."""
    return LaunchedScorer()


@pytest.fixture
def real(tmp_path: Path) -> Any:
    """A tiny BERT with random weights."""
    return checkpoints.scorer(checkpoints.build(tmp_path))


@pytest.fixture(params=["fake", "launched", "real"])
def scorer(request: pytest.FixtureRequest) -> Any:
    """All kinds."""
    return request.getfixturevalue(request.param)


def poison_of(scorer: Any) -> int:
    """A token that only the poisoned pair has."""
    if isinstance(scorer, WordOverlapScorer):
        return int(scorer.encode(POISON, ["x"])[0].input_ids[0])
    return int(scorer.encode("a", ["warranty"])[0].input_ids[-2])


def jobs_of(scorer: Any, bad: Pair | None = None) -> list[list[Pair]]:
    """Five jobs of three pairs; the third has a bad pair in its middle."""
    jobs = [scorer.encode("apple company", ["apple", f"company {'phones ' * number}", "tea"]) for number in range(5)]
    if bad is not None:
        jobs[2][1] = bad
    return jobs


def poisoned(scorer: Any, how: str) -> Pair:
    """A pair on which the scorer fails as asked; a real model is given what breaks it, a fake one is told to."""
    sound, token = scorer.encode("apple company", ["winter"])[0], poison_of(scorer)
    ids = [*sound.input_ids]
    types = None if sound.token_type_ids is None else [*sound.token_type_ids]
    if isinstance(scorer, WordOverlapScorer):
        scorer.fault = nan_for(token) if how == "NaN" else raises_on(has(token))
        return Pair([*ids, token])
    if how == "NaN":
        with torch.no_grad():
            scorer._model.get_input_embeddings().weight[token] = math.nan
        ids[-2] = token
    elif how == "raises":
        ids[-2] = 1_000_000  # outside of the vocabulary
    elif how == "longer than the model":
        ids += [ids[-2]] * 1000
        types = None if types is None else [*types, *[types[-1]] * 1000]
    return Pair(ids, types)


@pytest.mark.parametrize("how", ["raises", "longer than the model"])
async def test_a_pair_that_the_model_cannot_take_fails_its_own_job_alone(
    scheduler: Scheduler, scorer: Any, how: str
) -> None:
    model = loaded(scorer)
    ends = await together(scheduler, model, jobs_of(scorer, poisoned(scorer, how)))
    assert [isinstance(end, ModelError) for end in ends] == [False, False, True, False, False]
    assert all(np.isfinite(end.scores).all() for place, end in enumerate(ends) if place != 2)
    assert (await score(scheduler, model, grouped(jobs_of(scorer)[0]), in_s(PATIENCE_S))).groups == 3


async def test_nan_for_one_pair_is_in_its_own_jobs_scores_alone(scheduler: Scheduler, scorer: Any) -> None:
    model = loaded(scorer)
    ends = await together(scheduler, model, jobs_of(scorer, poisoned(scorer, "NaN")))
    assert [np.isnan(end.scores).tolist() for end in ends] == [[False, place == 2, False] for place in range(5)]


async def test_a_model_that_always_raises_fails_every_job_and_is_well_when_it_no_longer_does(
    scheduler: Scheduler, scorer: Any
) -> None:
    model, jobs = loaded(scorer), jobs_of(scorer)
    owner: Any
    broken: Any
    if isinstance(scorer, WordOverlapScorer):
        owner, name, broken = scorer, "fault", raises_on(lambda *_: True)
    else:
        owner, name, broken = scorer._model.classifier, "weight", torch.nn.Parameter(torch.ones(1, 3))
    sound = getattr(owner, name)
    setattr(owner, name, broken)
    assert all(isinstance(end, ModelError) for end in await together(scheduler, model, jobs))
    setattr(owner, name, sound)
    await asyncio.sleep(TRY_EVERY_S)
    scheduler.try_failing()
    await until(lambda: not scheduler.failing)
    assert [end.groups for end in await together(scheduler, model, jobs)] == [3] * 5


async def test_a_model_that_raises_once_costs_nobody_anything_in_a_shared_batch(
    scheduler: Scheduler, scorer: Any
) -> None:
    jobs = jobs_of(scorer)
    passes: list[int] = []

    def raises_once(*_: object) -> None:
        passes.append(len(passes))
        if len(passes) == 1:
            raise RuntimeError("the device")

    if isinstance(scorer, WordOverlapScorer):
        scorer.fault = raises_once
    else:
        scorer._model.base_model.embeddings.register_forward_pre_hook(raises_once)
    assert [end.groups for end in await together(scheduler, loaded(scorer), jobs)] == [3] * 5
    assert len(passes) > len(jobs), "each job of the batch alone, when that had failed"


async def test_scores_of_a_wrong_shape_for_one_pair_fail_its_job_alone(
    scheduler: Scheduler, fake: WordOverlapScorer
) -> None:
    bad = poisoned(fake, "raises")
    token = poison_of(fake)
    fake.fault = lambda _, pairs: np.zeros((len(pairs), 2), np.float32) if has(token)(0, pairs) else None
    ends = await together(scheduler, loaded(fake), jobs_of(fake, bad))
    assert [isinstance(end, ModelError) for end in ends] == [False, False, True, False, False]


@pytest.fixture
def same_threads() -> Iterator[None]:
    """Leave torch with as many threads as it had."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class TestMemory:
    @pytest.mark.usefixtures("same_threads")
    async def test_none_at_warm_up_leaves_search_as_it_was(
        self, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[Any]
    ) -> None:
        """The other model is served; the one that does not fit is not, and says so. Both are real."""

        def scarce(model: Any, tokenizer: Any, chosen: ModelSettings) -> CrossEncoder:
            made = CrossEncoder(model, tokenizer, chosen)
            if chosen.max_length == 128:
                checkpoints.limited(made, 0, checkpoints.cpu_error)
            return made

        monkeypatch.setattr("sidecar.scoring.loader.CrossEncoder", scarce)
        checkpoint = str(checkpoints.build(tmp_path))
        shared = {"checkpoint": checkpoint, "device": "cpu", "dtype": "float32", "max_batch_tokens": 512, "threads": 1}
        models = {"small": {**shared, "max_length": 64}, "huge": {**shared, "max_length": 128}}
        policy = {"text": {"fields": ["body"]}, "budget_ms": 2000, "cosine": None}
        policies = {name: {**policy, "model": name} for name in models}
        configured = settings(policies=policies, models=models, default_policy="small")
        async with serve(load=load_model, configured=configured) as (client, app):
            await app.ready()
            answers = {
                name: reply(await client.rerank(QUERY, ["apple", "pear"], options=pb.Options(policy=name)))
                for name in policies
            }
        assert answers["small"].outcome == "RERANKED"
        assert (answers["huge"].outcome, answers["huge"].reason) == ("ORIGINAL_ORDER", "MODEL_NOT_READY")
        (failed,) = [entry for entry in logged if entry["event"] == "model_failed"]
        assert "holds not even one pair of 128 tokens" in failed["error"]

    async def test_none_in_service_for_more_than_two_pairs_fails_no_one_with_fewer(
        self, scheduler: Scheduler, fake: WordOverlapScorer
    ) -> None:
        """A fake one does not halve its batches, as the real one does: the scheduler still keeps the jobs apart."""

        def fault(_: int, pairs: Sequence[Pair]) -> None:
            if len(pairs) > 2:
                raise MemoryError

        fake.fault = fault
        jobs = [fake.encode("a", ["b"] * count) for count in (2, 3, 1)]
        ends = await together(scheduler, loaded(fake), jobs)
        assert [isinstance(end, ModelError) for end in ends] == [False, True, False]

    async def test_none_in_service_is_halved_by_the_real_model(self, scheduler: Scheduler, real: Any) -> None:
        """Each batch of more than two pairs finds no memory; every job is scored all the same."""
        jobs = jobs_of(real)
        want = [real.score(pairs) for pairs in jobs]
        sizes = checkpoints.limited(real, 2, checkpoints.cpu_error)
        ends = await together(scheduler, loaded(real), jobs)
        for end, scores in zip(ends, want, strict=True):
            np.testing.assert_allclose(end.scores, scores, atol=1e-5)
        assert max(sizes) > 2
        assert real.halved > 0

    async def test_none_in_service_for_a_single_pair_of_the_real_model_fails_its_call_alone(
        self, scheduler: Scheduler, real: Any
    ) -> None:
        """While there is no memory at all; the next call is scored."""
        sizes = checkpoints.limited(real, 0, checkpoints.cpu_error)
        model, pairs = loaded(real), grouped(jobs_of(real)[0])
        with pytest.raises(ModelError):
            await score(scheduler, model, pairs, in_s(PATIENCE_S))
        assert sizes == [3, 1], "halved until it is a single pair"
        real._model.base_model.embeddings._forward_pre_hooks.clear()
        assert (await score(scheduler, model, pairs, in_s(PATIENCE_S))).groups == 3


async def reranking_health(app: App) -> int:
    async with raw_channel(app) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return int((await stub.Check(health_pb2.HealthCheckRequest(service=RERANKING))).status)


async def until_health(app: App, told: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await reranking_health(app) != told:  # noqa: ASYNC110 - asked as a balancer asks
            await asyncio.sleep(0.05)


async def test_a_hanging_scorer_holds_up_nobody_and_is_told_to_the_balancer(serve: Serve) -> None:
    """Calls fall back within their budgets, and at once when the device is known to hang; health says it meanwhile."""
    ahead = [0.0]
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    with Held() as hanging:
        scorer = WordOverlapScorer(fault=hanging)
        async with serve(scorer, configured=quick(), clock=lambda: time.monotonic() + ahead[0]) as (client, app):
            for _ in range(3):
                async with within(BUDGET_S):
                    assert (await search(client)).reason == "BUDGET_EXHAUSTED"
            assert await reranking_health(app) == serving
            ahead[0] = STALLED_AFTER_S + 1
            async with within(0):
                got = await search(client)
            assert (got.reason, got.meta.detail) == (
                "MODEL_ERROR",
                f"the device has not answered for more than {STALLED_AFTER_S:.0f} s",
            )
            await until_health(app, not_serving)
            hanging.release()
            await until_health(app, serving)
            ahead[0] = 0.0
            await until(lambda: not app.scheduler.stalled)


class TestOneCallerFillsTheQueue:
    FLOOD, STEADY = ("10.0.0.1", "p"), ("10.0.0.2", "p")

    async def test_another_one_is_served_before_it(self, scheduler: Scheduler) -> None:
        """Jobs of the flood are displaced, and told so; those of the other caller are all scored in time."""
        scorer = WordOverlapScorer(seconds_per_token=1e-3)
        model = LoadedModel.of("default", scorer, CostModel(0, 1e-3), ModelSettings())
        pairs = grouped(scorer.encode("a", ["b c"] * 5))  # 4 tokens each: 20 ms
        flood = [asyncio.create_task(self._score(scheduler, model, pairs, self.FLOOD)) for _ in range(60)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        steady = [asyncio.create_task(self._score(scheduler, model, pairs, self.STEADY)) for _ in range(5)]
        ends = await asyncio.gather(*steady, return_exceptions=True)
        assert [getattr(end, "groups", end) for end in ends] == [5] * 5
        flooded = await asyncio.gather(*flood, return_exceptions=True)
        assert any(isinstance(end, Overloaded) and "displaced" in str(end) for end in flooded)
        assert sum(not isinstance(end, Exception) for end in flooded) >= 5

    async def _score(
        self, scheduler: Scheduler, model: LoadedModel, pairs: list[list[Pair]], caller: tuple[str, ...]
    ) -> Any:
        return await scheduler.result(scheduler.submit(model, pairs, in_s(0.5), caller=caller))

    async def test_what_one_policy_asks_for_does_not_shut_out_another(self, serve: Serve) -> None:
        """Over gRPC: all come from one host, so their policies tell them apart."""
        policy = {"text": {"fields": ["body"]}, "budget_ms": 500}
        policies = {name: dict(policy) for name in ("flood", "steady")}
        configured = settings(policies=policies, default_policy="flood")
        scorer, cost = WordOverlapScorer(seconds_per_token=2e-3), CostModel(0, 2e-3)
        async with serve(scorer, configured=configured, cost=cost) as (client, _):

            async def call(name: str) -> str:
                got = await client.rerank("a", ["b c", "b d", "e f"], options=pb.Options(policy=name), timeout_s=9)
                return reply(got).outcome

            over = asyncio.Event()

            async def flood() -> list[str]:
                ends = []
                while not over.is_set():
                    ends += await asyncio.gather(*(call("flood") for _ in range(40)))
                return ends

            flooding = asyncio.create_task(flood())
            await asyncio.sleep(0.2)
            steady = []
            for _ in range(10):
                steady.append(await call("steady"))
                await asyncio.sleep(0.05)
            over.set()
            flooded = await flooding
        assert steady.count("RERANKED") >= 7
        assert flooded.count("RERANKED") < len(flooded) / 2, "the flood asks for more than there is"


class TestCallersThatCancel:
    @pytest.fixture
    async def scheduler(self) -> AsyncIterator[Scheduler]:
        """Its clock stands still: the device does not seem to stall, however long it takes to trace memory."""
        one = Scheduler(1_000_000, Metrics(), clock=lambda: 0.0)
        yield one
        one.stop()

    async def test_a_thousand_of_them_leave_nothing_behind(self, scheduler: Scheduler) -> None:
        """The queue is empty, no task is left, and no memory is kept, however often it happens."""
        with Held() as hanging:
            scorer = WordOverlapScorer(fault=hanging)
            model = loaded(scorer)
            pairs = grouped(scorer.encode("a", ["b"] * 6))
            before = asyncio.all_tasks()
            first = asyncio.create_task(score(scheduler, model, pairs, in_s(600)))
            await hanging.entered()
            tracemalloc.start()
            try:
                kept = [await self._kept_after_a_thousand(scheduler, model, pairs) for _ in range(4)]
            finally:
                tracemalloc.stop()
            grown = [later - sooner for sooner, later in pairwise(kept)]
            assert min(grown) < 64 * 1024, "what jobs leave behind they leave each time; others do now and then"
            assert asyncio.all_tasks() - before == {first}
            assert (len(scheduler._queue), len(scheduler._unanswered)) == (0, 1)
            hanging.release()
            assert (await first).groups == 6
            assert scorer.pairs_scored == 6, "the device had none of theirs"

    async def _kept_after_a_thousand(self, scheduler: Scheduler, model: LoadedModel, pairs: list[list[Pair]]) -> int:
        """Bytes in use after a thousand more."""
        await self._cancelled(scheduler, model, pairs)
        await asyncio.sleep(0.01)  # until the loop has let go of those that have just ended
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    async def _cancelled(self, scheduler: Scheduler, model: LoadedModel, pairs: list[list[Pair]]) -> None:
        callers = [asyncio.create_task(score(scheduler, model, pairs, in_s(600))) for _ in range(1000)]
        await until(lambda: len(scheduler._queue) == 1000, patience_s=30)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)


class TestClocks:
    async def test_a_process_that_was_stopped_gives_up_what_is_over_and_serves_what_comes(self) -> None:
        """As after SIGSTOP: the monotonic clock has gone on, and one pass seems to have taken an hour."""
        now = [0.0]
        one = Scheduler(1000, Metrics(), clock=lambda: now[0])
        with Held(first=1) as hanging:
            scorer = WordOverlapScorer(fault=hanging)
            model = loaded(scorer)
            running = asyncio.create_task(score(one, model, grouped(scorer.encode("a", ["b"])), Deadline(1e6)))
            await hanging.entered()
            waiting = asyncio.create_task(score(one, model, grouped(scorer.encode("a", ["b"])), Deadline(0.5)))
            await until(lambda: len(one._queue) == 1)
            now[0] = 3600.0
            hanging.release()
            with pytest.raises(BudgetExhausted):
                await waiting
            assert (await running).groups == 1
            after = await score(one, model, grouped(scorer.encode("a", ["b"])), Deadline(3600.5))
            assert after.groups == 1
        one.stop()

    def test_the_wall_clock_is_asked_nowhere_in_the_server(self) -> None:
        """So that it may jump: durations and deadlines are monotonic. Spans alone carry the time of day."""
        root = Path(__file__).parents[2] / "sidecar"
        free = {"v1", "training", "demo", "cli", "otel.py"}
        sources = [path for path in root.rglob("*.py") if not free & set(path.parts)]
        assert len(sources) > 40
        assert [f"{path.name}: {call}" for path in sources for call in _wall_clock(path)] == []


def _wall_clock(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "time.time_ns", "datetime.now"):
            yield ast.unparse(node)


class Panic(BaseException):
    """As a library in Rust raises it: no ``Exception``."""


async def test_a_tokenizer_that_panics_fails_its_call_and_answers_it(serve: Serve) -> None:
    class Panics(WordOverlapScorer):
        def encode(self, query: str, passages: Sequence[str]) -> list[Pair]:
            raise Panic

    async with serve(Panics()) as (client, _):
        page = await client.search("docs", QUERY, {"query": {"match": {"body": "apple"}}})
    assert (page.outcome, page.reason) == ("ORIGINAL_ORDER", "MODEL_ERROR")
    assert "the tokenizer raised Panic" in page.message.meta.detail


async def test_what_a_pass_failed_of_is_logged_once_in_a_while(serve: Serve, logged: list[Any]) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore of it")

    async with serve(WordOverlapScorer(fault=broken)) as (client, app):
        for _ in range(3):
            await client.search("docs", QUERY, {"query": {"match": {"body": "apple"}}})
        assert app.metrics.registry.get_sample_value("sidecar_failed_passes_total", {"model": "default"}) == 3
    told = [entry for entry in logged if entry["event"] == "forward_failed"]
    assert [entry["cause"] for entry in told] == ["CUDA error: an illegal memory access was encountered"]
