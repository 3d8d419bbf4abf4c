"""Who gets a magnetic calculation, and when the campaign stops."""

from __future__ import annotations

from collections import Counter

import pytest

from mfal.acquire.route import route
from mfal.acquire.stop import reason_to_stop
from mfal.committee.decompose import Sigma
from mfal.config import Acquire, Stop
from mfal.frames import Errors

IDS = [f"f{i}" for i in range(8)]
#: sigma_delta rises with the number of the frame; sigma_nonmagnetic falls, to show that it does not matter.
SIGMAS = {i: Sigma(nonmagnetic=1.0 - 0.1 * k, delta=0.02 * k, magnetic=1.0) for k, i in enumerate(IDS)}


def decide(sigmas=SIGMAS, unusable=None, seed=0, **settings):
    chosen = Acquire(**{"magnetic_per_round": 3, "threshold": 0.05, "control_share": 0.34, "hold_out": 2} | settings)
    scores = route(IDS, sigmas, chosen, campaign="c", round=1, unusable=unusable or {}, seed=[seed])
    assert [score.frame_id for score in scores] == IDS
    return {score.frame_id: score for score in scores}


def chosen(scores, arm=None):
    return {i for i, s in scores.items() if s.decision == "magnetic" and (arm is None or s.arm == arm)}


def test_the_committee_takes_the_largest_sigma_delta_above_the_threshold():
    scores = decide()
    (control,) = chosen(scores, "control")
    rest = [i for i in reversed(IDS) if i != control]
    assert chosen(scores, "committee") == set(rest[:2])
    assert "above the threshold of 0.050" in scores[rest[0]].reason
    assert "went to larger ones" in scores[rest[2]].reason
    below = next(i for i in ("f0", "f1", "f2") if i != control)
    assert scores[below].decision == "skip"
    assert "below the threshold" in scores[below].reason


def test_nothing_above_the_threshold_leaves_the_control_arm_alone():
    scores = decide(threshold=1.0)
    assert len(chosen(scores)) == len(chosen(scores, "control")) == 1


def test_the_control_arm_is_uniform_over_the_whole_pool():
    drawn = Counter(next(iter(chosen(decide(seed=seed), "control"))) for seed in range(800))
    assert set(drawn) == set(IDS)
    assert max(drawn.values()) < 2 * min(drawn.values())  # 100 expected each; a fair draw misses this in 1 of 10^8


def test_the_first_round_is_drawn_at_random_and_fills_the_hold_out():
    scores = decide(sigmas={})
    assert len(chosen(scores, "hold_out")) == 2
    assert len(chosen(scores, "control")) == 3
    assert all(score.sigma_delta is None for score in scores.values())
    assert chosen(scores) != chosen(decide(sigmas={}, seed=1))


def test_a_frame_without_a_good_cheap_label_gets_no_expensive_one():
    for seed in range(20):
        scores = decide(unusable={"f7": "unconverged"}, seed=seed)
        assert scores["f7"].decision == "skip"
        assert "unconverged" in scores["f7"].reason


def test_the_same_seed_decides_the_same():
    assert decide() == decide()


@pytest.mark.parametrize(
    ("state", "word"),
    [
        ({"rounds_done": 5}, "stop.rounds"),
        ({"core_hours": 10.0}, "stop.core_hours"),
        ({"hold_out": Errors(forces=60.0, frames=3)}, "stop.force_error"),
        ({}, None),
        ({"hold_out": Errors()}, None),
    ],
)
def test_stop(state, word):
    settings = Stop(rounds=5, core_hours=10, force_error=60)
    reason = reason_to_stop(settings, **{"rounds_done": 4, "core_hours": 9.9, "hold_out": None} | state)
    assert (word in reason) if word else reason is None
