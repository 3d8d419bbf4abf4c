"""The batch: most error per core-hour first, no near-duplicates, and never more than was allowed."""

import numpy as np
import pytest

from mfal.acquire.batch import Action, choose, typical_distance


def actions(gains, costs=None, features=None, fidelity="magnetic"):
    """Far apart from each other unless told otherwise."""
    costs = [1.0] * len(gains) if costs is None else costs
    features = np.eye(len(gains)) if features is None else np.asarray(features, dtype=float)
    return [Action(f"f{i}", fidelity, g, c, features[i]) for i, (g, c) in enumerate(zip(gains, costs, strict=True))]


def test_the_largest_error_drop_per_core_hour_comes_first():
    found = choose(actions([1.0, 3.0, 2.0, 2.0], [1.0, 6.0, 1.0, 4.0]), most={"magnetic": 3}, tolerance=0.01)
    assert found.chosen == [2, 0, 1]  # and of 0.5 eV/Å per core-hour the first


def test_near_duplicates_never_share_a_batch():
    rng = np.random.default_rng(0)
    places = rng.normal(size=(6, 5))
    features = np.concatenate([places + 1e-4 * rng.normal(size=(6, 5)) for _ in range(20)])
    pool = actions(rng.uniform(1, 2, size=120), features=features)
    batch = choose(pool, most={"magnetic": 50}, tolerance=0.01)
    assert sorted(i % 6 for i in batch.chosen) == list(range(6))  # one of each place, however large the gains
    assert len(batch.duplicates) == 114
    assert not set(batch.duplicates) & set(batch.chosen)


def test_a_little_less_gain_far_away_beats_a_little_more_nearby():
    features = [[0.0, 0.0], [0.1, 0.0], [1.0, 0.0], [0.0, 1.0]]
    batch = choose(actions([3.0, 2.9, 2.0, 1.9], features=features), most={"magnetic": 3}, tolerance=0.01)
    assert batch.chosen == [0, 2, 3]


def test_what_is_taken_anyway_counts_as_a_neighbour_at_its_fidelity_only():
    pool = actions([3.0, 1.0])
    control = Action("c", "magnetic", 0.0, 1.0, pool[0].features)
    assert choose(pool, most={"magnetic": 2}, tolerance=0.01, taken=[control]).chosen == [1]
    other = Action("c", "nonmagnetic", 0.0, 1.0, pool[0].features)
    assert choose(pool, most={"magnetic": 2}, tolerance=0.01, taken=[other]).chosen == [0, 1]


def test_limits_of_each_fidelity_and_of_the_core_hours():
    pool = actions([5.0, 4.0, 3.0]) + actions([2.0, 1.0], features=np.eye(3)[:2], fidelity="nonmagnetic")
    found = choose(pool, most={"magnetic": 1, "nonmagnetic": None}, tolerance=0.01)
    assert found.chosen == [0, 3, 4]
    assert choose(pool, most={"magnetic": 0}, tolerance=0.01).chosen == [3, 4]
    # What no longer fits makes room for what does.
    dear = actions([9.0, 4.0, 1.0], [6.0, 5.0, 3.0])
    assert choose(dear, most={}, tolerance=0.01, core_hours=9.5).chosen == [0, 2]
    assert choose(dear, most={}, tolerance=0.01, core_hours=1.0).chosen == []


def test_nothing_is_chosen_for_nothing():
    assert choose(actions([0.0, 0.0]), most={}, tolerance=0.01).chosen == []
    assert choose([], most={}, tolerance=0.01).chosen == []


def test_the_typical_distance():
    assert typical_distance(np.eye(4)) == pytest.approx(np.sqrt(2))
    assert typical_distance(np.ones((3, 4))) == 1.0
    assert typical_distance(np.ones((1, 4))) == 1.0
