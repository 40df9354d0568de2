"""A cross-encoder in ONNX Runtime on a CPU."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sidecar.batching import Limits, runs
from sidecar.scoring.base import Pair, Scores
from sidecar.scoring.checkpoint import fingerprint, max_length
from sidecar.scoring.cross_encoder import relevance
from sidecar.scoring.graph import Graph
from sidecar.scoring.padding import padded
from sidecar.settings import ModelSettings
from sidecar.tokenization import PairEncoder

_CALL_TOKENS = 16
"""Fixed cost of a call of the session, in tokens."""
_MOST_TOKENS = 512
"""Most tokens of one call: more do not stay in the CPU's caches between operations, fewer leave cores without work."""
CALLS = Limits(_MOST_TOKENS, math.inf, lambda pairs, length: _CALL_TOKENS + pairs * length)
"""How a batch is cut into calls of the session: by length, so that little is padded."""


class OnnxCrossEncoder:
    """Scores with the graph; labels, truncation and tokens are those of :class:`cross_encoder.CrossEncoder`.

    The torch model is read for the maximum length and the version only, and not kept.
    """

    packed = True
    """A batch costs what its tokens cost: pairs are padded only to neighbours of similar length."""
    number_type = "int8"
    halved = 0
    """No batch is ever halved for want of memory: a call holds few tokens, however large the batch."""

    def __init__(
        self, graph: Graph, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: ModelSettings
    ) -> None:
        self.max_length = max_length(settings, model, tokenizer)
        like = fingerprint(model, tokenizer, self.max_length, settings.label)
        self.version = hashlib.sha256(f"{like} {graph.digest}".encode()).hexdigest()[:12] + "-int8"
        self._session, self._inputs = graph.session, graph.inputs
        self._label = settings.label
        self._pad_id = int(tokenizer.pad_token_id or 0)
        takes_types, cache_bytes = "token_type_ids" in graph.inputs, settings.token_cache_mib * 2**20
        self._encoder = PairEncoder(tokenizer, self.max_length, token_types=takes_types, cache_bytes=cache_bytes)
        self.token_cache = self._encoder.cache

    def encode(self, query: str, passages: Sequence[str]) -> list[Pair]:
        """See :class:`sidecar.scoring.base.Scorer`."""
        return self._encoder.encode(query, passages)

    def encode_kept(self, query: str, passages: Sequence[str]) -> list[Pair] | None:
        """See :class:`sidecar.loaded.Finder`."""
        return self._encoder.encode_kept(query, passages)

    def score(self, pairs: Sequence[Pair]) -> Scores:
        """Raw scores, float32 of shape (len(pairs),), in calls of pairs of similar length.

        Raises:
            MemoryError: a call does not fit the memory.
        """
        order = sorted(range(len(pairs)), key=lambda place: -pairs[place].tokens)
        scores = np.empty(len(pairs), np.float32)
        end = 0
        for lengths, _ in runs([pairs[place].tokens for place in order], CALLS):
            places = order[end : end + len(lengths)]
            scores[places] = self._call([pairs[place] for place in places])
            end += len(lengths)
        return scores

    def prepare(self, tokens: int) -> None:
        """Do nothing: a session needs no preparation for a size."""

    def _call(self, pairs: Sequence[Pair]) -> Scores:
        arrays = padded(pairs, self._pad_id)
        try:
            (logits,) = self._session.run(None, {name: arrays[name] for name in self._inputs})  # (B, labels)
        except Exception as error:
            if "bad_alloc" in str(error) or "Failed to allocate" in str(error):  # there is no class for it
                raise MemoryError(f"no memory for {len(pairs)} pairs of up to {pairs[0].tokens} tokens") from error
            raise
        return np.asarray(relevance(logits, self._label), np.float32)
