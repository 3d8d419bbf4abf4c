"""What choosing gained is a ratio with an interval, and it says when it may be chance."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fake_report import fake_frame, fake_label

from mfal.acquire.cost import Calculation
from mfal.acquire.exhaustive import exhaustive
from mfal.acquire.experience import Experience, learn
from mfal.acquire.saving import saving
from mfal.committee.predict import Prediction
from mfal.frames import Fidelity, Label, Score, Status


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


def test_the_message_says_against_what():
    assert " of one on a random frame" in saving([(1.0, 1.0)] * 9, [(0.5, 1.0)] * 9).message
    assert saving([(1.0, 1.0)] * 9, [(0.5, 1.0)] * 9, against="a dice").message.endswith(" of one on a dice")


def calculations(cost: np.ndarray, good: np.ndarray) -> list[Calculation]:
    return [
        Calculation(fidelity="magnetic", atoms=28, elements=["Mn"], magnetic_atoms=4, core_hours=c, good=g)
        for c, g in zip(cost.tolist(), good.tolist(), strict=True)
    ]


def test_the_estimate_of_labelling_everything_covers_the_truth_in_95_of_100_campaigns():
    rng = np.random.default_rng(4)
    truth = 500 * np.exp(1 + 0.4**2 / 2) / 0.8  # the mean of a log-normal cost over the chance of a good label
    covered = 0
    for _ in range(200):
        found = exhaustive(calculations(rng.lognormal(1, 0.4, 25), rng.random(25) < 0.8), 500)
        assert found.core_hours == pytest.approx(500 * found.per_label)
        covered += found.low <= truth and (found.high is None or truth <= found.high)
    assert 179 <= covered < 200  # 190 expected, standard deviation 3


FRAMES = [fake_frame(i) for i in range(6)]
#: What the committee, which predicts no force, finds on the worst atom: eV/Å.
FORCE = 2.0


def label(i: int, fidelity: Fidelity, status: Status = "ok", **changes) -> Label:
    forces = [[0.0, FORCE, 0.0], *[[0.0, 0.0, 0.0]] * 5] if status == "ok" else None
    return fake_label(FRAMES[i], fidelity, status, forces=forces, **changes)


@pytest.fixture
def learned(monkeypatch):
    """The experience after a round: of four random frames one has lost its non-magnetic label, and so has no other, and
    another its magnetic one; two frames are chosen."""
    no_force = Prediction(
        fidelities=("nonmagnetic", "magnetic"),
        energy=np.zeros((2, 2)),
        forces=np.zeros((2, 2, 6, 3)),
        stress=np.zeros((2, 2, 3, 3)),
        magmoms=np.zeros((2, 2, 6)),
        features=np.zeros(1),
    )
    monkeypatch.setattr("mfal.acquire.experience.predict", lambda _, frames: [no_force] * len(frames))
    labels = [
        *(label(i, "nonmagnetic", core_hours=1.0) for i in (0, 1, 3)),
        label(2, "nonmagnetic", "failed", core_hours=0.5),
        label(0, "magnetic", core_hours=3.0, earlier_core_hours=1.0),
        label(1, "magnetic", core_hours=3.0),
        label(3, "magnetic", "collapsed", core_hours=2.0),
        label(4, "magnetic", core_hours=2.0),
        label(5, "magnetic", core_hours=2.0),
    ]
    scores = [
        Score(
            campaign="fake",
            round=1,
            frame_id=frame.frame_id,
            decision="both",
            arm="control" if i < 4 else "committee",
            reason="fake",
        )
        for i, frame in enumerate(FRAMES)
    ]
    frames = {frame.frame_id: frame for frame in FRAMES}

    def after(before: Experience | None) -> Experience:
        return learn(before, frames, labels, scores, old=[], new=[], hold_out=[], reduce="max")

    return after


def test_all_magnetic_is_the_random_frames_at_the_cost_of_their_magnetic_calculations(learned):
    found = learned(None)
    assert found.drawn == [(FORCE, 5.0), (FORCE, 4.0), (0.0, 0.5), (0.0, 3.0)]
    assert found.drawn_magnetic == [4.0, 3.0, None, 2.0]
    assert found.saving.ratio == pytest.approx((4 / 4) / (4 / 12.5))
    # the frame without a magnetic calculation is left out, and the one whose calculation collapsed is not
    assert found.saving_all_magnetic.ratio == pytest.approx((4 / 4) / (4 / 9))
    assert (found.saving_all_magnetic.chosen, found.saving_all_magnetic.drawn) == (2, 3)
    assert "on a random frame with the magnetic calculation alone" in found.saving_all_magnetic.message
    assert len(learned(found).drawn_magnetic) == 8


def test_an_experience_from_before_all_magnetic_was_measured_loads_and_has_no_such_saving(learned):
    old = json.loads(learned(None).model_dump_json(exclude={"drawn_magnetic", "saving_all_magnetic"}))
    known = Experience.model_validate(old)
    assert known.saving is not None
    assert known.saving_all_magnetic is None
    grown = learned(known)
    assert grown.saving is not None
    assert grown.saving_all_magnetic is None
