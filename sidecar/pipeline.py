"""Answers a request from start to end, and alone decides on falling back to the original order."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from sidecar import skips
from sidecar.callers import calling, calling_host
from sidecar.calls import Answer, Clock, RerankCall, Result, SearchCall
from sidecar.cosines import NONE, ORDERING_S, CosineScorer
from sidecar.deadline import Deadline
from sidecar.documents import fetch, missing_of
from sidecar.errors import BudgetExhausted, Fallback, Overloaded
from sidecar.forgetting import forget_way
from sidecar.loaded import LoadedModel, Models
from sidecar.logs import log
from sidecar.metrics import Metrics
from sidecar.orders import Orders
from sidecar.pair_scores import PairScorer, PairScores, Terms
from sidecar.policy import Plan
from sidecar.reading import Asked, Read, Reading
from sidecar.retrieval import Retrieval
from sidecar.rollout import Arm, interleaved
from sidecar.scheduler import Scheduler
from sidecar.shadow import Shadow
from sidecar.source_filter import carries
from sidecar.spare_time import SpareTime
from sidecar.task import Retrieved, Task, candidate_of, chars_of
from sidecar.timing import Stopwatch
from sidecar.types import Carried, Outcome, Ranked, Ranking, Reason
from sidecar.verdict import ranking_of

_SETTLING_S, _SETTLING_SHARE = 0.002, 0.1
"""Seconds, and at most this share of the time left, reserved for ordering by partial scores. An admitted job is
predicted to end before that; the reply has a reserve of its own."""


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
        self._reading = Reading(self._scorer.cache)
        self._spare_time = SpareTime(scheduler)
        self._cosines = CosineScorer(scheduler, self._reading.pairs, self._spare_time)
        self._shadow = Shadow(self._rank_in_spare_time, metrics)

    @property
    def stalled(self) -> bool:
        """Whether the reader or the tokenizer threads are stuck."""
        return self._reading.stalled

    def close(self) -> None:
        """Shut down the reading threads, and drop shadow rankings and pairs that wait for spare time."""
        self._shadow.close()
        self._spare_time.close()
        self._reading.close()

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
        skip = prepared.skip or skips.by_hits(candidates, call.narrowing.pinned_ids)
        task = Task(
            query=call.query,
            candidates=candidates,
            pinned_ids=call.narrowing.pinned_ids,
            plan=plan,
            skip=skip,
            connector=prepared.connector,
            deadline=self._deadline(call.clock, plan),
            watch=watch,
            key=call.narrowing.arm_key(call.query),
            chars=hits.chars,
        )
        return Retrieved(task, hits, request.page, request.first_rank)

    async def finish(self, retrieved: Retrieved) -> Answer:
        """The second half of :meth:`search`: the hits in their final order. Raises nothing but a cancellation."""
        ranking = await self._orders.agreed(retrieved, lambda: self._rank(retrieved.task))
        return retrieved.answer(tried(ranking, retrieved.task))

    async def rerank(self, call: RerankCall) -> Answer:
        """Rerank the caller's own candidates.

        Raises:
            RequestError: the call is not valid or not allowed.
        """
        watch = Stopwatch(call.clock.received_at, self._metrics)
        access = await self._retrieval().access(call)
        plan = access.plan
        considered = call.candidates[: plan.rank_window_size] if plan else call.candidates
        skip = skips.by_policy(plan, access.why) or skips.by_count(considered, call.narrowing.pinned_ids)
        task = Task(
            query=call.query,
            candidates=considered,
            pinned_ids=call.narrowing.pinned_ids,
            plan=plan,
            skip=skip,
            connector=access.connector,
            deadline=self._deadline(call.clock, plan),
            watch=watch,
            closed_indices=access.closed_indices,
            key=call.narrowing.arm_key(call.query),
            chars=chars_of(considered),
        )
        ranked = tried(await self._rank(task), task)
        places = [*ranked.order, *(Ranked(rank) for rank in range(len(considered), len(call.candidates)))]
        kept = task.kept(places, call.top_n)
        results = [Result(call.candidates[place.rank], place) for place in kept]
        return Answer(results, ranked, plan, watch.stop())

    async def _rank(self, task: Task) -> Ranking:
        """The new order; on any failure or lateness the original one, with the reason."""
        count = len(task.candidates)
        if task.skip or task.plan is None:
            return Ranking.original(count, Outcome.SKIPPED, *(task.skip or (Reason.NO_POLICY, "")))
        if task.plan.arm is Arm.SHADOW:
            self._shadow.follow(task, task.plan)
            return Ranking.original(
                count, Outcome.SKIPPED, Reason.SHADOW, "the policy is in shadow mode: the new order is only counted"
            )
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
            raise BudgetExhausted("the budget ended before scoring finished") from None

    async def _rank_by_model(self, task: Task, plan: Plan, model: LoadedModel) -> Ranking:
        """Fetch missing documents, look up and tokenise passages, score them beside their cosines, and order."""
        caller = (calling.get().name or calling_host.get(), plan.policy)
        least = min(plan.min_rank_window_size or len(task.candidates), len(task.candidates))
        missing, shrinks = missing_of(task, plan), plan.min_rank_window_size is not None
        refused = partial(self._scheduler.refusal, model, task.deadline, caller, least, shrinks=shrinks)
        if not plan.orders_rest and (missing or not self._scorer.keeps) and (refusal := refused()):
            self._scheduler.refuse(refusal, least)
        fetched = await fetch(task, plan, missing)
        with task.watch.stage("tokenize"):
            read = await self._reading.read(Asked(task, plan, fetched, model, caller, least, refused))
        terms = Terms(task.deadline, task.watch, caller, plan.min_rank_window_size, _settles_at(task.deadline, plan))
        second, wait = self._second_model(plan), plan.cosine is not None and plan.cosine.wait
        async with self._cosines.beside(second, task.query, read.passages, terms, wait=wait) as cosines:
            scored = await self._scored(read, plan, terms, least)
            near = await cosines()
        original = [candidate.score for candidate in task.candidates]
        ranked = ranking_of(original, plan, read.passages, scored, near, model.scorer.version)
        pinned = sum(map(task.is_pinned, task.candidates)) if task.pinned_ids else 0
        return replace(ranked, truncated_ratio=read.job.truncated_ratio, pinned=pinned)

    async def _rank_in_spare_time(self, task: Task, plan: Plan, deadline: Deadline) -> Ranking | None:
        """The order by model and engine, scored in spare time; None if time runs out or others want the device."""
        model = self._models.get(plan.model)
        aside = replace(task, deadline=deadline)
        if not self._has_spare_time():
            return None
        fetched = await fetch(aside, plan, missing_of(aside, plan))
        if not self._has_spare_time():
            return None
        read = await self._reading.read_aside(aside, plan, fetched, model)
        job = read.job
        scores = await self._spare_time.scores(model, list(job.pairs.values()), deadline)
        if scores is None:
            return None
        found = {**job.known, **dict(zip(job.pairs, scores, strict=True))}
        flat = [found[key] for group in job.groups for key in group]
        original = [candidate.score for candidate in task.candidates]
        scored = PairScores(flat, len(read.passages))
        return ranking_of(original, plan, read.passages, scored, NONE, model.scorer.version)

    def _has_spare_time(self) -> bool:
        """Whether the device is idle, its queue is empty, and a reader and a tokenizer thread are free."""
        return self._scheduler.idle and not self._reading.all_taken

    async def _scored(self, read: Read, plan: Plan, terms: Terms, least: int) -> PairScores:
        """The model's scores; if they are late and the policy orders the rest by cosine, no scores and the reason."""
        try:
            if read.refusal:
                self._scheduler.refuse(read.refusal, least)
            return await self._scorer.scores(read.job, terms)
        except (Overloaded, BudgetExhausted) as late:
            if not plan.orders_rest:
                raise
            forget_way(late)
            return PairScores([], 0, late)

    def _second_model(self, plan: Plan) -> LoadedModel | None:
        """The plan's bi-encoder if it is ready; None: rank without it."""
        ready = plan.cosine is not None and self._models.is_ready(plan.cosine.model)
        return self._models.get(plan.cosine.model) if plan.cosine and ready else None

    def _deadline(self, clock: Clock, plan: Plan | None) -> Deadline:
        budget_s = plan.budget_ms / 1e3 if plan else None
        return Deadline.earliest(clock.received_at, budget_s, clock.client_time_left_s).earlier_by(self._reserve_s)


def _settles_at(deadline: Deadline, plan: Plan) -> Deadline | None:
    """When partial scores become acceptable, in time to order by them; None: all are needed."""
    if plan.min_rank_window_size is None and not plan.orders_rest:
        return None
    left_s = 2 * ORDERING_S if plan.orders_rest else _SETTLING_S
    return deadline.earlier_by(min(left_s, _SETTLING_SHARE * deadline.remaining_s()))


def tried(ranking: Ranking, task: Task) -> Ranking:
    """The ranking with the call's arm if its policy is on trial; interleaved if the arm says so."""
    plan = task.plan
    if plan is None or not plan.tried:
        return ranking
    if plan.arm is Arm.INTERLEAVED and ranking.scored:
        ranking = replace(ranking, order=interleaved(ranking.order, f"{task.key}\0{task.query}"))
    return replace(ranking, arm=plan.arm.value)
