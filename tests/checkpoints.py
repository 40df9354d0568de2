"""Tiny checkpoints with random weights, built offline in a folder: files as those of a model that was downloaded."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    ElectraConfig,
    ModernBertConfig,
    PreTrainedConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from sidecar.scoring import checkpoint
from sidecar.scoring.cross_encoder import CrossEncoder
from sidecar.settings import ModelSettings

_TEXT = (
    "the apple company sells many phones every winter while orchard keepers store late apple varieties in cool cellars "
    "how to fix a car engine automobile repair procedures without losing the warranty of the maker "
    "green tea is steamed and rolled before it dries in small baskets over a slow fire of oak and cherry wood"
)
WORDS = _TEXT.split()
_CORPUS = [" ".join(WORDS), " ".join(WORDS[::-1]), "Öl für Äpfel, 東京 и Москва; x=3.14! [brackets] naïve café"]

_BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_DEBERTA = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")


def _wordpiece() -> Tokenizer:
    letters = sorted({letter for text in _CORPUS for letter in text.lower() if not letter.isspace()})
    pieces = [*_BERT, *letters, *(f"##{letter}" for letter in letters), *sorted(set(WORDS))]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _with_template(tokenizer, "[CLS] $A [SEP] $B:1 [SEP]:1")


def _byte_bpe(special: Sequence[str], template: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token=special[3]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[*special], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return _with_template(tokenizer, template)


def _unigram(special: Sequence[str], template: str) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("\n", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=[*special], unk_token=special[3])
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return _with_template(tokenizer, template)


def _with_template(tokenizer: Tokenizer, template: str) -> Tokenizer:
    special = [word.split(":")[0] for word in template.split() if not word.startswith("$")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template.split(" $B")[0],
        pair=template,
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in sorted(set(special))],
    )
    return tokenizer


_SHAPE: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_range": 0.4,
    "max_position_embeddings": 512,
}


@dataclass(frozen=True)
class Family:
    """An architecture as its published checkpoints come: its config, its tokenizer, and the names in their files."""

    config: type[PreTrainedConfig]
    tokenizer: Tokenizer
    tokenizer_class: str
    specials: Mapping[str, str]
    changes: Mapping[str, Any] = field(default_factory=dict)
    input_names: Sequence[str] = ("input_ids", "token_type_ids", "attention_mask")


def _square(unk: str = "[UNK]") -> dict[str, str]:
    return {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": unk, "mask": "[MASK]"}


_ANGLE = {"bos": "<s>", "eos": "</s>", "cls": "<s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
_NO_TYPES = ("input_ids", "attention_mask")
_SHIFTED = {"max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}

FAMILIES: Mapping[str, Family] = {
    "bert": Family(BertConfig, _wordpiece(), "BertTokenizer", _square()),
    "electra": Family(ElectraConfig, _wordpiece(), "ElectraTokenizer", _square(), {"embedding_size": 16}),
    "roberta": Family(
        RobertaConfig,
        _byte_bpe(_ROBERTA, "<s> $A </s> </s> $B </s>"),
        "RobertaTokenizer",
        _ANGLE,
        _SHIFTED,
        _NO_TYPES,
    ),
    "xlm-roberta": Family(
        XLMRobertaConfig,
        _unigram(_ROBERTA, "<s> $A </s> </s> $B </s>"),
        "XLMRobertaTokenizer",
        _ANGLE,
        _SHIFTED,
        _NO_TYPES,
    ),
    "deberta-v2": Family(
        DebertaV2Config,
        _unigram(_DEBERTA, "[CLS] $A [SEP] $B:1 [SEP]:1"),
        "DebertaV2Tokenizer",
        _square(),
        {
            "relative_attention": True,
            "position_buckets": 16,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
    ),
    "modernbert": Family(
        ModernBertConfig,
        _byte_bpe(("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"), "[CLS] $A [SEP] $B [SEP]"),
        "PreTrainedTokenizerFast",
        _square(),
        {
            "max_position_embeddings": 2048,
            "local_attention": 16,
            "global_attn_every_n_layers": 2,
            "pad_token_id": 0,
            "cls_token_id": 1,
            "bos_token_id": 1,
            "sep_token_id": 2,
            "eos_token_id": 2,
        },
        _NO_TYPES,
    ),
}


def build(
    folder: Path, family: str = "bert", *, labels: int = 1, head: bool = True, seed: int = 0, **changes: Any
) -> Path:
    """A checkpoint of ``family`` in ``folder``; without ``head`` a bare encoder, as ``AutoModel`` saves it."""
    kind = FAMILIES[family]
    config = kind.config(
        **{**_SHAPE, "vocab_size": kind.tokenizer.get_vocab_size(), "num_labels": labels, **kind.changes, **changes}
    )
    torch.manual_seed(seed)
    kind_of_model: Any = AutoModelForSequenceClassification if head else AutoModel
    kind_of_model.from_config(config).save_pretrained(folder)
    save_tokenizer(folder, family)
    return folder


def save_tokenizer(folder: Path, family: str, **changes: Any) -> None:
    """The tokenizer's files, with a tokenizer_config.json as the family's published checkpoints have it."""
    kind = FAMILIES[family]
    kind.tokenizer.save(str(folder / "tokenizer.json"))
    named = {f"{name}_token": token for name, token in kind.specials.items()}
    config = {"tokenizer_class": kind.tokenizer_class, "model_input_names": [*kind.input_names], **named}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 512, **changes}))


def edit(folder: Path, file: str = "config.json", **changes: Any) -> Path:
    """The checkpoint with other values in one of its JSON files; None removes a key."""
    config = {**json.loads((folder / file).read_text()), **changes}
    (folder / file).write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


def settings(folder: Path | str, **changes: Any) -> ModelSettings:
    """Settings that run a checkpoint on the CPU in float32."""
    return ModelSettings(**{"checkpoint": str(folder), "device": "cpu", "dtype": "float32", **changes})


def scorer(folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu", **changes: Any) -> CrossEncoder:
    """The checkpoint as a scorer."""
    chosen = settings(folder, **changes)
    return CrossEncoder(*checkpoint.load(chosen, torch.device(device), dtype), chosen)


def limited(model: CrossEncoder, most: int, error: Callable[[], RuntimeError]) -> list[int]:
    """Let ``model`` run out of memory above ``most`` pairs; the list fills with the sizes of the passes tried."""
    sizes: list[int] = []

    def before(module: torch.nn.Module, args: object, kwargs: dict[str, Any]) -> None:
        sizes.append(int((kwargs["input_ids"] == kwargs["input_ids"][0, 0]).sum()))  # each begins with [CLS]
        if sizes[-1] > most:
            raise error()

    embeddings: Any = model._model.base_model.embeddings
    embeddings.register_forward_pre_hook(before, with_kwargs=True)
    return sizes


def cpu_error() -> RuntimeError:
    """What torch really raises when the CPU has no memory left."""
    try:
        torch.empty(2**60, dtype=torch.uint8)
    except RuntimeError as error:
        return error
    raise AssertionError("an exbibyte was allocated")


def rank_correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Spearman's: 1 for the same order, less for each swap, little less where only neighbours swap.

    Rounding moves a score of these random weights by up to a quarter of the scores' deviation: far more than one of a
    trained model, so it is the order as a whole that a test can ask for.
    """
    ranks = np.argsort(np.argsort(one)), np.argsort(np.argsort(other))
    return float(np.corrcoef(*ranks)[0, 1])
