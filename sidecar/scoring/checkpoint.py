"""Loads a checkpoint, and refuses one whose scores would mean nothing."""

import hashlib
from collections.abc import Collection
from importlib import resources
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sidecar.settings import BUNDLED, ModelSettings

_SAMPLE = 1024


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message says why and what would be allowed."""


def location(checkpoint: str) -> str:
    """Where ``bundled`` is on this machine; any other name as it is."""
    return str(resources.files("sidecar") / "models" / "bundled") if checkpoint == BUNDLED else checkpoint


def load(
    settings: ModelSettings, device: torch.device, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, ready for inference on ``device``, and its tokenizer.

    Raises:
        CheckpointError: there is no such checkpoint, or it has no trained head with one label (or two, with ``label``).
    """
    where = location(settings.checkpoint)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, revision=settings.revision)
        model, info = AutoModelForSequenceClassification.from_pretrained(
            where, revision=settings.revision, dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise CheckpointError(f"checkpoint {settings.checkpoint!r} cannot be loaded: {_first_line(error)}") from error
    _check_head(settings, model.config.num_labels, [*info["missing_keys"], *_names(info["mismatched_keys"])])
    if not tokenizer.is_fast:
        raise CheckpointError(f"checkpoint {settings.checkpoint!r} has no fast tokenizer (tokenizer.json)")
    return model.to(device).eval(), tokenizer


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _names(keys: Collection[Any]) -> list[str]:
    return [str(key[0]) if isinstance(key, tuple) else str(key) for key in keys]


def _check_head(settings: ModelSettings, labels: int, untrained: list[str]) -> None:
    name = repr(settings.checkpoint)
    if untrained:
        raise CheckpointError(
            f"checkpoint {name} holds no trained weights for {', '.join(sorted(untrained)[:4])}: it is not a "
            "sequence-classification model, and random weights would score at random"
        )
    if labels not in (1, 2):
        raise CheckpointError(f"checkpoint {name} has {labels} labels; a cross-encoder has one, or two")
    if labels == 2 and settings.label is None:
        raise CheckpointError(f"checkpoint {name} has two labels: set `label` to the one that means relevant, 0 or 1")
    if labels == 1 and settings.label is not None:
        raise CheckpointError(f"checkpoint {name} has one label: remove `label`")


def max_length(settings: ModelSettings, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that the model takes: as the settings say, but no more than its tokenizer and its positions allow.

    RoBERTa-like models number positions from ``pad_token_id + 1``, so that many fewer tokens fit.

    Raises:
        CheckpointError: the settings ask for more than that.
    """
    config = model.config
    offset = (config.pad_token_id or 0) + 1 if "roberta" in config.model_type else 0
    positions = (getattr(config, "max_position_embeddings", None) or 512) - offset
    relative = getattr(config, "position_biased_input", True) is False
    allowed = tokenizer.model_max_length if relative else min(positions, tokenizer.model_max_length)
    if settings.max_length is not None and settings.max_length > allowed:
        raise CheckpointError(
            f"`max_length` is {settings.max_length}, but checkpoint {settings.checkpoint!r} takes at most {allowed}"
        )
    return int(settings.max_length or min(allowed, 512))


def fingerprint(model: PreTrainedModel, max_tokens: int, label: int | None) -> str:
    """12 hex digits that change with weights, dtype, label and truncation; reads a sample of each weight."""
    digest = hashlib.sha256(f"{model.config.model_type} {model.dtype} {max_tokens} {label}".encode())
    for name, weight in model.state_dict().items():
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(weight.flatten()[:_SAMPLE].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]
