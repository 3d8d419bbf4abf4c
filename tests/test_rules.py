"""The benchmark of the selection rules: what each buys, what it may spend, and what its table says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from benchmarks import curves
from benchmarks.curves import Interval, Reach, mean_error, paired, reach
from benchmarks.play import Ledger, Play, Point, Settings, play, split
from benchmarks.resumed import finished
from benchmarks.rules import RULES, WINDOW, State, acquire, force_deviation
from mfal.acquire.cost import Calculation
from mfal.acquire.experience import Experience
from mfal.committee.decompose import decompose
from mfal.committee.predict import Prediction
from mfal.config import Committee, Training
from mfal.dataset import write
from mfal.dft.engines import Table
from mfal.frames import FIDELITIES, Frame, Label

COUNT = 10
NAMES = [f"f{i}" for i in range(COUNT)]
COSTS = {"nonmagnetic": 1.0, "magnetic": 3.0}
#: From which the costs are known.
CALCULATIONS = [
    Calculation(fidelity=f, atoms=2, elements=["Mn"], magnetic_atoms=1, core_hours=COSTS[f], good=True)
    for f in FIDELITIES
    for _ in range(20)
]


def frame(name: str, shift: float = 0.0) -> Frame:
    positions = [[0, 0, 0], [0.51 + shift, 0.5, 0.5]]
    cell = Structure(Lattice(4.3 / 2 * (1 - np.eye(3))), ["Mn", "O"], positions)
    return Frame(frame_id=name, structure=cell, parent="rock salt", source="rattle")


def prediction(nonmagnetic: float, delta: float, place: float) -> Prediction:
    """Of two members that differ by these in one force component, the differences independent of each other."""
    forces = np.zeros((4, 2, 2, 3))
    low, change = np.array([1, 1, -1, -1]) * nonmagnetic, np.array([1, -1, 1, -1]) * delta
    forces[:, 0, 0, 0], forces[:, 1, 0, 0] = low, low + change
    blank = np.zeros((4, 2))
    features = np.array([np.cos(place), np.sin(place)])
    return Prediction(FIDELITIES, blank, forces, np.zeros((4, 2, 3, 3)), np.zeros((4, 2, 2)), features)


def state(sigmas, *, seed=0, core_hours=9.5, **changes) -> State:
    """Frames along an arc, the labelled one at its beginning."""
    predictions = [prediction(low, delta, 0.1 * (i + 1)) for i, (low, delta) in enumerate(sigmas)]
    return State(
        **{
            "seed": seed,
            "round": 1,
            "pool": [frame(name) for name in NAMES],
            "predictions": predictions,
            "labelled": np.array([[1.0, 0.0]]),
            "first_deviations": [force_deviation(p) for p in predictions],
            "core_hours": core_hours,
            "experience": Experience(),
        }
        | changes
    )


def ledger(limit: float) -> Ledger:
    blank = {"fingerprint": "", "status": "ok", "forces": [[0.0] * 3] * 2}
    labels = {(n, f): Label(frame_id=n, fidelity=f, core_hours=COSTS[f], **blank) for n in NAMES for f in FIDELITIES}
    return Ledger(labels, limit)


def bought(rule: str, at: State) -> list[tuple[str, str]]:
    """What a rule buys, in its order. No rule may spend more than it has."""
    book = ledger(at.core_hours)
    RULES[rule].select(at, book.buy)
    assert sum(COSTS[label.fidelity] for label in book.bought) <= at.core_hours
    return [(label.frame_id, label.fidelity) for label in book.bought]


RISING = [(0.1 * (i + 1), 0.01) for i in range(COUNT)]


def test_sigma_mag_takes_the_largest_until_the_next_does_not_fit():
    assert bought("sigma-mag", state(RISING)) == [("f9", "magnetic"), ("f8", "magnetic"), ("f7", "magnetic")]


def test_the_force_deviation_is_that_of_dp_gen():
    rng = np.random.default_rng(0)
    found = prediction(0, 0, 0)
    found.forces[:] = rng.normal(size=found.forces.shape)
    magnetic = found.forces[:, 1]
    by_hand = max(np.sqrt(sum(np.std(magnetic[:, atom, axis]) ** 2 for axis in range(3))) for atom in range(2))
    assert force_deviation(found) == pytest.approx(by_hand)


def test_dp_gen_draws_at_random_inside_its_window_only():
    drawn = [[name for name, _ in bought("dp-gen", state(RISING, seed=seed))] for seed in range(200)]
    low, high = np.quantile(range(COUNT), WINDOW)
    inside = {f"f{i}" for i in range(COUNT) if low <= i < high}
    assert set().union(*drawn) == inside
    counts = Counter(name for names in drawn for name in names)
    assert max(counts.values()) < 1.5 * min(counts.values())  # 150 expected of each


def test_dp_gen_keeps_the_window_of_the_first_round():
    assert bought("dp-gen", state(RISING, first_deviations=[10.0, 20.0])) == []


def test_farthest_point_goes_away_from_what_is_labelled_and_chosen():
    names = [name for name, _ in bought("farthest-point", state(RISING))]
    assert names[0] == "f9"  # at 1.0 on the arc
    assert names[1] in {"f3", "f4"}  # between 0, which is labelled, and 1.0
    labelled = np.array([[np.cos(1.0), np.sin(1.0)]])
    assert bought("farthest-point", state(RISING, labelled=labelled))[0][0] == "f0"


def test_random_is_uniform_and_repeats_with_its_seed():
    drawn = Counter(name for seed in range(300) for name, _ in bought("random", state(RISING, seed=seed)))
    assert set(drawn) == set(NAMES)
    assert max(drawn.values()) < 1.7 * min(drawn.values())  # 90 expected of each
    assert bought("random", state(RISING, seed=3)) == bought("random", state(RISING, seed=3))


def test_random_two_pays_for_both_labels_of_each_frame():
    found = bought("random-two", state(RISING))
    assert [fidelity for _, fidelity in found] == [*FIDELITIES, *FIDELITIES]
    assert [name for name, _ in found[::2]] == [name for name, _ in bought("random", state(RISING))][:2]


def test_fidelity_aware_buys_the_fidelity_that_is_unknown():
    """Three frames of each case; what is known of both is bought for the control arm alone."""
    cases = [(0.001, 0.001)] * 4 + [(1.0, 0.001)] * 3 + [(0.001, 1.0)] * 3
    for seed in range(10):
        at = state(cases, seed=seed, core_hours=18.0, experience=Experience(calculations=CALCULATIONS))
        book = ledger(at.core_hours)
        scores = RULES["fidelity-aware"].select(at, book.buy)
        control = {score.frame_id for score in scores if score.arm == "control"}
        assert len(control) == 1
        got = {name: {b.fidelity for b in book.bought if b.frame_id == name} for name in NAMES}
        for name, found in got.items():
            if name in control:
                assert found == set(FIDELITIES)
            elif name in NAMES[:4]:
                assert not found
            else:
                assert found <= ({"nonmagnetic"} if name in NAMES[4:7] else {"magnetic"})
        assert any(name not in control and found == {"magnetic"} for name, found in got.items())
        for score in scores:
            assert {f for f in FIDELITIES if score.gets(f)} == got[score.frame_id]


def test_what_does_not_fit_is_not_decided_on_either():
    """Costs that are far above what the rule expects: the labels run out before the decisions do."""
    at = state([(0.5, 1.0 + 0.1 * i) for i in range(COUNT)], core_hours=5.0)
    book = ledger(at.core_hours)
    scores = RULES["fidelity-aware"].select(at, book.buy)
    assert {(s.frame_id, f) for s in scores for f in FIDELITIES if s.gets(f)} == {
        (label.frame_id, label.fidelity) for label in book.bought
    }
    assert any("did not fit" in score.reason for score in scores)


def test_counts_never_bind_where_core_hours_do():
    settings = acquire(10.0, [0.5, 1.0, 4.5])
    assert settings.magnetic_per_round * 0.5 >= 10.0
    assert settings.control_share * settings.magnetic_per_round == pytest.approx(0.1 * 10.0 / 2.0)


def test_a_ledger_sells_all_that_is_asked_or_nothing():
    book = ledger(6.5)
    assert [label.fidelity for label in book.buy("f0", FIDELITIES) or []] == list(FIDELITIES)
    assert book.buy("f1", FIDELITIES) is None
    assert book.left() == pytest.approx(2.5)
    assert book.buy("f1", ["nonmagnetic"]) is not None
    with pytest.raises(ValueError, match="f0 has its magnetic label already"):
        book.buy("f0", ["magnetic"])
    assert book.labels() == {"nonmagnetic": 2, "magnetic": 1}
    assert book.core_hours() == {"nonmagnetic": 2.0, "magnetic": 3.0}


def test_the_split_is_of_the_seed_and_parts_the_frames():
    test, start, pool = split(NAMES, 3, 1)
    assert (len(test), len(start), len(pool)) == (2, 3, 5)
    assert sorted(test + start + pool) == NAMES
    assert split(NAMES[::-1], 3, 1) == (test, start, pool)
    assert split(NAMES, 3, 2) != (test, start, pool)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Plays of two rules, and one of them a second time, on planted labels of ten frames."""
    path = tmp_path_factory.mktemp("rules") / "labels.extxyz"
    frames = [frame(name, 0.01 * i) for i, name in enumerate(NAMES)]
    labels = [
        Label(
            frame_id=name,
            fidelity=fidelity,
            fingerprint=fidelity,
            status="ok",
            energy=-10.0,
            forces=[[0.1 * i, 0.0, 0.0], [-0.1 * i, 0.0, 0.0]],
            core_hours=COSTS[fidelity],
        )
        for i, name in enumerate(NAMES)
        for fidelity in FIDELITIES
    ]
    write(path, frames, labels)
    settings = Settings(
        rounds=2,
        start=2,
        core_hours=5.0,
        committee=Committee(kind="shallow", members=2),
        training=Training(epochs=1, batch_size=8, device="cpu"),
    )
    return [play(rule, 0, Table(data=path), settings, "x") for rule in ("random", "fidelity-aware", "fidelity-aware")]


def test_no_play_spends_more_than_the_others_may(played):
    for one in played:
        assert len(one.points) == 3
        for round, point in enumerate(one.points):
            assert point.total <= 2 * 4.0 + 5.0 * round
            assert point.core_hours == {f: point.labels[f] * COSTS[f] for f in FIDELITIES}
    random, ours, _ = played
    assert random.points[0].labels == {"nonmagnetic": 0, "magnetic": 2}
    assert ours.points[0].labels == {"nonmagnetic": 2, "magnetic": 2}
    # What it has not paid for the start set it may spend later: 2 + 5 and 5 core-hours on labels of 3
    assert [point.labels["magnetic"] for point in random.points] == [2, 4, 6]
    assert ours.points[-1].total > ours.points[0].total


def test_a_play_is_determined_by_its_seed(played):
    _, one, other = played
    assert one.points == other.points


def test_the_target_is_interpolated_in_the_logarithm():
    # From 100 to 25 within 10 core-hours the error halves every 5.
    assert reach([10.0, 20.0], [100.0, 25.0], 50.0) == Reach(pytest.approx(15.0), True)
    assert reach([10.0, 20.0, 30.0], [100.0, 25.0, 60.0], 25.0) == Reach(20.0, True)
    assert reach([10.0, 20.0], [40.0, 25.0], 50.0) == Reach(10.0, True)
    assert reach([10.0, 20.0], [100.0, 60.0], 50.0) == Reach(20.0, False)


def test_the_mean_error_is_over_the_range_alone():
    hours, errors = [0.0, 10.0, 20.0, 30.0], [1e3, 100.0, 25.0, 1.0]
    assert mean_error(hours, errors, 10.0, 20.0) == pytest.approx(50.0)
    assert mean_error(hours, errors, 12.0, 18.0) == pytest.approx(50.0)
    assert mean_error(hours, errors, 10.0, 30.0) == pytest.approx(np.sqrt(50.0 * 5.0))


def test_a_paired_ratio_is_sharper_than_its_parts():
    theirs = np.array([1.0, 3.0, 10.0, 30.0])
    ratios = np.array([0.45, 0.5, 0.5, 0.5**4 / 0.45 / 0.25])
    found = paired(ratios * theirs, theirs)
    assert found.mean == pytest.approx(0.5)
    assert 0.4 < found.low < 0.5 < found.high < 0.6
    assert np.isnan(paired([1.0], [2.0]).low)


def test_an_interval_is_student_s():
    found = Interval.of([1.0, 2.0, 3.0])
    assert (found.mean, found.high - found.mean) == (2.0, pytest.approx(4.303 / np.sqrt(3), abs=1e-3))


def planted(rule: str, seed: int, pace: float, last: float = 10.0) -> Play:
    """The error halves with every `pace` core-hours, of which a quarter are magnetic, from 100 meV/Å on."""
    points = [
        Point(
            core_hours={"nonmagnetic": 0.75 * hours, "magnetic": 0.25 * hours},
            labels={"nonmagnetic": 1, "magnetic": 2},
            force_error=100.0 * 0.5 ** (hours / pace) * (1 + 0.01 * seed),
            decisions={},
        )
        for hours in np.linspace(0.0, last, 6).tolist()
    ]
    return Play(fingerprint="x", rule=rule, seed=seed, points=points, seconds=1.0)


def cells(plays: list[Play], rule: str, target: float | None = None) -> dict[str, str]:
    table = curves.Table.of(plays, target)
    (row,) = (row for row in table.rows() if row[0] == rule)
    names = [f"{name} {i}" if name == "of random's" else name for i, name in enumerate(curves.HEADER)]
    return dict(zip(names, row, strict=True))


def test_the_table_finds_a_rule_that_is_twice_as_fast():
    plays = [planted(rule, seed, pace) for seed in range(4) for rule, pace in (("random", 5.0), ("fast", 2.5))]
    row = cells([*plays, planted("random", 9, 5.0)], "fast")  # of seed 9 there is one rule only, so it is left out
    assert row["core-hours to target"] == "5 (5–5)"
    assert row["magnetic to target"] == "1.25 (1.25–1.25)"
    assert row["of random's 7"] == "0.5 (0.5–0.5)"
    # log2 of the errors falls to -4 and to -2: -2 and -1 on average
    assert row["of random's 5"] == "0.5 (0.5–0.5)"
    assert "tie" not in " ".join(row.values())


def test_a_tie_is_called_so():
    paces = [(4.0, 5.0), (6.0, 5.0), (5.0, 4.0), (5.0, 6.0)]
    plays = [planted(rule, i, p) for i, pair in enumerate(paces) for rule, p in zip(("random", "other"), pair)]  # noqa: B905
    assert cells(plays, "other")["of random's 5"].endswith(" tie")


def test_a_target_that_is_not_reached_is_shown_as_a_bound():
    plays = [planted(rule, seed, pace) for seed in range(4) for rule, pace in (("random", 5.0), ("slow", 20.0))]
    row = cells([p for p in plays if p != plays[1]] + [planted("slow", 0, 5.0)], "slow")
    assert row["core-hours to target"] == "> 10 (1 of 4)"
    # By all it spent the slow rule is no worse, which says nothing: it might have needed any number of core-hours.
    assert row["of random's 7"] == "≥ 1 (1–1) open"
    behind = [planted("slow", seed, 20.0, last=5.0) for seed in range(4)]
    assert cells([p for p in plays if p.rule == "random"] + behind, "slow")["of random's 7"] == "≥ 0.5 (0.5–0.5) open"
    assert cells(plays, "random", target=10.0)["core-hours to target"] == "> 10 (0 of 4)"


def test_sigma_of_the_planted_predictions():
    """What the other tests build on: sigma is the sample's, and the two sources are independent."""
    sigma = decompose(prediction(0.3, 0.4, 0.0))
    assert (sigma.nonmagnetic, sigma.delta) == pytest.approx((0.3 * np.sqrt(4 / 3), 0.4 * np.sqrt(4 / 3)))
    assert sigma.magnetic == pytest.approx(0.5 * np.sqrt(4 / 3))


def test_a_rerun_takes_the_plays_of_the_same_data_and_settings(tmp_path):
    path = tmp_path / "results.jsonl"
    plays = [planted("random", 0, 5.0), planted("random", 1, 5.0).model_copy(update={"fingerprint": "other"})]
    path.write_text("".join(play.model_dump_json() + "\n" for play in plays))
    assert list(finished(path, Play, "x")) == plays[:1]
    assert list(finished(tmp_path / "none.jsonl", Play, "x")) == []
