"""A campaign rehearsed on a table of labels, what it says about its decisions, and what a budget would buy."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from pymatgen.core import Structure

from flows.steps import decide
from mfal import dataset
from mfal.acquire.experience import Experience, cheap_pays, verdict
from mfal.acquire.probe import Probe
from mfal.config import Acquire
from mfal.config_file import ConfigError, load
from mfal.dft import table as table_of
from mfal.frames import FIDELITIES, Frame, Label, Score, TrainedCommittee
from mfal.model.multifidelity import pretrained, silence
from stores.campaign import open_stores
from tests.conftest import rock_salt, small_campaign, write_campaign

COSTS = {"nonmagnetic": 0.02, "magnetic": 0.07}


def labelled(count: int, core_hours: dict[str, float]) -> tuple[list[Frame], list[Label]]:
    """Rattled rock salt with the surrogate engine's labels at both fidelities."""
    rng = np.random.default_rng(0)
    parent, frames = rock_salt(), []
    for i in range(count):
        species = ["Mn" if i % 2 else "Fe" if site.specie.symbol == "Mn" else site.specie.symbol for site in parent]
        species = [s if p.specie.symbol == "Mn" else p.specie.symbol for s, p in zip(species, parent, strict=True)]
        shaken = parent.cart_coords + rng.normal(0, 0.03 + 0.01 * i, (len(parent), 3))
        structure = Structure(parent.lattice, species, shaken, coords_are_cartesian=True)
        frames.append(Frame.of(structure, parent="rock salt", source="rattle"))
    labels = []
    with silence():
        for fidelity, checkpoint in zip(FIDELITIES, ("0.2.0", "r2scan"), strict=True):
            model = pretrained(checkpoint)
            for frame in frames:
                found = model.predict_structure(frame.structure)
                labels.append(
                    Label(
                        frame_id=frame.frame_id,
                        fidelity=fidelity,
                        fingerprint=checkpoint,
                        status="ok",
                        energy=float(found["e"]) * len(frame.structure),
                        forces=found["f"].tolist(),
                        stress=found["s"].tolist(),
                        magmoms=found["m"].tolist() if fidelity == "magnetic" else None,
                        core_hours=core_hours.get(fidelity, 0.0),
                    )
                )
    return frames, labels


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "labels.extxyz"
    dataset.write(path, *labelled(16, COSTS))
    return path


@pytest.fixture(scope="module")
def published(table):
    """The same labels as a folder, a file a fidelity."""
    folder = table.with_name("set")
    frames, labels = dataset.read(table)
    for fidelity in FIDELITIES:
        of_fidelity = [label for label in labels if label.fidelity == fidelity]
        dataset.write(folder / f"{fidelity}.extxyz", frames, of_fidelity)
    return folder


def config(folder, **changes):
    explore = small_campaign(folder)["explore"] | {"frames": 5}
    acquire = {"magnetic_per_round": 2, "control_share": 0.5, "hold_out": 1}
    settings = {
        "explore": explore,
        "acquire": acquire,
        "training": {"epochs": 1, "batch_size": 8},
        "stop": {"rounds": 9},
    }
    return write_campaign(folder, **settings | changes)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory, published):
    from typer.testing import CliRunner

    from flows.cli import app

    folder = tmp_path_factory.mktemp("rehearsed")
    path = config(folder)
    result = CliRunner().invoke(app, ["rehearse", str(path), "--data", str(published)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return path, folder / "run-rehearsal" / "rehearsal.yaml", result.output


def test_labels_and_costs_are_those_of_the_table(rehearsed, table):
    stores = open_stores(load(rehearsed[1]).directory)
    frames, labels = dataset.read(table)
    known = {(label.frame_id, label.fidelity): label for label in labels}
    found = stores.all_labels()
    assert found
    for label in found:
        original = known[label.frame_id, label.fidelity]
        assert label.forces == original.forces
        assert label.energy == original.energy
        assert label.core_hours == pytest.approx(COSTS[label.fidelity])
        assert label.settings["kind"] == "table"
    assert set(stores.all_frames("small-rehearsal")) == {frame.frame_id for frame in frames}
    rounds = stores.all_rounds("small-rehearsal")
    stores.close()
    # 16 frames, five a round, until there are none
    assert [r.candidates for r in rounds] == [16, 11, 6, 1, 0]
    assert "exploration found no new frame" in rounds[-1].next_step
    assert rounds[1].thresholds.keys() == {"nonmagnetic", "delta", "magnetic", "conditional"}
    assert rounds[1].calibration["delta"]["frames"] >= 2
    for summary in rounds:
        assert sum(summary.counts["magnetic"].values()) <= 3
        assert sum(summary.decisions.values()) in (5, 1, 0)


def test_what_the_rounds_taught(rehearsed):
    stores = open_stores(load(rehearsed[1]).directory)
    built = list(stores.rounds.store.query(sort={"round": 1}))
    scores = [score for score in stores.all_scores("small-rehearsal") if score.round > 0]
    found = stores.output(built[-1]["job_uuid"]).experience
    labels = stores.all_labels()
    stores.close()
    control = [score for score in scores if score.arm == "control"]
    chosen = [score for score in scores if score.arm != "control" and score.decision not in ("skip", "wild")]
    assert len(found.calculations) == len(labels)
    assert len(found.drawn) == len(control) == 3
    assert sum(hours for _, hours in found.drawn) == pytest.approx(3 * sum(COSTS.values()))
    # Frames chosen for a non-magnetic label alone cost, and nothing is found on them.
    assert len(found.chosen) == len(chosen) > 0
    cost = sum(COSTS[f] for score in chosen for f in FIDELITIES if score.gets(f))
    assert sum(hours for _, hours in found.chosen) == pytest.approx(cost)
    assert [error > 0 for error, _ in found.chosen] == [score.gets("magnetic") for score in chosen]
    assert {item.kind for item in found.evidence} == {"nonmagnetic", "delta", "magnetic", "conditional"}
    # The control arm and the one frame of the hold-out
    assert found.calibration["magnetic"].frames == len(control) + 1
    # ... and those of the first round, which the pretrained model had not seen
    assert found.probe.pairs == len(found.pairs) == len(control) + 3


def test_it_is_played_once(rehearsed, published, mfal):
    again = mfal("rehearse", rehearsed[0], "--data", published)
    assert again.exit_code == 0, again.output
    assert "No calculation was started" in again.stdout
    status = mfal("status", rehearsed[1])
    assert "campaign small-rehearsal" in status.stdout
    assert status.exit_code == 0


def test_why_tells_the_decision_the_numbers_and_the_labels(rehearsed, mfal):
    stores = open_stores(load(rehearsed[1]).directory)
    scores = stores.all_scores("small-rehearsal")
    stores.close()
    control = next(s for s in scores if s.arm == "control" and s.round == 1)
    told = mfal("why", control.frame_id, rehearsed[1])
    assert told.exit_code == 0, told.output
    assert "Round 1: a non-magnetic and a magnetic calculation, drawn at random" in told.stdout
    for number in (control.sigma_delta, control.sigma_nonmagnetic, control.thresholds["delta"]):
        assert f"{number:.3f}" in told.stdout
    assert "magnetic label: ok, 0.07 core-hours" in told.stdout
    first = next(s for s in scores if s.decision == "nonmagnetic" and s.round == 0)
    start = mfal("why", first.frame_id[:8], rehearsed[1])
    assert "Round 0: a non-magnetic calculation. First round: a non-magnetic label" in start.stdout
    assert "threshold" not in start.stdout
    unknown = mfal("why", "0123456789ab", rehearsed[1])
    assert unknown.exit_code == 2
    assert "is no frame of" in unknown.stderr
    assert mfal("why", ".*", rehearsed[1]).exit_code == 2


def test_why_finds_the_campaign_by_itself(rehearsed, mfal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert mfal("why", "0123456789ab").exit_code == 2
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "one").symlink_to(rehearsed[1].parent)
    stores = open_stores(rehearsed[1].parent)
    name = stores.all_scores("small-rehearsal")[0].frame_id
    stores.close()
    assert f"{name}  " in mfal("why", name).stdout


def test_a_forecast_of_the_rehearsed_campaign(rehearsed, mfal):
    told = mfal("forecast", rehearsed[0], "--core-hours", 5)
    assert told.exit_code == 0, told.output
    assert "5 core-hours: magnetic force MAE" in told.stdout
    assert "an extrapolation" in told.stdout
    assert "of small-rehearsal" in told.stdout
    assert mfal("forecast", rehearsed[0], "--core-hours", 0).exit_code == 2


def test_a_forecast_needs_rounds(finished, mfal, tmp_path):
    short = mfal("forecast", finished[0], "--core-hours", 5)
    assert short.exit_code == 2
    assert "needs 3 rounds" in short.stderr
    nothing = mfal("forecast", write_campaign(tmp_path), "--core-hours", 5)
    assert nothing.exit_code == 2
    assert "'mfal run' of the campaign file makes it" in nothing.stderr


def test_what_cannot_be_rehearsed_is_refused(tmp_path, mfal):
    path = config(tmp_path)
    assert "there is no such file" in mfal("rehearse", path, "--data", tmp_path / "no.extxyz").stderr
    free = tmp_path / "free.extxyz"
    frames, labels = labelled(4, {})
    dataset.write(free, frames, labels)
    refused = mfal("rehearse", path, "--data", free)
    assert refused.exit_code == 2
    assert "do not say what they cost" in refused.stderr
    few = tmp_path / "few.extxyz"
    dataset.write(few, frames, labels[:6])  # two frames have both
    refused = mfal("rehearse", path, "--data", few, "--core-hours", 1, 3)
    assert refused.exit_code == 2
    assert "has 2 frames with labels at both fidelities, fewer than" in refused.stderr
    assert "must both be above 0" in mfal("rehearse", path, "--data", few, "--core-hours", 0, 3).stderr


def test_a_folder_that_changes_is_another_table(published, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(published, folder)
    engine = load(config(tmp_path, engine={"kind": "table", "data": "set"})).engine
    high = folder / "magnetic.extxyz"
    known, labels = dataset.read(high)
    name = labels[0].frame_id
    assert table_of.problems(engine, 16) == []
    before = engine.promised("magnetic")
    dataset.write(high, known, [label.model_copy(update={"energy": -1.0}) for label in labels])
    changed = engine.promised("magnetic")
    assert table_of.look_up(engine, name, "magnetic").energy == -1.0
    dataset.write(high, known, labels[1:])
    assert len(table_of.frames(engine)) == 15
    dataset.write(folder / "more.extxyz", known, labels[:1])  # the others are as they were
    found = engine.promised("magnetic")
    assert len(table_of.frames(engine)) == 16
    high.unlink()
    assert len(table_of.frames(engine)) == 1
    assert len({settings["data"] for settings in (before, changed, found, engine.promised("magnetic"))}) == 4
    # what holds no labels changes nothing
    last = engine.promised("magnetic")
    (folder / "README.md").write_text("the card")
    assert engine.promised("magnetic") == last


def test_a_folder_without_labels_is_no_table(tmp_path, mfal):
    (tmp_path / "set").mkdir()
    path = config(tmp_path, engine={"kind": "table", "data": "set"})
    with pytest.raises(ConfigError, match=r"engine\.data: .*set: is a folder without any \*\.extxyz"):
        load(path)
    refused = mfal("rehearse", config(tmp_path), "--data", tmp_path / "set")
    assert refused.exit_code == 2
    assert "is a folder without any *.extxyz" in refused.stderr
    assert not (tmp_path / "run-rehearsal").exists()


def test_lost_cheap_calculations_end_a_campaign_in_its_first_round_only(tmp_path):
    campaign = load(write_campaign(tmp_path))
    score = Score(campaign="small", round=1, frame_id="a", decision="both", arm="control", reason="drawn")
    committee = TrainedCommittee(campaign="small", round=0, members=[], data_fingerprint="")
    (later,) = decide(campaign, 1, [], [score], [None], committee, None)
    assert (later.decision, later.arm) == ("nonmagnetic", "control")
    assert "no good (lost)" in later.reason
    with pytest.raises(ValueError, match="all 1 non-magnetic calculations came to nothing"):
        decide(campaign, 0, [], [score], [None], None, None)


def test_the_probe_may_stop_the_cheap_calculations():
    bad = Probe(pairs=9, correlation=0.0, low=-0.1, high=0.1, cost_ratio=3, saving=-0.3, worth=False, message="no")
    good, unsure = bad.model_copy(update={"worth": True}), bad.model_copy(update={"worth": None})
    for mode, found in (("auto", [False, True, True, True]), ("always", [True] * 4), ("never", [False] * 4)):
        known = [Experience(probe=probe) for probe in (bad, good, unsure, None)]
        assert [cheap_pays(Acquire(nonmagnetic=mode), experience) for experience in known] == found
    assert cheap_pays(Acquire(), None)
    known = Experience(probe=bad)
    assert verdict(Acquire(), known) == (
        "no, so the loop goes on with magnetic labels only, still drawing the control arm at both"
    )
    forced = "no; the loop goes on with both fidelities (acquire.nonmagnetic: always)"
    assert verdict(Acquire(nonmagnetic="always"), known) == forced
    assert verdict(Acquire(), Experience()) == ""


def test_cheap_labels_that_do_not_pay_are_neither_trained_on_nor_calculated(tmp_path, table, mfal):
    """The surrogate's fidelities are two pretrained models whose errors hardly correlate."""
    acquire = {"magnetic_per_round": 4, "control_share": 0.25, "hold_out": 3}
    explore = small_campaign(tmp_path)["explore"] | {"frames": 8}
    path = config(tmp_path, acquire=acquire, explore=explore, stop={"rounds": 2})
    result = mfal("rehearse", path, "--data", table)
    assert result.exit_code == 0, result.output
    assert "so the loop goes on with magnetic labels only" in " ".join(result.stdout.split())
    stores = open_stores(tmp_path / "run-rehearsal")
    first, second = stores.all_rounds("small-rehearsal")
    scores = [score for score in stores.all_scores("small-rehearsal") if score.round == 1]
    stores.close()
    # Seven pairs were there before the first training
    assert first.trained_on == {"nonmagnetic": 0, "magnetic": 4}
    assert first.cheap
    assert first.counts["nonmagnetic"] == {"ok": 8}
    assert not second.cheap
    assert second.counts["nonmagnetic"] == {"ok": 1}
    assert second.trained_on["nonmagnetic"] == 0
    assert {score.decision for score in scores} <= {"skip", "magnetic", "both"}
    assert sum(score.decision == "magnetic" for score in scores) > 0
    assert all("sigma_magnetic" in score.reason for score in scores if score.arm != "control")
