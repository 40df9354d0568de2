"""The cost model: finds the coefficients behind measurements, is never negative, and follows a device that changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cost import CostModel, Measured

SHAPES = [(1, 32), (1, 128), (8, 64), (16, 128), (4, 256), (2, 512), (32, 64)]


def measured(truth: CostModel, noise: float = 0.0) -> list[Measured]:
    """What a device with these coefficients takes, alternately too slow and too fast."""
    return [
        Measured(*shape, seconds=truth.predict_s(*shape) * (1 + noise * (-1) ** place))
        for place, shape in enumerate(SHAPES)
    ]


@pytest.mark.parametrize("overhead_s", [0.0, 1e-4, 5e-3])
@pytest.mark.parametrize("token_s", [1e-7, 1e-4])
@pytest.mark.parametrize("attention_s", [0.0, 1e-9, 1e-7])
def test_fit_recovers_the_coefficients_it_was_fed(overhead_s: float, token_s: float, attention_s: float) -> None:
    fitted = CostModel.fit(measured(CostModel(overhead_s, token_s, attention_s)))
    assert fitted.overhead_s == pytest.approx(overhead_s, rel=1e-3, abs=1e-9)
    assert fitted.token_s == pytest.approx(token_s, rel=1e-3)
    assert fitted.attention_s == pytest.approx(attention_s, rel=1e-3, abs=1e-13)


def test_ten_percent_of_noise_changes_a_prediction_little() -> None:
    truth = CostModel(1e-3, 1e-5, 1e-8)
    fitted = CostModel.fit(measured(truth, noise=0.1))
    assert fitted.predict_s(24, 200) == pytest.approx(truth.predict_s(24, 200), rel=0.2)


seconds = st.floats(1e-6, 10)
shapes = st.tuples(st.integers(1, 256), st.integers(16, 8192))


@given(st.lists(st.tuples(shapes, seconds), min_size=1, max_size=8), shapes)
def test_whatever_was_measured_no_coefficient_is_negative_and_more_never_costs_less(
    runs: list[tuple[tuple[int, int], float]], shape: tuple[int, int]
) -> None:
    fitted = CostModel.fit([Measured(*of, seconds=took) for of, took in runs])
    assert min(fitted.overhead_s, fitted.token_s, fitted.attention_s) >= 0
    pairs, length = shape
    assert 0 < fitted.predict_s(pairs, length) <= fitted.predict_s(pairs + 1, length)
    assert fitted.predict_s(pairs, length) <= fitted.predict_s(pairs, length + 1)


def test_measurements_all_alike_are_predicted_as_measured() -> None:
    fitted = CostModel.fit([Measured(8, 64, 0.01)] * 5)
    assert fitted.predict_s(8, 64) == pytest.approx(0.01)


def served(model: CostModel, truth: CostModel, shapes: list[tuple[int, int]], times: int) -> None:
    """Let a model see what a device with other coefficients takes."""
    for number in range(times):
        shape = shapes[number % len(shapes)]
        model.observe(*shape, truth.predict_s(*shape))


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])
def test_observing_a_changed_device_brings_the_predictions_to_it(factor: float) -> None:
    model = CostModel(1e-3, 1e-5)
    served(model, CostModel(factor * 1e-3, factor * 1e-5), [(8, 64)], 200)
    assert model.predict_s(8, 64) == pytest.approx(factor * CostModel(1e-3, 1e-5).predict_s(8, 64), rel=0.02)


def test_a_device_that_was_throttled_and_freed_is_followed_both_ways_within_fifty_batches() -> None:
    model, healthy, throttled = CostModel(1e-3, 1e-5), CostModel(1e-3, 1e-5), CostModel(4e-3, 4e-5)
    served(model, throttled, SHAPES, 50)
    assert model.predict_s(16, 128) == pytest.approx(throttled.predict_s(16, 128), rel=0.1)
    served(model, healthy, SHAPES, 50)
    assert model.predict_s(16, 128) == pytest.approx(healthy.predict_s(16, 128), rel=0.1)


@pytest.mark.parametrize("truth", [CostModel(5e-3, 1e-5), CostModel(1e-3, 3e-5)])
def test_a_drift_of_the_overhead_alone_or_of_the_work_alone_is_told_apart(truth: CostModel) -> None:
    """A single factor would have to be wrong for small batches or for large ones."""
    model = CostModel(1e-3, 1e-5)
    served(model, truth, [(1, 32), (64, 128)], 1000)
    for shape in [(1, 32), (8, 64), (64, 128)]:
        assert model.predict_s(*shape) == pytest.approx(truth.predict_s(*shape), rel=0.1)


@pytest.mark.parametrize(("actual_s", "factor"), [(1e9, 1.4), (0.0, 0.92)])
@pytest.mark.parametrize("shape", SHAPES)
def test_one_outlier_moves_a_prediction_by_its_bound_only(
    actual_s: float, factor: float, shape: tuple[int, int]
) -> None:
    model = CostModel(1e-3, 1e-5)
    assert model.observe(*shape, actual_s) == pytest.approx(factor)


def test_after_a_process_was_stopped_for_an_hour_ten_batches_bring_the_prediction_back() -> None:
    model, truth = CostModel(1e-3, 1e-5), CostModel(1e-3, 1e-5)
    model.observe(8, 64, 3600.0)
    served(model, truth, [(8, 64)], 10)
    assert model.predict_s(8, 64) == pytest.approx(truth.predict_s(8, 64), rel=0.2)


def test_the_correction_never_leaves_its_range_however_slow_or_fast_the_device() -> None:
    slow, fast = CostModel(), CostModel()
    for _ in range(500):
        slow.observe(1, 32, 1e3)
        fast.observe(1, 32, 0.0)
    assert (slow.overhead_correction, fast.overhead_correction) == (20.0, 0.05)


@given(st.lists(st.tuples(shapes, st.floats(0, 1e6)), max_size=50), shapes)
def test_whatever_was_observed_more_never_costs_less(
    seen: list[tuple[tuple[int, int], float]], shape: tuple[int, int]
) -> None:
    model = CostModel(1e-3, 1e-6, 1e-9)
    for of, took in seen:
        model.observe(*of, took)
    pairs, length = shape
    assert 0 < model.predict_s(pairs, length) <= model.predict_s(pairs + 1, length)
    assert model.predict_s(pairs, length) <= model.predict_s(pairs, length + 1)
