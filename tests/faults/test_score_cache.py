"""Scores that are kept or shared never make a call worse than it would be alone, and never tell another tale."""

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from connectors.memory import MemoryConnector
from sidecar.app import App
from sidecar.bounded_cache import ENTRY_BYTES
from sidecar.cost import CostModel
from sidecar.deadline import Deadline
from sidecar.errors import BudgetExhausted, ModelError, Overloaded
from sidecar.loaded import LoadedModel
from sidecar.metrics import Metrics
from sidecar.pair_job import digests_of, look_up
from sidecar.pair_scores import SCORE_BYTES, PairScorer, PairScores, Terms
from sidecar.scheduler import Scheduler
from sidecar.scoring.base import Pair, Scores
from sidecar.scoring.fake import WordOverlapScorer
from sidecar.settings import ModelSettings, Settings
from sidecar.timing import Stopwatch
from sidecar.v1 import rerank_pb2 as pb
from tests.calls import PATIENCE_S, Held, until
from tests.conftest import SERVER, Serve, settings

MIB = 2**20
WORDS = ("apple", "red", "tree", "winter", "store", "pie", "cellar", "green")
TEXTS = ["red apple", "green pear", "apple", "a red tree", "winter apple store"]
QUERY = "red apple"


class Bench:
    """A scheduler, a model, and calls that share their scores."""

    def __init__(self, scheduler: Scheduler, scorer: WordOverlapScorer, max_bytes: int, cost: CostModel) -> None:
        self.scorer = scorer
        self.model = LoadedModel.of("default", scorer, cost, ModelSettings())
        self.scheduler = scheduler
        self.pairs = PairScorer(scheduler, max_bytes)

    async def call(
        self,
        texts: Sequence[str | Sequence[str]] = TEXTS,
        *,
        query: str = QUERY,
        due_s: float = 60,
        min_groups: int | None = None,
    ) -> PairScores:
        """Score the texts, each a document of its own or a list of passages."""
        passages = [[one] if isinstance(one, str) else one for one in texts]
        found = look_up(self.model, query, passages, self.pairs.cache)
        job = found.job(found.tokenised(list(found.missing.values())))
        return await self.pairs.scores(job, terms(Deadline(time.monotonic() + due_s), min_groups))

    def task(self, *arguments: Any, **options: Any) -> "asyncio.Task[PairScores]":
        """A call under way."""
        return asyncio.create_task(self.call(*arguments, **options))


def terms(deadline: Deadline, min_groups: int | None = None) -> Terms:
    """Terms with a watch that nobody reads."""
    return Terms(deadline, Stopwatch(time.monotonic(), Metrics()), min_groups=min_groups)


@asynccontextmanager
async def bench(
    scorer: WordOverlapScorer | None = None,
    *,
    max_bytes: int = MIB,
    max_queued: int = 1000,
    cost: CostModel | None = None,
) -> AsyncIterator[Bench]:
    """A bench that is cleared away."""
    scheduler = Scheduler(max_queued, Metrics())
    try:
        yield Bench(scheduler, scorer or WordOverlapScorer(), max_bytes, cost or CostModel(overhead_s=1e-4))
    finally:
        scheduler.stop()


def queued(scheduler: Scheduler) -> int:
    """Pairs that wait for the device."""
    return scheduler._queued_pairs()


def truth(texts: Sequence[str], query: str = QUERY) -> list[float]:
    """The scores by the scorer itself."""
    scorer = WordOverlapScorer()
    return [float(score) for score in scorer.score(scorer.encode(query, texts))]


def cached(policy: Mapping[str, Any] | None = None, mib: int = 8, **changes: Any) -> Settings:
    """Test settings with a score cache."""
    return settings(policy, server={**SERVER, "score_cache_mib": mib}, **changes)


class TestKept:
    async def test_what_was_scored_once_never_reaches_the_device_again(self) -> None:
        async with bench() as made:
            first, second = await made.call(), await made.call()
            assert first == second == PairScores(truth(TEXTS), len(TEXTS))
            assert made.scorer.pairs_scored == len(TEXTS)
            assert (made.pairs.cache.hits, made.pairs.cache.misses) == (len(TEXTS), len(TEXTS))

    async def test_only_what_is_missing_is_scored(self) -> None:
        async with bench() as made:
            await made.call(TEXTS[1:3])
            assert (await made.call()).scores == truth(TEXTS)
            assert made.scorer.pairs_scored == len(TEXTS)

    async def test_the_same_text_twice_in_a_call_is_scored_once(self) -> None:
        async with bench() as made:
            found = await made.call([["apple", "red"], "apple", ["tree", "apple"]])
            assert found.scores == truth(["apple", "red", "apple", "tree", "apple"])
            assert made.scorer.pairs_scored == 3

    async def test_without_room_every_call_is_by_itself(self) -> None:
        async with bench(max_bytes=0) as made:
            assert (await made.call(["apple", "apple"])).scores == truth(["apple", "apple"])
            await made.call(["apple"])
            assert made.scorer.pairs_scored == 3

    async def test_what_does_not_fit_is_scored_again(self) -> None:
        async with bench(max_bytes=3 * (ENTRY_BYTES + SCORE_BYTES)) as made:
            for _ in range(3):
                assert (await made.call()).scores == truth(TEXTS)
            assert made.pairs.cache.size_bytes <= made.pairs.cache.max_bytes
            assert made.scorer.pairs_scored > len(TEXTS)

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    async def test_a_score_that_is_not_finite_is_given_but_never_kept(self, bad: float) -> None:
        def fault(number: int, pairs: Sequence[Pair]) -> Scores | None:
            return np.array([bad, 0.5], np.float32) if number == 0 else None

        async with bench(WordOverlapScorer(fault=fault)) as made:
            assert str((await made.call(["a b", "a c"])).scores) == str([bad, 0.5])
            assert (await made.call(["a b", "a c"])).scores == [0.0, 0.5]
            assert made.scorer.pairs_scored == 3

    async def test_scores_do_not_outlive_their_model(self, serve: Serve) -> None:
        """qmd#764: cached scores outlived a model swap."""
        async with serve(WordOverlapScorer(), configured=cached()) as (client, app):
            before = await client.rerank(QUERY, TEXTS)
            await swap(app, Opposite(version="opposite"))
            after = await client.rerank(QUERY, TEXTS)
        scores = [{one.original_rank: one.relevance_score for one in reply.results} for reply in (before, after)]
        assert scores[1] == {rank: -score for rank, score in scores[0].items()}
        assert (before.meta.model_version, after.meta.model_version) == ("word-overlap", "opposite")

    def test_the_digest_tells_apart_all_that_a_score_depends_on(self) -> None:
        asked = [("v", "ab", "c"), ("v", "a", "bc"), ("va", "b", "c"), ("v", "ab", "c "), ("v", "', 'ab", "c")]
        digests = {next(digests_of(version, query, [passage])) for version, query, passage in asked}
        assert len(digests) == len(asked)


class Opposite(WordOverlapScorer):
    """Scores the other way round."""

    def score(self, pairs: Sequence[Pair]) -> Scores:
        """See :class:`WordOverlapScorer`."""
        return -super().score(pairs)


async def swap(app: App, scorer: WordOverlapScorer) -> None:
    """Another model under the same name."""
    app.models.put(LoadedModel.of("default", scorer, CostModel(overhead_s=1e-4), ModelSettings()))


class TestShared:
    """A pair that another call waits for is scored once, unless that call brings nothing."""

    async def test_many_calls_for_the_same_pairs_cost_what_one_does(self) -> None:
        with Held(first=1) as hanging:
            async with bench(WordOverlapScorer(fault=hanging)) as made:
                calls = [made.task()]
                await hanging.entered()
                calls += [made.task() for _ in range(50)]
                await asyncio.sleep(0.05)
                hanging.release()
                found = await asyncio.gather(*calls)
                assert all(one == PairScores(truth(TEXTS), len(TEXTS)) for one in found)
                assert made.scorer.pairs_scored == len(TEXTS)

    async def test_calls_that_wait_for_each_others_pairs_all_end(self) -> None:
        with Held(first=1) as hanging:
            async with bench(WordOverlapScorer(fault=hanging)) as made:
                calls = [made.task(["tree"])]
                await hanging.entered()
                now = Deadline(time.monotonic() + 60)
                for texts in (TEXTS, TEXTS[::-1], [*TEXTS[2:], "tree", "pie"]):
                    asked = look_up(made.model, QUERY, [[one] for one in texts], made.pairs.cache)
                    job = asked.job(asked.tokenised(list(asked.missing.values())))
                    calls.append(asyncio.create_task(made.pairs.scores(job, terms(now))))
                await asyncio.sleep(0.05)
                hanging.release()
                async with asyncio.timeout(PATIENCE_S):
                    found = await asyncio.gather(*calls)
                assert [one.scores for one in found[1:]] == [
                    truth(TEXTS),
                    truth(TEXTS[::-1]),
                    truth([*TEXTS[2:], "tree", "pie"]),
                ]
                assert made.scorer.pairs_scored == len({*TEXTS, "tree", "pie"})

    async def test_who_waits_for_a_call_that_is_cancelled_scores_for_himself(self) -> None:
        with Held(first=1) as hanging:
            async with bench(WordOverlapScorer(fault=hanging)) as made:
                blocking = made.task(["pie"])
                await hanging.entered()
                first = made.task()
                await asyncio.sleep(0.02)
                second, third = made.task(), made.task()
                await asyncio.sleep(0.02)
                first.cancel()
                await asyncio.sleep(0.02)
                hanging.release()
                await blocking
                assert [one.scores for one in await asyncio.gather(second, third)] == [truth(TEXTS)] * 2
                assert first.cancelled()

    async def test_what_a_call_had_scored_before_it_was_cancelled_is_not_scored_again(self) -> None:
        cost = CostModel(overhead_s=0, token_s=0.005)
        async with bench(WordOverlapScorer(seconds_per_token=0.005)) as made:
            made.model = LoadedModel.of("default", made.scorer, cost, ModelSettings(max_batch_ms=20))
            texts = [f"apple w{number}" for number in range(10)]
            first = made.task(texts)
            await until(lambda: made.scorer.pairs_scored >= 6)
            second = made.task(texts)
            await asyncio.sleep(0)
            first.cancel()
            assert (await second).groups == len(texts)
            assert made.scorer.pairs_scored <= len(texts) + 1, "but for the one that was under way"

    async def test_a_waiter_that_is_cancelled_takes_nothing_with_it(self) -> None:
        with Held(first=1) as hanging:
            async with bench(WordOverlapScorer(fault=hanging)) as made:
                first = made.task()
                await hanging.entered()
                second, third = made.task(), made.task()
                await asyncio.sleep(0.02)
                second.cancel()
                hanging.release()
                assert (await first).scores == (await third).scores == truth(TEXTS)
                assert made.scorer.pairs_scored == len(TEXTS)

    async def test_when_the_caller_that_many_wait_for_leaves_the_device_scores_once_for_all_of_them(self) -> None:
        with Held(first=1) as hanging:
            async with bench(WordOverlapScorer(fault=hanging)) as made:
                first = made.task()
                await hanging.entered()
                others = [made.task() for _ in range(30)]
                await asyncio.sleep(0.02)
                first.cancel()
                await asyncio.sleep(0.02)
                hanging.release()
                found = await asyncio.gather(*others)
                assert [one.scores for one in found] == [truth(TEXTS)] * 30
                assert made.scorer.pairs_scored == 2 * len(TEXTS), "for him who left, and for them"

    async def test_however_many_leave_before_their_pairs_are_scored_once_for_all_who_stay(self) -> None:
        with Held() as hanging:
            async with bench(WordOverlapScorer(fault=hanging)) as made:
                first = made.task(["pie"])
                await hanging.entered()
                leaving = [made.task() for _ in range(8)]
                await asyncio.sleep(0.02)
                stay = [made.task() for _ in range(5)]
                for one in leaving:
                    await asyncio.sleep(0.01)
                    one.cancel()
                await asyncio.sleep(0.02)
                assert queued(made.scheduler) == len(TEXTS)
                hanging.release()
                await first
                assert [one.scores for one in await asyncio.gather(*stay)] == [truth(TEXTS)] * 5
                assert made.scorer.pairs_scored == 1 + len(TEXTS)

    async def test_who_has_seen_a_pair_fail_three_times_waits_for_nobody_else(self) -> None:
        def fault(number: int, pairs: Sequence[Pair]) -> Scores | None:
            hanging(number, pairs)
            passes.append(len(pairs))
            return np.full(len(pairs), math.nan, np.float32)

        passes: list[int] = []
        with Held(first=1) as hanging:
            async with bench(WordOverlapScorer(fault=fault)) as made:
                first = made.task(["pie"])
                await hanging.entered()
                others = [made.task(["pie"]) for _ in range(20)]
                await asyncio.sleep(0.02)
                hanging.release()
                found = await asyncio.gather(first, *others)
        assert all(math.isnan(one.scores[0]) for one in found)
        assert sum(passes) == 21
        assert len(passes) < 10, "one after the other at first, then all that are left together"

    async def test_what_was_scored_while_a_call_was_tokenised_is_not_scored_again(self, serve: Serve) -> None:
        class Slow(WordOverlapScorer):
            def encode(self, query: str, passages: Sequence[str]) -> list[Pair]:
                time.sleep(0.03)
                return super().encode(query, passages)

        scorer = Slow()
        async with serve(scorer, configured=cached({"budget_ms": 5000})) as (client, _):
            before = scorer.pairs_scored
            replies = await asyncio.gather(*(client.rerank(QUERY, TEXTS) for _ in range(12)))
        assert {reply.outcome for reply in replies} == {pb.OUTCOME_RERANKED}
        assert scorer.pairs_scored - before == len(TEXTS)

    async def test_a_call_waits_for_no_pair_that_it_does_not_cover(self) -> None:
        with Held(first=1) as hanging:
            async with bench(WordOverlapScorer(fault=hanging)) as made:
                other = made.task(["pie"], due_s=30)
                await hanging.entered()
                found = look_up(made.model, QUERY, [["red apple"], ["green pear", "pie", "tree"]], made.pairs.cache)
                begun = found.tokenised(list(found.missing.values()))[:2]
                job = found.job(begun, BudgetExhausted("no time for more"))
                assert [len(group) for group in job.groups] == [1]
                assert list(job.pairs) == job.groups[0]
                made.pairs.cache.keep({key: (0.5, False) for key in job.pairs if isinstance(key, bytes)})
                covered = await made.pairs.scores(
                    job.again(made.pairs.cache), terms(Deadline(time.monotonic() + 60), 1)
                )
                assert (covered.scores, covered.groups, covered.late) == ([0.5], 1, job.late)
                hanging.release()
                await other

    async def test_of_a_beginning_that_the_queue_shortened_the_queue_is_the_reason(self) -> None:
        with Held(first=1) as hanging:
            async with bench(WordOverlapScorer(fault=hanging), max_bytes=0, max_queued=20) as made:
                first = made.task(["pie"])
                await hanging.entered()
                waiting = made.task([f"w{number}" for number in range(12)])
                await asyncio.sleep(0.01)
                found = look_up(made.model, QUERY, [[f"t{number}"] for number in range(11)], made.pairs.cache)
                begun = found.tokenised(list(found.missing.values()))[:10]
                job = found.job(begun, BudgetExhausted("no time for more"))
                scoring = asyncio.create_task(made.pairs.scores(job, terms(Deadline(time.monotonic() + 60), 2)))
                await asyncio.sleep(0.02)
                hanging.release()
                got = await scoring
                assert (got.groups < 10, got.late) == (True, None)
                await asyncio.gather(first, waiting)

    async def test_who_waits_for_a_call_that_runs_out_of_time_scores_for_himself(self) -> None:
        with Held(first=1) as hanging:
            async with bench(WordOverlapScorer(fault=hanging)) as made:
                blocking = made.task(["pie"])
                await hanging.entered()
                first = made.task(due_s=0.15)
                await asyncio.sleep(0.02)
                second = made.task(due_s=60)
                await asyncio.sleep(0.2)
                hanging.release()
                with pytest.raises(BudgetExhausted):
                    await first
                assert (await second).scores == truth(TEXTS)
                await blocking

    async def test_a_call_that_is_due_later_is_not_waited_for(self) -> None:
        """It stands behind in the queue: whoever waited for it would be late for nothing."""
        with Held(first=1) as hanging:
            async with bench(WordOverlapScorer(fault=hanging)) as made:
                blocking = made.task(["pie"])
                await hanging.entered()
                patient, urgent = made.task(due_s=60), made.task(due_s=30)
                await asyncio.sleep(0.02)
                hanging.release()
                await asyncio.gather(blocking, patient, urgent)
                assert made.scorer.pairs_scored == 1 + 2 * len(TEXTS)

    async def test_a_scorer_that_raises_once_fails_one_call_and_not_who_waits_for_it(self) -> None:
        def fault(number: int, pairs: Sequence[Pair]) -> Scores | None:
            if number == 0:
                hanging(number, pairs)
                raise RuntimeError
            return None

        with Held() as hanging:
            async with bench(WordOverlapScorer(fault=fault)) as made:
                first = made.task()
                await hanging.entered()
                others = [made.task() for _ in range(3)]
                await asyncio.sleep(0.02)
                hanging.release()
                with pytest.raises(ModelError):
                    await first
                assert [one.scores for one in await asyncio.gather(*others)] == [truth(TEXTS)] * 3

    async def test_a_pair_that_is_never_finite_fails_every_call_that_has_it_and_no_other(self) -> None:
        def fault(number: int, pairs: Sequence[Pair]) -> Scores | None:
            hanging(number, pairs)
            return np.array([math.nan if pair.tokens == 7 else 0.5 for pair in pairs], np.float32)

        with Held(first=1) as hanging:
            async with bench(WordOverlapScorer(fault=fault)) as made:
                bad = [made.task(["apple", "four words of it"])]
                await hanging.entered()
                bad += [made.task(["apple", "four words of it"]) for _ in range(3)]
                good = made.task(["apple"])
                await asyncio.sleep(0.02)
                hanging.release()
                assert all(math.isnan(one.scores[1]) for one in await asyncio.gather(*bad))
                assert (await good).scores == [0.5]

    async def test_a_waiter_ends_with_its_own_budget_when_the_other_call_hangs(self, serve: Serve) -> None:
        with Held() as hanging:
            configured = cached({"budget_ms": 60_000, "limits": {"budget_ms": 60_000}})
            async with serve(WordOverlapScorer(fault=hanging), configured=configured) as (client, _):
                short = pb.Options(budget_ms=500)
                first = asyncio.create_task(client.rerank(QUERY, TEXTS, options=pb.Options(budget_ms=400)))
                await hanging.entered()
                started = time.monotonic()
                second = await client.rerank(QUERY, TEXTS, options=short)
                assert time.monotonic() - started < 2
                hanging.release()
                assert (second.outcome, (await first).outcome) == (pb.OUTCOME_ORIGINAL_ORDER,) * 2
                assert (await client.rerank(QUERY, TEXTS)).outcome == pb.OUTCOME_RERANKED

    async def test_nothing_is_left_flying(self) -> None:
        dice = random.Random(3)

        def fault(number: int, pairs: Sequence[Pair]) -> Scores | None:
            if dice.random() < 0.3:
                raise RuntimeError
            return None

        async with bench(WordOverlapScorer(fault=fault, seconds_per_token=1e-5)) as made:
            for _ in range(20):
                calls = [
                    made.task(dice.sample(WORDS, 4), due_s=dice.choice([0.004, 1, 60]))
                    for _ in range(dice.randint(1, 8))
                ]
                await asyncio.sleep(dice.random() / 100)
                for call in calls[::3]:
                    call.cancel()
                async with asyncio.timeout(PATIENCE_S):
                    for end in await asyncio.gather(*calls, return_exceptions=True):
                        allowed = (PairScores, ModelError, BudgetExhausted, Overloaded, asyncio.CancelledError)
                        assert isinstance(end, allowed)
            assert not made.pairs._flying


class TestWithoutDevice:
    async def test_known_scores_are_given_while_the_device_hangs(self, serve: Serve) -> None:
        late_s = [0.0]
        with Held() as hanging:
            scorer = WordOverlapScorer()
            async with serve(scorer, configured=cached(), clock=lambda: time.monotonic() + late_s[0]) as (client, app):
                before = await client.rerank(QUERY, TEXTS)
                scorer.fault = hanging
                stuck = asyncio.create_task(client.rerank("tree", TEXTS))
                await hanging.entered()
                late_s[0] = 60.0
                assert app.scheduler.stalled
                again, new = await client.rerank(QUERY, TEXTS), await client.rerank("pie", TEXTS)
                hanging.release()
                await stuck
        assert list(again.results) == list(before.results)
        assert (again.outcome, new.reason) == (pb.OUTCOME_RERANKED, pb.REASON_MODEL_ERROR)

    async def test_never_while_the_model_is_not_ready(self, serve: Serve) -> None:
        async with serve(configured=cached()) as (client, app):
            await client.rerank(QUERY, TEXTS)
            app.models.fail("default", "it was taken away")
            assert (await client.rerank(QUERY, TEXTS)).reason == pb.REASON_MODEL_NOT_READY

    async def test_a_full_queue_refuses_only_what_is_not_known(self, serve: Serve) -> None:
        async with serve(configured=cached()) as (client, app):
            await client.rerank(QUERY, TEXTS)
            app.scheduler._queue.max_pairs = 1
            assert (await client.rerank(QUERY, TEXTS)).outcome == pb.OUTCOME_RERANKED
            assert (await client.rerank("tree", TEXTS)).reason == pb.REASON_OVERLOADED


class TestWindows:
    """The first documents of the window, and no gaps, whatever is known already."""

    async def test_known_documents_behind_the_window_do_not_count(self) -> None:
        async with bench(max_queued=2) as made:
            await made.call(TEXTS[3:4])
            found = await made.call(min_groups=1)
            assert found == PairScores(truth(TEXTS[:2]), 2)

    async def test_known_documents_before_and_within_make_it_longer(self) -> None:
        async with bench(max_queued=2) as made:
            await made.call(TEXTS[:1])
            await made.call(TEXTS[2:3])
            assert await made.call(min_groups=1) == PairScores(truth(TEXTS[:4]), 4)

    async def test_the_known_first_documents_are_enough_where_the_queue_is_full(self) -> None:
        async with bench() as made:
            await made.call(TEXTS[:3])
            made.scheduler._queue.max_pairs = 0
            found = await made.call(min_groups=3)
            assert (found.scores, found.groups, type(found.late)) == (truth(TEXTS[:3]), 3, Overloaded)
            with pytest.raises(Overloaded):
                await made.call(min_groups=4)
            with pytest.raises(Overloaded):
                await made.call()

    async def test_a_document_counts_only_with_all_its_passages(self) -> None:
        async with bench() as made:
            await made.call([["apple", "red"], ["tree"]])
            made.scheduler._queue.max_pairs = 0
            documents = [["apple", "red"], ["tree", "pie"], ["apple"]]
            found = await made.call(documents, min_groups=1)
            assert (found.scores, found.groups, type(found.late)) == (truth(["apple", "red"]), 1, Overloaded)

    async def test_the_reply_of_a_partial_window_is_the_same_with_half_of_it_known(self, serve: Serve) -> None:
        configured = cached({"min_rank_window_size": 1})
        async with serve(configured=configured) as (client, app):
            await client.rerank(QUERY, TEXTS[3:])
            app.scheduler._queue.max_pairs = 2
            got = await client.rerank(QUERY, TEXTS)
        assert (got.outcome, got.meta.scored) == (pb.OUTCOME_PARTIAL, 2)
        assert [one.original_rank for one in got.results][2:] == [2, 3, 4]


class TestSameReplies:
    async def test_with_and_without_caches_over_random_calls(self, serve: Serve) -> None:
        dice = random.Random(11)
        documents = {
            f"d{number}": {
                "title": " ".join(dice.choices(WORDS, k=2)),
                "body": " ".join(dice.choices(WORDS, k=dice.choice([4, 30]))),
            }
            for number in range(40)
        }
        text = {"fields": ["title", "body"], "passages": {"words": 10, "stride": 8, "max_passages": 3}}
        cut: list[float] = []
        connector = MemoryConnector("main", {"docs": documents})
        short = [WordOverlapScorer(max_length=12) for _ in range(2)]  # whole passages of ten words are cut
        async with (
            serve(short[0], configured=cached({"text": text}, mib=0), connector=connector) as (plain, _),
            serve(short[1], configured=cached({"text": text}), connector=connector) as (quick, app),
        ):
            for _ in range(60):
                query = " ".join(dice.choices(WORDS, k=dice.randint(1, 2)))
                body = {
                    "query": {"match": {"body": query}},
                    "size": dice.randint(1, 20),
                    "from": dice.choice([0, 0, 5]),
                }
                options = pb.Options(rank_window_size=dice.randint(1, 30), return_passages=dice.random() < 0.5)
                replies = [
                    (await client.search("docs", query, body, options=options)).message for client in (plain, quick)
                ]
                for reply in replies:
                    reply.meta.ClearField("timings")
                    reply.meta.ClearField("request_id")
                assert replies[0].results == replies[1].results
                assert replies[0].meta == replies[1].meta
                assert replies[0].outcome == replies[1].outcome
                cut.append(replies[0].meta.truncated_ratio)
            hits = lookups(app, "hit")
        assert hits > 200
        assert len(set(cut)) > 5, "shares of all kinds"

    async def test_hits_misses_and_bytes_are_told(self, serve: Serve) -> None:
        async with serve(configured=cached()) as (client, app):
            for _ in range(2):
                await client.rerank(QUERY, TEXTS)
            await until(lambda: lookups(app, "hit") == len(TEXTS))
            taken = app.metrics.registry.get_sample_value("sidecar_cache_bytes", {"cache": "scores", "model": ""})
            assert lookups(app, "miss") == len(TEXTS)
            assert taken == len(TEXTS) * (ENTRY_BYTES + SCORE_BYTES)


def lookups(app: App, outcome: str) -> float:
    """Pairs that the score cache knew, or did not."""
    labels = {"cache": "scores", "model": "", "outcome": outcome}
    return app.metrics.registry.get_sample_value("sidecar_cache_lookups_total", labels) or 0
