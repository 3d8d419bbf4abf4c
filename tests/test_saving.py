"""What choosing gained is a ratio with an interval, and it says when it may be chance."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mfal.acquire.saving import saving


def arm(worth: float, count: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Frames whose errors and costs scatter; one in seven labels comes to nothing."""
    errors = worth * rng.lognormal(0, 0.5, count) * (rng.random(count) < 6 / 7)
    return list(zip(errors.tolist(), rng.lognormal(1, 0.4, count).tolist(), strict=True))


def test_a_planted_ratio_is_found():
    rng = np.random.default_rng(0)
    found = saving(arm(2.0, 80, rng), arm(1.0, 40, rng))
    assert found.ratio == pytest.approx(2, rel=0.25)
    assert 1 < found.low < found.ratio < found.high < 4
    assert found.significant
    assert found.message.startswith(f"a core-hour on a chosen frame found {found.ratio:.2g} times (95%: ")
    assert "not yet" not in found.message


def test_it_is_the_ratio_of_sums():
    found = saving([(1.0, 1.0), (0.0, 3.0), (2.0, 2.0)], [(1.0, 4.0)] * 3)
    assert found.ratio == pytest.approx((3 / 6) / (3 / 12))


@pytest.mark.parametrize(("planted", "chosen", "drawn"), [(1.0, 30, 30), (2.0, 30, 6), (1.0, 10, 4)])
def test_the_interval_covers_the_truth_in_95_of_100_campaigns(planted, chosen, drawn):
    rng = np.random.default_rng(1)
    covered = significant = 0
    for _ in range(200):
        found = saving(arm(planted, chosen, rng), arm(1.0, drawn, rng))
        covered += found.low <= planted and (found.high is None or planted <= found.high)
        significant += found.significant
    assert 179 <= covered < 200  # 190 expected, standard deviation 3; an interval that never misses is too wide
    if planted == 1:
        assert significant == 200 - covered


def test_an_equal_arm_is_not_significant():
    rng = np.random.default_rng(2)
    found = saving(arm(1.0, 20, rng), arm(1.0, 20, rng))
    assert not found.significant
    assert found.message.endswith("not yet significant")


def test_choosing_badly_is_significant_too():
    rng = np.random.default_rng(3)
    found = saving(arm(0.3, 40, rng), arm(1.0, 40, rng))
    assert found.significant
    assert found.high < 1


def test_a_drawn_arm_that_may_be_worth_nothing_gives_no_upper_bound():
    found = saving([(1.0, 1.0)] * 9, [(0.5, 1.0)] + [(0.0, 1.0)] * 4)
    assert found.high is None
    assert found.low > 1
    assert "or more" in found.message
    assert json.loads(found.model_dump_json())["high"] is None


@pytest.mark.parametrize(("chosen", "drawn"), [(2, 10), (10, 2)])
def test_two_frames_in_an_arm_are_too_few(chosen, drawn):
    found = saving([(5.0, 1.0)] * chosen, [(1.0, 1.0)] * drawn)
    assert found.ratio == pytest.approx(5)
    assert found.low is found.high is None
    assert not found.significant
    assert f"{chosen} chosen and {drawn} random frames are too few" in found.message


@pytest.mark.parametrize(
    ("chosen", "drawn"),
    [
        ([], [(1.0, 1.0)]),
        ([(1.0, 1.0)], []),
        ([(1.0, 0.0)], [(1.0, 1.0)]),
        ([(1.0, 1.0)], [(1.0, 0.0)]),
        ([(1.0, 1.0)], [(0.0, 1.0)]),
    ],
)
def test_no_ratio_without_both_yields(chosen, drawn):
    assert saving(chosen, drawn) is None
