"""From a call's candidates to the pairs that its model is to score: passages, known scores, token ids.

Work of milliseconds is done in threads, whose turns callers share evenly. A call with much text gives its turn back
after each part of it, and stops where the device could score no more of it in time.
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
"""With more candidates, characters of text or characters of query, reading and tokenising go to a thread. Up to these,
each of the two takes up to 0.5 ms, or a few ms where fields are lists of very short values."""
_PART_CHARS, _PART_TEXTS = 150_000, 1000
"""Most characters and texts tokenised in one turn: it takes 15 ms on two cores of an AMD EPYC."""
_CHARS_PER_TOKEN = 8
"""A text counts with at most so many characters per token of its model's maximum length: mostly no more are read."""

Passages = dict[int, list[str]]
"""Passages by the candidate's rank."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A call to be read for a model, with its fetched documents.

    ``least`` is the fewest first documents that suffice; ``refused`` returns why it would not be scored in time, or
    None.
    """

    task: Task
    plan: Plan
    fetched: Fetched
    model: LoadedModel
    caller: tuple[str, ...]
    least: int
    refused: Callable[[], Refusal | None]


@dataclass(frozen=True, slots=True)
class Read:
    """Passages and the pairs to score; with a ``refusal`` nothing was tokenised, and ``job`` has known scores only."""

    passages: Passages
    job: PairJob
    refusal: Refusal | None = None


class Reading:
    """Reads and tokenises; on the event loop where the work is shorter than waking a thread."""

    def __init__(self, scores: BoundedCache[Kept]) -> None:
        """``scores`` is the score cache."""
        self._scores = scores
        self._readers = Threads(2, "reader")
        self._tokenizers = Threads(2, "tokenizer")
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="shadow")

    def close(self) -> None:
        """Shut down the threads; work under way is not waited for."""
        self._readers.close()
        self._tokenizers.close()
        self._aside.shutdown(wait=False, cancel_futures=True)

    @property
    def all_taken(self) -> bool:
        """Whether all reader or all tokenizer threads are busy."""
        return self._tokenizers.all_taken or self._readers.all_taken

    @property
    def stalled(self) -> bool:
        """Whether the reader or the tokenizer threads are stuck."""
        return self._tokenizers.stalled or self._readers.stalled

    async def read(self, asked: Asked) -> Read:
        """The pairs of a call; only those of its first documents where the device could score no more in time, and
        these suffice. With a refusal, the known scores alone.

        Raises:
            Fallback: there is no text, or none in an allowed language, the query leaves no room for a passage, the
                tokenizer failed, or the threads are stuck.
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
        """Read a shadow call, whole, in a thread of its own; raises as :meth:`read`."""

        def read() -> Read:
            passages, found = self._looked_up_in_thread(task, plan, fetched, model)
            return Read(passages, found.job(found.tokenised(list(found.missing.values()))))

        return await asyncio.get_running_loop().run_in_executor(self._aside, _told, read)

    async def pairs(
        self, model: LoadedModel, query: str, passages: Sequence[Sequence[str]], caller: tuple[str, ...]
    ) -> Sequence[Sequence[Pair]]:
        """The pairs of a query with the passages of each document, one list for each; raises Fallback."""
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
        """Passages, their cached scores, and whether they are few enough to go on without a thread."""
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
        """Tokenise what is missing, part by part.

        Skips a call whose turn comes too late, and pairs that others scored meanwhile.
        """
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
                late = BudgetExhausted("the budget was too short to score all candidates")
                return Read(passages, found.job(pairs, late).again(self._scores))
            async with self._tokenizers.turn(asked.caller) as turn:
                made = await turn.run(_told, found.tokenised, part)
            pairs += made
            seconds += _device_s(asked.model, made)
        return Read(passages, found.job(pairs).again(self._scores))


def _reads_at_once(task: Task, plan: Plan, fetched: Fetched) -> bool:
    """Whether there is little to read; fetched documents are of unknown size, so not with any."""
    are_few = _are_few(len(task.candidates), task.chars, task.query)
    return are_few and plan.text.is_quick and not fetched.sources


def _are_few(texts: int, chars: float, query: str) -> bool:
    return texts <= _MOST_AT_ONCE and chars <= _CHARS_AT_ONCE and len(query) <= _QUERY_CHARS_AT_ONCE


def _parts(texts: Sequence[str], model: LoadedModel) -> Iterator[Sequence[str]]:
    """Split texts into runs that are tokenised in one turn each; a text over the limit is a run by itself."""
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
    """Predicted device time of these pairs, without the overhead of each pass."""
    return sum(model.limits.row_s(pair.tokens) for pair in pairs)


def _pairs_read_before(model: LoadedModel, query: str, texts: Sequence[str]) -> Sequence[Pair] | None:
    """The pairs of a few texts if the model keeps what it has read of all of them, else None."""
    finder = model.finder
    return finder.encode_kept(query, texts) if finder and _are_few(len(texts), sum(map(len, texts)), query) else None


def _told(work: Callable[..., T], *arguments: Any) -> T:
    """Run ``work``; a tokenizer's panic, a BaseException, becomes a ModelError, or the caller would get no answer."""
    try:
        return work(*arguments)
    except Exception:
        raise
    except BaseException as error:
        raise ModelError(f"the tokenizer raised {type(error).__name__}") from error
