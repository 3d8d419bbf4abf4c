"""The paired decomposition of a committee's spread, and what it is reduced to for a frame."""

import math

import numpy as np
import pytest

from mfal.committee.decompose import COMPONENTS, by_atom, decompose, variances
from mfal.committee.predict import Prediction
from mfal.frames import FIDELITIES


def prediction_of(low, high, **values) -> Prediction:
    """Of K members, from their forces [K, N, 3] at both fidelities."""
    forces = np.stack([np.asarray(low, dtype=np.float32), np.asarray(high, dtype=np.float32)], axis=1)
    members, _, atoms, _ = forces.shape
    numbers = {
        "energy": np.zeros((members, 2)),
        "stress": np.zeros((members, 2, 3, 3)),
        "magmoms": np.zeros((members, 2, atoms)),
        "features": np.zeros(4),
    }
    return Prediction(FIDELITIES, forces=forces, **numbers | values)


@pytest.fixture
def correlated() -> Prediction:
    """Five members whose fidelities err together, in every quantity."""
    rng = np.random.default_rng(0)

    def pair(*shape):
        low = rng.normal(size=(5, *shape))
        return np.stack([low, 0.7 * low + 0.3 * rng.normal(size=low.shape)], axis=1)

    forces = pair(6, 3)
    return prediction_of(forces[:, 0], forces[:, 1], energy=pair(), stress=pair(3, 3), magmoms=pair(6))


@pytest.mark.parametrize("quantity", list(COMPONENTS))
def test_the_identity_holds_for_components_and_for_atoms(correlated, quantity):
    values = getattr(correlated, quantity)
    for parts in (variances(values[:, 0], values[:, 1]), by_atom(correlated, quantity)):
        np.testing.assert_allclose(parts.magnetic, parts.nonmagnetic + parts.delta + 2 * parts.covariance, atol=1e-12)
        assert np.abs(parts.covariance).max() > 0.01
    np.testing.assert_allclose(
        by_atom(correlated, quantity).magnetic.sum(), np.var(values[:, 1].astype(float), axis=0, ddof=1).sum()
    )


def test_the_identity_holds_for_the_mean_over_atoms_and_for_one_value(correlated):
    for quantity, reduce in (("forces", "mean"), ("magmoms", "mean"), ("energy", "max"), ("stress", 0.5)):
        sigma = decompose(correlated, quantity, reduce)
        right = sigma.nonmagnetic**2 + sigma.delta**2 + 2 * sigma.covariance
        assert sigma.magnetic**2 == pytest.approx(right, abs=1e-12)
        assert sigma.magnetic > 0


def test_sigma_is_that_of_the_worst_atom():
    # Two members: the unbiased variance of x1 and x2 is (x1 - x2)2 / 2.
    low = [[[0.3, 0.0, 0.0], [0.0, 0.0, 0.0]], [[0.1, 0.0, 0.0], [0.0, 0.0, 0.0]]]
    high = [[[0.3, 0.0, 0.0], [0.0, 0.3, 0.4]], [[0.1, 0.0, 0.0], [0.0, 0.0, 0.0]]]
    sigma = decompose(prediction_of(low, high))
    assert sigma.nonmagnetic == pytest.approx(0.2 / math.sqrt(2), rel=1e-5)
    assert sigma.delta == pytest.approx(0.5 / math.sqrt(2), rel=1e-5)
    assert sigma.magnetic == pytest.approx(0.5 / math.sqrt(2), rel=1e-5)
    assert sigma.covariance == pytest.approx(0, abs=1e-7)  # the worst magnetic atom is sure of the other


def test_a_quantile_picks_an_atom_and_the_mean_takes_all():
    # Ten atoms whose two members differ by 0.1, 0.2, ... 1.0 eV/Å.
    spread = np.zeros((2, 10, 3))
    spread[0, :, 0] = np.arange(1, 11)[::-1] / 10
    prediction = prediction_of(spread, 2 * spread)
    for reduce, expected in (("max", 1.0), (1.0, 1.0), (0.9, 0.9), (0.5, 0.5), (0.01, 0.1)):
        sigma = decompose(prediction, reduce=reduce)
        assert sigma.nonmagnetic == pytest.approx(expected / math.sqrt(2), rel=1e-5)
        assert sigma.covariance == pytest.approx(expected**2 / 2, rel=1e-5)
    rms = math.sqrt(np.mean((np.arange(1, 11) / 10) ** 2) / 2)
    assert decompose(prediction, reduce="mean").nonmagnetic == pytest.approx(rms, rel=1e-5)


def test_what_members_share_is_no_delta():
    low = np.random.default_rng(0).normal(size=(3, 4, 3))
    sigma = decompose(prediction_of(low, low + np.array([1.0, -2.0, 0.5])))
    assert sigma.delta == pytest.approx(0, abs=1e-6)
    assert sigma.magnetic == pytest.approx(sigma.nonmagnetic, rel=1e-5)
    assert sigma.magnetic > 0.5


def test_decomposition_refuses_what_has_no_spread():
    with pytest.raises(ValueError, match="fewer than two members"):
        decompose(prediction_of(np.zeros((1, 2, 3)), np.zeros((1, 2, 3))))
    with pytest.raises(ValueError, match="do not pair"):
        variances(np.zeros((2, 2, 3)), np.zeros((2, 3, 3)))
    one = prediction_of(np.zeros((2, 2, 3)), np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match="both needed"):
        decompose(Prediction(("a", "b"), one.energy, one.forces, one.stress, one.magmoms, one.features))
