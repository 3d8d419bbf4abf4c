"""Calculations side by side, with real GPAW: that they are, and what a run that ends in the middle leaves of them."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from pymatgen.core import Lattice, Structure

MAGNETISM = {"hubbard_u": {"Mn": 3.9, "Fe": 5.3}, "moments": {"Mn": 5.0, "Fe": 4.0}}
ENGINE = {"kind": "gpaw", "cutoff": 250, "kpoint_density": 1.0, "processes": 1}


@pytest.fixture
def labelling(tmp_path):
    """The arguments of `mfal` that label two crystals, two calculations at a time."""
    crystals = []
    for number, element in enumerate(("Mn", "Fe")):
        crystal = Structure(Lattice.cubic(4.4), [element, "O"], [[0, 0, 0], [0.5, 0.5, 0.48]])
        crystals.append(tmp_path / f"{number}.cif")
        crystal.to(filename=crystals[-1])
    parent = {"name": "p", "structure": str(crystals[0]), "sublattices": []}
    config = tmp_path / "config.yaml"
    config.write_text(
        yaml.safe_dump(
            {"campaign": "c", "directory": "d", "parents": [parent], "engine": ENGINE, "magnetism": MAGNETISM}
        )
    )
    options = ["--config", config, "--jobs", 2, "--fidelity", "nonmagnetic", "--out", tmp_path / "out"]
    return ["label", *map(str, [*crystals, *options])]


@pytest.fixture
def started(labelling, tmp_path):
    """The same, by a process in whose folders two calculations run."""
    with subprocess.Popen([sys.executable, "-m", "flows", *labelling], stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while len(list(calculations(tmp_path).glob("*/gpaw.txt"))) < 2:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        yield process
        process.kill()


def calculations(tmp_path: Path) -> Path:
    return tmp_path / "out" / "calculations"


def held(folder: Path) -> bool:
    """Whether a calculation runs there."""
    with open(folder / "gpaw.lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_two_at_once_and_each_once_also_when_the_run_is_killed(started, labelling, tmp_path, mfal):
    folders = list(calculations(tmp_path).iterdir())
    assert [held(folder) for folder in folders] == [True, True]
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    result = mfal(*labelling)
    assert result.exit_code == 0, result.output
    assert "2 good labels" in result.output
    for folder in folders:
        assert sum(line.startswith("$ ") for line in (folder / "gpaw.log").read_text().splitlines()) == 1
        assert json.loads((folder / "label.json").read_text())["label"]["status"] == "ok"


def test_an_interrupted_run_leaves_nothing_running(started, tmp_path):
    os.kill(started.pid, signal.SIGINT)
    started.wait(timeout=60)
    assert not any(held(folder) for folder in calculations(tmp_path).iterdir())
