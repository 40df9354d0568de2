"""Pairs side by side, each padded to the longest."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sidecar.scoring.base import Pair


def padded(pairs: Sequence[Pair], pad_id: int) -> dict[str, NDArray[np.int64]]:
    """int64 arrays (pairs, longest): ``input_ids``, ``attention_mask``, and ``token_type_ids`` if pairs have them."""
    shape = len(pairs), max(pair.tokens for pair in pairs)
    ids = np.full(shape, pad_id, np.int64)
    mask = np.zeros(shape, np.int64)
    types = np.zeros(shape, np.int64)
    for row, pair in enumerate(pairs):
        ids[row, : pair.tokens] = pair.input_ids
        mask[row, : pair.tokens] = 1
        if pair.token_type_ids is not None:
            types[row, : pair.tokens] = pair.token_type_ids
    arrays = {"input_ids": ids, "attention_mask": mask}
    return arrays if pairs[0].token_type_ids is None else {**arrays, "token_type_ids": types}
