"""A sequence-classification model that scores pairs of query and passage."""

import inspect
from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sidecar.scoring.base import Pair, Scores
from sidecar.scoring.checkpoint import fingerprint, max_length
from sidecar.settings import ModelSettings
from sidecar.tokenization import PairEncoder


class CrossEncoder:
    """Scores as ``sentence_transformers.CrossEncoder`` does with an identity activation, on the same weights.

    With two labels the score is the difference of their logits, so that its sigmoid is the softmax of the chosen one.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: ModelSettings) -> None:
        self.max_length = max_length(settings, model, tokenizer)
        self.version = fingerprint(model, tokenizer, self.max_length, settings.label)
        self._model = model
        self._label = settings.label
        self._pad_id = int(tokenizer.pad_token_id or 0)
        takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
        cache_bytes = settings.token_cache_mib * 2**20
        self._encoder = PairEncoder(tokenizer, self.max_length, token_types=takes_types, cache_bytes=cache_bytes)
        self.token_cache = self._encoder.cache

    def encode(self, query: str, passages: Sequence[str]) -> list[Pair]:
        """See :class:`sidecar.scoring.base.Scorer`."""
        return self._encoder.encode(query, passages)

    def score(self, pairs: Sequence[Pair]) -> Scores:
        """Raw scores, float32 of shape (len(pairs),). Out of memory, the batch is halved and tried again.

        Raises:
            RuntimeError: not even a single pair fits the memory; on CUDA it is a ``torch.OutOfMemoryError``.
        """
        try:
            return self._forward(pairs)
        except RuntimeError as error:
            if len(pairs) == 1 or not _is_out_of_memory(error):
                raise
        torch.cuda.empty_cache()
        middle = len(pairs) // 2
        return np.concatenate([self.score(pairs[:middle]), self.score(pairs[middle:])])

    @torch.inference_mode()
    def _forward(self, pairs: Sequence[Pair]) -> Scores:
        logits = self._model(**self._padded(pairs)).logits.float()  # (B, labels)
        scores = logits[:, 0] if self._label is None else logits[:, self._label] - logits[:, 1 - self._label]
        return np.asarray(scores.cpu().numpy(), np.float32)  # (B,)

    def _padded(self, pairs: Sequence[Pair]) -> dict[str, torch.Tensor]:
        """Pairs as int64 tensors of shape (B, longest): ids, which of them count, and token types where known."""
        shape = len(pairs), max(pair.tokens for pair in pairs)
        ids = np.full(shape, self._pad_id, np.int64)
        mask = np.zeros(shape, np.int64)
        types = np.zeros(shape, np.int64)
        for row, pair in enumerate(pairs):
            ids[row, : pair.tokens] = pair.input_ids
            mask[row, : pair.tokens] = 1
            if pair.token_type_ids is not None:
                types[row, : pair.tokens] = pair.token_type_ids
        arrays = {"input_ids": ids, "attention_mask": mask}
        if pairs[0].token_type_ids is not None:
            arrays["token_type_ids"] = types
        return {name: torch.from_numpy(array).to(self._model.device) for name, array in arrays.items()}


def _is_out_of_memory(error: RuntimeError) -> bool:
    """CUDA has a class for it; the CPU's allocator says it in words only."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
