"""The restart on real DFT: a GPAW campaign killed in the middle of a calculation."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import small_campaign, write_campaign

from stores.campaign import open_stores


@pytest.mark.slow
def test_gpaw_campaign_killed_in_the_middle_of_a_calculation(tmp_path, mfal):
    engine = {"kind": "gpaw", "cutoff": 300, "kpoint_density": 1.5, "processes": 2}
    acquire = small_campaign(tmp_path)["acquire"] | {"magnetic_per_round": 1}
    explore = small_campaign(tmp_path)["explore"] | {"frames": 3}
    path = write_campaign(tmp_path, engine=engine, acquire=acquire, explore=explore, stop={"rounds": 1})
    process = subprocess.Popen([sys.executable, "-m", "flows", "run", str(path)], stdout=subprocess.DEVNULL)
    calculations = tmp_path / "run" / "calculations"
    deadline = time.monotonic() + 300
    while len(list(calculations.glob("*/gpaw.txt"))) < 2:  # the second one has begun
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    result = mfal("run", path)
    assert result.exit_code == 0, result.output
    folders = sorted(folder for folder in calculations.iterdir() if folder.name != "training")
    assert len(folders) == 5  # 3 frames non-magnetic, the hold-out and one more magnetic
    for folder in folders:
        assert starts(folder) == 1, folder
    assert "Moments of the good magnetic labels" in result.stdout


def starts(folder: Path) -> int:
    """How often GPAW was started in a folder: its log has one line of command for each."""
    return sum(line.startswith("$ ") for line in (folder / "gpaw.log").read_text().splitlines())


@pytest.mark.slow
def test_an_unconverged_calculation_is_attempted_again_only_with_other_limits(tmp_path, mfal):
    """GPAW for real: too few iterations for any frame, then for none."""
    engine = {"kind": "gpaw", "cutoff": 250, "kpoint_density": 1.0, "processes": 2, "retries": []}
    explore = small_campaign(tmp_path)["explore"] | {"frames": 2}

    def run(iterations: int, *options: str):
        limited = engine | {"max_iterations": iterations}
        return mfal("run", write_campaign(tmp_path, engine=limited, explore=explore, stop={"rounds": 1}), *options)

    first = run(2)
    assert first.exit_code == 1
    assert first.stdout.count("unconverged  no self-consistency in 2 iterations") == 2
    assert "all 2 non-magnetic calculations came to nothing" in first.stdout
    assert "2 x unconverged: no self-consistency in 2 iterations" in mfal("status", tmp_path / "small.yaml").stdout
    again = run(2)
    assert "unconverged" not in again.stdout  # kept, not attempted
    insisted = run(2, "--retry-failed")
    assert insisted.stdout.count("unconverged  no self-consistency in 2 iterations") == 2
    cured = run(150)
    assert cured.exit_code == 0, cured.output
    assert cured.stdout.count("  ok  ") == 4
    assert "4 calculations run (2 non-magnetic, 2 magnetic)" in cured.stdout
    stores = open_stores(tmp_path / "run")
    labels = [label for label in stores.all_labels() if label.fidelity == "nonmagnetic"]
    attempts = sorted((label.frame_id, label.attempt, label.status) for label in labels)
    for frame in (attempts[:3], attempts[3:]):
        assert [rest for _, *rest in frame] == [[1, "unconverged"], [2, "unconverged"], [3, "ok"]]
    (summary,) = stores.all_rounds("small")
    assert summary.core_hours["nonmagnetic"] == pytest.approx(sum(label.core_hours for label in labels))
    stores.close()
