"""The model that ships: loads as any other, scores as the reference, and knows what it is for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder as Reference

from sidecar.demo import corpus
from sidecar.scoring import checkpoint
from sidecar.scoring.cross_encoder import CrossEncoder
from sidecar.settings import ModelSettings

QUERY = "apple varieties that keep well in winter storage"
TEXTS = [f"{one['title']}\n{one['text']}" for one in list(corpus.load().documents.values())[::12]]
LONG = " ".join(TEXTS)


def scores(dtype: torch.dtype, query: str, texts: list[str]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    settings = ModelSettings()
    model = CrossEncoder(*checkpoint.load(settings, torch.device("cpu"), dtype), settings)
    return model.score(model.encode(query, texts))


def test_it_is_small_enough_to_ship_and_passes_on_its_notices() -> None:
    folder = Path(checkpoint.location("bundled"))
    assert sum(file.stat().st_size for file in folder.iterdir()) < 60_000_000
    assert {"MODEL_CARD.md", "NOTICE.txt"} <= {file.name for file in folder.iterdir()}


def test_it_scores_as_the_reference_does_truncation_included() -> None:
    texts = [*TEXTS, LONG]
    reference = Reference(
        checkpoint.location("bundled"), activation_fn=torch.nn.Identity(), max_length=512, device="cpu"
    )
    expected = reference.predict([(QUERY, text) for text in texts], show_progress_bar=False)
    assert scores(torch.float32, QUERY, texts) == pytest.approx(expected, abs=1e-3)


def test_bfloat16_keeps_the_order_but_for_near_ties() -> None:
    exact, fast = scores(torch.float32, QUERY, TEXTS), scores(torch.bfloat16, QUERY, TEXTS)
    ranks = [np.argsort(np.argsort(one)) for one in (exact, fast)]
    assert np.min(np.corrcoef(ranks)) > 0.99, "Spearman's rank correlation"
    assert np.abs(exact - fast).max() < 0.2


def test_it_tells_the_fruit_from_the_company_and_finds_the_paraphrase() -> None:
    fruit, company = "Bramley and Fuji keep in a cool cellar until spring.", "The company sold more phones this winter."
    assert np.argmax(scores(torch.float32, QUERY, [company, fruit])) == 1
    assert np.argmax(scores(torch.float32, "apple earnings from phone sales", [fruit, company])) == 1
    repair, race = "Automobile repair: diagnosing a flat battery.", "Cars line up on the grid before the race."
    assert np.argmax(scores(torch.float32, "how to fix a car", [race, repair])) == 1
