"""What there is to score of a call: its pairs, and the scores that are known already. Pure."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from sidecar.bounded_cache import BoundedCache
from sidecar.errors import Fallback
from sidecar.loaded import LoadedModel
from sidecar.scoring.base import Pair

Key = bytes | int
"""The digest of a pair; without a score cache its place in the job, so that no two pairs are the same."""
Kept = tuple[float, bool]
"""What a score cache has of a pair: its score, and :func:`is_cut`."""


@dataclass(frozen=True, slots=True)
class PairJob:
    """The pairs of one call: ``groups`` has the keys of each document's passages, in the order of the window.

    ``pairs`` are the token ids of those without a known score; empty where they were not asked for. ``cut`` are the
    keys of all that are known to be :func:`is_cut`. ``late`` says why these are the first documents only, if so.
    """

    model: LoadedModel
    groups: Sequence[Sequence[Key]]
    known: Mapping[Key, float]
    pairs: Mapping[Key, Pair]
    cut: frozenset[Key] = frozenset()
    late: Fallback | None = None

    def again(self, cache: BoundedCache[Kept]) -> "PairJob":
        """The same job, less what others had scored of it since it was looked up."""
        kept = _kept(list(self.pairs), cache)
        if not kept:
            return self
        known = {**self.known, **{key: score for key, (score, _) in kept.items()}}
        return replace(self, known=known, pairs={key: pair for key, pair in self.pairs.items() if key not in kept})

    @property
    def truncated_ratio(self) -> float:
        """Share of the call's passages whose pairs are :func:`is_cut`; those that nothing is known of do not count."""
        seen = [key for group in self.groups for key in group if key in self.known or key in self.pairs]
        return sum(key in self.cut for key in seen) / len(seen) if seen else 0.0


def is_cut(model: LoadedModel, pair: Pair) -> bool:
    """Whether a pair is as long as its model reads, and so was very likely cut."""
    return pair.tokens >= model.scorer.max_length


@dataclass(frozen=True, slots=True)
class LookedUp:
    """A call's passages, and what is known of their scores: ``missing`` are the texts without one."""

    model: LoadedModel
    query: str
    groups: Sequence[Sequence[Key]]
    kept: Mapping[Key, Kept]
    missing: Mapping[Key, str]

    def again(self, cache: BoundedCache[Kept]) -> "LookedUp":
        """The same, looked up now."""
        kept = _kept(list(self.missing), cache)
        if not kept:
            return self
        missing = {key: text for key, text in self.missing.items() if key not in kept}
        return replace(self, kept={**self.kept, **kept}, missing=missing)

    def reaches(self, pairs: int) -> int:
        """How many of the first documents are there whole, given so many of the first pairs that are missing."""
        return covered(self.groups, {*self.kept, *islice(self.missing, pairs)})

    def tokenised(self, texts: Sequence[str]) -> Sequence[Pair]:
        """The pairs of some of what is missing. Takes milliseconds where they have not been tokenised before.

        Raises:
            QueryTooLong: the query leaves no room for a passage.
        """
        return self.model.scorer.encode(self.query, texts) if texts else []

    def tokenised_before(self) -> Sequence[Pair] | None:
        """The pairs of all that is missing, if the model keeps the token ids of every one; raises the same."""
        finder = self.model.finder
        return finder.encode_kept(self.query, list(self.missing.values())) if finder else None

    def job(self, pairs: Sequence[Pair] | None, late: Fallback | None = None) -> PairJob:
        """All that there is to score, given the pairs of what is missing; only what is known, given None. Given the
        pairs of a beginning, and why there are no ``late`` ones: the first documents, as far as it reaches."""
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
    """The passages of each document, and the scores that are known already."""
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
    """Those that are kept; nobody counts that somebody has looked."""
    digests = [key for key in keys if isinstance(key, bytes)]
    return {key: one for key, one in zip(digests, cache.peek(digests), strict=True) if one is not None}


def covered(groups: Sequence[Sequence[Key]], there: set[Key]) -> int:
    """How many of the first groups are there whole."""
    missing = (place for place, group in enumerate(groups) if not there.issuperset(group))
    return next(missing, len(groups))


def digests_of(version: str, query: str, passages: Sequence[str]) -> Iterator[bytes]:
    """The digest of all that the score of each pair depends on: weights, dtype and truncation (the scorer's
    ``version``), query and passage, each whole.

    So a hit is safe between end users: whoever asks for it has sent the query and read the passage himself, and learns
    a number that the model would have told him anyway.
    """
    start = hashlib.sha256(hashlib.sha256(repr((version, query)).encode()).digest())
    for passage in passages:
        digest = start.copy()
        digest.update(passage.encode(errors="surrogatepass"))
        yield digest.digest()
