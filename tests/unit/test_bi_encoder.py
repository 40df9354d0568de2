"""Vectors are those of the reference, and what is kept of them changes nothing but the time."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from sidecar.cost import CostModel
from sidecar.loaded import LoadedModel
from sidecar.scoring import bert, checkpoint, compact
from sidecar.scoring.base import Pair
from sidecar.scoring.bi_encoder import BiEncoder, TextPair
from sidecar.scoring.loader import dummies, load
from sidecar.settings import ModelSettings
from tests import checkpoints

QUERY = "late apple varieties"
LONG = " ".join(checkpoints.WORDS * 8)
TEXTS = ["apple", "green tea is steamed and rolled", "how to fix a car engine", LONG, "", "orchard keepers store apple"]


def encoder(folder: Path | str, **changes: object) -> BiEncoder:
    settings = ModelSettings.model_validate(
        {"kind": "bi_encoder", "checkpoint": str(folder), "device": "cpu", "dtype": "float32", **changes}
    )
    return BiEncoder(*checkpoint.load_encoder(settings, torch.device("cpu"), torch.float32), settings)


def cosines(model: BiEncoder, query: str, texts: Sequence[str]) -> list[float]:
    found: list[float] = model.score(model.encode(query, texts)).tolist()
    return found


def reference(folder: Path, pooling: str, max_length: int) -> list[float]:
    words = Transformer(str(folder), max_seq_length=max_length)
    model = SentenceTransformer(modules=[words, Pooling(words.get_embedding_dimension(), pooling)], device="cpu")
    query, *texts = model.encode([QUERY, *TEXTS], normalize_embeddings=True, show_progress_bar=False)
    return [float(query @ text) for text in texts]


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "electra", "modernbert"])
def test_cosines_are_those_of_the_reference(tmp_path: Path, family: str) -> None:
    folder = checkpoints.build(tmp_path / family, family, head=False)
    model = encoder(folder, max_length=64)
    assert model.packed == (family != "modernbert")
    assert cosines(model, QUERY, TEXTS) == pytest.approx(reference(folder, "mean", 64), abs=1e-4)


def test_a_variant_whose_packed_vectors_would_be_others_is_padded(tmp_path: Path) -> None:
    """A decoder's tokens see those before them only, and its config names the same family."""
    folder = checkpoints.edit(checkpoints.build(tmp_path / "m", head=False), is_decoder=True)
    model = encoder(folder, max_length=64)
    assert not model.packed
    assert cosines(model, QUERY, TEXTS) == pytest.approx(reference(folder, "mean", 64), abs=1e-4)


@pytest.mark.usefixtures("like_cuda")
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_rows_as_on_cuda_give_the_cosines_of_the_reference(tmp_path: Path, pooling: str) -> None:
    folder = checkpoints.build(tmp_path / "m", head=False)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        f'{{"pooling_mode_{pooling}_token{"s" * (pooling == "mean")}": true}}'
    )
    model = encoder(folder, max_length=64)
    assert model.packed
    assert cosines(model, QUERY, TEXTS) == pytest.approx(reference(folder, pooling, 64), abs=1e-4)


def test_layers_that_cannot_be_packed_are_padded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoints.build(tmp_path / "m", head=False)
    monkeypatch.setattr(bert.Encoder, "__call__", lambda *_: torch.ops.mkldnn._no_such_operation)
    model = encoder(folder, max_length=64)
    assert not model.packed
    assert cosines(model, QUERY, TEXTS) == pytest.approx(reference(folder, "mean", 64), abs=1e-4)


def test_the_first_token_stands_for_the_text_where_the_checkpoint_says_so(tmp_path: Path) -> None:
    folder = checkpoints.build(tmp_path / "cls", head=False)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}'
    )
    assert cosines(encoder(folder), QUERY, TEXTS) == pytest.approx(reference(folder, "cls", 512), abs=1e-4)
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_lasttoken": true}')
    with pytest.raises(checkpoint.CheckpointError, match="pools its vectors by lasttoken; allowed"):
        encoder(folder)


def test_a_passage_is_read_once_and_then_neither_tokenised_nor_passed_through_the_model(tmp_path: Path) -> None:
    model = encoder(checkpoints.build(tmp_path / "m", head=False))
    first = cosines(model, QUERY, TEXTS)
    pairs = model.encode("green tea", [*TEXTS, "new"])
    assert [pair.is_read for pair in pairs] == [True] * len(TEXTS) + [False]
    assert [pair.tokens for pair in pairs[:-1]] == [1] * len(TEXTS)
    assert all(len(pair.input_ids) == 0 for pair in pairs[:-1])
    assert (model.vector_cache.hits, model.vector_cache.misses) == (len(TEXTS), len(TEXTS) + 3), "queries are kept too"
    again = cosines(model, QUERY, TEXTS)
    assert again == pytest.approx(first, abs=1e-3)
    alone = encoder(tmp_path / "m", vector_cache_mib=0)
    cosines(alone, QUERY, TEXTS)
    assert not any(pair.is_read for pair in alone.encode(QUERY, TEXTS))


def test_what_lies_beyond_the_models_length_makes_no_other_vector(tmp_path: Path) -> None:
    model = encoder(checkpoints.build(tmp_path / "m", head=False), max_length=16)
    text = "apple tea " * 5000
    cosines(model, QUERY, [text])
    assert model.encode(QUERY, [text + "and more"])[0].is_read


def test_pairs_of_several_queries_share_a_pass(tmp_path: Path) -> None:
    model = encoder(checkpoints.build(tmp_path / "m", head=False))
    one, other = model.encode(QUERY, TEXTS), model.encode("green tea", TEXTS)
    mixed = model.score([*one, *other])
    assert mixed[: len(one)].tolist() == pytest.approx(cosines(model, QUERY, TEXTS), abs=1e-3)
    assert mixed[len(one) :].tolist() == pytest.approx(cosines(model, "green tea", TEXTS), abs=1e-3)


def test_other_peoples_pairs_are_refused(tmp_path: Path) -> None:
    model = encoder(checkpoints.build(tmp_path / "m", head=False))
    with pytest.raises(TypeError, match="Pair is no pair of a bi-encoder"):
        model.score([Pair([1, 2])])


def test_it_is_loaded_and_measured_like_any_other_model() -> None:
    loaded = load("near", ModelSettings(kind="bi_encoder", device="cpu", dtype="float32"))
    assert loaded.cost.predict_s(100, 1) < loaded.cost.predict_s(100, 128)
    stretched = dummies(loaded.scorer, 3, 40)
    assert [(type(pair), pair.tokens) for pair in stretched] == [(TextPair, 40)] * 3
    near, far = cosines_of(loaded.scorer, "how to fix a car", ["automobile repair", "a cake without nuts"])
    assert near > far + 0.2


def test_pairs_of_kept_vectors_are_those_of_read_texts_and_none_where_one_is_not_kept(tmp_path: Path) -> None:
    folder = checkpoints.build(tmp_path / "m", head=False)
    model = encoder(folder, max_length=64)
    assert model.encode_kept(QUERY, TEXTS) is None
    read = cosines(model, QUERY, TEXTS)
    for query in (QUERY, "another query"):
        kept = model.encode_kept(query, TEXTS)
        assert kept is not None
        assert all(pair.is_read for pair in kept)
        assert model.score(kept).tolist() == pytest.approx(cosines(model, query, TEXTS), abs=2e-3), "kept in float16"
    again = model.encode_kept(QUERY, TEXTS)
    assert again is not None
    assert model.score(again).tolist() == pytest.approx(read, abs=2e-3)
    assert model.encode_kept(QUERY, [*TEXTS, "a new one"]) is None
    assert encoder(folder, max_length=64, vector_cache_mib=0).encode_kept(QUERY, []) is None


def test_a_sample_is_read_each_time_whatever_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it would tell of a model that fails that all is well."""
    model = encoder(checkpoints.build(tmp_path / "m", head=False))
    sample = LoadedModel.of("near", model, CostModel(), ModelSettings()).sample
    for _ in range(2):
        assert -1 <= model.score([sample])[0] <= 1
    monkeypatch.setattr(bert.Encoder, "__call__", lambda *_: torch.ops.mkldnn._no_such_operation)
    with pytest.raises(AttributeError):
        model.score([sample])


def cosines_of(model: object, query: str, texts: Sequence[str]) -> list[float]:
    assert isinstance(model, BiEncoder)
    return cosines(model, query, texts)


def test_weights_in_int8_come_back_nearly_as_they_were() -> None:
    torch.manual_seed(0)
    weights = {"layer.dense.weight": torch.randn(64, 32), "layer.dense.bias": torch.randn(64)}
    back = compact.unpacked(compact.packed(weights))
    assert set(back) == set(weights)
    assert (back["layer.dense.weight"] - weights["layer.dense.weight"]).abs().max() < 0.02
    assert torch.equal(back["layer.dense.bias"], weights["layer.dense.bias"].half().float())
