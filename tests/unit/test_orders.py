"""Orders are kept for their own time, within a bound on memory."""

from sidecar.orders import Orders, may_follow
from sidecar.types import Outcome, Ranked, Ranking, Reason

RERANKED = Ranking([Ranked(1, 2.0, "text"), Ranked(0, 1.0)], Outcome.RERANKED)
DEGRADED = Ranking.original(2, Outcome.ORIGINAL_ORDER, Reason.MODEL_ERROR, "broken")


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_each_order_is_kept_for_its_own_time() -> None:
    clock = Clock()
    orders = Orders(10_000, clock)
    orders.keep(b"short", RERANKED, 5)
    orders.keep(b"long", DEGRADED, 50)
    clock.now += 4.9
    assert (orders.recall(b"short"), orders.recall(b"long")) == (RERANKED, DEGRADED)
    clock.now += 0.2
    assert (orders.recall(b"short"), orders.recall(b"long")) == (None, DEGRADED)


def test_passages_count_and_the_longest_unused_goes_first() -> None:
    orders = Orders(20_000, Clock())
    large = Ranking([Ranked(0, 1.0, "x" * 2000)], Outcome.RERANKED)
    orders.keep(b"a", large, 60)
    orders.keep(b"b", large, 60)
    orders.recall(b"a")
    orders.keep(b"c", large, 60)
    assert [orders.recall(key) is not None for key in (b"a", b"b", b"c")] == [True, False, True]


def test_an_order_larger_than_all_the_room_is_not_kept() -> None:
    orders = Orders(5000, Clock())
    orders.keep(b"small", RERANKED, 60)
    orders.keep(b"huge", Ranking([Ranked(0, 1.0, "x" * 2000)], Outcome.RERANKED), 60)
    assert orders.recall(b"huge") is None
    assert orders.recall(b"small") is not None


def test_first_pages_follow_only_reranked_orders() -> None:
    assert may_follow(RERANKED, first_page=True)
    assert may_follow(RERANKED, first_page=False)
    assert not may_follow(DEGRADED, first_page=True)
    assert may_follow(DEGRADED, first_page=False)
