"""A sequence-classification model that scores pairs of query and passage."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sidecar.scoring.base import Pair, Scores
from sidecar.scoring.checkpoint import fingerprint, max_length
from sidecar.scoring.failures import is_out_of_memory, losses_told
from sidecar.scoring.layout import VECTOR, row_lengths, to_device, to_host
from sidecar.scoring.packing import PackedModel, can_pack, proven
from sidecar.scoring.padding import padded
from sidecar.settings import ModelSettings
from sidecar.tokenization import PairEncoder

_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.3}
"""How far rounding may move a logit, absolute and relative. A mistake in packing moves most by more."""


class CrossEncoder:
    """Scores as ``sentence_transformers.CrossEncoder`` does with an identity activation, on the same weights.

    With two labels the score is the difference of their logits, so that its sigmoid is the softmax of the chosen one.
    ``packed`` says whether batches run without padding, as they do for the families that :mod:`packing` knows.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: ModelSettings) -> None:
        self.max_length = max_length(settings, model, tokenizer)
        self.version = fingerprint(model, tokenizer, self.max_length, settings.label)
        self.halved = 0
        """How often a batch did not fit the memory and was halved."""
        self.number_type = str(model.dtype).removeprefix("torch.")
        self._model = model
        self._label = settings.label
        self._pad_id = int(tokenizer.pad_token_id or 0)
        takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
        cache_bytes = settings.token_cache_mib * 2**20
        self._encoder = PairEncoder(tokenizer, self.max_length, token_types=takes_types, cache_bytes=cache_bytes)
        self.token_cache = self._encoder.cache
        self._packed = self._try_packing() if can_pack(model) else None
        self.launches = model.device.type == "cuda" and self.packed  # transformers looks at a padded batch's mask

    @property
    def packed(self) -> bool:
        """Whether batches run without padding, so that a batch costs what its own tokens cost."""
        return self._packed is not None

    def encode(self, query: str, passages: Sequence[str]) -> list[Pair]:
        """See :class:`sidecar.scoring.base.Scorer`."""
        return self._encoder.encode(query, passages)

    def encode_kept(self, query: str, passages: Sequence[str]) -> list[Pair] | None:
        """See :class:`sidecar.loaded.Finder`."""
        return self._encoder.encode_kept(query, passages)

    def score(self, pairs: Sequence[Pair]) -> Scores:
        """Raw scores, float32 of shape (len(pairs),); a batch that does not fit the memory is halved and tried again.

        Raises:
            DeviceLost: the device is lost to this process.
            RuntimeError: not even a single pair fits the memory; on CUDA it is a ``torch.OutOfMemoryError``.
        """
        return self.launch(pairs)()

    def launch(self, pairs: Sequence[Pair]) -> Callable[[], Scores]:
        """See :class:`sidecar.scoring.base.Launches`; raises what :meth:`score` does.

        On a CPU it returns only when the pass is done.
        """
        try:
            with losses_told(self._model.device):
                return self._started(pairs)
        except RuntimeError as error:
            if len(pairs) == 1 or not is_out_of_memory(error):
                raise
        self.halved += 1
        torch.cuda.empty_cache()
        middle = len(pairs) // 2
        halves = self.launch(pairs[:middle]), self.launch(pairs[middle:])
        return lambda: np.concatenate([half() for half in halves])

    def prepare(self, tokens: int) -> None:
        """Do in advance, in the device's thread, the one-off work of the first batch of each size up to ``tokens``."""
        if self._packed:
            self._packed.prepare(tokens)
        if self.launches:  # CUDA loads kernels when they are first needed, and which ones depends on the size
            for length in row_lengths(tokens):
                self.score([Pair([0] * VECTOR)] * (length // VECTOR))

    @torch.inference_mode()
    def _started(self, pairs: Sequence[Pair]) -> Callable[[], Scores]:
        """Start one forward pass, and return a function that waits for its scores.

        On CUDA all work is queued on the stream, including the copy of the scores into pinned memory.
        """
        logits = (self._packed.logits(pairs) if self._packed else self._padded_logits(pairs)).float()  # (B, labels)
        return to_host(relevance(logits, self._label))  # (B,)

    @torch.inference_mode()
    def _try_packing(self) -> PackedModel | None:
        """The packed model, if it is :func:`packing.proven` on a few pairs; else None."""
        sample = [*self.encode("a", ["a", "a b c d " * 8]), *self.encode("a b", ["c"])]
        want, near = self._padded_logits(sample).float(), _TOLERANCE[self._model.dtype]
        return proven(
            self._model,
            lambda: PackedModel(self._model),
            lambda packed: torch.allclose(packed.logits(sample).float(), want, rtol=near, atol=near),
        )

    def _padded_logits(self, pairs: Sequence[Pair]) -> torch.Tensor:
        logits: torch.Tensor = self._model(**self._padded(pairs)).logits  # (B, labels)
        return logits

    def _padded(self, pairs: Sequence[Pair]) -> dict[str, torch.Tensor]:
        """Pairs as int64 tensors of shape (B, longest): ids, attention mask, and token types if the pairs have them."""
        return {name: to_device(array, self._model.device) for name, array in padded(pairs, self._pad_id).items()}


def relevance(logits: Any, label: int | None) -> Any:
    """Scores of shape (B,) from logits of shape (B, labels), tensor or array; ``label`` is None with only one label."""
    return logits[:, 0] if label is None else logits[:, label] - logits[:, 1 - label]
