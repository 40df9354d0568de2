"""A bi-encoder as a scorer: the cosine of query and passage, each read by itself.

It knows less than a cross-encoder, but costs next to nothing for passages seen before: their vectors are cached under a
digest of the text that the model reads, and such a passage is not even tokenised.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cosine_similarity
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sidecar.bounded_cache import BoundedCache
from sidecar.scoring import packing
from sidecar.scoring.base import Pair, Scores
from sidecar.scoring.bert import Encoder
from sidecar.scoring.checkpoint import fingerprint, max_length
from sidecar.scoring.failures import is_out_of_memory, losses_told
from sidecar.scoring.padding import padded
from sidecar.settings import ModelSettings
from sidecar.tokenization import TextEncoder

Vector = NDArray[np.float32]
_BYTES = 2
"""Bytes of a vector's element: vectors are cached in float16, which moves a cosine by less than 0.001."""
_KNOWN_TOKENS = 1
"""Tokens counted for a pair whose passage vector is known."""
_MEAN_OF_TEXT = "mean"
_ALIKE = {torch.float32: 0.9999, torch.float16: 0.99, torch.bfloat16: 0.99}
"""Least cosine of a text's packed and padded vectors: rounding stays above it, a mistake in packing mostly below."""
_NO_IDS = np.empty(0, np.int32)


@dataclass(eq=False, slots=True)
class Question:
    """A query shared by all pairs of a job; the first pass that needs its vector computes and stores it."""

    input_ids: NDArray[np.int32]
    vector: NDArray[np.floating] | None = None
    kept_as: bytes = b""


@dataclass(frozen=True, slots=True, eq=False)
class TextPair(Pair):
    """Token ids of a passage alone, and its query; if ``vector``, the passage's own, is known, the ids are empty."""

    question: Question | None = None
    kept_as: bytes = b""
    vector: NDArray[np.float16] | None = None

    @property
    def tokens(self) -> int:
        """Tokens still to be read: those of the passage, or 1 if its vector is known."""
        return len(self.input_ids) if self.vector is None else _KNOWN_TOKENS

    @property
    def is_read(self) -> bool:
        """Whether the vector of its passage is known."""
        return self.vector is not None

    def stretched(self, tokens: int) -> Pair:
        """See :class:`sidecar.scoring.base.Pair`; its vector is neither known nor kept."""
        return TextPair(Pair.stretched(self, tokens).input_ids, None, self.question)


class BiEncoder:
    """Scores pairs by cosine, -1 to 1.

    A vector is the normalised mean over a text's tokens (``pooling`` ``mean``) or its first token's state (``cls``), as
    by ``sentence_transformers.SentenceTransformer`` on the same weights.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pooling: str, settings: ModelSettings
    ) -> None:
        self.max_length = max_length(settings, model, tokenizer)
        self.version = fingerprint(model, tokenizer, self.max_length, None) + f"-{pooling}"
        self.vector_cache: BoundedCache[NDArray[np.float16]] = BoundedCache(
            settings.vector_cache_mib * 2**20, lambda vector: _BYTES * len(vector)
        )
        self.halved = 0
        self.number_type = str(model.dtype).removeprefix("torch.")
        self._model, self._pooling = model, pooling
        self._pad_id = int(tokenizer.pad_token_id or 0)
        self._texts = TextEncoder(tokenizer, self.max_length)
        self._inputs: Callable[..., dict[str, torch.Tensor]] = packing.Inputs(model)
        has_layers = packing.ENCODERS.get(model.config.model_type) is packing.bert_layers
        self._layers = self._try_packing() if has_layers and packing.can_pack(model) else None

    @property
    def packed(self) -> bool:
        """Whether batches run without padding, so that a batch costs what its own tokens cost."""
        return self._layers is not None

    def encode(self, query: str, passages: Sequence[str]) -> list[Pair]:
        """One :class:`TextPair` for each passage; a text whose vector is cached is not tokenised.

        The query is truncated like a passage.
        """
        keys = [self._key(text) for text in (query, *passages)]
        kept = self.vector_cache.find(keys)
        fresh = [place for place, vector in enumerate(kept) if vector is None]
        texts = [query, *passages]
        read = dict(zip(fresh, self._texts.encode([texts[place] for place in fresh]), strict=True))
        ids = [read.get(place, _NO_IDS) for place in range(len(texts))]
        question = Question(ids[0], kept[0], keys[0])
        found = zip(ids[1:], keys[1:], kept[1:], strict=True)
        return [TextPair(one, None, question, key, vector) for one, key, vector in found]

    def encode_kept(self, query: str, passages: Sequence[str]) -> list[Pair] | None:
        """See :class:`sidecar.loaded.Finder`."""
        if not self.vector_cache.max_bytes:
            return None
        keys = [self._key(text) for text in passages]
        kept = self.vector_cache.find_all(keys)
        if kept is None:
            return None
        key = self._key(query)
        (vector,) = self.vector_cache.find([key])
        question = Question(self._texts.encode([query])[0] if vector is None else _NO_IDS, vector, key)
        return [TextPair(_NO_IDS, None, question, key, vector) for key, vector in zip(keys, kept, strict=True)]

    def _key(self, passage: str) -> bytes:
        """The digest of the part of a text that is read; empty if no vectors are cached."""
        read = self._texts.read_of(passage)
        return hashlib.sha256(read.encode()).digest() if self.vector_cache.max_bytes else b""

    def score(self, pairs: Sequence[Pair]) -> Scores:
        """The cosine of each pair, float32 of shape (len(pairs),).

        One forward pass over the texts without a vector; if it does not fit the memory, the batch is halved.

        Raises:
            DeviceLost: the device is lost to this process.
            RuntimeError: one pair does not fit the memory; on CUDA it is a ``torch.OutOfMemoryError``.
            TypeError: a pair is not one of :meth:`encode`.
        """
        try:
            with losses_told(self._model.device):
                return self._cosines(pairs)
        except RuntimeError as error:
            if len(pairs) == 1 or not is_out_of_memory(error):
                raise
        self.halved += 1
        torch.cuda.empty_cache()
        middle = len(pairs) // 2
        return np.concatenate([self.score(pairs[:middle]), self.score(pairs[middle:])])

    def _cosines(self, pairs: Sequence[Pair]) -> Scores:
        own = [_text_pair(pair) for pair in pairs]
        questions = list({id(one.question): one.question for one in own if one.question}.values())
        asking = [question for question in questions if question.vector is None]
        reading = [place for place, one in enumerate(own) if one.vector is None]
        made = self._vectors([*(Pair(one.input_ids) for one in asking), *(own[place] for place in reading)])
        for question, vector in zip(asking, made, strict=False):
            question.vector = vector
        fresh = dict(zip(reading, made[len(asking) :], strict=True))
        new: list[tuple[Question | TextPair, Vector]] = [
            *zip(asking, made, strict=False),
            *((own[place], vector) for place, vector in fresh.items()),
        ]
        self.vector_cache.keep({one.kept_as: vector.astype(np.float16) for one, vector in new if one.kept_as})
        return np.array(
            [_cosine(one.question, fresh.get(place, one.vector)) for place, one in enumerate(own)], np.float32
        )

    def prepare(self, tokens: int) -> None:
        """Do in advance the one-off work of the first batch of each size up to ``tokens``."""
        if self._layers:
            self._layers.prepare(tokens)

    @torch.inference_mode()
    def _vectors(self, texts: Sequence[Pair]) -> Sequence[Vector]:
        """The normalised vector of each text, float32, in the order of ``texts``."""
        if not texts:
            return []
        order = sorted(range(len(texts)), key=lambda place: len(texts[place].input_ids))
        chosen = [texts[place] for place in order]
        pooled = self._packed(chosen, self._layers) if self._layers else self._padded(chosen)
        vectors = torch.nn.functional.normalize(pooled.float(), dim=1).cpu().numpy()  # (texts, hidden)
        return [vectors[place] for place in np.argsort(order)]

    @torch.inference_mode()
    def _try_packing(self) -> Encoder | None:
        """The layers for packed texts, if they are :func:`packing.proven` on a few; else None."""
        sample = [Pair(ids) for ids in self._texts.encode(["a", "a b c", "a b c d " * 8])]
        want, near = self._padded(sample), _ALIKE[self._model.dtype]
        return packing.proven(
            self._model,
            lambda: Encoder(self._model.base_model, first_only=False),
            lambda layers: bool((cosine_similarity(self._packed(sample, layers), want) > near).all()),
        )

    def _packed(self, texts: Sequence[Pair], layers: Encoder) -> torch.Tensor:
        layout = layers.layout([len(text.input_ids) for text in texts])
        hidden = layers(self._inputs(texts, layout), layout)  # (T, hidden)
        if self._pooling == _MEAN_OF_TEXT:
            return packing.means(hidden.float(), layout)
        return hidden[layout.first[: len(texts)]].float()

    def _padded(self, texts: Sequence[Pair]) -> torch.Tensor:
        plain = [Pair(text.input_ids) for text in texts]
        inputs = {
            name: torch.from_numpy(array).to(self._model.device) for name, array in padded(plain, self._pad_id).items()
        }
        hidden = self._model(**inputs).last_hidden_state  # (texts, longest, hidden)
        return torch.stack([self._pool(rows[: text.tokens]) for rows, text in zip(hidden, plain, strict=True)])

    def _pool(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.float().mean(0) if self._pooling == _MEAN_OF_TEXT else rows[0].float()


def _text_pair(pair: Pair) -> TextPair:
    if not isinstance(pair, TextPair):
        raise TypeError(f"{type(pair).__name__} is no pair of a bi-encoder")
    return pair


def _cosine(question: Question | None, vector: NDArray[np.floating] | None) -> float:
    if question is None or question.vector is None or vector is None:
        return float("nan")
    return float(question.vector.astype(np.float32) @ vector.astype(np.float32))
