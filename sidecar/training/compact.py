"""Writes the bundled bi-encoder: `python -m sidecar.training.compact --out sidecar/models/bundled`.

all-MiniLM-L6-v2 without its word embeddings, which the bundled cross-encoder has unchanged, in int8: 11 MB.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModel

from sidecar.scoring import compact
from sidecar.scoring.checkpoint import ENCODER, WORDS
from sidecar.training.teacher import base_folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the file; ends with an error if the cross-encoder has other word embeddings."""
    options = _parser().parse_args(arguments)
    model = AutoModel.from_pretrained(base_folder(), add_pooling_layer=False, dtype=torch.float32)
    weights = dict(model.state_dict())
    words = weights.pop(WORDS)
    with safe_open(options.out / "model.safetensors", "pt") as cross_encoder:
        if not torch.equal(cross_encoder.get_tensor(f"bert.{WORDS}"), words.half()):
            raise SystemExit(f"{options.out}: the cross-encoder's word embeddings are not those of all-MiniLM-L6-v2")
    save_file(compact.packed(weights), options.out / ENCODER)
    Console().print(f"wrote {options.out / ENCODER}: {(options.out / ENCODER).stat().st_size / 1e6:.1f} MB")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Write the bundled bi-encoder.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundled cross-encoder")
    return parser


if __name__ == "__main__":
    main()
