"""From query and passages to token ids."""

from collections.abc import Sequence
from typing import Any

from sidecar.errors import QueryTooLong
from sidecar.scoring.base import Pair

MIN_PASSAGE_TOKENS = 16
"""A query that leaves less room than this for a passage is refused: the scores would mean nothing."""
_MAX_CHARS_PER_TOKEN = 32
"""A passage is first cut to ``max_length`` times this many characters: a 5 MB document costs what one of 16 kB does."""


class PairEncoder:
    """Encodes ``[CLS] query [SEP] passage [SEP]``, or whatever the tokenizer's model was trained on.

    Only the passage is truncated, never the query. ``tokenizer`` is a fast tokenizer of transformers; it is used by
    several threads, which fast tokenizers allow as long as their truncation settings do not change.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._max_query_tokens = max_length - tokenizer.num_special_tokens_to_add(pair=True) - MIN_PASSAGE_TOKENS

    def encode(self, query: str, passages: Sequence[str]) -> list[Pair]:
        """One :class:`Pair` for each passage, at most ``max_length`` tokens each.

        Raises:
            QueryTooLong: the query leaves no room for a passage.
        """
        tokens = len(self._tokenizer.tokenize(query, add_special_tokens=False))
        if tokens > self._max_query_tokens:
            raise QueryTooLong(f"the query has {tokens} tokens, at most {self._max_query_tokens} fit beside a passage")
        if not passages:
            return []
        longest = self._max_length * _MAX_CHARS_PER_TOKEN
        encoded = self._tokenizer(
            [query] * len(passages),
            [passage[:longest] for passage in passages],
            truncation="only_second",
            max_length=self._max_length,
            return_attention_mask=False,
        )
        types = encoded.get("token_type_ids") or [None] * len(passages)
        return [Pair(ids, kinds) for ids, kinds in zip(encoded["input_ids"], types, strict=True)]
