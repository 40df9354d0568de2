"""The caches: bounded in bytes, honest about them; token ids never those of another tokenizer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from sidecar.bounded_cache import ENTRY_BYTES, BoundedCache
from sidecar.errors import QueryTooLong
from sidecar.pair_template import Template, raw
from sidecar.tokenization import PairEncoder
from tests.checkpoints import FAMILIES, WORDS
from tests.unit.test_tokenization import LONG, rows, tokenizer_of

PASSAGES = ["", "tea", " ".join(WORDS[:20]), LONG, "tea", "東京 и naïve"]


@pytest.fixture(scope="module", params=FAMILIES)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tokenizer of each family."""
    return tokenizer_of(tmp_path_factory.mktemp(request.param), request.param)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 300)), max_size=60), st.integers(0, 4000))
def test_the_bound_holds_whatever_is_kept_and_what_is_found_is_what_was_kept_last(
    kept: Sequence[tuple[int, int]], max_bytes: int
) -> None:
    cache, last = BoundedCache[bytes](max_bytes, len), dict[bytes, bytes]()
    for name, length in kept:
        key, ids = bytes([name]), bytes([length % 256]) * length
        last[key] = ids
        cache.keep({key: ids})
        found = cache.find(list(last))
        there = {one: ids for one, ids in zip(last, found, strict=True) if ids is not None}
        assert cache.size_bytes == sum(ENTRY_BYTES + len(ids) for ids in there.values()) <= max_bytes
        if ENTRY_BYTES + length <= max_bytes:
            assert there[key] == ids


def test_hits_and_misses_are_counted_by_passage() -> None:
    cache = BoundedCache[bytes](2**20, len)
    cache.keep({b"a": b"1234"})
    cache.find([b"a", b"b", b"a"])
    assert (cache.hits, cache.misses) == (2, 1)


def test_all_or_nothing_is_found_and_only_all_is_counted() -> None:
    cache = BoundedCache[bytes](2**20, len)
    cache.keep({b"a": b"1234", b"c": b"5678"})
    asked = iter([b"a", b"b", b"c"])
    assert cache.find_all(asked) is None
    assert list(asked) == [b"c"], "nothing behind the first that is missing is looked up"
    assert (cache.hits, cache.misses) == (0, 0)
    assert cache.find_all([b"c", b"a"]) == [b"5678", b"1234"]
    assert (cache.hits, cache.misses) == (2, 0)


def test_pairs_of_kept_passages_are_those_of_tokenised_ones_and_none_where_one_is_not_kept(tokenizer: Any) -> None:
    kept = PairEncoder(tokenizer, 96, cache_bytes=2**20)
    assert kept.encode_kept("apple", PASSAGES) is None
    wanted = rows(kept.encode("apple phone", PASSAGES))
    again = kept.encode_kept("apple phone", PASSAGES)
    assert again is not None
    assert rows(again) == wanted
    assert kept.encode_kept("apple phone", [*PASSAGES, "new"]) is None
    assert PairEncoder(tokenizer, 96).encode_kept("apple phone", PASSAGES) is None
    with pytest.raises(QueryTooLong):
        kept.encode_kept(LONG, PASSAGES)


def test_with_and_without_a_cache_the_ids_are_the_same_cold_warm_and_half_evicted(tokenizer: Any) -> None:
    plain = PairEncoder(tokenizer, 96)
    for cache_bytes in (2**20, 3 * ENTRY_BYTES, 1):
        cached = PairEncoder(tokenizer, 96, cache_bytes=cache_bytes)
        for query in ("apple", "apple phone", "how to fix a car", "apple"):
            assert rows(cached.encode(query, PASSAGES)) == rows(plain.encode(query, PASSAGES))


def test_a_passage_is_tokenised_once_whatever_the_queries(tokenizer: Any) -> None:
    encoder = PairEncoder(tokenizer, 96, cache_bytes=2**20)
    for query in ("apple", "apple phone", "car"):
        encoder.encode(query, ["tea", LONG])
    assert (encoder.cache.hits, encoder.cache.misses) == (4, 2)


def test_a_long_query_leaves_the_ids_that_a_short_one_finds_later(tokenizer: Any) -> None:
    """What is kept is as long as any pair could take, not as long as the first query left room for."""
    encoder = PairEncoder(tokenizer, 96, cache_bytes=2**20)
    encoder.encode("how to fix a car engine", [LONG])
    assert rows(encoder.encode("a", [LONG])) == rows(PairEncoder(tokenizer, 96).encode("a", [LONG]))


def test_no_bytes_keep_nothing_and_count_nothing(tokenizer: Any) -> None:
    encoder = PairEncoder(tokenizer, 96, cache_bytes=0)
    encoder.encode("apple", PASSAGES)
    assert (encoder.cache.hits, encoder.cache.misses, encoder.cache.size_bytes) == (0, 0, 0)


def test_nobody_can_change_what_is_kept(tokenizer: Any) -> None:
    encoder = PairEncoder(tokenizer, 96, cache_bytes=2**20)
    ids: Any = encoder.encode("apple", ["green tea"])[0].input_ids
    with pytest.raises(ValueError, match="read-only"):
        ids[:] = 0


def test_two_passages_that_begin_alike_beyond_what_is_ever_read_share_an_entry(tmp_path: Path) -> None:
    """A passage is known by what is read of it at most, so that a huge one does not cost its whole digest."""
    tokenizer_of(tmp_path, "bert")
    encoder = PairEncoder(AutoTokenizer.from_pretrained(tmp_path), 16, cache_bytes=2**20)
    start = "a" * (16 * 64 + 1)
    encoder.encode("tea", [start + "b", start + "c", start[:-1]])
    encoder.encode("tea", [start + "b", start + "c", start[:-1]])
    assert encoder.cache.hits == 3
    assert encoder.cache.size_bytes < 3 * ENTRY_BYTES


def test_type_ids_are_those_of_each_length_and_nobody_can_write_to_them() -> None:
    """They are shared by all calls whose queries have as many tokens; where the end has another type, by none."""
    for end in (1, 3):
        before, after, zero, last = (np.array([one], np.int32) for one in (1, 2, 0, end))
        template = Template(before, after, after, zero, zero, last, 0, 1)
        for query in ([7], [8], [7, 8]):
            pairs = template.heading(raw(query)).pairs([raw([9] * count) for count in (1, 5, 2, 40)])
            wanted = [[0] * (len(query) + 2) + [1] * count + [end] for count in (1, 5, 2, 40)]
            assert [types.tolist() for _, types in pairs] == wanted
            assert not any(array.flags.writeable for pair in pairs for array in pair)
