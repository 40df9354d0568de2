"""Whether reranking still does anything, from what lately came of a policy's calls."""

import itertools
import sys
import threading
import time
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from sidecar.effect import ENOUGH, MOST_KEPT, WINDOW_S, Effect, Effects
from sidecar.metrics import Metrics
from sidecar.types import Outcome, Ranked, Ranking, Reason
from sidecar.watch import Watch


def ranking(*order: tuple[int, float | None], outcome: Outcome = Outcome.RERANKED) -> Ranking:
    return Ranking([Ranked(rank, score) for rank, score in order], outcome)


def fallback(reason: Reason, outcome: Outcome = Outcome.ORIGINAL_ORDER) -> Effect:
    return Effect.of(Ranking.original(10, outcome, reason, "a reason"))


USUAL = Effect.of(ranking((2, 3.0), (0, 2.0), (1, 1.0)))
UNMOVED = Effect.of(ranking((0, 3.0), (1, 2.0)))
CONSTANT = Effect.of(ranking((0, 0.5), (1, 0.5)))


def findings(*effects: Effect) -> list[str]:
    seen = Effects()
    for effect in effects:
        seen.add(effect, 0.0)
    return list(seen.summary(0.0).findings())


def test_what_an_order_did_by_hand() -> None:
    assert (USUAL.moved, USUAL.overlap, USUAL.constant) == (True, 1.0, False)
    assert USUAL.displacement == pytest.approx((2 + 1 + 1) / 3)
    swapped = Effect.of(ranking(*((rank, 1.0 * rank) for rank in [*range(5, 15), *range(5)])))
    assert swapped.overlap == 0.5, "of the first ten five are left"
    assert Effect.of(ranking((0, 1.0), (1, None), (2, 0.5), (3, None))).without_text == 0.5
    assert Effect.of(ranking((0, 1.0), (1, None), outcome=Outcome.PARTIAL)).without_text == 0.0
    pinned = ranking((0, None), (1, None), (2, 0.5), (3, None), (4, 1.0))
    assert Effect.of(replace(pinned, pinned=2)).without_text == pytest.approx(1 / 3), "they are not meant to be scored"


@pytest.mark.parametrize(
    ("effects", "sentence"),
    [
        (
            [fallback(Reason.MODEL_ERROR)] * 15 + [USUAL] * 10,
            "60% of replies are in the engine's order, most of them for MODEL_ERROR",
        ),
        ([UNMOVED] * 25, "in 100% of reranked replies no hit changed its place"),
        ([CONSTANT] * 15 + [USUAL] * 10, "in 60% of reranked replies all scores are the same"),
        ([Effect.of(ranking((1, 1.0), (0, None), (2, None)))] * 20, "67% of candidates have no text"),
        (
            [Effect.of(ranking((1, 1.0), (0, 0.5)), truncated=0.9)] * 20,
            "90% of passages are longer than the model reads",
        ),
    ],
)
def test_each_way_of_doing_nothing_is_told(effects: list[Effect], sentence: str) -> None:
    assert any(one.startswith(sentence) for one in findings(*effects))


def test_what_works_or_is_meant_is_no_finding() -> None:
    assert findings(*[USUAL] * 100) == []
    assert findings(*[fallback(Reason.POLICY_DISABLED, Outcome.SKIPPED)] * 100) == []
    assert findings(*[fallback(Reason.MODEL_ERROR)] * (ENOUGH - 1)) == [], "too few to conclude anything"


def test_only_the_last_replies_count() -> None:
    seen = Effects()
    for _ in range(3 * MOST_KEPT):
        seen.add(fallback(Reason.MODEL_ERROR), 0.0)
    assert seen.summary(WINDOW_S).replies == MOST_KEPT
    assert seen.summary(WINDOW_S + 1).replies == 0
    assert list(seen.summary(WINDOW_S + 1).findings()) == []


def test_it_is_logged_when_it_begins_once_in_a_while_and_when_it_ends() -> None:
    now = [0.0]
    watch = Watch(["p"], Metrics(), lambda: now[0])

    def replies(effect: Effect, count: int) -> None:
        for _ in range(count):
            now[0] += 1.0
            watch.saw("p", effect)

    with capture_logs() as logged:
        replies(fallback(Reason.MODEL_ERROR), 300)
        assert [entry["event"] for entry in logged] == ["reranking_does_little"]
        replies(fallback(Reason.MODEL_ERROR), 600)
        assert [entry["event"] for entry in logged] == ["reranking_does_little"] * 2
        replies(USUAL, 700)
    assert [entry["event"] for entry in logged][2:] == ["reranking_works_again"]


def test_metrics_show_the_shares() -> None:
    metrics = Metrics()
    watch = Watch(["p", "silent"], metrics)
    for effect in [fallback(Reason.OVERLOADED)] * 3 + [USUAL]:
        watch.saw("p", effect)
    watch.saw("", USUAL)

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"sidecar_{name}", {"policy": "p", **labels})

    assert value("fallback_ratio", reason="OVERLOADED") == 0.75
    assert value("unmoved_ratio") == 0.0
    assert value("rank_displacement") == pytest.approx(4 / 3)
    assert metrics.registry.get_sample_value("sidecar_unmoved_ratio", {"policy": "silent"}) is None


def test_replies_come_in_while_another_thread_asks_for_the_summary() -> None:
    """A scrape is answered in a thread of its own."""
    effects, over, failed = Effects(), threading.Event(), list[BaseException]()
    before = sys.getswitchinterval()

    def scrape() -> None:
        try:
            while not over.is_set():
                effects.summary(float(next(clock)))
        except BaseException as error:  # noqa: BLE001 - looked at below
            failed.append(error)

    clock = itertools.count()
    sys.setswitchinterval(1e-6)
    scraping = threading.Thread(target=scrape)
    scraping.start()
    try:
        started = time.monotonic()
        while time.monotonic() < started + 1.0 and not failed:
            effects.add(Effect(), float(next(clock)))
    finally:
        over.set()
        scraping.join()
        sys.setswitchinterval(before)
    assert not failed
