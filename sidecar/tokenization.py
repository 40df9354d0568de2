"""From query and passages to token ids."""

from collections.abc import Sequence
from typing import Any

from tokenizers import Encoding, Tokenizer

from sidecar.errors import QueryTooLong
from sidecar.scoring.base import Pair

MIN_PASSAGE_TOKENS = 16
"""A query that leaves less room than this for a passage is refused: the scores would mean nothing.

Where ``max_length`` is less than twice as much, half of it is kept for the passage."""
_CHARS_PER_TOKEN = (8, 64)
"""A passage is first cut to ``max_length`` times so many characters, and read up to the second cut where that gave too
few tokens: a 5 MB document costs what one of 4 kB does. What lies beyond the last cut is not read."""


class PairEncoder:
    """Encodes ``[CLS] query [SEP] passage [SEP]``, or whatever the tokenizer's model was trained on.

    Only the passage is truncated, never the query. ``tokenizer`` is a fast tokenizer of transformers. Threads may share
    an encoder: it holds copies of the tokenizer's core and never changes their settings, whereas a call of a
    transformers tokenizer switches truncation on or off for every thread.
    """

    def __init__(self, tokenizer: Any, max_length: int, *, token_types: bool = True) -> None:
        special = tokenizer.num_special_tokens_to_add(pair=True)
        self._max_query_tokens = max_length - special - min(MIN_PASSAGE_TOKENS, max_length // 2)
        self._has_types = token_types and "token_type_ids" in tokenizer.model_input_names
        self._cuts = [max_length * chars for chars in _CHARS_PER_TOKEN]
        self._query = _core_of(tokenizer)
        self._pairs = _core_of(tokenizer)
        self._pairs.enable_truncation(max_length, strategy="only_second", direction=tokenizer.truncation_side)

    def encode(self, query: str, passages: Sequence[str]) -> list[Pair]:
        """One :class:`Pair` for each passage, at most ``max_length`` tokens each.

        Raises:
            QueryTooLong: the query leaves no room for a passage.
        """
        tokens = len(self._query.encode(query, add_special_tokens=False).ids)
        if tokens > self._max_query_tokens:
            raise QueryTooLong(f"the query has {tokens} tokens, at most {self._max_query_tokens} fit beside a passage")
        return [
            Pair(encoding.ids, encoding.type_ids if self._has_types else None)
            for encoding in self._encode(query, passages, self._cuts)
        ]

    def _encode(self, query: str, passages: Sequence[str], cuts: Sequence[int]) -> list[Encoding]:
        """Encodings of the passages up to the first cut; of those that were cut and still fit, up to the next one."""
        encodings = self._pairs.encode_batch([(query, _head(passage, cuts[0])) for passage in passages])
        fits = [not encoding.overflowing for encoding in encodings]
        starved = [row for row, passage in enumerate(passages) if fits[row] and len(passage) > cuts[0]]
        if starved and cuts[1:]:
            longer = self._encode(query, [passages[row] for row in starved], cuts[1:])
            for row, encoding in zip(starved, longer, strict=True):
                encodings[row] = encoding
        return encodings


def _core_of(tokenizer: Any) -> Tokenizer:
    """A copy of the tokenizer that belongs to nobody else, without the padding and truncation its file may ask for."""
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.no_padding()
    core.no_truncation()
    return core


def _head(passage: str, chars: int) -> str:
    """At most the first ``chars`` characters, whole words where there are any: half a word has other tokens."""
    return passage if len(passage) <= chars else (passage[:chars].rsplit(None, 1) or [""])[0]
