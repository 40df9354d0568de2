"""From a call's candidates to the pairs that its model is to score: passages, what is known of them, token ids.

What takes milliseconds is done in threads, whose turns callers take evenly. A call with much text gives its turn back
after each part of it, and ends where the device could score no more of it in time.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from sidecar import languages
from sidecar.bounded_cache import BoundedCache
from sidecar.documents import Fetched, passages_of
from sidecar.errors import BudgetExhausted, ModelError
from sidecar.loaded import LoadedModel
from sidecar.pair_job import Kept, LookedUp, PairJob, look_up
from sidecar.policy import Plan
from sidecar.scheduler import Refusal
from sidecar.scoring.base import Pair
from sidecar.task import Task
from sidecar.turns import Threads

T = TypeVar("T")

_MOST_AT_ONCE, _CHARS_AT_ONCE, _QUERY_CHARS_AT_ONCE = 150, 150_000, 4096
"""More candidates, or characters of text or query, are read and tokenised in a thread: so many take up to 0.5 ms each,
or a few where fields are lists of very short values."""
_PART_CHARS, _PART_TEXTS = 150_000, 1000
"""What is tokenised in one turn: it takes 15 ms on two cores of an AMD EPYC."""
_CHARS_PER_TOKEN = 8
"""Of a text no more is mostly read than so many characters for each token that its model takes."""

Passages = dict[int, list[str]]
"""By the candidate's rank."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A call to be read for a model, as far as its documents had to be fetched. ``caller`` says who asks, ``least`` how
    many of the first documents are an answer, if need be, and ``refused`` why it would not be scored in time, if so."""

    task: Task
    plan: Plan
    fetched: Fetched
    model: LoadedModel
    caller: tuple[str, ...]
    least: int
    refused: Callable[[], Refusal | None]


@dataclass(frozen=True, slots=True)
class Read:
    """Passages, and what there is to score of them; with a ``refusal`` only what is known has been looked for."""

    passages: Passages
    job: PairJob
    refusal: Refusal | None = None


class Reading:
    """Reads and tokenises, on the event loop where a thread would take longer to wake up than the work takes."""

    def __init__(self, scores: BoundedCache[Kept]) -> None:
        """``scores`` are those that are kept."""
        self._scores = scores
        self._readers = Threads(2, "reader")
        self._tokenizers = Threads(2, "tokenizer")
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="shadow")

    def close(self) -> None:
        """Let go of the threads."""
        self._readers.close()
        self._tokenizers.close()
        self._aside.shutdown(wait=False, cancel_futures=True)

    @property
    def all_taken(self) -> bool:
        """Whether a call would have to wait for a thread."""
        return self._tokenizers.all_taken or self._readers.all_taken

    @property
    def stalled(self) -> bool:
        """Whether what is new cannot be read, as the threads that would are stuck."""
        return self._tokenizers.stalled or self._readers.stalled

    async def read(self, asked: Asked) -> Read:
        """The pairs of a call; those of its first documents alone where the device could score no more in time, and
        the policy takes them for an answer.

        Raises:
            Fallback: there is nothing to read, in a language that is allowed, or no room beside the query; or the
                threads that would read are stuck.
        """
        passages, found, are_few = await self._looked_up(asked)
        if not found.missing:
            return Read(passages, found.job([]))
        if refusal := asked.refused():
            return Read(passages, found.job(None), refusal)
        kept = _told(found.tokenised_before) if are_few else None
        if kept is not None:
            return Read(passages, found.job(kept))
        return await self._tokenised(asked, passages, found)

    async def read_aside(self, task: Task, plan: Plan, fetched: Fetched, model: LoadedModel) -> Read:
        """The same for a call that nobody waits for, in a thread that no other call wants."""

        def read() -> Read:
            passages, found = self._looked_up_in_thread(task, plan, fetched, model)
            return Read(passages, found.job(found.tokenised(list(found.missing.values()))))

        return await asyncio.get_running_loop().run_in_executor(self._aside, _told, read)

    async def pairs(
        self, model: LoadedModel, query: str, passages: Sequence[Sequence[str]], caller: tuple[str, ...]
    ) -> Sequence[Sequence[Pair]]:
        """The pairs of a query with the passages of each document."""
        texts = [text for one in passages for text in one]
        made = _told(_pairs_read_before, model, query, texts)
        if made is None:
            made = []
            for part in _parts(texts, model):
                async with self._tokenizers.turn(caller) as turn:
                    made += await turn.run(_told, model.scorer.encode, query, part)
        rest = iter(made)
        return [[next(rest) for _ in one] for one in passages]

    async def _looked_up(self, asked: Asked) -> tuple[Passages, LookedUp, bool]:
        """Passages, what is known of them, and whether they are few enough to go on without a thread."""
        task, plan, fetched, model = asked.task, asked.plan, asked.fetched, asked.model
        if _reads_at_once(task, plan, fetched):
            passages = passages_of(task, plan, fetched)
            if not plan.languages or languages.pass_at_once(task.query, passages.values(), plan.languages):
                return passages, look_up(model, task.query, list(passages.values()), self._scores), True
        async with self._readers.turn(asked.caller) as turn:
            return *await turn.run(_told, self._looked_up_in_thread, task, plan, fetched, model), False

    def _looked_up_in_thread(
        self, task: Task, plan: Plan, fetched: Fetched, model: LoadedModel
    ) -> tuple[Passages, LookedUp]:
        passages = passages_of(task, plan, fetched)
        if plan.languages:
            languages.check(task.query, passages.values(), plan.languages)
        return passages, look_up(model, task.query, list(passages.values()), self._scores)

    async def _tokenised(self, asked: Asked, passages: Passages, found: LookedUp) -> Read:
        """What is missing, tokenised part by part. Nobody is whose turn comes too late, nor what others had scored
        meanwhile."""
        pairs: list[Pair] = []
        async with self._tokenizers.turn(asked.caller) as turn:
            if refusal := asked.refused():
                return Read(passages, found.job(None), refusal)
            found = found.again(self._scores)
            parts = list(_parts(list(found.missing.values()), asked.model))
            if parts:
                pairs += await turn.run(_told, found.tokenised, parts[0])
        seconds = _device_s(asked.model, pairs)
        for part in parts[1:]:
            if seconds >= asked.task.deadline.remaining_s() and found.reaches(len(pairs)) >= asked.least:
                late = BudgetExhausted("the budget was too short for scoring all")
                return Read(passages, found.job(pairs, late).again(self._scores))
            async with self._tokenizers.turn(asked.caller) as turn:
                made = await turn.run(_told, found.tokenised, part)
            pairs += made
            seconds += _device_s(asked.model, made)
        return Read(passages, found.job(pairs).again(self._scores))


def _reads_at_once(task: Task, plan: Plan, fetched: Fetched) -> bool:
    """Whether what there is to be read is little; how much was fetched is not known."""
    are_few = _are_few(len(task.candidates), task.chars, task.query)
    return are_few and plan.text.is_quick and not fetched.sources


def _are_few(texts: int, chars: float, query: str) -> bool:
    return texts <= _MOST_AT_ONCE and chars <= _CHARS_AT_ONCE and len(query) <= _QUERY_CHARS_AT_ONCE


def _parts(texts: Sequence[str], model: LoadedModel) -> Iterator[Sequence[str]]:
    """The texts in runs that are tokenised in one turn each; a longer text is one by itself."""
    longest, start, chars = _CHARS_PER_TOKEN * model.scorer.max_length, 0, 0
    for end, text in enumerate(texts):
        read = min(len(text), longest)
        chars += read
        if end > start and (chars > _PART_CHARS or end - start >= _PART_TEXTS):
            yield texts[start:end]
            start, chars = end, read
    if start < len(texts):
        yield texts[start:]


def _device_s(model: LoadedModel, pairs: Sequence[Pair]) -> float:
    """Predicted device time of these, beside what each pass costs."""
    return sum(model.limits.row_s(pair.tokens) for pair in pairs)


def _pairs_read_before(model: LoadedModel, query: str, texts: Sequence[str]) -> Sequence[Pair] | None:
    """The pairs of a few texts, if the model has read all of them before."""
    finder = model.finder
    return finder.encode_kept(query, texts) if finder and _are_few(len(texts), sum(map(len, texts)), query) else None


def _told(work: Callable[..., T], *arguments: Any) -> T:
    """A tokenizer that panics raises what is no ``Exception``, which would leave the caller without any answer."""
    try:
        return work(*arguments)
    except Exception:
        raise
    except BaseException as error:
        raise ModelError(f"the tokenizer raised {type(error).__name__}") from error
