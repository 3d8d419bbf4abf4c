"""What a non-magnetic label leaves unknown, and the calibration that makes an error of a sigma."""

import numpy as np
import pytest

from mfal.committee.calibrate import KINDS, Evidence, calibrate, conformal_quantile, evidence, likeliest_scale
from mfal.committee.conditional import condition, variance_left
from tests.test_decompose import prediction_of


def committee(rng, members, atoms, *, slope=0.8, noise=0.3):
    """Forces of members at both fidelities, and a truth drawn as one more member."""
    low = rng.normal(size=(members + 1, atoms, 3))
    high = slope * low + noise * rng.normal(size=low.shape)
    return (low[1:], high[1:]), (low[0], high[0])


def test_a_cheap_label_leaves_what_the_regression_does_not_explain():
    (low, high), _ = committee(np.random.default_rng(0), 200, 5)
    np.testing.assert_allclose(variance_left(low, high), 3 * 0.3**2, rtol=0.15)
    assert (variance_left(low, high) < high.var(axis=0, ddof=1).sum(axis=-1) / 4).all()


def test_with_two_members_the_slope_is_that_of_delta_learning_until_the_frame_says_otherwise():
    rng = np.random.default_rng(1)
    low = rng.normal(size=(2, 1, 3))
    high = 0.5 * low + 0 * low  # one atom, three degrees of freedom: a slope between 0.5 and 1
    left = variance_left(low, high)
    unknown = ((high - low).var(axis=0, ddof=1)).sum(axis=-1)
    assert (left > 0.2 * unknown).all()
    assert (left < unknown).all()
    low = rng.normal(size=(2, 400, 3))  # many atoms agree on it
    assert np.sqrt(variance_left(low, 0.5 * low).mean()) < 0.05


def test_the_label_moves_the_expected_forces():
    rng = np.random.default_rng(2)
    gains = []
    for _ in range(50):
        (low, high), (label, truth) = committee(rng, 6, 8)
        left = condition(low, high, label)
        gains.append(((truth - left.forces) ** 2).sum() / ((truth - high.mean(axis=0)) ** 2).sum())
    assert np.mean(gains) < 0.3  # with the best slope: 0.3^2 / (0.8^2 + 0.3^2) = 0.12


def test_a_surprise_makes_the_committee_less_sure():
    (low, high), (label, _) = committee(np.random.default_rng(3), 6, 8)
    expected, surprising = condition(low, high, low.mean(axis=0)), condition(low, high, 10 * label)
    assert (expected.variance < variance_left(low, high)).all()
    assert (surprising.variance > expected.variance).all()
    # Known to be twice too sure, it expects to be surprised.
    np.testing.assert_allclose(variance_left(low, high, scale=2), variance_left(low, high) * (15 + 3 * 2**2) / (15 + 3))
    assert np.isfinite(condition(np.ones((2, 3, 3)), np.ones((2, 3, 3)), np.zeros((3, 3))).variance).all()


def test_conditioning_refuses_what_has_no_spread():
    with pytest.raises(ValueError, match="fewer than two members"):
        variance_left(np.zeros((1, 2, 3)), np.zeros((1, 2, 3)))
    with pytest.raises(ValueError, match="do not pair"):
        variance_left(np.zeros((2, 2, 3)), np.zeros((2, 3, 3)))


@pytest.mark.parametrize(("members", "planted"), [(2, 1.0), (4, 3.0), (8, 0.5)])
def test_the_planted_scale_comes_back(members, planted):
    """Truths that lie `planted` times farther out than members do."""
    rng = np.random.default_rng(members)
    spread = rng.lognormal(size=(400, 1, 1, 1)) * np.ones((400, 1, 7, 1))
    sample = rng.normal(size=(400, members, 7, 3)) * spread
    error = planted * rng.normal(size=(400, 7, 3)) * spread[:, 0]
    variance = sample.var(axis=1, ddof=1).sum(axis=-1).reshape(-1)
    scale = likeliest_scale(variance, (error**2).sum(axis=-1).reshape(-1), freedom=3.0 * (members - 1))
    assert scale == pytest.approx(planted, rel=0.06)
    known = 3 * (spread[:, 0, :, 0] ** 2).reshape(-1)
    assert likeliest_scale(known, (error**2).sum(axis=-1).reshape(-1), freedom=np.inf) == pytest.approx(
        planted, rel=0.03
    )


def test_the_conformal_quantile_covers():
    rng = np.random.default_rng(5)
    assert conformal_quantile(np.arange(8.0)) is None  # nothing can be said with fewer than nine
    assert conformal_quantile(np.arange(9.0)) == 8.0
    assert conformal_quantile(np.arange(99.0)) == 89.0
    covered = []
    for _ in range(2000):
        scores = rng.lognormal(size=30)
        covered.append(scores[-1] <= conformal_quantile(scores[:-1]))
    assert np.mean(covered) == pytest.approx(0.9, abs=0.025)  # 27 of 30: exactly 0.9


def test_evidence_of_random_frames_gives_a_calibration_for_every_kind():
    rng = np.random.default_rng(6)
    items = []
    for i in range(60):
        (low, high), (label, truth) = committee(rng, 4, 5)
        middle, expensive = low.mean(axis=0), high.mean(axis=0)
        labels = middle + 2 * (label - middle), expensive + 2 * (truth - expensive)
        items += evidence(str(i), prediction_of(low, high), *labels)
    found = calibrate(items)
    assert set(found) == set(KINDS)
    for kind in KINDS:
        # Twice as far out as members, and as far from their mean as sqrt(1 + 1/4).
        assert found[kind].scale == pytest.approx(2 * np.sqrt(1.25), rel=0.3 if kind == "conditional" else 0.12)
        assert found[kind].frames == 60
        assert found[kind].coverage == pytest.approx(0.9, abs=0.06)
        assert found[kind].quantile > 0.5
    assert found["conditional"].typical < 0.6 * found["magnetic"].typical


def test_what_is_not_labelled_gives_no_evidence():
    (low, high), (label, truth) = committee(np.random.default_rng(7), 3, 4)
    prediction = prediction_of(low, high)
    assert {item.kind for item in evidence("a", prediction, label, None)} == {"nonmagnetic"}
    assert {item.kind for item in evidence("a", prediction, None, truth)} == {"magnetic"}
    assert evidence("a", prediction, None, None) == []
    assert calibrate([]) == {}
    few = calibrate(evidence("a", prediction, label, truth))
    assert few["delta"].quantile is None
    assert few["delta"].coverage is None
    assert few["delta"].scale > 0


def test_members_that_agree_to_the_last_digit_do_not_break_it():
    item = Evidence(frame_id="a", kind="delta", members=2, variance=[0.0, 1.0], squared_error=[1.0, 1.0])
    assert np.isfinite(calibrate([item])["delta"].scale)
