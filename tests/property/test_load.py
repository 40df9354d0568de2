"""The queue, admission and cost model under load in virtual time: how much is scored, how late, and what is wasted.

``CPU`` and ``GPU`` have the coefficients of a small cross-encoder on two cores and on a data-centre GPU. ``capacity``
is what the device could do if jobs came one after the other; as jobs share batches, more than it can be scored.
"""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.batching import Job, Limits
from sidecar.cost import CostModel
from tests.simulation import Arrival, Noise, Run, Simulation, constant, lognormal_lengths, merged, poisson

CPU = CostModel(7e-3, 3.6e-5, 4e-8)
GPU = CostModel(1e-3, 1e-6, 1e-9)
SECONDS = 30.0
LOADS = (0.5, 0.8, 1.0, 2.0, 3.0)


def exact(_: random.Random) -> Noise:
    return lambda _: 1.0


def noisy(draw: random.Random) -> Noise:
    """Three passes of ten are off by more than 30 %."""
    return lambda _: draw.lognormvariate(0, 0.3)


def throttled(draw: random.Random) -> Noise:
    """For a third of the time the device takes 2.5 times as long."""
    return lambda now: (2.5 if SECONDS / 3 < now < SECONDS * 2 / 3 else 1.0) * draw.lognormvariate(0, 0.15)


def shared(draw: random.Random) -> Noise:
    """Others on the same machine make it faster or slower, for half a second each."""
    factors = [draw.lognormvariate(0, 0.15) for _ in range(400)]
    return lambda now: factors[int(2 * now) % 400] * draw.lognormvariate(0, 0.07)


class Traffic:
    """Jobs as they may come: sizes in pairs, mean tokens, budgets; and the device that they need."""

    def __init__(
        self, cost: CostModel, pairs: Sequence[int], mean: float, budgets_s: Sequence[float], seconds: float = SECONDS
    ) -> None:
        self.seconds = seconds
        draw = random.Random(1)
        self.cost, self.budgets_s = cost, budgets_s
        self.sizes = [lognormal_lengths(draw.choice(pairs), mean, draw) for _ in range(200)]
        limits = Limits(16_384, 0.05, cost.predict_s)
        self.job_s = sum(Job(None, "m", size, 0, limits).remaining_s for size in self.sizes) / len(self.sizes)

    def at(self, load: float, come: str, noise: Noise) -> Run:
        """One run at ``load`` times the capacity."""
        rate, draw = load / self.job_s, random.Random(2)
        times = constant(rate, self.seconds) if come == "constant" else poisson(rate, self.seconds, seed=3)
        arrivals = [Arrival(at, draw.choice(self.budgets_s), draw.choice(self.sizes)) for at in times]
        return Simulation({"m": self.cost}, noise=noise).run(arrivals)


EQUAL = Traffic(CPU, [20], 70, [0.6])
BUDGETS = Traffic(CPU, [20], 70, [0.2, 0.4, 1.0, 2.0])
MIXED = Traffic(CPU, [10, 20, 100], 70, [0.3, 0.6, 1.5])
ON_GPU = Traffic(GPU, [100], 85, [0.15], seconds=4.0)
TRAFFIC = {"equal": EQUAL, "budgets": BUDGETS, "mixed": MIXED, "gpu": ON_GPU}


@pytest.mark.parametrize("come", ["constant", "poisson"])
@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("name", TRAFFIC)
def test_on_an_exact_device_nothing_is_wasted_and_overload_keeps_it_busy_with_useful_work(
    name: str, load: float, come: str
) -> None:
    run = TRAFFIC[name].at(load, come, exact(random.Random(4)))
    assert run.overrun_s() <= 1e-9, "everyone is answered within the budget"
    assert set(run.counts) <= {"scored", "refused"}, "who is admitted is scored in time"
    assert run.wasted == 0
    if load >= 2:
        assert run.useful_s / run.over_at >= 0.95


@pytest.mark.parametrize("come", ["constant", "poisson"])
@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("name", TRAFFIC)
@pytest.mark.parametrize("noise", [noisy, throttled, shared])
def test_on_a_device_that_is_hard_to_predict_little_is_wasted(name: str, load: float, come: str, noise: object) -> None:
    run = TRAFFIC[name].at(load, come, noise(random.Random(4)))  # type: ignore[operator]
    assert run.overrun_s() <= 1e-9
    assert run.wasted <= 0.09
    if load >= 2:
        assert run.useful_s / run.over_at >= 0.9


@pytest.mark.parametrize(("load", "least"), [(0.5, 0.98), (0.8, 0.9), (1.0, 0.85)])
def test_below_its_capacity_the_device_serves_nearly_all(load: float, least: float) -> None:
    assert EQUAL.at(load, "poisson", exact(random.Random(4))).share("scored") >= least
    assert EQUAL.at(load, "constant", exact(random.Random(4))).share("scored") >= 0.99


def test_what_a_wrong_calibration_believes_is_soon_corrected() -> None:
    times = list(constant(1.5 / EQUAL.job_s, SECONDS))
    arrivals = [Arrival(at, 0.6, EQUAL.sizes[number % 200]) for number, at in enumerate(times)]
    for factor in (0.25, 4.0):
        believed = CostModel(CPU.overhead_s * factor, CPU.token_s * factor, CPU.attention_s * factor)
        run = Simulation({"m": CPU}, believed={"m": believed}).run(arrivals)
        assert run.useful_s / run.over_at >= 0.9


def stream(
    rate: float, budget_s: float, seed: int, *, model: str = "m", caller: tuple[str, ...] = (), pairs: int = 20
) -> list[Arrival]:
    """Jobs of one caller that come at random."""
    draw = random.Random(seed)
    return [
        Arrival(at, budget_s, lognormal_lengths(pairs, 70, draw), model, caller) for at in poisson(rate, SECONDS, seed)
    ]


def mild(seed: int = 5) -> Noise:
    draw = random.Random(seed)
    return lambda _: draw.lognormvariate(0, 0.15)


@pytest.mark.parametrize(("flood_s", "steady_s"), [(0.6, 0.6), (3.0, 0.4), (0.3, 1.5)])
def test_a_caller_that_floods_the_queue_does_not_shut_out_one_that_asks_for_less_than_its_share(
    flood_s: float, steady_s: float
) -> None:
    flood = stream(40, flood_s, 1, caller=("flood",))
    steady = stream(2, steady_s, 2, caller=("steady",))
    fair = Simulation({"m": CPU}, noise=mild()).run(merged(flood, steady))
    assert fair.share("scored", caller=("steady",)) >= 0.75
    assert fair.useful_s / fair.over_at >= 0.88, "the flood has all that is left"
    assert fair.share("scored", caller=("flood",)) <= 0.35


def test_without_callers_the_flood_would_shut_the_other_one_out() -> None:
    """What the test above would show if jobs were all of one caller."""
    flood, steady = stream(40, 0.6, 1), stream(2, 0.59, 2)
    blind = Simulation({"m": CPU}, noise=mild()).run(merged(flood, steady))
    assert blind.share("scored", budget_s=0.59) <= 0.4


def test_callers_who_all_want_too_much_get_the_same_at_each_level() -> None:
    flood, one, two = (
        stream(40, 0.6, 1, caller=("a", "p")),
        stream(20, 0.6, 2, caller=("b", "p")),
        stream(20, 0.6, 3, caller=("b", "q")),
    )
    run = Simulation({"m": CPU}, noise=mild()).run(merged(flood, one, two))
    first, second, third = (run.count("scored", caller=caller) for caller in [("a", "p"), ("b", "p"), ("b", "q")])
    assert first == pytest.approx(second + third, rel=0.15)
    assert second == pytest.approx(third, rel=0.25)


def test_a_caller_alone_has_the_whole_device() -> None:
    alone = Simulation({"m": CPU}).run(stream(40, 0.6, 1, caller=("flood",)))
    assert alone.useful_s / alone.over_at >= 0.95
    assert alone.count("displaced") == 0


SLOW, FAST = CostModel(5e-3, 2e-4), CostModel(1e-3, 1e-5)


@pytest.mark.parametrize(
    ("fast_s", "slow_s", "least"), [(0.15, 1.0, 0.9), (0.15, 0.5, 0.9), (1.0, 0.5, 0.99), (0.3, 5.0, 0.99)]
)
def test_a_slow_overloaded_model_does_not_make_a_fast_one_late(fast_s: float, slow_s: float, least: float) -> None:
    """The slow one asks for 1.9 times the device, the fast one for a fifth of it."""
    arrivals = merged(stream(9, fast_s, 1, model="fast"), stream(6, slow_s, 2, model="slow"))
    run = Simulation({"fast": FAST, "slow": SLOW}, noise=mild()).run(arrivals)
    assert run.share("scored", model="fast") >= least
    assert run.share("scored", model="slow") > 0.1
    assert run.wasted <= 0.12


def test_models_that_both_want_too_much_share_the_device_by_their_weights() -> None:
    arrivals = merged(stream(80, 0.6, 1, model="one"), stream(80, 0.6, 2, model="two"))
    for weight in (1.0, 3.0):
        run = Simulation({"one": CPU, "two": CPU}, weights={"one": weight}).run(arrivals)
        one, two = (run.count("scored", model=model) for model in ("one", "two"))
        assert one / two == pytest.approx(weight, rel=0.25)
        assert run.useful_s / run.over_at >= 0.9


def test_a_model_that_fills_the_queue_with_pairs_gives_way_to_another() -> None:
    """Of patient jobs: not time but room is short."""
    patient = [Arrival(0.001 * number, 60.0, [50] * 100, "one", ("a",)) for number in range(50)]
    other = [Arrival(1.0 + 0.01 * number, 60.0, [50] * 100, "two", ("a",)) for number in range(10)]
    run = Simulation({"one": CPU, "two": CPU}, max_pairs=2000).run([*patient, *other])
    assert run.share("scored", model="two") >= 0.9


def test_the_device_serves_at_once_after_it_was_stopped_for_a_minute() -> None:
    """A process that was suspended sees one pass of a minute; the jobs after it are served as ever."""
    stopped = iter([60.0])

    def noise(now: float) -> float:
        return next(stopped, 1.0) / 0.05 if 10 < now < 10.2 else 1.0

    arrivals = [Arrival(at, 0.6, EQUAL.sizes[0]) for at in constant(0.5 / EQUAL.job_s, 120.0)]
    run = Simulation({"m": CPU}, noise=noise).run(arrivals)
    after = [what for arrival, what, _ in run.ends if arrival.at > 80]
    assert after.count("scored") / len(after) >= 0.99


streams = st.lists(
    st.tuples(
        st.floats(0, 2),
        st.floats(0.05, 2),
        st.lists(st.integers(4, 512), min_size=1, max_size=30),
        st.sampled_from(["one", "two"]),
        st.sampled_from([("a", "p"), ("a", "q"), ("b", "p"), ("c", "p")]),
    ),
    max_size=40,
)


@given(streams, st.integers(30, 2000))
def test_whatever_comes_everyone_is_answered_once_and_in_time(
    jobs: list[tuple[float, float, list[int], str, tuple[str, str]]], max_pairs: int
) -> None:
    arrivals = [Arrival(*job) for job in jobs]
    run = Simulation({"one": CPU, "two": GPU}, max_pairs=max_pairs).run(arrivals)
    assert sorted(map(id, arrivals)) == sorted(id(arrival) for arrival, _, _ in run.ends)
    assert not arrivals or run.overrun_s() <= 1e-9
