"""For any scores and any pages: nothing is lost, nothing comes twice."""

from hypothesis import given
from hypothesis import strategies as st

from sidecar.ranking import order, sigmoid
from sidecar.settings import Fusion
from sidecar.text import split
from sidecar.text_settings import Passages
from sidecar.window import Page, request

SCORES = st.floats(-1e6, 1e6)
FUSIONS = st.builds(
    Fusion,
    method=st.sampled_from(["linear", "rrf", "replace"]),
    model_weight=st.floats(0, 1),
    normalize=st.sampled_from(["min_max", "z_score"]),
)


@given(st.lists(st.tuples(st.none() | SCORES, st.none() | SCORES), max_size=60), FUSIONS)
def test_an_order_is_a_permutation_and_the_unscored_stay(
    candidates: list[tuple[float | None, float | None]], fusion: Fusion
) -> None:
    relevance = {rank: score for rank, (_, score) in enumerate(candidates) if score is not None}
    ordered = order([engine for engine, _ in candidates], relevance, fusion)
    assert sorted(ordered) == list(range(len(candidates)))
    assert all(ordered[rank] == rank for rank in range(len(candidates)) if rank not in relevance)


@given(st.lists(SCORES, min_size=2, max_size=40))
def test_the_model_alone_sorts_descending_and_stably(scores: list[float]) -> None:
    ordered = order([None] * len(scores), dict(enumerate(scores)), Fusion(method="replace"))
    pairs = [(-scores[rank], rank) for rank in ordered]
    assert pairs == sorted(pairs)


@given(SCORES, SCORES)
def test_the_normalised_score_keeps_the_order(one: float, other: float) -> None:
    assert (one <= other) <= (sigmoid(one) <= sigmoid(other))


@given(hits=st.integers(0, 60), size=st.integers(1, 20), window=st.integers(1, 40))
def test_pages_of_one_size_cover_every_hit_once(hits: int, size: int, window: int) -> None:
    """Each page is cut from an engine answer of its own; the window is reversed, which stands for a rerank."""
    seen: list[int] = []
    for start in range(0, hits + size, size):
        page = Page(start, size)
        sent = request("a", {}, {}, page, window if start < window else None)
        first = sent.body.get("from", start)
        answered = list(range(first, min(hits, first + sent.body.get("size", size))))
        if sent.window is not None:
            answered = answered[: sent.window][::-1] + answered[sent.window :]
        seen += answered[sent.page.cut(len(answered))]
    assert sorted(seen) == list(range(hits))


@given(st.integers(0, 200), st.integers(1, 30), st.integers(1, 30))
def test_passages_leave_no_word_out_until_their_bound(words: int, length: int, stride: int) -> None:
    settings = Passages.model_construct(words=length, stride=min(stride, length), max_passages=1000)
    text = " ".join(map(str, range(words)))
    found = {word for passage in split(text, settings) for word in passage.split()}
    assert found == set(text.split())
