"""The offline training code: losses against values worked out by hand, loader errors, mining, sampling, resuming."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sidecar.training import bundled
from sidecar.training.datasets import Collection, DataError, load_collection, positives
from sidecar.training.export import fit_platt
from sidecar.training.groups import sample_group, window
from sidecar.training.loop import Schedule, batch
from sidecar.training.mining import Bm25, guard
from sidecar.training.objectives import (
    correct_teacher,
    listwise_kl,
    listwise_softmax,
    margin_mse,
    pairwise_logistic,
    pairwise_margin,
    pointwise_bce,
    pointwise_mse,
)
from sidecar.training.pools import Embed, Pool, PooledSet, Recipe, build_set
from sidecar.training.pseudo import cloze_query, contrasts, keyword_query, title_query
from sidecar.training.student import MasterWeights, RunningMean

SCORES = torch.tensor([[2.0, 1.0, 0.0]])
LABELS = torch.tensor([[1.0, 0.0, 0.0]])


def write_collection(folder: Path, corpus: list[str], queries: list[str], qrels: list[str]) -> Path:
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("\n".join(corpus))
    (folder / "queries.jsonl").write_text("\n".join(queries))
    (folder / "qrels" / "train.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *qrels]))
    return folder


DOCUMENT = json.dumps({"_id": "d1", "title": "Tea", "text": "Green tea is steamed."})
QUERY = json.dumps({"_id": "q1", "text": "how is green tea made"})


# --- objectives -------------------------------------------------------------------------------------------------------


def test_listwise_softmax_is_the_negative_log_probability_of_the_positive() -> None:
    expected = math.log(math.exp(2) + math.exp(1) + 1) - 2
    assert listwise_softmax(SCORES, LABELS).item() == pytest.approx(expected, abs=1e-6)


def test_listwise_softmax_counts_nothing_for_a_group_without_positives() -> None:
    assert listwise_softmax(SCORES, torch.zeros(1, 3)).item() == 0.0


def test_listwise_kl_is_zero_for_equal_distributions_and_positive_otherwise() -> None:
    assert listwise_kl(SCORES, SCORES + 5).item() == pytest.approx(0.0, abs=1e-6)
    uniform = torch.zeros(1, 2)
    teacher = torch.tensor([[math.log(3.0), 0.0]])  # probabilities 3/4 and 1/4
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert listwise_kl(uniform, teacher).item() == pytest.approx(expected, abs=1e-6)


def test_weights_silence_a_group() -> None:
    scores, teacher = torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([[4.0, 0.0], [9.0, 0.0]])
    only_first = margin_mse(scores, teacher, torch.tensor([1.0, 0.0])).item()
    assert only_first == pytest.approx(4.0 / 2)  # variance of (-4, 0) is 4; the mean is over both groups


def test_margin_mse_equals_half_the_mean_squared_difference_of_differences() -> None:
    teacher = torch.tensor([[0.0, 3.0, 1.0]])
    scores, logits = SCORES[0].tolist(), teacher[0].tolist()
    pairs = [(scores[i] - scores[j] - logits[i] + logits[j]) ** 2 for i in range(3) for j in range(3)]
    assert margin_mse(SCORES, teacher).item() == pytest.approx(sum(pairs) / 9 / 2, abs=1e-6)


def test_pairwise_margin_by_hand() -> None:
    # gaps 1 and 2, margin 1.5 -> losses 0.5 and 0
    assert pairwise_margin(SCORES, LABELS, margin=1.5).item() == pytest.approx(0.25)


def test_pairwise_losses_are_zero_without_a_pair() -> None:
    assert pairwise_margin(SCORES, torch.ones(1, 3), margin=1.0).item() == 0.0
    assert pairwise_logistic(SCORES, torch.ones(1, 3)).item() == 0.0


def test_pairwise_logistic_by_hand() -> None:
    expected = (math.log1p(math.exp(-1)) + math.log1p(math.exp(-2))) / 2
    assert pairwise_logistic(SCORES, LABELS).item() == pytest.approx(expected, abs=1e-6)


def test_pointwise_bce_weighs_both_classes_alike() -> None:
    positive = math.log1p(math.exp(-2))
    negative = (math.log1p(math.exp(1)) + math.log1p(math.exp(0))) / 2
    assert pointwise_bce(SCORES, LABELS).item() == pytest.approx((positive + negative) / 2, abs=1e-6)


def test_pointwise_mse_by_hand() -> None:
    # differences 2-1, 1-0 and 0-0, then 0-3, 2-2 and 1-0
    scores, labels = torch.tensor([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0]]), torch.tensor([[1, 0, 0], [3, 2, 0]])
    assert pointwise_mse(scores, labels).item() == pytest.approx((1 + 1 + 0 + 9 + 0 + 1) / 6)


def test_a_label_overrules_the_teacher() -> None:
    corrected = correct_teacher(torch.tensor([[1.0, 4.0, 2.0], [9.0, 4.0, 2.0]]), LABELS.expand(2, 3), margin=1.0)
    assert corrected.tolist() == [[5.0, 4.0, 2.0], [9.0, 4.0, 2.0]]


# --- datasets ---------------------------------------------------------------------------------------------------------


def test_a_sound_collection_loads(tmp_path: Path) -> None:
    collection = load_collection(write_collection(tmp_path / "tea", [DOCUMENT], [QUERY], ["q1\td1\t2"]), "train")
    assert collection.documents["d1"].full_text == "Tea Green tea is steamed."
    assert positives(collection, "q1") == ["d1"]


@pytest.mark.parametrize(
    ("corpus", "queries", "qrels", "message"),
    [
        ([DOCUMENT, "{"], [QUERY], ["q1\td1\t1"], r"corpus\.jsonl:2: not JSON"),
        ([DOCUMENT, "[]"], [QUERY], ["q1\td1\t1"], r"corpus\.jsonl:2: expected an object, found list"),
        (['{"_id": "d1"}'], [QUERY], ["q1\td1\t1"], r"corpus\.jsonl:1: missing text"),
        ([DOCUMENT, DOCUMENT], [QUERY], ["q1\td1\t1"], r"corpus\.jsonl:2: document id 'd1' occurs twice"),
        (['{"_id": "d1", "text": " "}'], [QUERY], ["q1\td1\t1"], r"corpus\.jsonl:1: document 'd1' has neither"),
        ([DOCUMENT], [QUERY, QUERY], ["q1\td1\t1"], r"queries\.jsonl:2: query id 'q1' occurs twice"),
        ([DOCUMENT], ['{"_id": "q1", "text": ""}'], ["q1\td1\t1"], r"queries\.jsonl:1: query 'q1' has no text"),
        ([DOCUMENT], [QUERY], ["q1\td9\t1"], r"train\.tsv:2: document 'd9' is not in corpus"),
        ([DOCUMENT], [QUERY], ["q9\td1\t1"], r"train\.tsv:2: query 'q9' is not in queries"),
        ([DOCUMENT], [QUERY], ["q1 d1 1"], r"train\.tsv:2: expected 3 fields"),
        ([DOCUMENT], [QUERY], ["q1\td1\t-1"], r"train\.tsv:2: grade '-1'"),
        ([DOCUMENT], [QUERY], ["q1\td1\t0"], r"train\.tsv: no judgment is above 0"),
    ],
)
def test_bad_data_is_named_by_file_and_line(
    tmp_path: Path, corpus: list[str], queries: list[str], qrels: list[str], message: str
) -> None:
    folder = write_collection(tmp_path / "bad", corpus, queries, qrels)
    with pytest.raises(DataError, match=message):
        load_collection(folder, "train")


def test_faults_of_published_sets_are_refused_unless_tolerated(tmp_path: Path) -> None:
    folder = write_collection(
        tmp_path / "tea",
        [DOCUMENT, '{"_id": "d2", "text": ""}'],
        [QUERY, '{"_id": "q1", "text": "other"}'],
        ["q1\td1\t1"],
    )
    with pytest.raises(DataError, match=r"corpus\.jsonl:2: document 'd2'"):
        load_collection(folder, "train")
    collection = load_collection(folder, "train", tolerant=True)
    assert collection.queries == {"q1": "how is green tea made"}
    assert list(collection.documents) == ["d1", "d2"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"corpus\.jsonl: no such file"):
        load_collection(tmp_path, "train")


# --- mining -----------------------------------------------------------------------------------------------------------

TEXTS = [
    "green tea from japan is steamed after the harvest",
    "black tea from india is oxidised before drying",
    "coffee beans are roasted in a drum",
    "bread rises with yeast in a warm kitchen",
]


def test_bm25_ranks_the_matching_text_first_and_leaves_out_the_rest() -> None:
    numbers, scores = Bm25(TEXTS).top("steamed green tea", k=3)
    assert numbers.tolist() == [0, 1]
    assert scores[0] > scores[1] > 0


def test_bm25_of_unknown_words_finds_nothing() -> None:
    numbers, _ = Bm25(TEXTS).top("zeppelin", k=3)
    assert numbers.tolist() == []


def test_guard_drops_positives_repeats_and_what_the_teacher_takes_for_relevant() -> None:
    candidates, teacher = np.arange(5), np.asarray([0.9, 0.8, 0.2, 0.5, 0.51], dtype=np.float32)
    assert guard(candidates, teacher, {0}, limit=0.5, same_text={2}).tolist() == [3]


def test_pools_never_hold_a_positive_among_the_negatives(tmp_path: Path) -> None:
    corpus = [json.dumps({"_id": f"d{number}", "text": text}) for number, text in enumerate([*TEXTS, TEXTS[0]])]
    folder = write_collection(tmp_path / "drinks", corpus, [QUERY], ["q1\td0\t1"])
    ones = np.ones((8, 2), dtype=np.float32)
    recipe = Recipe(labelled=1, cloze=0, keyword=0)
    pooled = build_set(load_collection(folder, "train"), recipe, lambda texts, _: ones[: len(texts)], seed=0)
    assert pooled.pools[0].positives.tolist() == [0]
    assert sorted(pooled.pools[0].negatives.tolist()) == [1, 2, 3]  # number 4 repeats the positive's text


def test_pools_are_mined_anew_when_what_they_are_made_by_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    write_collection(data / "drinks", [DOCUMENT, json.dumps({"_id": "d2", "text": TEXTS[1]})], [QUERY], ["q1\td1\t1"])
    mined: list[Recipe] = []

    class Ones:
        def __init__(self, max_tokens: int) -> None: ...

        def embed(self, texts: list[str], _label: str) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
            return np.ones((len(texts), 2), dtype=np.float32)

    def watched(collection: Collection, recipe: Recipe, embed: Embed, seed: int) -> PooledSet:
        mined.append(recipe)
        return build_set(collection, recipe, embed, seed)

    monkeypatch.setattr(bundled, "Teacher", Ones)
    monkeypatch.setattr(bundled, "build_set", watched)
    first, second = Recipe(labelled=1, cloze=0, keyword=0), Recipe(labelled=1, cloze=0, keyword=0, slack=0.3)
    for recipe in (first, first, second, second, first):
        monkeypatch.setitem(bundled.RECIPES, "drinks", recipe)
        (pooled,) = bundled.load_pools(data, tmp_path, 0, ["drinks"])
        assert pooled.pools[0].query == json.loads(QUERY)["text"]
    assert mined == [first, second]
    (data / "drinks" / "qrels" / "train.tsv").write_text("q1\td2\t1")
    (pooled,) = bundled.load_pools(data, tmp_path, 0, ["drinks"])
    assert pooled.pools[0].positives.tolist() == [1]


def test_pools_depend_on_the_code_that_mines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = bundled.digest_of(tmp_path, Recipe())
    assert {Path(str(module.__file__)).stem for module in bundled._MINED_BY} >= {"mining", "pools"}, "guards are there"
    (tmp_path / "guards.py").write_text("# another guard")
    monkeypatch.setattr(
        bundled, "_MINED_BY", (*bundled._MINED_BY[:-1], SimpleNamespace(__file__=tmp_path / "guards.py"))
    )
    assert bundled.digest_of(tmp_path, Recipe()) != before


# --- pseudo-queries ---------------------------------------------------------------------------------------------------

STORY = "The fox lived in the old forest. He hunted at night under the moon. In winter the snow covered every path."


def test_a_cloze_query_is_taken_out_of_its_passage() -> None:
    query = cloze_query(3, STORY, random.Random(1))
    assert query is not None
    assert query.passage is not None
    assert query.text in STORY
    assert query.text not in query.passage


def test_a_short_title_makes_no_query() -> None:
    assert title_query(0, "Tea", STORY) is None
    assert title_query(0, "Life of foxes", STORY) is not None


def test_keywords_come_from_the_text_and_are_not_everywhere() -> None:
    frequency = Counter({"fox": 2, "forest": 3, "hunted": 2, "moon": 4, "winter": 2, "the": 100})
    query = keyword_query(0, STORY, frequency, 100, random.Random(0))
    assert query is not None
    assert "the" not in query.text.split()
    assert set(query.text.split()) <= set(frequency)


def test_contrasts_split_documents_by_a_word() -> None:
    texts = [f"pancake batter number{n} with {'walnut' if n % 2 else 'banana'}" for n in range(8)]
    found = contrasts(texts, 5, random.Random(0))
    assert len(found) >= 2
    for contrast in found:
        assert not set(contrast.positives) & set(contrast.negatives)
        term = contrast.text.split()[-1]
        negated = any(word in contrast.text for word in ("without", "no ", "not ", "excluding"))
        assert all((term in texts[number]) is not negated for number in contrast.positives)


# --- groups and loop --------------------------------------------------------------------------------------------------


def pooled_set() -> PooledSet:
    numbers = np.arange(1, 5)
    pool = Pool("which fox", np.asarray([0]), numbers, np.ones(1, np.float32), np.zeros(4, np.float32))
    return PooledSet("foxes", [""] * 30, [f"Fox {number}. {STORY}" for number in range(30)], [""] * 30, [pool])


def test_a_group_holds_one_positive_first_and_no_passage_twice() -> None:
    pooled = pooled_set()
    for seed in range(20):
        group = sample_group(pooled, pooled.pools[0], 7, 40, random.Random(seed))
        assert list(group.labels) == [1.0] + [0.0] * 6
        assert group.passages[0].startswith("Fox 0.")
        assert len(set(group.passages)) == len(group.teacher) == 7


def test_a_set_too_small_for_a_group_is_refused() -> None:
    pooled = pooled_set()
    with pytest.raises(ValueError, match="negatives for"):
        sample_group(pooled, pooled.pools[0], 40, 40, random.Random(0))


def test_a_window_keeps_the_answer() -> None:
    for seed in range(20):
        assert "under the moon" in window(STORY, 8, random.Random(seed), ["moon"])


def test_some_queries_are_put_as_to_a_librarian_and_some_documents_are_their_title_alone() -> None:
    title = "Night vision of the red fox in winter"
    pool = replace(pooled_set().pools[0], query="night vision of the fox")
    pooled = replace(pooled_set(), titles=[title] * 30, pools=[pool])
    groups = [sample_group(pooled, pool, 7, 40, random.Random(seed)) for seed in range(300)]
    wrapped = [group.query for group in groups if len(group.query) > len(pool.query)]
    assert 3 < len(wrapped) < 40
    alone = [group.passages.index(title) for group in groups if title in group.passages]
    assert {0} < set(alone), "positives and negatives alike"


def test_a_positive_is_never_left_with_a_title_that_does_not_answer() -> None:
    pooled = replace(pooled_set(), titles=["Night vision of the red fox in winter"] * 30)
    of_stop_words = replace(pooled.pools[0], query="what is the colour of the moon in the sky")
    answered_in_the_body = replace(pooled.pools[0], query="vision of the red fox", answers=("beak",))
    for pool in (of_stop_words, answered_in_the_body):
        for seed in range(200):
            assert sample_group(pooled, pool, 7, 60, random.Random(seed)).passages[0] not in pooled.titles


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    sets, schedule = [pooled_set()], Schedule(steps=10, groups=2, passages=4)
    assert batch(sets, schedule, 3) == batch(sets, schedule, 3)


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    schedule = Schedule(steps=100, rate=1.0, warmup=0.1, decay=0.5)
    assert schedule.rate_at(0) == pytest.approx(0.1)
    assert schedule.rate_at(30) == 1.0
    assert schedule.rate_at(75) == pytest.approx(0.5)
    assert schedule.rate_at(100) == 0.0


def test_small_steps_survive_in_the_master_copy() -> None:
    live = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    masters = MasterWeights([live], [torch.ones(1)])
    for _ in range(100):  # 0.0001 is lost when added to 1 in bfloat16
        masters.masters[0].data += 0.0001
        masters.publish()
    assert live.item() == pytest.approx(1.01, abs=0.005)


def test_running_mean_averages_all_it_saw() -> None:
    mean = RunningMean()
    for value in (1.0, 2.0, 6.0):
        mean.add([torch.tensor([value])])
    assert mean.values[0].item() == pytest.approx(3.0)


def test_calibration_moves_the_boundary_between_the_classes_to_zero() -> None:
    logits = torch.tensor([4.0, 5.0, 6.0, 7.0, 1.0, 2.0, 3.0, 4.5])
    slope, offset = fit_platt(logits, torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0]))
    assert slope > 0
    assert slope * 3.9 + offset < 0 < slope * 4.6 + offset
