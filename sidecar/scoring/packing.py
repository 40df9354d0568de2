"""A forward pass of pairs packed end to end in one row of T places, each seeing only its own tokens.

Operations on single tokens (embeddings, linear layers, norms) run on the row as it is. Attention gets the layout of the
pairs; position ids restart at each pair; the head reads the first token, or the mean, of each pair. Scores are those of
the padded pass within rounding.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AttentionInterface, PreTrainedModel

from sidecar.logs import log
from sidecar.scoring import bert
from sidecar.scoring.attention import VARLEN, attend
from sidecar.scoring.base import Pair
from sidecar.scoring.layout import Layout, to_device

IMPLEMENTATION = "sidecar_packed"
"""Name of the attention in transformers' registry."""

Encoder = Callable[[dict[str, torch.Tensor], Layout], torch.Tensor]
"""Maps inputs of shape (1, T) each to the states that the head reads, (pairs or more, hidden)."""


class OfTransformers:
    """A base model of transformers that runs packed pairs through transformers' attention interface.

    Switches the model's attention: from then on it runs only packed pairs.

    Raises:
        Exception: whatever transformers raises if this version of it has no attention interface for the model.
    """

    def __init__(self, base: Any, *, mean: bool) -> None:
        AttentionInterface.register(IMPLEMENTATION, _attention)
        base.set_attn_implementation(IMPLEMENTATION)
        self._base, self._mean = base, mean

    def __call__(self, inputs: dict[str, torch.Tensor], layout: Layout) -> torch.Tensor:
        """Hidden states of the first tokens, or with ``mean`` the mean over each pair's tokens, (pairs, hidden)."""
        hidden: torch.Tensor = self._base(**inputs, packing=layout).last_hidden_state[0]  # (T, hidden)
        if not self._mean:
            return hidden[layout.first]
        return means(hidden, layout)


def means(hidden: torch.Tensor, layout: Layout) -> torch.Tensor:
    """The mean over the tokens of each pair, (pairs, hidden), of hidden states (T, hidden)."""
    if layout.kernel == "varlen":  # nothing lies between the pairs: one operation for all of them
        lengths = to_device(np.asarray(layout.lengths, np.int64), hidden.device)
        sums = hidden.float()  # it adds up in the type of its input, where bfloat16 would lose all but the first digits
        return torch.segment_reduce(sums, "mean", lengths=lengths, unsafe=True).to(hidden.dtype)
    parts = zip(layout.starts.tolist(), layout.lengths, strict=False)
    return torch.stack([hidden[start : start + length].mean(0) for start, length in parts])


def bert_layers(model: Any) -> Encoder:
    """The layers of a BERT-like model, for a head that reads the first tokens."""
    return bert.Encoder(model.base_model)


def _modernbert(model: Any) -> Encoder:
    return OfTransformers(model.base_model, mean=model.config.classifier_pooling == "mean")


ENCODERS: dict[str, Callable[[Any], Encoder]] = {
    "bert": bert_layers,
    "camembert": bert_layers,
    "electra": bert_layers,
    "modernbert": _modernbert,
    "roberta": bert_layers,
    "xlm-roberta": bert_layers,
}
"""How each family that can be packed is run, by ``config.model_type``."""
_NUMBERED_FROM_PADDING = {"camembert", "roberta", "xlm-roberta"}
"""Families that number positions from behind the padding's id, and do not count a padding token inside a text."""


def head_logits(model: Any, states: torch.Tensor) -> torch.Tensor:
    """Logits of shape (rows, labels) by the head of ``model``, from ``states`` (rows, hidden)."""
    logits: torch.Tensor
    if model.config.model_type == "modernbert":
        logits = model.classifier(model.head(states))
    elif model.config.model_type == "bert":
        logits = model.classifier(model.bert.pooler(states[:, None]))
    else:
        logits = model.classifier(states[:, None])
    return logits


def can_pack(model: PreTrainedModel) -> bool:
    """Whether this model can be packed on its device and in its number type."""
    if model.config.model_type not in ENCODERS or getattr(model.config, "is_decoder", False):
        return False
    return model.device.type == "cpu" or (
        model.device.type == "cuda" and VARLEN is not None and model.dtype in (torch.bfloat16, torch.float16)
    )


class Restores(Protocol):
    """An object that takes weights from a model to run it packed."""

    def restore(self) -> None:
        """Give the weights back."""
        ...


Made = TypeVar("Made", bound=Restores)


def proven(model: PreTrainedModel, make: Callable[[], Made], agrees: Callable[[Made], bool]) -> Made | None:
    """What ``make`` returns, if it runs and ``agrees`` with the padded model on a sample; else None.

    With None the model is restored, the reason logged, and pairs stay padded. Releases of transformers differ in which
    models accept a custom attention, checkpoints in what they need of it, and cards in which kernels run.
    """
    attention, made = model.config._attn_implementation, None
    try:
        made = make()
        if agrees(made):
            return made
        why = "its scores differ from the padded ones"
    except Exception as error:  # noqa: BLE001 - whatever fails, the padded pass remains
        why = f"{type(error).__name__}: {error}"
    if made:
        made.restore()
    model.set_attn_implementation(attention)
    log.warning("pairs_padded", reason=why, model_type=model.config.model_type)
    return None


class PackedModel:
    """Runs a model on packed pairs; its constructor raises whatever that of the encoder does."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._encoder = ENCODERS[model.config.model_type](model)
        self._layers = self._encoder if isinstance(self._encoder, bert.Encoder) else None
        self._inputs = Inputs(model)

    def logits(self, pairs: Sequence[Pair]) -> torch.Tensor:
        """Logits of shape (pairs, labels) in the order of ``pairs``, on the model's device."""
        order = sorted(range(len(pairs)), key=lambda place: pairs[place].tokens)
        packed = [pairs[place] for place in order]
        layout = self._layout([pair.tokens for pair in packed])
        logits = head_logits(self._model, self._encoder(self._inputs(packed, layout), layout))
        return logits[to_device(np.argsort(order), logits.device)]

    def _layout(self, lengths: Sequence[int]) -> Layout:
        return self._layers.layout(lengths) if self._layers else Layout.of(lengths, self._model.device)

    def restore(self) -> None:
        """Give the model back the weights that the encoder took, so that it runs padded pairs again."""
        if self._layers:
            self._layers.restore()

    def prepare(self, tokens: int) -> None:
        """Do in advance the one-off work of the first batch of each size up to ``tokens``."""
        if self._layers:
            self._layers.prepare(tokens)


class Inputs:
    """Makes a model's input tensors from packed pairs."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._device = model.device
        self._takes_types = "token_type_ids" in inspect.signature(model.base_model.forward).parameters
        numbered = model.config.model_type in _NUMBERED_FROM_PADDING
        self._padding_id = int(model.config.pad_token_id) if numbered else None

    def __call__(self, pairs: Sequence[Pair], layout: Layout) -> dict[str, torch.Tensor]:
        """Inputs of shape (1, T) each, int64, in one copy to the device; 0 in places without a token."""
        names = ["input_ids", "position_ids", *(["token_type_ids"] if self._takes_types else [])]
        table = np.zeros((len(names), layout.tokens), np.int64)
        for pair, start in zip(pairs, layout.starts.tolist(), strict=False):
            places = slice(start, start + len(pair.input_ids))
            table[0, places] = pair.input_ids
            table[1, places] = self._positions(pair)
            if self._takes_types and pair.token_type_ids is not None:
                table[2, places] = pair.token_type_ids
        return dict(zip(names, to_device(table, self._device)[:, None], strict=True))

    def _positions(self, pair: Pair) -> NDArray[np.int64]:
        if self._padding_id is None:
            return np.arange(len(pair.input_ids), dtype=np.int64)
        counts = np.asarray(np.asarray(pair.input_ids) != self._padding_id, np.int64)
        return np.asarray(np.cumsum(counts) * counts + self._padding_id, np.int64)


def _attention(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: torch.Tensor | None,
    *,
    packing: Layout,
    scaling: float,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query, key and value of shape (1, heads, T, head size).

    Returns:
        A tensor of shape (1, T, heads, head size), and no attention weights.
    """
    query, key, value = (rows[0].transpose(0, 1) for rows in (query, key, value))
    return attend(query, key, value, packing, scaling, sliding_window)[None], None
