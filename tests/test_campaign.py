"""The whole loop on the surrogate engine: real exploration, training and stores; pretrained CHGNets in place of DFT.

Its real twin, on GPAW, is the quickstart campaign and the slow test in test_restart.py.
"""

from __future__ import annotations

import base64
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from conftest import small_campaign, write_campaign

from mfal.config_file import load
from mfal.frames import FIDELITIES
from mfal.model.weights import from_bytes
from stores.builder import CampaignBuilder
from stores.campaign import open_stores
from stores.connect import FILE, KEYS


@pytest.fixture
def stores(finished):
    opened = open_stores(load(finished[0]).directory)
    yield opened
    opened.close()


def test_two_rounds_with_labels_of_both_fidelities(stores):
    rounds = stores.all_rounds("small")
    assert [r.round for r in rounds] == [0, 1]
    for summary in rounds:
        assert summary.counts["nonmagnetic"] == {"ok": 5}
        assert summary.counts["magnetic"] == {"ok": 3 if summary.round == 0 else 2}
        assert summary.errors["hold_out"]["magnetic"].frames == 1
        assert summary.errors["hold_out"]["magnetic"].magmoms is not None
        assert summary.errors["hold_out"]["nonmagnetic"].magmoms is None
    # The hold-out has both labels and none of them is trained on
    assert rounds[1].trained_on == {"nonmagnetic": 9, "magnetic": 4}
    assert rounds[0].stop is False
    assert rounds[1].stop is True
    assert "stop.rounds" in rounds[1].next_step


def test_every_frame_has_a_decision_and_later_ones_a_sigma(stores):
    scores = stores.all_scores("small")
    assert Counter(score.round for score in scores) == {0: 5, 1: 5}
    arms = Counter((score.round, score.arm, score.decision) for score in scores)
    assert arms == {
        (0, "hold_out", "both"): 1,
        (0, "control", "both"): 2,
        (0, None, "nonmagnetic"): 2,
        (1, "control", "both"): 1,
        (1, "committee", "both"): 1,
        (1, None, "nonmagnetic"): 3,
    }
    for score in scores:
        assert score.reason
        if score.round == 1:
            assert score.case == "both"  # no sigma is below a threshold of 0
            assert min(score.sigma_nonmagnetic, score.sigma_delta, score.sigma_magnetic, score.sigma_conditional) > 0
            assert score.core_hours.keys() == {"nonmagnetic", "magnetic"}
    for fidelity in FIDELITIES:
        asked = {score.frame_id for score in scores if score.gets(fidelity)}
        assert asked == {label.frame_id for label in stores.all_labels() if label.fidelity == fidelity}


def test_a_round_says_what_it_decided_and_what_its_random_frames_taught(stores):
    first, second = stores.all_rounds("small")
    assert first.decisions == {"both": 3, "nonmagnetic": 2}
    assert second.decisions == {"both": 2, "nonmagnetic": 3}
    assert first.thresholds == {}
    assert second.thresholds == dict.fromkeys(("nonmagnetic", "delta", "magnetic", "conditional"), 0.0)
    # The hold-out's frame in round 0, as no committee chose before; then the control arm's, too
    assert [first.calibration["delta"]["frames"], second.calibration["delta"]["frames"]] == [1, 2]
    assert first.calibration.keys() == {"nonmagnetic", "delta", "magnetic", "conditional"}
    assert "4 random frames" in second.probe
    assert first.saving == ""
    assert "4 chosen and 1 random frames" in second.saving


def test_frames_are_new_in_every_round(stores):
    frames = stores.all_frames("small")
    assert len(frames) == 10
    assert {label.frame_id for label in stores.all_labels()} == frames.keys()


def test_models_are_kept_with_their_data_and_predict(stores):
    models = list(stores.models.store.query(sort={"round": 1, "member": 1}))
    assert [(model["round"], model["member"]) for model in models] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert models[0]["data_fingerprint"] != models[2]["data_fingerprint"]
    assert len(models[0]["log"]) == 2
    committee = stores.output(models[2]["job_uuid"])
    structure = next(iter(stores.all_frames("small").values())).structure
    forces = [
        from_bytes(base64.b64decode(member.weights)).predict_structure(structure)["f"] for member in committee.members
    ]
    assert np.abs(forces[0] - forces[1]).max() > 1e-4


def test_builder_may_run_again_and_changes_nothing(stores):
    before = {name: sorted(map(str, stores.collections[name].store.query())) for name in KEYS}
    CampaignBuilder.of(stores).build()
    assert {name: sorted(map(str, stores.collections[name].store.query())) for name in KEYS} == before


def test_builder_restores_lost_collections(stores):
    for name in KEYS:
        stores.collections[name].store.remove_docs({})
    assert stores.all_rounds("small") == []
    CampaignBuilder.of(stores).build()
    assert len(stores.all_rounds("small")) == 2
    assert len(stores.all_labels()) == 15


def test_a_second_run_calculates_nothing_and_says_so(finished, mfal):
    path, first = finished
    assert "15 calculations run (10 non-magnetic, 5 magnetic)" in first
    assert "round 0  decide done: 2 non-magnetic, 3 both" in first
    assert "round 1  decide done: 3 non-magnetic, 2 both" in first
    again = mfal("run", path)
    assert again.exit_code == 0
    assert "No calculation was started: all 15 that the campaign asks for are in the store" in again.stdout


def test_status_and_report(finished, mfal):
    path, first = finished
    status = mfal("status", path)
    assert status.exit_code == 0
    for words in ("non-magnetic", "5 ok", "3 ok", "2 ok", "Moments of the good magnetic labels"):
        assert words in status.stdout
    said = " ".join(status.stdout.split())
    assert "Next: stop, as all 2 rounds are done" in said
    assert "Decisions of round 1: 3 non-magnetic, 2 both" in said
    assert re.search(r"Calibration: sigma_nonmagnetic x [\d.]+, sigma_delta x [\d.]+, from 2 random frames", said)
    assert "4 chosen and 1 random frames are too few" in said
    assert "4 random frames with good labels at both fidelities are too few" in said
    report = load(path).directory / "reports" / "round-1.html"
    assert str(report) in first.replace("\n", "")
    written = report.read_text()
    report.unlink()
    again = mfal("report", path, "--no-figures")
    assert again.exit_code == 0
    assert report.read_text() == written
    missing = mfal("report", path, "--round", 7)
    assert missing.exit_code == 2
    assert "no report of round 7" in missing.stderr


def test_status_before_anything_ran(tmp_path, mfal):
    result = mfal("status", write_campaign(tmp_path))
    assert result.exit_code == 2
    assert "'mfal run' of the campaign file makes it" in result.stderr
    assert not (tmp_path / "run").exists()


def test_more_rounds_go_on_where_the_campaign_ended(tmp_path, mfal):
    assert mfal("run", write_campaign(tmp_path, stop={"rounds": 1})).exit_code == 0
    result = mfal("run", write_campaign(tmp_path, stop={"rounds": 2}))
    assert result.exit_code == 0
    assert "7 calculations run (5 non-magnetic, 2 magnetic), 8 found in the store" in result.stdout
    more = mfal("run", write_campaign(tmp_path, stop={"rounds": 3}))
    assert "7 calculations run (5 non-magnetic, 2 magnetic), 15 found in the store" in more.stdout
    assert "train" not in re.findall(r"round 1  (\w+) done", more.stdout)


def test_a_campaign_that_finds_nothing_says_why(tmp_path, mfal):
    explore = small_campaign(tmp_path)["explore"] | {"volume_per_atom": [24.0, 25.0]}
    result = mfal("run", write_campaign(tmp_path, explore=explore))
    assert result.exit_code == 1
    assert "explore found no frame" in result.stdout
    assert "absurd volume" in result.stdout


def test_a_store_of_someone_else_is_refused(tmp_path, mfal):
    path = write_campaign(tmp_path)
    (tmp_path / "run").mkdir()
    foreign = sqlite3.connect(tmp_path / "run" / FILE)
    foreign.execute("CREATE TABLE recipes (name TEXT)")
    foreign.commit()
    result = mfal("run", path)
    assert result.exit_code == 2
    assert FILE in result.stderr
    assert foreign.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)


def test_one_run_at_a_time(tmp_path, mfal):
    path = write_campaign(tmp_path)
    first = subprocess.Popen([sys.executable, "-m", "flows", "run", str(path)], stdout=subprocess.DEVNULL)
    lock = tmp_path / "run" / "run.lock"
    deadline = time.monotonic() + 60
    while not (lock.is_file() and lock.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second = mfal("run", path)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert second.exit_code == 1
    assert f"process {first.pid}" in second.stderr


@pytest.mark.parametrize("after", [3, 9])
def test_killed_in_the_middle_it_finishes_and_repeats_nothing(tmp_path, mfal, after):
    """SIGKILL after some labels; the same command again. Every (frame, fidelity) is calculated once."""
    path = write_campaign(tmp_path)
    process = subprocess.Popen([sys.executable, "-m", "flows", "run", str(path)], stdout=subprocess.DEVNULL)
    database = tmp_path / "run" / FILE
    deadline = time.monotonic() + 120
    while not (database.is_file() and labels_in(database) >= after):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = labels_in(database)
    before = finishing_times(database)
    result = mfal("run", path)
    assert result.exit_code == 0, result.output
    assert f"{15 - kept} calculations run" in result.stdout
    assert f"{kept} found in the store" in result.stdout
    assert finishing_times(database).items() >= before.items()
    assert len(finishing_times(database)) == 15


def labels_in(database) -> int:
    return len(finishing_times(database))


def finishing_times(database) -> dict[str, str]:
    """When each label job was done, read past the store: uuid -> time."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        try:
            rows = connection.execute(
                "SELECT json_extract(doc, '$.uuid'), json_extract(doc, '$.completed_at') FROM outputs"
                " WHERE json_extract(doc, '$.metadata.kind') = 'label'"
            ).fetchall()
        except sqlite3.OperationalError:  # not made yet
            rows = []
    return dict(rows)
