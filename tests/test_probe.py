"""The cheap fidelity is given up only where it cannot pay."""

from __future__ import annotations

import numpy as np
import pytest

from mfal.acquire.probe import MIN_PAIRS, probe, relative_cost


def frames(rho: float, count: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Residuals of frames of different size and error, their components correlated by rho."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        shape = int(rng.integers(4, 29)), 3
        size = rng.lognormal(-2, 0.5)
        cheap, other = rng.normal(0, size, shape), rng.normal(0, size, shape)
        pairs.append((cheap, 3 * (rho * cheap + np.sqrt(1 - rho**2) * other)))
    return pairs


@pytest.mark.parametrize("rho", [-0.8, 0.0, 0.5, 0.9])
def test_a_planted_correlation_is_found(rho):
    missed = 0
    for seed in range(60):
        found = probe(frames(rho, 12, seed), 5.0)
        assert found.low <= found.correlation <= found.high
        assert abs(found.correlation - rho) < 0.35
        missed += not found.low <= rho <= found.high
    assert missed <= 9  # 3 expected; an interval of 95% misses more in 1 of 1000 series


@pytest.mark.parametrize("cost_ratio", [0.5, 1.0, 3.0, 10.0, 100.0])
@pytest.mark.parametrize("rho", [-0.95, 0.0, 0.1, 0.3, 0.6, 0.9, 0.99])
def test_the_relative_cost_is_the_minimum_over_the_ratio_of_samples(rho, cost_ratio):
    r = np.geomspace(1, 1e3, 20001)
    brute = np.min((1 + r / cost_ratio) * (1 - rho**2 + rho**2 / r))
    assert relative_cost(rho, cost_ratio) == pytest.approx(brute, rel=1e-6)


def test_a_high_correlation_at_a_high_price_is_worth_it():
    found = probe(frames(0.95, 20), 10.0)
    assert found.worth
    assert found.saving == pytest.approx(1 - relative_cost(0.95, 10.0), abs=0.05)
    assert "save 6" in found.message


def test_without_correlation_the_cheap_labels_do_not_pay():
    found = probe(frames(0.0, 30), 4.0)
    assert found.worth is False
    assert found.saving == pytest.approx(-1 / 4)
    assert "cost more than they can save" in found.message


def test_a_predicted_loss_that_the_interval_does_not_settle_goes_on():
    found = probe(frames(0.79, 6), 4.0)
    assert found.saving < 0 < 1 - relative_cost(found.high, 4.0)
    assert found.worth
    assert "still possible" in found.message


def test_no_verdict_with_few_pairs_or_without_errors():
    few = probe(frames(0.0, MIN_PAIRS - 1), 4.0)
    assert few.worth is few.saving is few.correlation is None
    assert "too few" in few.message
    assert probe(frames(0.0, MIN_PAIRS), 4.0).worth is not None
    silent = probe([(np.zeros((4, 3)), np.ones((4, 3)))] * 8, 4.0)
    assert silent.worth is silent.correlation is None
    assert "zero throughout" in silent.message


def test_the_verdict_does_not_depend_on_how_the_cells_lie():
    pairs = frames(0.6, 8)
    turned = []
    for k, (cheap, costly) in enumerate(pairs):
        rotation = np.linalg.qr(np.random.default_rng(k).normal(size=(3, 3)))[0]
        turned.append((cheap @ rotation, costly @ rotation))
    assert probe(turned, 4.0).correlation == pytest.approx(probe(pairs, 4.0).correlation, abs=1e-12)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="cost ratio of 0"):
        probe(frames(0.5, 8), 0.0)
    with pytest.raises(ValueError, match="do not pair"):
        probe([(np.zeros((4, 3)), np.zeros((5, 3)))], 4.0)
