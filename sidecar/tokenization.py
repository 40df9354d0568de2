"""Tokenises queries and passages."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from sidecar.bounded_cache import BoundedCache
from sidecar.errors import QueryTooLong
from sidecar.pair_template import Ids, Raw, Side, Template, proven, raw, shortened
from sidecar.scoring.base import Pair

MIN_PASSAGE_TOKENS = 16
"""A query that leaves fewer tokens than this for a passage is refused: the scores would mean nothing.

If ``max_length`` is less than twice this, half of ``max_length`` is reserved for the passage instead."""
_CHARS_PER_TOKEN = (8, 64)
"""A passage is cut to ``max_length`` times the first number of characters, and, if that gave too few tokens, to
``max_length`` times the second: a 5 MB document costs what one of 4 kB does. Text beyond the last cut is not read."""

Read = Callable[[list[str]], list[Encoding]]


class PairEncoder:
    """Encodes ``[CLS] query [SEP] passage [SEP]``, or whatever the tokenizer's model was trained on.

    Only the passage is truncated, never the query. The query is tokenised once a call, and the ids of passages are
    cached in up to ``cache_bytes``: pairs are joined by the tokenizer's template, which is proved at construction
    against pairs that the tokenizer makes itself. If it cannot be proved, the tokenizer makes every pair, uncached.

    ``tokenizer`` is a fast tokenizer of transformers. Thread-safe: an encoder holds copies of the tokenizer's core and
    does not change their settings in use, whereas a call of a transformers tokenizer switches truncation for all
    threads.
    """

    def __init__(self, tokenizer: Any, max_length: int, *, token_types: bool = True, cache_bytes: int = 0) -> None:
        special = tokenizer.num_special_tokens_to_add(pair=True)
        self._max_query_tokens = max_length - special - min(MIN_PASSAGE_TOKENS, max_length // 2)
        self._max_tokens = max_length - special
        self._has_types = token_types and "token_type_ids" in tokenizer.model_input_names
        self._cuts = [max_length * chars for chars in _CHARS_PER_TOKEN]
        self._side: Side = "left" if tokenizer.truncation_side == "left" else "right"
        self._query = _core_of(tokenizer)
        self._template = proven(self._query, self._side, tokenizer.all_special_tokens)
        self._texts = _core_of(tokenizer)  # passages alone, or pairs
        most = max_length if self._template is None else self._max_tokens
        strategy = "only_second" if self._template is None else "longest_first"
        self._texts.enable_truncation(most, strategy=strategy, direction=self._side)
        self.cache: BoundedCache[Raw] = BoundedCache(cache_bytes, len)

    @property
    def joins(self) -> bool:
        """Whether pairs are joined from ids, so that passages can be cached; else the tokenizer makes every pair."""
        return self._template is not None

    def encode(self, query: str, passages: Sequence[str]) -> list[Pair]:
        """One :class:`Pair` for each passage, of at most ``max_length`` tokens; ids and types are int32 arrays.

        Raises:
            QueryTooLong: the query leaves no room for a passage.
        """
        ids = self._query_ids(query)
        if self._template is None:
            pairs = partial(_encode_pairs, self._texts, query)
            made = _read(pairs, passages, self._cuts, self._side)
            return [self._pair(np.array(one.ids, np.int32), np.array(one.type_ids, np.int32)) for one in made]
        return self._joined(self._template, ids, self._ids_of(passages))

    def encode_kept(self, query: str, passages: Sequence[str]) -> list[Pair] | None:
        """As :meth:`encode`, without tokenising a passage; None if the ids of any are not cached."""
        if self._template is None or not self.cache.max_bytes:
            return None
        kept = self.cache.find_all(map(self._key, passages))
        return None if kept is None else self._joined(self._template, self._query_ids(query), kept)

    def _query_ids(self, query: str) -> list[int]:
        ids: list[int] = self._query.encode(query, add_special_tokens=False).ids
        if len(ids) > self._max_query_tokens:
            raise QueryTooLong(
                f"the query has {len(ids)} tokens, at most {self._max_query_tokens} fit beside a passage"
            )
        return ids

    def _joined(self, template: Template, query: Sequence[int], passages: Sequence[Raw]) -> list[Pair]:
        room = self._max_tokens - len(query)
        kept = [shortened(one, room, self._side) for one in passages]
        return [self._pair(ids, types) for ids, types in template.heading(raw(query)).pairs(kept)]

    def _pair(self, ids: Ids, types: Ids) -> Pair:
        return Pair(ids, types if self._has_types else None)

    def _ids_of(self, passages: Sequence[str]) -> Sequence[Raw]:
        """The ids of each passage without special tokens, as many as a pair can hold at most."""
        if not self.cache.max_bytes:
            return self._fresh(passages)
        keys = [self._key(passage) for passage in passages]
        found = self.cache.find(keys)
        missing = [row for row, kept in enumerate(found) if kept is None]
        fresh = dict(zip(missing, self._fresh([passages[row] for row in missing]), strict=True))
        self.cache.keep({keys[row]: ids for row, ids in fresh.items()})
        return [fresh[row] if kept is None else kept for row, kept in enumerate(found)]

    def _fresh(self, passages: Sequence[str]) -> list[Raw]:
        read = partial(self._texts.encode_batch_fast, add_special_tokens=False)
        return [raw(one.ids) for one in _read(read, passages, self._cuts, self._side)] if passages else []

    def _key(self, passage: str) -> bytes:
        """The digest of the most that is ever read of a passage."""
        most = self._cuts[-1] + 1
        return hashlib.sha256((passage[:most] if self._side == "right" else passage[-most:]).encode()).digest()


class TextEncoder:
    """Encodes ``[CLS] text [SEP]``, or whatever the tokenizer puts around a single text; thread-safe.

    A text is truncated on the tokenizer's truncation side.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self._cuts = [max_length * chars for chars in _CHARS_PER_TOKEN]
        self._side: Side = "left" if tokenizer.truncation_side == "left" else "right"
        self._core = _core_of(tokenizer)
        self._core.enable_truncation(max_length, direction=self._side)

    def read_of(self, text: str) -> str:
        """The most that is ever read of a text."""
        return _part(text, self._cuts[-1] + 1, self._side)

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text: int32 arrays of at most ``max_length`` tokens."""
        made = _read(self._core.encode_batch_fast, texts, self._cuts, self._side) if texts else []
        return [np.array(one.ids, np.int32) for one in made]


def _encode_pairs(core: Tokenizer, query: str, passages: list[str]) -> list[Encoding]:
    return list(core.encode_batch([(query, passage) for passage in passages]))


def _read(read: Read, texts: Sequence[str], cuts: Sequence[int], side: Side) -> list[Encoding]:
    """Encode each text up to the first cut; if it was cut and yet not truncated, up to the next one."""
    chars, *further = cuts
    encodings = read([_part(text, chars, side) for text in texts])
    starved = [row for row, text in enumerate(texts) if len(text) > chars and not encodings[row].overflowing]
    if starved and further:
        longer = _read(read, [texts[row] for row in starved], further, side)
        for row, encoding in zip(starved, longer, strict=True):
            encodings[row] = encoding
    return encodings


def _core_of(tokenizer: Any) -> Tokenizer:
    """A private copy of the tokenizer's core, without the padding and truncation that its file may ask for."""
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.no_padding()
    core.no_truncation()
    return core


def _part(passage: str, chars: int, side: Side) -> str:
    """The first ``chars`` characters (the last if ``side`` is left), in whole words, as half a word has other tokens.

    If that would leave less than half of them, as in scripts without spaces, a word is cut.
    """
    if len(passage) <= chars:
        return passage
    cut = passage[-chars:] if side == "left" else passage[:chars]
    parts = cut.split(None, 1) if side == "left" else cut.rsplit(None, 1)
    whole = (parts or [""])[-1 if side == "left" else 0]
    return whole if len(whole) >= chars // 2 else cut
