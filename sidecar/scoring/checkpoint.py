"""Loads a checkpoint, and refuses one whose scores would mean nothing."""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from sidecar.model_files import location as location
from sidecar.scoring import compact
from sidecar.settings import BUNDLED, ModelSettings

_DEFAULT_MAX_LENGTH = 512
_SAMPLE = 1024
_SAMPLE_TEXT = "The quick brown Fox; naïve Äpfel, 東京 и Москва, x=3.14!"
_HUB_TIMEOUT_S = 5.0
_NOT_OF_THE_MODEL = frozenset(("_name_or_path", "transformers_version", "sidecar"))
"""Keys of a configuration that change no score."""
ENCODER = "encoder.safetensors"
"""File of the bundled bi-encoder's weights without the word embeddings, in the format of :mod:`compact`."""
WORDS = "embeddings.word_embeddings.weight"
_POOLING_FILE = "1_Pooling/config.json"
_MEAN, _FIRST = "mean", "cls"
_POOLINGS: dict[str, str | None] = {
    "mean": _MEAN,
    "mean_tokens": _MEAN,
    "cls": _FIRST,
    "cls_token": _FIRST,
    **dict.fromkeys(("max", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")),
}
"""sentence-transformers' names of poolings, new and old, mapped to ours; None: not supported."""


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message says why and what would be allowed."""


def load(
    settings: ModelSettings, device: torch.device, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, ready for inference on ``device``, and its tokenizer. Code that a checkpoint brings is never run.

    Raises:
        CheckpointError: there is no such checkpoint, it has no trained head with one label (or two, with ``label``), or
            no fast tokenizer that fits it.
    """
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # it warns of what is refused below
    offline = _is_offline(settings)
    config = _read(AutoConfig, settings, offline)
    _check_labels(settings, config.num_labels)
    tokenizer = _read(AutoTokenizer, settings, offline)
    model, info = _read(
        AutoModelForSequenceClassification,
        settings,
        offline,
        dtype=dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused below, with a better message
    )
    _check_trained(settings, [*info["missing_keys"], *_names(info["mismatched_keys"])])
    _check_vocabulary(settings, model, tokenizer)
    return model.to(device).eval(), tokenizer


def load_encoder(
    settings: ModelSettings, device: torch.device, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """A bi-encoder, its tokenizer, and how its vectors are pooled: ``mean`` or ``cls``.

    Raises:
        CheckpointError: there is no such checkpoint, its weights are not those of a trained encoder, it has no fast
            tokenizer that fits it, or its pooling is not supported.
    """
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    if settings.checkpoint == BUNDLED:
        tokenizer = _read(AutoTokenizer, settings, offline=True)
        bundled: Any = _bundled_encoder(settings)
        return bundled.to(device, dtype).eval(), tokenizer, _MEAN
    offline = _is_offline(settings)
    tokenizer = _read(AutoTokenizer, settings, offline)
    model, info = _read(AutoModel, settings, offline, dtype=dtype, output_loading_info=True)
    _check_trained(settings, [name for name in info["missing_keys"] if "pooler" not in name], "encoder")
    _check_vocabulary(settings, model, tokenizer)
    return model.to(device).eval(), tokenizer, _pooling(settings, offline=offline)


def _bundled_encoder(settings: ModelSettings) -> PreTrainedModel:
    """all-MiniLM-L6-v2; its word embeddings are those of the bundled cross-encoder, stored only in that one's file."""
    folder = Path(location(settings.checkpoint))
    config = _read(AutoConfig, settings, offline=True)
    model: PreTrainedModel = AutoModel.from_config(config, add_pooling_layer=False)
    weights = compact.unpacked(load_file(folder / ENCODER))
    with safe_open(folder / "model.safetensors", "pt") as cross_encoder:
        weights[WORDS] = cross_encoder.get_tensor(f"bert.{WORDS}").float()
    model.load_state_dict(weights)
    return model


def _pooling(settings: ModelSettings, *, offline: bool) -> str:
    """The pooling in sentence-transformers' file beside the weights, of old or new form; ``mean`` without that file.

    Raises:
        CheckpointError: the file names no pooling, several, or one that is not supported.
    """
    file = cached_file(
        location(settings.checkpoint),
        _POOLING_FILE,
        revision=settings.revision,
        local_files_only=offline,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if file is None:
        return _MEAN
    config = json.loads(Path(file).read_text())
    old = [name for name in _POOLINGS if config.get(f"pooling_mode_{name}") is True]
    said = [config["pooling_mode"]] if isinstance(config.get("pooling_mode"), str) else old
    pooling = _POOLINGS.get(said[0]) if len(said) == 1 else None
    if pooling is None:
        raise CheckpointError(
            f"checkpoint {settings.checkpoint!r} pools its vectors by {', '.join(said) or 'nothing that is known'}; "
            "allowed: mean, cls"
        )
    return pooling


def _is_offline(settings: ModelSettings) -> bool:
    """Whether to look on this machine only: for a folder, or for a hub id when the hub does not answer within 5 s.

    Asked first because transformers by itself repeats each request for 23 s, file after file, even for a cached model.

    Raises:
        CheckpointError: the name is neither a folder nor a possible hub id.
    """
    where = location(settings.checkpoint)
    if Path(where).is_dir():
        return True
    try:
        HfApi().model_info(where, revision=settings.revision, timeout=_HUB_TIMEOUT_S)
    except HFValidationError as error:
        raise CheckpointError(f"checkpoint {where!r} is neither a folder on this machine nor a hub id") from error
    except HfHubHTTPError:
        return False  # the hub answers; loading from it meets the same error and reports it
    except Exception:  # noqa: BLE001 - no DNS, no route, no answer, offline by environment: each client raises its own
        return True
    return False


def _read(kind: Any, settings: ModelSettings, offline: bool, **options: Any) -> Any:
    """Call ``kind.from_pretrained`` with the common options.

    Raises:
        torch.OutOfMemoryError: the device's memory is too small.
        CheckpointError: any other error.
    """
    name, where = settings.checkpoint, location(settings.checkpoint)
    common = {"revision": settings.revision, "local_files_only": offline, "trust_remote_code": False}
    try:
        return kind.from_pretrained(where, **common, **options)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise CheckpointError(f"checkpoint {name!r} cannot be loaded: {_reason(error, where)}") from error


def _reason(error: Exception, where: str) -> str:
    """Why loading failed: in our words for common errors, else the first line of the error's message."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    if "trust_remote_code" in str(error):
        return "it needs code of its own, which is never run; use a model that transformers knows by itself"
    if not Path(where).is_dir() and "connect" in line:
        return "no such folder, not among the downloaded models, and the hub cannot be reached"
    if not isinstance(error, (OSError, ValueError)):
        return f"a file is damaged or of an unknown kind ({type(error).__name__}: {line})"
    return line


def _names(keys: Collection[Any]) -> list[str]:
    return [str(key[0]) if isinstance(key, tuple) else str(key) for key in keys]


def _check_labels(settings: ModelSettings, labels: int) -> None:
    name = repr(settings.checkpoint)
    if labels not in (1, 2):
        raise CheckpointError(f"checkpoint {name} has {labels} labels; a cross-encoder has one, or two")
    if labels == 2 and settings.label is None:
        raise CheckpointError(f"checkpoint {name} has two labels: set `label` to the one that means relevant, 0 or 1")
    if labels == 1 and settings.label is not None:
        raise CheckpointError(f"checkpoint {name} has one label: remove `label`")


def _check_trained(settings: ModelSettings, untrained: list[str], kind: str = "sequence-classification model") -> None:
    if untrained:
        raise CheckpointError(
            f"checkpoint {settings.checkpoint!r} holds no fitting weights for {', '.join(sorted(untrained)[:4])}: it "
            f"is not a trained {kind}, and random weights would score at random"
        )


def _check_vocabulary(settings: ModelSettings, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    name = repr(settings.checkpoint)
    if not tokenizer.is_fast:
        raise CheckpointError(f"checkpoint {name} has no fast tokenizer (tokenizer.json)")
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise CheckpointError(f"checkpoint {name} has no tokenizer: its files (tokenizer.json) are missing")
    embeddings: Any = model.get_input_embeddings()
    if len(tokenizer) > (rows := embeddings.num_embeddings):
        raise CheckpointError(
            f"checkpoint {name} has a tokenizer of {len(tokenizer)} tokens but a model of {rows}: they do not match"
        )


def max_length(settings: ModelSettings, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The most tokens of an input: the settings' value, else what the model allows, up to 512.

    Raises:
        CheckpointError: the settings ask for more than its tokenizer or its positions allow.
    """
    allowed = min(tokenizer.model_max_length, _positions(model))
    if settings.max_length is not None and settings.max_length > allowed:
        raise CheckpointError(
            f"`max_length` is {settings.max_length}, but checkpoint {settings.checkpoint!r} takes at most {allowed}"
        )
    return int(settings.max_length or min(allowed, _DEFAULT_MAX_LENGTH))


def _positions(model: PreTrainedModel) -> float:
    """How many tokens have a position; infinite if positions are relative or the configuration names no limit.

    RoBERTa-like models number positions from behind the padding's index in the table, so that ``padding_idx + 1`` fewer
    tokens fit.
    """
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    positions = getattr(model.config, "max_position_embeddings", None) or 0
    relative = getattr(model.config, "relative_attention", False)
    return positions if positions > 0 and not relative else float("inf")


def fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_tokens: int, label: int | None) -> str:
    """12 hex digits that change with weights, configuration, dtype, tokenizer, label and truncation.

    Reads a sample of each weight, spread over all of it, and the token ids of a sample text.
    """
    tokens = tokenizer.backend_tokenizer.encode(_SAMPLE_TEXT).ids
    config = {key: value for key, value in model.config.to_dict().items() if key not in _NOT_OF_THE_MODEL}
    facts = [config, str(model.dtype), max_tokens, label, tokens, tokenizer.truncation_side]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, weight in model.state_dict().items():
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        step = max(1, weight.numel() // _SAMPLE)
        digest.update(weight.flatten()[::step].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]
