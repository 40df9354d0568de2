"""What a tokenizer puts around query and passage, so that pairs are made of ids that are known already."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

Ids = NDArray[np.int32]
Side = Literal["left", "right"]
"""The end of a passage at which it is truncated."""

_WORDS = "The quick brown Fox; naïve Äpfel, 東京 и Москва, x=3.14! can't re-use e\u0301 \u200b 👩‍💻 #tags"
_PROBED_PASSAGE_TOKENS = (1, 7, 64)


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """``before query between passage after``, and the type ids of each part: int32 arrays.

    >>> template = Template(*(np.array(ids, np.int32) for ids in ([1], [2], [2], [0], [0], [1])), 0, 1)
    >>> template.heading(np.array([7, 8], np.int32)).pair(np.array([9], np.int32))[0].tolist()
    [1, 7, 8, 2, 9, 2]
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
        """Tokens beside those of query and passage."""
        return len(self.before) + len(self.between) + len(self.after)

    def heading(self, query: Ids) -> "Heading":
        """All pairs of one query."""
        types = self.before_types, np.full(len(query), self.query_type, np.int32), self.between_types
        return Heading(np.concatenate((self.before, query, self.between)), np.concatenate(types), self)


@dataclass(frozen=True, slots=True, eq=False)
class Heading:
    """What all pairs of one query begin with."""

    ids: Ids
    types: Ids
    template: Template

    def pair(self, passage: Ids) -> tuple[Ids, Ids]:
        """Ids and type ids of the pair with a passage."""
        types = np.full(len(passage), self.template.passage_type, np.int32)
        ids = np.concatenate((self.ids, passage, self.template.after))
        return ids, np.concatenate((self.types, types, self.template.after_types))


def proven(core: Tokenizer, side: Side, specials: Sequence[str]) -> Template | None:
    """The template of a tokenizer, if every probe made by it has the ids and types of the tokenizer's own pair.

    ``core`` neither pads nor truncates, and ``specials`` are its special tokens as text. None where a pair is more than
    ids put one after the other, as when the passage comes first or is written twice.
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
    """The parts by the sequence each token belongs to; None if those are not query, then passage, each in one run."""
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
    """(sequence, start, end) of each run of tokens of the same one."""
    start = 0
    for place in range(1, len(sequences) + 1):
        if place == len(sequences) or sequences[place] != sequences[start]:
            yield sequences[start], start, place
            start = place


def _probes(specials: Sequence[str]) -> tuple[list[str], list[str]]:
    """Queries and passages in which a tokenizer might do more than to read one word after the other."""
    queries = ["a", "Which apples keep?", _WORDS, " \n leading", f"a {''.join(specials)} b"]
    return queries, ["", " ", f"{_WORDS}\n\t{_WORDS}", _WORDS * 20, "x" * 300, "東京" * 50, *specials]


def _agrees(core: Tokenizer, template: Template, query: str, passage: str, side: Side) -> bool:
    """Whether the pair put together is the tokenizer's own, whole and truncated."""
    alone, wanted = core.encode(query, add_special_tokens=False).ids, core.encode(query, passage)
    ids = np.array(core.encode(passage, add_special_tokens=False).ids, np.int32)
    heading = template.heading(np.array(alone, np.int32))
    if not _same(heading.pair(ids), wanted):
        return False
    for room in _PROBED_PASSAGE_TOKENS:
        if len(ids) > room:
            core.enable_truncation(template.specials + len(alone) + room, strategy="only_second", direction=side)
            wanted = core.encode(query, passage)
            core.no_truncation()
            if not _same(heading.pair(shortened(ids, room, side)), wanted):
                return False
    return True


def _same(made: tuple[Ids, Ids], wanted: Encoding) -> bool:
    return (made[0].tolist(), made[1].tolist()) == (wanted.ids, wanted.type_ids)


def shortened(ids: Ids, room: int, side: Side) -> Ids:
    """At most ``room`` ids; those at ``side`` go."""
    return ids[:room] if side == "right" else ids[max(0, len(ids) - room) :]
