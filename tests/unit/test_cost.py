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


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])
def test_observing_a_changed_device_brings_the_predictions_to_it(factor: float) -> None:
    model = CostModel(1e-3, 1e-5)
    for _ in range(200):
        predicted_s = model.predict_s(8, 64)
        model.observe(predicted_s, factor * CostModel(1e-3, 1e-5).predict_s(8, 64))
    assert model.correction == pytest.approx(factor, rel=0.02)


@pytest.mark.parametrize(("actual_s", "correction"), [(1e9, 1.4), (0.0, 0.92)])
def test_one_outlier_moves_the_correction_by_its_bound_only(actual_s: float, correction: float) -> None:
    model = CostModel()
    model.observe(0.01, actual_s)
    assert model.correction == pytest.approx(correction)


def test_the_correction_never_leaves_its_range_however_slow_or_fast_the_device() -> None:
    slow, fast = CostModel(), CostModel()
    for _ in range(500):
        slow.observe(1e-3, 1e3)
        fast.observe(1e-3, 0.0)
    assert (slow.correction, fast.correction) == (20.0, 0.05)
