"""The template of ids that a tokenizer puts around query and passage, to join pairs from cached ids. Pure."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

Ids = NDArray[np.int32]
Raw = bytes
"""Ids one after the other, int32 in the machine's byte order: the cached form of a passage, quick to join."""
_ID_BYTES = 4
Side = Literal["left", "right"]
"""The end of a passage at which it is truncated."""

_WORDS = "The quick brown Fox; naïve Äpfel, 東京 и Москва, x=3.14! can't re-use e\u0301 \u200b 👩‍💻 #tags"
_PROBED_PASSAGE_TOKENS = (1, 7, 64)


def raw(ids: Sequence[int]) -> Raw:
    """Ids in their cached form."""
    return array("i", ids).tobytes()


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """``before query between passage after``, and the type ids of each part: int32 arrays.

    >>> template = Template(*(np.array(ids, np.int32) for ids in ([1], [2], [2], [0], [0], [1])), 0, 1)
    >>> [ids.tolist() for ids, _ in template.heading(raw([7, 8])).pairs([raw([9]), raw([])])]
    [[1, 7, 8, 2, 9, 2], [1, 7, 8, 2, 2]]
    """

    before: Ids
    between: Ids
    after: Ids
    before_types: Ids
    between_types: Ids
    after_types: Ids
    query_type: int
    passage_type: int

    @property
    def specials(self) -> int:
        """Number of tokens other than those of query and passage."""
        return len(self.before) + len(self.between) + len(self.after)

    def heading(self, query: Raw) -> "Heading":
        """What all pairs of one query have in common."""
        before, between, after = (part.tobytes() for part in (self.before, self.between, self.after))
        return Heading(before + query + between, after, _types(self, len(query) // _ID_BYTES))


@dataclass(frozen=True, slots=True, eq=False)
class Heading:
    """What all pairs of one query have in common."""

    start: Raw
    end: Raw
    types: "Types"

    def pairs(self, passages: Sequence[Raw]) -> list[tuple[Ids, Ids]]:
        """Ids and type ids of the pair with each passage; read-only, as the arrays share memory."""
        if not passages:
            return []
        joined = self.start + (self.end + self.start).join(passages) + self.end
        row, around = np.frombuffer(joined, np.int32), (len(self.start) + len(self.end)) // _ID_BYTES
        found, start = [], 0
        for passage in passages:
            tokens = len(passage) // _ID_BYTES + around
            found.append((row[start : start + tokens], self.types.of(tokens)))
            start += tokens
        return found


class Types:
    """Type ids of the pairs of all queries of one length; thread-safe.

    If the tokens after the passage have its type, all pairs share one array.
    """

    def __init__(self, template: Template, query_tokens: int) -> None:
        query = np.full(query_tokens, template.query_type, np.int32)
        self._start = _fixed(template.before_types, query, template.between_types)
        self._passage, self._end = template.passage_type, template.after_types
        self._shares = bool((self._end == self._passage).all())
        self._longest = self._start

    def of(self, tokens: int) -> Ids:
        """The type ids of a pair of so many tokens, read-only."""
        if not self._shares:
            return self._row(tokens - len(self._start) - len(self._end), self._end)
        longest = self._longest
        if tokens > len(longest):
            longest = self._longest = self._row(2 * tokens, self._end[:0])
        return longest[:tokens]

    def _row(self, passage: int, end: Ids) -> Ids:
        return _fixed(self._start, np.full(passage, self._passage, np.int32), end)


def _fixed(*parts: Ids) -> Ids:
    """The parts in one array, read-only since many calls share it."""
    joined = np.concatenate(parts)
    joined.flags.writeable = False
    return joined


@lru_cache(maxsize=64)
def _types(template: Template, query_tokens: int) -> Types:
    return Types(template, query_tokens)


def proven(core: Tokenizer, side: Side, specials: Sequence[str]) -> Template | None:
    """The template of a tokenizer, if each probe joined by it has the ids and types of the tokenizer's own pair.

    ``core`` neither pads nor truncates, and ``specials`` are its special tokens as text. None if pairs cannot be joined
    from ids, as when the passage comes first or is repeated.
    """
    template = _derived(core.encode("a b", "c d e"))
    if template is None or template.specials != core.num_special_tokens_to_add(is_pair=True):
        return None
    queries, passages = _probes(specials)
    agrees = all(
        _agrees(core, template, query, passage, side) for query in queries for passage in [*passages, *queries]
    )
    return template if agrees else None


def _derived(pair: Encoding) -> Template | None:
    """The template by each token's sequence; None unless query, then passage, are one run of tokens each."""
    runs = list(_runs(pair.sequence_ids))
    if [sequence for sequence, _, _ in runs if sequence is not None] != [0, 1]:
        return None
    query, passage = (next((start, end) for found, start, end in runs if found == one) for one in (0, 1))
    ids, types = np.array(pair.ids, np.int32), np.array(pair.type_ids, np.int32)
    before, between, after = slice(0, query[0]), slice(query[1], passage[0]), slice(passage[1], None)
    return Template(
        before=ids[before],
        between=ids[between],
        after=ids[after],
        before_types=types[before],
        between_types=types[between],
        after_types=types[after],
        query_type=int(types[query[0]]),
        passage_type=int(types[passage[0]]),
    )


def _runs(sequences: Sequence[int | None]) -> Iterator[tuple[int | None, int, int]]:
    """(sequence, start, end) of each run of tokens of the same sequence."""
    start = 0
    for place in range(1, len(sequences) + 1):
        if place == len(sequences) or sequences[place] != sequences[start]:
            yield sequences[start], start, place
            start = place


def _probes(specials: Sequence[str]) -> tuple[list[str], list[str]]:
    """Queries and passages that could reveal a tokenizer whose pairs are not its ids joined."""
    queries = ["a", "Which apples keep?", _WORDS, " \n leading", f"a {''.join(specials)} b"]
    return queries, ["", " ", f"{_WORDS}\n\t{_WORDS}", _WORDS * 20, "x" * 300, "東京" * 50, *specials]


def _agrees(core: Tokenizer, template: Template, query: str, passage: str, side: Side) -> bool:
    """Whether the joined pair equals the tokenizer's own, whole and truncated."""
    alone, wanted = core.encode(query, add_special_tokens=False).ids, core.encode(query, passage)
    ids = raw(core.encode(passage, add_special_tokens=False).ids)
    heading = template.heading(raw(alone))
    if not _same(heading, ids, wanted):
        return False
    for room in _PROBED_PASSAGE_TOKENS:
        if len(ids) > room * _ID_BYTES:
            core.enable_truncation(template.specials + len(alone) + room, strategy="only_second", direction=side)
            wanted = core.encode(query, passage)
            core.no_truncation()
            if not _same(heading, shortened(ids, room, side), wanted):
                return False
    return True


def _same(heading: Heading, passage: Raw, wanted: Encoding) -> bool:
    made = [(ids.tolist(), types.tolist()) for ids, types in heading.pairs([passage, passage])]
    return made == [(wanted.ids, wanted.type_ids)] * 2


def shortened(ids: Raw, tokens: int, side: Side) -> Raw:
    """At most ``tokens`` ids; truncated at ``side``."""
    most = tokens * _ID_BYTES
    if len(ids) <= most:
        return ids
    return ids[:most] if side == "right" else ids[len(ids) - most :]
