"""Pairs put together from ids equal the tokenizer's own, or the tokenizer makes them itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer

from sidecar.pair_template import proven
from sidecar.tokenization import PairEncoder
from tests.checkpoints import FAMILIES, WORDS
from tests.unit.test_tokenization import LONG, ids, tokenizer_of

TEXTS = ["", " ", "tea", "[SEP] </s> <s>", "Öl für Äpfel, 東京", " ".join(WORDS), LONG, "\n x \t", "w" * 400]


def with_processor(folder: Path, family: str, processor: Callable[[Tokenizer], Any], **changes: Any) -> Any:
    """The family's tokenizer with another post-processor in its file, which the plain class leaves as it is."""
    tokenizer_of(folder, family, **{"tokenizer_class": "PreTrainedTokenizerFast", **changes})
    core = Tokenizer.from_file(str(folder / "tokenizer.json"))
    core.post_processor = processor(core)
    core.save(str(folder / "tokenizer.json"))
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def special(core: Tokenizer, token: str) -> tuple[str, int]:
    """A special token and its id."""
    number = core.token_to_id(token)
    assert number is not None
    return token, number


def template(pair: str, *tokens: str) -> Callable[[Tokenizer], Any]:
    """A template processor."""
    return lambda core: processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=pair, special_tokens=[special(core, one) for one in tokens]
    )


def bert(core: Tokenizer) -> Any:
    """The processor of older BERT files."""
    return processors.BertProcessing(special(core, "[SEP]"), special(core, "[CLS]"))


def roberta(core: Tokenizer) -> Any:
    """The processor of RoBERTa's files."""
    return processors.RobertaProcessing(special(core, "</s>"), special(core, "<s>"))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_proven_and_its_pairs_are_those_of_transformers(tmp_path: Path, family: str, side: str) -> None:
    tokenizer = tokenizer_of(tmp_path, family, truncation_side=side)
    encoder = PairEncoder(tokenizer, 64)
    assert encoder.joins
    for query in ("apple", "how to fix a car", "Öl 東京 [SEP] </s>"):
        pairs = encoder.encode(query, TEXTS)
        assert [list(pair.input_ids) for pair in pairs] == ids(tokenizer, query, TEXTS, 64)


@pytest.mark.parametrize(("family", "processor"), [("bert", bert), ("roberta", roberta)])
def test_older_processors_are_proven_too(tmp_path: Path, family: str, processor: Callable[[Tokenizer], Any]) -> None:
    tokenizer = with_processor(tmp_path, family, processor)
    encoder = PairEncoder(tokenizer, 64)
    assert encoder.joins
    pairs = encoder.encode("apple phone", TEXTS)
    assert [list(pair.input_ids) for pair in pairs] == ids(tokenizer, "apple phone", TEXTS, 64)


@pytest.mark.parametrize("pair", ["[CLS] $B [SEP] $A:1 [SEP]:1", "[CLS] $A [SEP] $B:1 $A:1 [SEP]:1"])
def test_what_cannot_be_proven_is_left_to_the_tokenizer_and_nothing_is_kept(tmp_path: Path, pair: str) -> None:
    tokenizer = with_processor(tmp_path, "bert", template(pair, "[CLS]", "[SEP]"))
    encoder = PairEncoder(tokenizer, 64, cache_bytes=2**20)
    assert not encoder.joins
    texts = TEXTS if pair.count("$A") == 1 else TEXTS[:3]
    for _ in range(2):
        pairs = encoder.encode("apple phone", texts)
        assert [list(pair.input_ids) for pair in pairs] == ids(tokenizer, "apple phone", texts, 64)
    assert encoder.cache.size_bytes == 0


def test_types_may_differ_in_every_part(tmp_path: Path) -> None:
    tokenizer = with_processor(tmp_path, "bert", template("[CLS]:3 $A:1 [SEP]:0 $B:4 [SEP]:2", "[CLS]", "[SEP]"))
    (pair,) = PairEncoder(tokenizer, 64).encode("apple phone", ["green tea"])
    assert pair.token_type_ids is not None
    assert list(pair.token_type_ids) == tokenizer("apple phone", "green tea")["token_type_ids"]
    assert set(pair.token_type_ids) == {0, 1, 2, 3, 4}


def test_a_post_processor_that_adds_nothing_is_proven(tmp_path: Path) -> None:
    tokenizer = with_processor(tmp_path, "roberta", lambda core: processors.ByteLevel(trim_offsets=True))
    pairs = PairEncoder(tokenizer, 64).encode("apple phone", TEXTS[2:])
    assert [list(pair.input_ids) for pair in pairs] == ids(tokenizer, "apple phone", TEXTS[2:], 64)


def test_a_tokenizer_that_changes_its_mind_by_the_neighbour_is_not_proven(tmp_path: Path) -> None:
    """The proof compares ids, and does not trust the template it found: here a probe's ids differ."""
    tokenizer = tokenizer_of(tmp_path, "bert")
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())

    class Moody:
        """The core, but a pair with an empty passage ends otherwise."""

        def __getattr__(self, name: str) -> Any:
            return getattr(core, name)

        def encode(self, query: str, passage: str | None = None, **options: Any) -> Any:
            """See the core."""
            return core.encode(query, " tea" if passage == "" else passage, **options)

    moody: Any = Moody()
    assert proven(core, "right", ["[SEP]"]) is not None
    assert proven(moody, "right", ["[SEP]"]) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_long_passage_truncated_on_the_left_keeps_its_end_as_transformers_does(tmp_path: Path, family: str) -> None:
    tokenizer = tokenizer_of(tmp_path, family, truncation_side="left")
    passages = [f"{LONG} {LONG} {' '.join(WORDS[:count])}" for count in (1, 5, 9)]
    pairs = PairEncoder(tokenizer, 40, cache_bytes=2**20).encode("apple phone", passages)
    assert [list(pair.input_ids) for pair in pairs] == ids(tokenizer, "apple phone", passages, 40)
