"""The pairs of a call, and the scores that are known already."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from sidecar.bounded_cache import BoundedCache
from sidecar.errors import Fallback
from sidecar.loaded import LoadedModel
from sidecar.scoring.base import Pair

Key = bytes | int
"""The digest of a pair; without a score cache its place in the job, so that no two pairs share a key."""
Kept = tuple[float, bool]
"""What a score cache keeps of a pair: its score, and :func:`is_cut`."""


@dataclass(frozen=True, slots=True)
class PairJob:
    """The pairs of one call: ``groups`` has the keys of each document's passages, in the order of the window.

    ``pairs`` are the tokenised pairs without a known score; empty if nothing was tokenised. ``cut`` are the keys of the
    pairs known to be :func:`is_cut`. ``late`` says why only the first documents are covered, None if all are.
    """

    model: LoadedModel
    groups: Sequence[Sequence[Key]]
    known: Mapping[Key, float]
    pairs: Mapping[Key, Pair]
    cut: frozenset[Key] = frozenset()
    late: Fallback | None = None

    def again(self, cache: BoundedCache[Kept]) -> "PairJob":
        """The same job; pairs that have been scored and cached since are known."""
        kept = _kept(list(self.pairs), cache)
        if not kept:
            return self
        known = {**self.known, **{key: score for key, (score, _) in kept.items()}}
        return replace(self, known=known, pairs={key: pair for key, pair in self.pairs.items() if key not in kept})

    @property
    def truncated_ratio(self) -> float:
        """Share (0 to 1) of the call's passages that are :func:`is_cut`, among those scored or tokenised."""
        seen = [key for group in self.groups for key in group if key in self.known or key in self.pairs]
        return sum(key in self.cut for key in seen) / len(seen) if seen else 0.0


def is_cut(model: LoadedModel, pair: Pair) -> bool:
    """Whether a pair has the most tokens its model reads, and so was very likely truncated."""
    return pair.tokens >= model.scorer.max_length


@dataclass(frozen=True, slots=True)
class LookedUp:
    """A call's passages and their cached scores; ``missing`` are the texts without one, in the order of the window."""

    model: LoadedModel
    query: str
    groups: Sequence[Sequence[Key]]
    kept: Mapping[Key, Kept]
    missing: Mapping[Key, str]

    def again(self, cache: BoundedCache[Kept]) -> "LookedUp":
        """The same; scores that have been cached since are in ``kept``, and no longer missing."""
        kept = _kept(list(self.missing), cache)
        if not kept:
            return self
        missing = {key: text for key, text in self.missing.items() if key not in kept}
        return replace(self, kept={**self.kept, **kept}, missing=missing)

    def reaches(self, pairs: int) -> int:
        """How many of the first documents are complete once the first ``pairs`` missing pairs are there."""
        return covered(self.groups, {*self.kept, *islice(self.missing, pairs)})

    def tokenised(self, texts: Sequence[str]) -> Sequence[Pair]:
        """Tokenise some of the missing texts; takes milliseconds if they have not been tokenised before.

        Raises:
            QueryTooLong: the query leaves no room for a passage.
        """
        return self.model.scorer.encode(self.query, texts) if texts else []

    def tokenised_before(self) -> Sequence[Pair] | None:
        """The pairs of all missing texts if the model keeps the token ids of every one, else None.

        Raises as :meth:`tokenised`.
        """
        finder = self.model.finder
        return finder.encode_kept(self.query, list(self.missing.values())) if finder else None

    def job(self, pairs: Sequence[Pair] | None, late: Fallback | None = None) -> PairJob:
        """The job made of the known scores and the pairs of the missing texts.

        ``pairs`` None: known scores only. ``late`` says why ``pairs`` are only the first of them: the job then has only
        the first documents, those that are complete.
        """
        known = {key: score for key, (score, _) in self.kept.items()}
        asked = {} if pairs is None else dict(zip(self.missing, pairs, strict=late is None))
        cut = {key for key, (_, was_cut) in self.kept.items() if was_cut}
        cut.update(key for key, pair in asked.items() if is_cut(self.model, pair))
        groups = self.groups
        if pairs is not None and late:
            groups = groups[: self.reaches(len(pairs))]
            within = {key for group in groups for key in group}
            asked = {key: pair for key, pair in asked.items() if key in within}
        return PairJob(self.model, groups, known, asked, frozenset(cut), late)


def look_up(model: LoadedModel, query: str, passages: Sequence[Sequence[str]], cache: BoundedCache[Kept]) -> LookedUp:
    """Look up the cached scores of the passages of each document."""
    flat = [passage for group in passages for passage in group]
    keys: Sequence[Key] = range(len(flat))
    kept: dict[Key, Kept] = {}
    if cache.max_bytes:
        keys = digests = list(digests_of(model.scorer.version, query, flat))
        kept = {key: one for key, one in zip(digests, cache.find(digests), strict=True) if one is not None}
    missing = {key: passage for key, passage in zip(keys, flat, strict=True) if key not in kept}
    place = iter(keys)
    return LookedUp(model, query, [[next(place) for _ in group] for group in passages], kept, missing)


def _kept(keys: Sequence[Key], cache: BoundedCache[Kept]) -> dict[Key, Kept]:
    """The cached scores among these keys, without counting hits, misses or uses."""
    digests = [key for key in keys if isinstance(key, bytes)]
    return {key: one for key, one in zip(digests, cache.peek(digests), strict=True) if one is not None}


def covered(groups: Sequence[Sequence[Key]], there: set[Key]) -> int:
    """How many of the first groups are wholly in ``there``."""
    missing = (place for place, group in enumerate(groups) if not there.issuperset(group))
    return next(missing, len(groups))


def digests_of(version: str, query: str, passages: Sequence[str]) -> Iterator[bytes]:
    """Digest all that the score of each pair depends on: weights, dtype and truncation (the scorer's ``version``),
    the whole query and the whole passage.

    So end users may share scores: whoever finds one has sent the query and read the passage, and the model would have
    given the same number.
    """
    start = hashlib.sha256(hashlib.sha256(repr((version, query)).encode()).digest())
    for passage in passages:
        digest = start.copy()
        digest.update(passage.encode(errors="surrogatepass"))
        yield digest.digest()
