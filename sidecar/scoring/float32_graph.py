"""Writes a model as an ONNX graph in float32, in the form that ONNX Runtime runs fastest.

For BERT-like models, a layer's attention is one of the runtime's own operations, with query, key and value as one
product, and the last layer computes only the first token of each pair, as in :mod:`sidecar.scoring.bert`. Measured in
int8 with the bundled model, 100 pairs of 85 tokens, two cores of an AMD EPYC, by turns: 276 ms for transformers' form
of the model, 225 ms for this one; with AVX-512 hidden from all libraries 629 ms and 507 ms.
"""

import ctypes
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from sidecar.scoring.packing import ENCODERS, bert_layers, head_logits

OPERATIONS = ["MatMul", "Attention"]
"""Operations of a graph that hold the weights of linear layers."""
_UNSEEN = torch.finfo(torch.float32).min
"""Added to the attention logits of padding; ONNX Runtime's default, -10,000, would not hide it with large logits."""


class NoGraph(Exception):
    """A form of a model gives no graph with the model's scores; the message says why."""


Form = Callable[[PreTrainedModel, Sequence[str]], torch.nn.Module]
"""Makes, from a model and the names of its inputs, a module from those inputs, in order, to logits (pairs, labels)."""


def forms(model: PreTrainedModel) -> list[Form]:
    """The forms of ``model`` to try, the fastest first; every model has the last one."""
    return [Lean, Plain] if ENCODERS.get(model.config.model_type) is bert_layers else [Plain]


def write(form: Form, model: PreTrainedModel, sample: Mapping[str, NDArray[np.int64]], file: Path) -> None:
    """Trace ``model`` on ``sample`` and write its graph, which takes any number of pairs of any length.

    Switches ``model`` to eager attention.

    Raises:
        NoGraph: the model cannot be traced.
    """
    try:
        model.set_attn_implementation("eager")  # the others choose kernels by the mask's content
        with warnings.catch_warnings(action="ignore"), _unheard(), torch.inference_mode():  # scores are compared later
            torch.onnx.export(
                form(model, list(sample)),
                tuple(torch.from_numpy(array) for array in sample.values()),
                str(file),
                input_names=list(sample),
                output_names=["logits"],
                dynamic_axes={name: {0: "pairs", 1: "tokens"} for name in sample},
                dynamo=False,  # the new exporter needs two more packages
            )
    except Exception as error:  # torch and its exporter raise errors of any class
        raise NoGraph(f"{type(error).__name__}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its class name if it has none; at most 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@contextmanager
def _unheard() -> Iterator[None]:
    """Discard what is written to stdout: the exporter's C++ prints the whole graph when it fails."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)


class Plain(torch.nn.Module):
    """A model as transformers implements it."""

    def __init__(self, model: PreTrainedModel, names: Sequence[str]) -> None:
        super().__init__()
        self._model, self._names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits of shape (pairs, labels)."""
        logits: Tensor = self._model(**dict(zip(self._names, inputs, strict=True))).logits
        return logits


class Lean(torch.nn.Module):
    """A BERT-like model with fewer operations and the same results."""

    def __init__(self, model: PreTrainedModel, names: Sequence[str]) -> None:
        super().__init__()
        self._model, self._names = model, names
        base: Any = model.base_model
        attentions = [layer.attention.self for layer in base.encoder.layer]
        parts = [(one.query, one.key, one.value) for one in attentions]
        self._heads = attentions[0].num_attention_heads
        self._weights = torch.nn.ParameterList(torch.cat([part.weight for part in three]).T for three in parts[:-1])
        self._biases = torch.nn.ParameterList(torch.cat([part.bias for part in three]) for three in parts)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits of shape (pairs, labels)."""
        given = dict(zip(self._names, inputs, strict=True))
        seen = given.pop("attention_mask").int()  # (pairs, tokens)
        base: Any = self._model.base_model
        hidden = base.embeddings(**given)
        if hasattr(base, "embeddings_project"):  # ELECTRA, where embeddings are smaller than hidden states
            hidden = base.embeddings_project(hidden)
        *most, last = base.encoder.layer
        for layer, weight, bias in zip(most, self._weights, self._biases, strict=False):
            hidden = _after_attention(layer, _SelfAttention.apply(hidden, weight, bias, seen, self._heads), hidden)
        attention, first = last.attention.self, hidden[:, :1]
        query = functional.linear(first, attention.query.weight)
        key, value = (functional.linear(hidden, part.weight) for part in (attention.key, attention.value))
        attended = _Attention.apply(query, key, value, self._biases[-1], seen, self._heads)
        return head_logits(self._model, _after_attention(last, attended, first)[:, 0])


def _after_attention(layer: Any, attended: Tensor, hidden: Tensor) -> Tensor:
    hidden = layer.attention.output(attended, hidden)
    after: Tensor = layer.output(layer.intermediate(hidden), hidden)
    return after


class _SelfAttention(torch.autograd.Function):
    """ONNX Runtime's ``Attention``, (pairs, tokens, hidden), projections included: ``weight`` is (hidden, 3 hidden)."""

    @staticmethod
    def forward(_: Any, hidden: Tensor, weight: Tensor, bias: Tensor, seen: Tensor, heads: int) -> Tensor:
        query, key, value = (hidden @ weight + bias).chunk(3, -1)
        return _attended(query, key, value, seen, heads)

    @staticmethod
    def symbolic(graph: Any, hidden: Any, weight: Any, bias: Any, seen: Any, heads: int) -> Any:
        named = {"num_heads_i": heads, "mask_filter_value_f": _UNSEEN}
        return graph.op("com.microsoft::Attention", hidden, weight, bias, seen, **named).setType(hidden.type())


class _Attention(torch.autograd.Function):
    """ONNX Runtime's ``MultiHeadAttention``; it adds ``bias`` (3 hidden,) to query, key and value first."""

    @staticmethod
    def forward(_: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, seen: Tensor, heads: int) -> Tensor:
        of_query, of_key, of_value = bias.chunk(3)
        return _attended(query + of_query, key + of_key, value + of_value, seen, heads)

    @staticmethod
    def symbolic(graph: Any, query: Any, key: Any, value: Any, bias: Any, seen: Any, heads: int) -> Any:
        named = {"num_heads_i": heads, "mask_filter_value_f": _UNSEEN}
        made = graph.op("com.microsoft::MultiHeadAttention", query, key, value, bias, seen, **named)
        return made.setType(query.type())


def _attended(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, heads: int) -> Tensor:
    """Attention of ``query`` (pairs, queries, hidden) over ``key`` and ``value`` (pairs, tokens, hidden)."""
    query, key, value = (rows.view(*rows.shape[:2], heads, -1).transpose(1, 2) for rows in (query, key, value))
    mask = seen[:, None, None].bool()
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
