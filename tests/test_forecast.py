"""A rehearsal's rounds say what a budget would buy, and how sure that is."""

from __future__ import annotations

import numpy as np
import pytest

from mfal.acquire.forecast import budget_for, forecast

RATES = {"nonmagnetic": 0.5, "magnetic": 0.11}
HOURS = np.array([2.0, 5.0, 9.0, 14.0, 20.0])


def points(a=200.0, b=0.4, scatter=0.0, seed=0):
    noise = np.random.default_rng(seed).normal(0, scatter, len(HOURS))
    return list(zip(HOURS.tolist(), (a * HOURS**-b * np.exp(noise)).tolist(), strict=True))


def test_a_planted_power_law_is_recovered():
    found = forecast(points(), 100.0, labels_per_core_hour=RATES)
    assert found.exponent == pytest.approx(0.4)
    assert found.force_error == pytest.approx(200 * 100**-0.4)
    assert found.low == pytest.approx(found.high)
    assert found.rounds == 5
    assert found.labels == {"nonmagnetic": 50, "magnetic": 11}


@pytest.mark.parametrize("budget", [12.0, 200.0])
def test_the_interval_holds_a_new_measurement_in_95_of_100_campaigns(budget):
    rng = np.random.default_rng(1)
    hit = 0
    for seed in range(1000):
        found = forecast(points(scatter=0.1, seed=seed), budget, labels_per_core_hour=RATES)
        hit += found.low <= 200 * budget**-0.4 * np.exp(rng.normal(0, 0.1)) <= found.high
    assert 920 <= hit <= 980  # 950 expected, standard deviation 7


def test_far_is_less_sure_than_near_and_says_so():
    near = forecast(points(scatter=0.1), 40.0, labels_per_core_hour=RATES)
    far = forecast(points(scatter=0.1), 41.0, labels_per_core_hour=RATES)
    assert (near.extrapolated, far.extrapolated) == (False, True)
    assert far.high / far.low > near.high / near.low


def test_the_budget_for_a_target_gives_the_target():
    hours = budget_for(points(scatter=0.1), 30.0)
    found = forecast(points(scatter=0.1), hours, labels_per_core_hour=RATES)
    assert found.force_error == pytest.approx(30)
    assert budget_for(points(), 30.0) == pytest.approx((200 / 30) ** (1 / 0.4))


@pytest.mark.parametrize("b", [-0.2, 1e-6])
def test_no_budget_helps_where_the_errors_do_not_fall(b):
    assert budget_for(points(b=b), 30.0) is None


def test_numbers_stay_finite_however_wild_the_points():
    found = forecast([(1.0, 100.0), (1.001, 50.0), (1.002, 100.0)], 1e6, labels_per_core_hour=RATES)
    assert np.isfinite([found.low, found.high]).all()
    assert found.low < found.force_error < found.high


@pytest.mark.parametrize("few", [[], points()[:2], [(2.0, 90.0), (5.0, 70.0), (5.0, 60.0)]])
def test_fewer_than_three_rounds_make_no_forecast(few):
    with pytest.raises(ValueError, match="run at least 3 rounds"):
        forecast(few, 10.0, labels_per_core_hour=RATES)
    with pytest.raises(ValueError, match=r"stop\.rounds"):
        budget_for(few, 30.0)


def test_numbers_that_are_not_positive_are_refused():
    with pytest.raises(ValueError, match="buys nothing"):
        forecast(points(), 0.0, labels_per_core_hour=RATES)
    with pytest.raises(ValueError, match="never reached"):
        budget_for(points(), 0.0)
    with pytest.raises(ValueError, match="above 0"):
        forecast([*points(), (0.0, 90.0)], 10.0, labels_per_core_hour=RATES)
