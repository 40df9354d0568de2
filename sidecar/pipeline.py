"""The way of a request, top to bottom, and the only place that makes a fallback."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from sidecar import languages, skips
from sidecar.callers import calling, calling_host
from sidecar.calls import Answer, Clock, RerankCall, Result, SearchCall
from sidecar.cosines import NONE, ORDERING_S, CosineScorer
from sidecar.deadline import Deadline
from sidecar.documents import Fetched, fetch, missing_of, passages_of
from sidecar.errors import BudgetExhausted, CircuitOpen, Fallback, ModelError, Overloaded
from sidecar.forgetting import forget_way
from sidecar.loaded import LoadedModel, Models
from sidecar.logs import log
from sidecar.metrics import Metrics
from sidecar.orders import Orders
from sidecar.pair_job import PairJob, look_up
from sidecar.pair_scores import PairScorer, PairScores, Terms
from sidecar.policy import Plan
from sidecar.retrieval import Retrieval
from sidecar.rollout import Arm, interleaved
from sidecar.scheduler import Scheduler
from sidecar.scoring.base import Pair
from sidecar.shadow import Shadow
from sidecar.source_filter import carries
from sidecar.spare_time import SpareTime
from sidecar.task import Retrieved, Task, candidate_of, chars_of
from sidecar.timing import Stopwatch
from sidecar.types import Carried, Outcome, Ranked, Ranking, Reason
from sidecar.verdict import ranking_of

T = TypeVar("T")

_TOKENIZER_THREADS = 2
_MOST_AT_ONCE, _CHARS_AT_ONCE, _QUERY_CHARS_AT_ONCE = 150, 150_000, 4096
"""More candidates, or characters of text or query, are read and tokenised in a thread: so many take up to 0.5 ms each,
or a few where fields are lists of very short values."""
_SETTLING_S, _SETTLING_SHARE = 0.002, 0.1
"""Kept for making an order of a part of the scores, and at most so much of the time left: a job that is admitted is
predicted to end before that. The reply has a reserve of its own."""


class Pipeline:
    """Answers calls with the engine's hits in a better order, or exactly in the engine's own."""

    def __init__(
        self,
        retrieval: Callable[[], Retrieval],
        models: Models,
        scheduler: Scheduler,
        metrics: Metrics,
        orders: Orders,
        *,
        reserve_s: float,
        score_cache_bytes: int = 0,
    ) -> None:
        self._retrieval = retrieval
        self._models = models
        self._scheduler = scheduler
        self._metrics = metrics
        self._orders = orders
        self._reserve_s = reserve_s
        self._scorer = PairScorer(scheduler, score_cache_bytes)
        metrics.watch_cache("scores", "", self._scorer.cache)
        self._turns = asyncio.Semaphore(_TOKENIZER_THREADS)
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._spare_time = SpareTime(scheduler)
        self._cosines = CosineScorer(scheduler, self._cosine_pairs, self._spare_time)
        self._shadow = Shadow(self._rank_in_spare_time, metrics)
        self._tokenizers = ThreadPoolExecutor(_TOKENIZER_THREADS, thread_name_prefix="tokenizer")

    def close(self) -> None:
        """Let go of the tokenizer's threads, and of what waits for spare time."""
        self._shadow.close()
        self._spare_time.close()
        for threads in (self._tokenizers, self._aside):
            threads.shutdown(wait=False, cancel_futures=True)

    async def search(self, call: SearchCall) -> Answer:
        """Search the engine and rerank its hits.

        Raises:
            RequestError: the call is not valid or not allowed.
            ConnectorError: the search failed; there is nothing to fall back to.
        """
        return await self.finish(await self.retrieve(call))

    async def retrieve(self, call: SearchCall) -> Retrieved:
        """The first half of :meth:`search`: the engine's hits, in its own order."""
        watch = Stopwatch(call.clock.received_at, self._metrics)
        with watch.stage("search"):
            prepared, hits = await self._retrieval().search(call)
        plan, request = prepared.plan, prepared.request
        carried = carries(prepared.call.body, call.params, plan.text) if plan else Carried.UNKNOWN
        candidates = [candidate_of(hit, rank, carried) for rank, hit in enumerate(hits.hits[: request.window])]
        skip = prepared.skip or skips.by_hits(candidates)
        deadline = self._deadline(call.clock, plan)
        pinned, key = call.narrowing.pinned_ids, call.narrowing.key or call.query
        connector, chars = prepared.connector, hits.chars
        task = Task(call.query, candidates, pinned, plan, skip, connector, deadline, watch, key=key, chars=chars)
        return Retrieved(task, hits, request.page, request.first_rank)

    async def finish(self, retrieved: Retrieved) -> Answer:
        """The second half of :meth:`search`: the hits in their final order. Fails only by being cancelled."""
        ranking = await self._orders.agreed(retrieved, lambda: self._rank(retrieved.task))
        return retrieved.answer(tried(ranking, retrieved.task))

    async def rerank(self, call: RerankCall) -> Answer:
        """Rerank the caller's own candidates.

        Raises:
            RequestError: the call is not valid or not allowed.
        """
        watch = Stopwatch(call.clock.received_at, self._metrics)
        access = await self._retrieval().access(call)
        plan, connector = access.plan, access.connector
        considered = call.candidates[: plan.rank_window_size] if plan else call.candidates
        skip = skips.by_policy(plan, access.why) or skips.by_count(considered)
        deadline = self._deadline(call.clock, plan)
        pinned, closed = call.narrowing.pinned_ids, access.closed_indices
        key = call.narrowing.key or call.query
        chars = chars_of(considered)
        task = Task(call.query, considered, pinned, plan, skip, connector, deadline, watch, closed, key, chars)
        ranked = tried(await self._rank(task), task)
        places = [*ranked.order, *(Ranked(rank) for rank in range(len(considered), len(call.candidates)))]
        kept = [place for place in places if task.keeps(place)][: call.top_n]
        results = [Result(call.candidates[place.rank], place) for place in kept]
        return Answer(results, ranked, plan, watch.stop())

    async def _rank(self, task: Task) -> Ranking:
        """The new order, or from any failure or lateness on the original one, with the reason."""
        count = len(task.candidates)
        if task.skip or task.plan is None:
            return Ranking.original(count, Outcome.SKIPPED, *(task.skip or (Reason.NO_POLICY, "")))
        if task.plan.arm is Arm.SHADOW:
            self._shadow.follow(task, task.plan)
            return Ranking.original(count, Outcome.SKIPPED, Reason.SHADOW, "the new order is only counted")
        try:
            return await self._rank_in_time(task, task.plan)
        except Fallback as fallback:
            forget_way(fallback)
            return Ranking.original(count, fallback.outcome, fallback.reason, str(fallback))
        except Exception as error:  # noqa: BLE001 - whatever breaks here, the engine's order is still a good answer
            log.exception("reranking_failed", policy=task.plan.policy, error=type(error).__name__)
            forget_way(error)
            return Ranking.original(count, Outcome.ORIGINAL_ORDER, Reason.MODEL_ERROR, "an unforeseen fault")

    async def _rank_in_time(self, task: Task, plan: Plan) -> Ranking:
        if task.deadline.expired:
            raise BudgetExhausted("the budget ended before scoring began")
        try:
            async with asyncio.timeout(task.deadline.remaining_s()):
                return await self._rank_by_model(task, plan, self._models.get(plan.model))
        except TimeoutError:
            raise BudgetExhausted("the budget ended before the scores were there") from None

    async def _rank_by_model(self, task: Task, plan: Plan, model: LoadedModel) -> Ranking:
        caller = (calling.get().name or calling_host.get(), plan.policy)
        least = min(plan.min_rank_window_size or len(task.candidates), len(task.candidates))
        missing, shrinks = missing_of(task, plan), plan.min_rank_window_size is not None
        refused = partial(self._scheduler.refusal, model, task.deadline, caller, least, shrinks=shrinks)
        if not plan.orders_rest and (missing or not self._scorer.keeps) and (refusal := refused()):
            self._scheduler.refuse(refusal, least)
        fetched = await fetch(task, plan, missing)
        async with self._turns:  # nobody is tokenised whose turn comes too late
            refusal = refused()
            if refusal and not (self._scorer.keeps or plan.orders_rest):
                self._scheduler.refuse(refusal, least)
            with task.watch.stage("tokenize"):
                passages, job = await self._job(task, plan, fetched, model, encode=refusal is None)
        terms = Terms(task.deadline, task.watch, caller, plan.min_rank_window_size, _settles_at(task.deadline, plan))
        second, wait = self._second_model(plan), plan.cosine is not None and plan.cosine.wait
        async with self._cosines.beside(second, task.query, passages, terms, wait=wait) as cosines:
            scored = await self._scored(job, plan, terms, refusal, least)
            near = await cosines()
        original = [candidate.score for candidate in task.candidates]
        ranked = ranking_of(original, plan, passages, scored, near, model.scorer.version)
        return replace(ranked, truncated_ratio=job.truncated_ratio)

    async def _rank_in_spare_time(self, task: Task, plan: Plan, deadline: Deadline) -> Ranking | None:
        """The order by model and engine, made of what the device has left; None where somebody else wants it."""
        model = self._models.get(plan.model)
        aside = replace(task, deadline=deadline)
        if not self._has_spare_time():
            return None
        fetched = await fetch(aside, plan, missing_of(aside, plan))
        if not self._has_spare_time():
            return None
        loop = asyncio.get_running_loop()
        prepared = loop.run_in_executor(self._aside, _told, self._prepared, aside, plan, fetched, model, True)
        passages, job = await prepared
        scores = await self._spare_time.scores(model, list(job.pairs.values()), deadline)
        if scores is None:
            return None
        found = {**job.known, **dict(zip(job.pairs, scores, strict=True))}
        flat = [found[key] for group in job.groups for key in group]
        original = [candidate.score for candidate in task.candidates]
        return ranking_of(original, plan, passages, PairScores(flat, len(passages)), NONE, model.scorer.version)

    def _has_spare_time(self) -> bool:
        """Whether nobody is scored, or about to be."""
        return self._scheduler.idle and not self._turns.locked()

    async def _scored(
        self, job: PairJob, plan: Plan, terms: Terms, refusal: Overloaded | ModelError | CircuitOpen | None, least: int
    ) -> PairScores:
        """The model's scores; none where they come too late and the rest is ordered without."""
        try:
            if refusal and not job.is_known:
                self._scheduler.refuse(refusal, least)
            return await self._scorer.scores(job, terms)
        except (Overloaded, BudgetExhausted) as late:
            if not plan.orders_rest:
                raise
            forget_way(late)
            return PairScores([], 0, late)

    def _second_model(self, plan: Plan) -> LoadedModel | None:
        """What compares beside the model; an order without it is better than none."""
        ready = plan.cosine is not None and self._models.is_ready(plan.cosine.model)
        return self._models.get(plan.cosine.model) if plan.cosine and ready else None

    async def _job(
        self, task: Task, plan: Plan, fetched: Fetched, model: LoadedModel, *, encode: bool
    ) -> tuple[dict[int, list[str]], PairJob]:
        """Passages by rank, and the pairs to be scored. A thread tokenises, and reads what takes its time; for all else
        it would take longer to wake up than its work."""
        in_thread = partial(self._off_loop, self._prepared, task, plan, fetched, model, encode)
        if not _reads_at_once(task, plan, fetched):
            return await in_thread()
        passages = passages_of(task, plan, fetched)
        if plan.languages and not languages.pass_at_once(task.query, passages.values(), plan.languages):
            return await in_thread()
        found = look_up(model, task.query, list(passages.values()), self._scorer.cache)
        if not encode:
            return passages, found.job(None)
        kept = _told(found.tokenised_before)
        return passages, found.job(await self._off_loop(found.tokenised) if kept is None else kept)

    def _prepared(
        self, task: Task, plan: Plan, fetched: Fetched, model: LoadedModel, encode: bool
    ) -> tuple[dict[int, list[str]], PairJob]:
        """All of :meth:`_job`, for a thread."""
        passages = passages_of(task, plan, fetched)
        if plan.languages:
            languages.check(task.query, passages.values(), plan.languages)
        found = look_up(model, task.query, list(passages.values()), self._scorer.cache)
        return passages, found.job(found.tokenised() if encode else None)

    async def _cosine_pairs(
        self, model: LoadedModel, query: str, passages: Sequence[Sequence[str]]
    ) -> Sequence[Sequence[Pair]]:
        """The pairs of each document's passages, for a cosine."""
        async with self._turns:
            pairs = await self._off_loop(model.scorer.encode, query, [text for texts in passages for text in texts])
        rest = iter(pairs)
        return [[next(rest) for _ in texts] for texts in passages]

    async def _off_loop(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do what takes milliseconds in a thread, so that other calls go on."""
        return await asyncio.get_running_loop().run_in_executor(self._tokenizers, _told, work, *arguments)

    def _deadline(self, clock: Clock, plan: Plan | None) -> Deadline:
        budget_s = plan.budget_ms / 1e3 if plan else None
        return Deadline.earliest(clock.received_at, budget_s, clock.client_time_left_s).earlier_by(self._reserve_s)


def _settles_at(deadline: Deadline, plan: Plan) -> Deadline | None:
    """From when on a part of the scores will do, so that there is time to order by it; None: only all of them will."""
    if plan.min_rank_window_size is None and not plan.orders_rest:
        return None
    left_s = 2 * ORDERING_S if plan.orders_rest else _SETTLING_S
    return deadline.earlier_by(min(left_s, _SETTLING_SHARE * deadline.remaining_s()))


def _reads_at_once(task: Task, plan: Plan, fetched: Fetched) -> bool:
    """Whether what there is to be read is little; how much was fetched is not known."""
    is_little = task.chars <= _CHARS_AT_ONCE and len(task.query) <= _QUERY_CHARS_AT_ONCE
    return is_little and len(task.candidates) <= _MOST_AT_ONCE and plan.text.is_quick and not fetched.sources


def _told(work: Callable[..., T], *arguments: Any) -> T:
    """A tokenizer that panics raises what is no ``Exception``, which would leave the caller without any answer."""
    try:
        return work(*arguments)
    except Exception:
        raise
    except BaseException as error:
        raise ModelError(f"the tokenizer raised {type(error).__name__}") from error


def tried(ranking: Ranking, task: Task) -> Ranking:
    """A ranking with the arm that the call is in, where its policy is being tried, and drawn from both orders if so."""
    plan = task.plan
    if plan is None or not plan.tried:
        return ranking
    if plan.arm is Arm.INTERLEAVED and ranking.scored:
        ranking = replace(ranking, order=interleaved(ranking.order, f"{task.key}\0{task.query}"))
    return replace(ranking, arm=plan.arm.value)
