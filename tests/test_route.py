"""Which frame gets which calculation, and when the campaign stops."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from mfal.acquire.candidate import Candidate, Thresholds, candidate, case, thresholds
from mfal.acquire.route import first_round, reconsider, route
from mfal.acquire.stop import reason_to_stop
from mfal.committee.calibrate import Calibration
from mfal.config import Acquire, Stop
from mfal.frames import Errors
from tests.test_decompose import prediction_of

IDS = [f"f{i}" for i in range(8)]
LIMITS = Thresholds(0.1, 0.1, 0.1, 0.1)


def seen(frame_id, nonmagnetic=0.01, delta=0.01, *, left=None, cost=3.0, place=None) -> Candidate:
    """A frame whose two uncertainties are independent, so that a cheap label leaves the delta's."""
    magnetic = float(np.hypot(nonmagnetic, delta))
    features = np.eye(12)[[*IDS, "one", "w", "f"].index(place or frame_id)]
    costs = {"nonmagnetic": cost / 3, "magnetic": cost}
    left = delta if left is None else left
    atoms = {"nonmagnetic": [0.0, nonmagnetic], "delta": [delta, 0.0]}
    return Candidate(frame_id, nonmagnetic, delta, magnetic, left, 1 - delta / magnetic, costs, features, atoms)


def first(candidates, *, limits=LIMITS, seed=0, cheap=True, **settings):
    chosen = Acquire(**{"magnetic_per_round": 4, "control_share": 0.25} | settings)
    scores = route(candidates, limits, chosen, campaign="c", round=1, seed=[seed], cheap=cheap, tolerance=0.01)
    assert [score.frame_id for score in scores] == [c.frame_id for c in candidates]
    return {score.frame_id: score for score in scores}


def second(scores, candidates, unusable=None, **settings):
    chosen = Acquire(**{"magnetic_per_round": 4, "control_share": 0.25} | settings)
    by_id = {c.frame_id: c for c in candidates}
    final = reconsider(list(scores.values()), by_id, chosen, unusable=unusable or {}, tolerance=0.01)
    return {score.frame_id: score for score in final}


def of_arm(scores, arm):
    return {i for i, score in scores.items() if score.arm == arm}


def planted_committee(low_noise, delta_noise, *, seed=0, members=6):
    """Members that disagree by so much about the cheap forces and, independently, about the difference."""
    rng = np.random.default_rng(seed)
    low = low_noise * rng.normal(size=(members, 4, 3))
    return prediction_of(low, low + delta_noise * rng.normal(size=low.shape))


@pytest.mark.parametrize(
    ("low_noise", "delta_noise", "expected", "decision"),
    [
        (0.01, 0.01, "low", "skip"),
        (0.5, 0.01, "nonmagnetic", "nonmagnetic"),
        (0.01, 0.5, "delta", "magnetic"),
        (0.5, 0.5, "both", "both"),
    ],
)
def test_the_four_cases_of_planted_committees(low_noise, delta_noise, expected, decision):
    costs = {"nonmagnetic": 1.0, "magnetic": 3.0}
    committee = replace(planted_committee(low_noise, delta_noise), features=np.eye(12)[11])
    found = candidate("f", committee, {}, costs, "max")
    assert case(found, LIMITS) == expected
    others = [seen(i) for i in IDS]
    scores = first([found, *others], seed=1)
    assert scores["f"].arm is None  # not the one drawn
    assert (scores["f"].case, scores["f"].decision) == (expected, decision)
    assert scores["f"].reason
    assert all(score.decision == "skip" for i, score in scores.items() if i != "f" and score.arm is None)


@pytest.mark.parametrize("reduce", ["max", "mean", 0.5])
def test_the_sigmas_of_atoms_are_those_that_the_frame_s_is_made_of(reduce):
    committee = replace(planted_committee(0.3, 0.2), features=np.eye(12)[11])
    scales = {"nonmagnetic": 1.7, "delta": 0.6}
    known = {k: Calibration(kind=k, scale=scale, frames=9, typical=0.1) for k, scale in scales.items()}
    found = candidate("f", committee, known, {"nonmagnetic": 1.0, "magnetic": 3.0}, reduce)
    score = first([found, *map(seen, IDS)], seed=1)["f"]
    for kind, sigma in (("nonmagnetic", score.sigma_nonmagnetic), ("delta", score.sigma_delta)):
        atoms = np.array(score.sigma_atoms[kind])
        assert len(atoms) == 4
        expected = {"max": atoms.max(), "mean": np.sqrt((atoms**2).mean()), 0.5: np.sort(atoms)[1]}[reduce]
        assert sigma == pytest.approx(expected, rel=5e-3)
        assert all(float(f"{sigma:.3g}") == sigma for sigma in score.sigma_atoms[kind])
        if reduce == "max":
            assert atoms.max() == float(f"{sigma:.3g}")
        low, high = (committee.forces[:, i].astype(float) for i in (0, 1))
        spread = (low if kind == "nonmagnetic" else high - low).std(axis=0, ddof=1)
        assert atoms == pytest.approx(scales[kind] * np.sqrt((spread**2).sum(axis=-1)), rel=5e-3)  # in their order


def test_a_magnetic_label_waits_for_what_the_cheap_one_teaches():
    frames = [seen(i) for i in IDS]
    frames[0], frames[1], frames[2] = seen("f0", 0.5, 0.5), seen("f1", 0.5, 0.4), seen("f2", 0.01, 0.3)
    scores = first(frames, seed=next(s for s in range(99) if drawn_at(s) not in ("f0", "f1", "f2")))
    assert {i: s.decision for i, s in scores.items() if s.arm is None and s.decision != "skip"} == {
        "f0": "both",
        "f1": "both",
        "f2": "magnetic",
    }
    # The label of f0 explained it, that of f1 did not; f2 has none and keeps all its uncertainty.
    frames[0], frames[1] = replace(frames[0], conditional=0.02), replace(frames[1], conditional=0.6)
    final = second(scores, frames)
    assert {i: (s.decision, s.arm) for i, s in final.items() if i in ("f0", "f1", "f2")} == {
        "f0": ("nonmagnetic", None),
        "f1": ("both", "committee"),
        "f2": ("magnetic", "committee"),
    }
    assert "0.020 eV/Å is left unknown of the magnetic forces, below the threshold of 0.100" in final["f0"].reason
    assert "eV/Å per core-hour, among the round's best" in final["f1"].reason
    assert final["f1"].gain == 0.6
    assert final["f1"].sigma_conditional == 0.6


def test_what_a_cheap_label_cannot_teach_is_not_asked_of_it():
    """The two fidelities err independently: the label explains nothing of the magnetic forces."""
    frames = [seen(i) for i in IDS]
    frames[0] = replace(seen("f0", 0.5, 0.05), explained=0.0)
    frames[1] = replace(seen("f1", 0.5, 0.5), explained=0.0)
    scores = first(frames, seed=next(s for s in range(99) if drawn_at(s) not in ("f0", "f1")))
    assert scores["f0"].decision == "skip"
    assert "not expected to teach anything of its magnetic forces" in scores["f0"].reason
    # Where both are high it is the first of two labels.
    assert scores["f1"].decision == "both"
    assert scores["f1"].gain == frames[1].magnetic


def drawn_at(seed, frames=None):
    """The one frame of the control arm."""
    (control,) = of_arm(first(frames or [seen(i) for i in IDS], seed=seed), "control")
    return control


def test_the_round_takes_no_more_than_it_may_and_says_so():
    frames = [seen(i, 0.01, 0.2 + 0.1 * k) for k, i in enumerate(IDS)]
    scores = first(frames)
    final = second(scores, frames)
    (control,) = of_arm(final, "control")
    best = [i for i in reversed(IDS) if i != control][:3]
    assert of_arm(final, "committee") == set(best)
    rest = next(i for i in IDS if i != control)
    assert final[rest].decision == "skip"
    assert "went to frames that promise more than" in final[rest].reason


def test_what_is_cheap_comes_before_what_is_dear():
    frames = [seen(i, 0.01, 0.3, cost=1.0 if k < 4 else 30.0) for k, i in enumerate(IDS)]
    final = second(first(frames), frames)
    assert of_arm(final, "committee") <= set(IDS[:4])


def test_near_duplicates_are_left_out_with_the_reason():
    frames = [seen(i, 0.01, 0.3, place="one") for i in IDS[:4]] + [seen(i) for i in IDS[4:]]
    for seed in range(10):
        final = second(first(frames, seed=seed), frames)
        assert sum(final[i].gets("magnetic") for i in IDS[:4]) == 1
        assert sum("near-duplicate" in final[i].reason for i in IDS[:4]) == 3


def test_budgets_in_core_hours_and_in_cheap_calculations():
    frames = [seen(i, 0.5, 0.01) for i in IDS]
    assert sum(s.decision == "nonmagnetic" for s in first(frames).values()) == 7
    few = first(frames, nonmagnetic_per_round=3)
    assert sum(s.gets("nonmagnetic") for s in few.values()) == 3  # the control arm's included
    # The control arm costs 1 + 3 core-hours, a cheap label 1.
    tight = first(frames, core_hours_per_round=6.5)
    assert sum(s.gets("nonmagnetic") for s in tight.values()) == 3
    # A frame that will want both labels has both set apart: 4 + 4 + 4 core-hours, not 4 + 8 cheap labels.
    wanting = [seen(i, 0.5, 0.5) for i in IDS]
    assert sum(s.gets("nonmagnetic") for s in first(wanting, core_hours_per_round=12.5).values()) == 3
    # With core-hours to count, the control arm is a share of them, and one frame at least.
    many = {"magnetic_per_round": 100, "control_share": 0.25}
    assert len(of_arm(first(frames, core_hours_per_round=32, **many), "control")) == 2
    assert len(of_arm(first(frames, core_hours_per_round=5, **many), "control")) == 1


def test_wild_frames_are_set_aside_and_never_drawn():
    frames = [seen("w", 20.0, 20.0), *(seen(i) for i in IDS)]
    for seed in range(30):
        scores = first(frames, seed=seed)
        assert scores["w"].decision == "wild"
        assert scores["w"].arm is None
    assert "acquire.wild" in scores["w"].reason


def test_the_control_arm_is_uniform_over_the_whole_pool_and_gets_both_labels():
    frames = [seen(i, 0.5 if k % 2 else 0.01, 0.1 * k) for k, i in enumerate(IDS)]
    drawn = Counter(drawn_at(seed, frames) for seed in range(800))
    assert set(drawn) == set(IDS)
    assert max(drawn.values()) < 2 * min(drawn.values())  # 100 expected each; a fair draw misses this in 1 of 10^8
    scores = first(frames)
    (control,) = of_arm(scores, "control")
    assert scores[control].decision == second(scores, frames)[control].decision == "both"


def test_without_a_cheap_fidelity_only_sigma_magnetic_counts():
    frames = [seen(i, 0.5 if k == 3 else 0.01, 0.3 if k == 5 else 0.01) for k, i in enumerate(IDS)]
    scores = first(frames, cheap=False, seed=next(s for s in range(99) if drawn_at(s) not in ("f3", "f5")))
    assert {i for i, s in scores.items() if s.decision == "magnetic"} == {"f3", "f5"}
    assert "sigma_magnetic 0.014 is not above 0.100" in next(s.reason for s in scores.values() if s.decision == "skip")
    assert {i for i, s in scores.items() if s.gets("nonmagnetic")} == of_arm(scores, "control")
    assert of_arm(second(scores, frames), "committee") == {"f3", "f5"}


def test_a_frame_without_a_good_cheap_label_gets_no_expensive_one():
    frames = [seen(i, 0.5, 0.5) for i in IDS]
    final = second(first(frames), frames, unusable={"f7": "unconverged"})
    assert final["f7"].decision == "nonmagnetic"
    assert "unconverged" in final["f7"].reason


def test_a_random_frame_that_came_to_nothing_stays_in_its_arm():
    """What it cost is part of what random frames cost; its magnetic calculation is another frame's."""
    frames = [seen(i, 0.5, 0.5) for i in IDS]
    scores = first(frames)
    (control,) = of_arm(scores, "control")
    final = second(scores, frames, unusable={control: "failed"})
    assert of_arm(final, "control") == {control}
    assert final[control].decision == "nonmagnetic"
    assert len(of_arm(final, "committee")) == 4
    assert len(of_arm(second(scores, frames), "committee")) == 3


def test_thresholds_follow_the_random_frames_unless_a_person_sets_them():
    frames = [seen(i, 0.1 + 0.1 * k, 0.01 + 0.01 * k) for k, i in enumerate(IDS)]
    known = {
        "delta": Calibration(kind="delta", scale=2.0, frames=9, typical=0.02),
        "nonmagnetic": Calibration(kind="nonmagnetic", scale=2.0, frames=9, typical=0.7),
    }
    assert thresholds(Acquire(threshold=0.2), frames, known) == Thresholds(0.2, 0.2, 0.2, 0.2)
    adaptive = thresholds(Acquire(), frames, known)
    assert adaptive.delta == 0.02
    # Half of the candidates are always worth a look.
    assert adaptive.nonmagnetic == thresholds(Acquire(), frames, {}).nonmagnetic == pytest.approx(0.45)


def test_sigmas_are_calibrated_each_with_its_own_scale():
    prediction, costs = planted_committee(0.3, 0.2), {"nonmagnetic": 1.0, "magnetic": 3.0}
    raw = candidate("f", prediction, {}, costs, "max")
    kinds = ("nonmagnetic", "delta", "magnetic", "conditional")
    scales = {k: Calibration(kind=k, scale=i + 2.0, frames=9, typical=1.0) for i, k in enumerate(kinds)}
    found = candidate("f", prediction, scales, costs, "max")
    for i, kind in enumerate(kinds[:3]):
        assert getattr(found, kind) == pytest.approx((i + 2) * getattr(raw, kind))
    # A committee that is twice too sure of the cheap forces (six members) will be surprised by their label.
    assert found.conditional == pytest.approx(5 * raw.conditional * np.sqrt((15 + 3 * 2**2) / (15 + 3)))
    # A label that the committee did not expect leaves more unknown than one that it did.
    low = prediction.forces[:, 0].mean(axis=0)
    expected = candidate("f", prediction, {}, costs, "max", label=low)
    surprising = candidate("f", prediction, {}, costs, "max", label=low + 3)
    assert expected.conditional < raw.conditional < surprising.conditional


def test_the_same_seed_decides_the_same():
    frames = [seen(i, 0.3, 0.1 * k) for k, i in enumerate(IDS)]
    assert second(first(frames), frames) == second(first(frames), frames)
    assert any(first(frames, seed=seed) != first(frames) for seed in range(1, 9))


def opening(seed=0, unusable=None, **settings):
    chosen = Acquire(**{"magnetic_per_round": 3, "hold_out": 2} | settings)
    scores = first_round(IDS, chosen, campaign="c", seed=[seed], unusable=unusable)
    assert [score.frame_id for score in scores] == IDS
    return {score.frame_id: score for score in scores}


def test_the_first_round_is_drawn_at_random_and_fills_the_hold_out():
    scores = opening()
    assert len(of_arm(scores, "hold_out")) == 2
    assert len(of_arm(scores, "control")) == 3
    assert Counter(score.decision for score in scores.values()) == {"both": 5, "nonmagnetic": 3}
    assert all(score.sigma_delta is None for score in scores.values())
    assert any(opening(seed) != scores for seed in range(1, 9))
    alone = opening(nonmagnetic="never")
    assert Counter(score.decision for score in alone.values()) == {"both": 5, "skip": 3}


def test_the_first_round_runs_no_more_cheap_calculations_than_it_may():
    everything, some = opening(), opening(nonmagnetic_per_round=6)
    assert Counter(score.decision for score in some.values()) == {"both": 5, "nonmagnetic": 1, "skip": 2}
    assert all(some[i].arm == score.arm for i, score in everything.items())
    assert any("nonmagnetic_per_round" in score.reason for score in some.values())
    lost = next(iter(of_arm(some, "control")))
    after = opening(nonmagnetic_per_round=6, unusable={lost: "failed"})
    # in its place is one that has its non-magnetic label
    assert {i for i, score in after.items() if score.decision != "skip"} == {
        i for i, score in some.items() if score.decision != "skip"
    }
    assert len(of_arm(after, "control")) == 3
    assert Counter(s.decision for s in opening(nonmagnetic_per_round=1).values()) == {"both": 5, "skip": 3}


def test_others_are_drawn_in_place_of_those_lost_in_the_first_round():
    before = opening()
    lost = next(iter(of_arm(before, "hold_out")))
    after = opening(unusable={lost: "failed"})
    assert len(of_arm(after, "hold_out")) == 2
    assert len(of_arm(after, "control")) == 3
    assert after[lost].decision == "nonmagnetic"
    assert "failed" in after[lost].reason


@pytest.mark.parametrize(
    ("state", "word"),
    [
        ({"rounds_done": 5}, "stop.rounds"),
        ({"core_hours": 10.0}, "stop.core_hours"),
        ({"hold_out": Errors(forces=60.0, frames=3)}, "stop.force_error"),
        ({"frames": 0}, "no new frame"),
        ({}, None),
        ({"hold_out": Errors()}, None),
    ],
)
def test_stop(state, word):
    settings = Stop(rounds=5, core_hours=10, force_error=60)
    reason = reason_to_stop(settings, **{"rounds_done": 4, "frames": 1, "core_hours": 9.9, "hold_out": None} | state)
    assert (word in reason) if word else reason is None
