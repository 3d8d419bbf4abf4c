"""Fingerprints, units and signs; GPAW for real at both fidelities."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import mno, rock_salt
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from pymatgen.core import Lattice, Structure

from flows.calculation import LabelMaker
from flows.engines.surrogate import SurrogateStaticMaker
from mfal.dft import gpaw
from mfal.dft.engines import Gpaw, GpawRetry, Surrogate
from mfal.dft.fidelity import fingerprint, settings
from mfal.dft.label import blank, from_ase, judged
from mfal.dft.magnetism import Magnetism
from mfal.dft.moments import initial_moments
from mfal.frames import Frame

MAGNETISM = Magnetism(hubbard_u={"Mn": 3.9, "Fe": 5.3}, moments={"Mn": 5.0, "Fe": 4.0})
ENGINE = Gpaw(cutoff=340, kpoint_density=1.5, retries=[])


def frame_of(structure):
    return Frame.of(structure, parent="p", source="s")


def label_of(structure, fidelity, engine, folder):
    """The label of one real job, run by jobflow in `folder`."""
    frame = frame_of(structure)
    asked = initial_moments(frame, MAGNETISM) if fidelity == "magnetic" else None
    job = LabelMaker(engine, MAGNETISM, fidelity).make(frame, asked)
    store = JobStore(MemoryStore())
    response = run_locally(job, store=store, root_dir=folder, log=False, raise_immediately=True)
    return response[job.uuid][1].output


def prints(engine, magnetism=MAGNETISM):
    return {f: fingerprint(settings(engine, magnetism, f)) for f in ("nonmagnetic", "magnetic")}


def test_fingerprint_names_what_makes_labels_comparable():
    base = prints(ENGINE)
    assert base["nonmagnetic"] != base["magnetic"]
    assert base == prints(ENGINE.model_copy(update={"processes": 8, "timeout": 1.0, "max_iterations": 7}))
    for change in ({"cutoff": 341}, {"kpoint_density": 1.6}, {"smearing": 0.2}, {"density_convergence": 1e-5}):
        changed = prints(ENGINE.model_copy(update=change))
        assert not set(changed.values()) & set(base.values()), change
    other_u = prints(ENGINE, MAGNETISM.model_copy(update={"hubbard_u": {"Mn": 4.0, "Fe": 5.3}}))
    assert other_u["nonmagnetic"] == base["nonmagnetic"]
    assert other_u["magnetic"] != base["magnetic"]
    assert not set(prints(Surrogate()).values()) & set(base.values())


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # atomate2 leaves files where it runs


@pytest.fixture
def surrogate_document():
    job = SurrogateStaticMaker(checkpoint="0.3.0").make(rock_salt_frame().structure)
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    return run_locally(job, store=store, log=False, raise_immediately=True)[job.uuid][1].output


def rock_salt_frame():
    return frame_of(rock_salt())


def energy(structure):
    job = SurrogateStaticMaker(checkpoint="0.3.0").make(structure)
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    return run_locally(job, store=store, log=False)[job.uuid][1].output.output.energy


def test_units_and_signs_against_finite_differences(surrogate_document):
    """atomate2's document is in kBar with VASP's sign; the label in GPa with dE/dstrain / V."""
    frame = rock_salt_frame()
    result = from_ase(surrogate_document, "nonmagnetic", "CHGNet")
    label = judged(blank(frame, Surrogate(), MAGNETISM, "nonmagnetic"), result, frame, MAGNETISM)
    assert label.good
    step, structure = 0.01, frame.structure
    strained = []
    for sign in (1, -1):
        deformation = np.eye(3)
        deformation[2, 2] += sign * step
        strained.append(
            Structure(Lattice(structure.lattice.matrix @ deformation), structure.species, structure.frac_coords)
        )
    slope = (energy(strained[0]) - energy(strained[1])) / (2 * step * structure.volume) * 160.21766
    assert abs(slope) > 1
    assert label.stress[2][2] == pytest.approx(slope, rel=0.05)
    moved = []
    for sign in (1, -1):
        copy = structure.copy()
        copy.translate_sites([0], [0, 0, sign * step], frac_coords=False)
        moved.append(energy(copy))
    assert label.forces[0][2] == pytest.approx(-(moved[0] - moved[1]) / (2 * step), abs=0.01)


def test_a_document_without_finite_numbers_is_no_good_label(surrogate_document):
    frame = rock_salt_frame()
    for name, value in (("forces", None), ("energy", float("nan")), ("stress", None)):
        document = surrogate_document.model_copy(deep=True)
        setattr(document.output.ionic_steps[-1], name, value)
        result = from_ase(document, "nonmagnetic", "CHGNet")
        label = judged(blank(frame, Surrogate(), MAGNETISM, "nonmagnetic"), result, frame, MAGNETISM)
        assert label.status == "failed"
        assert name in label.reason


def test_a_nonmagnetic_label_has_no_moments_rather_than_zeros(tmp_path):
    label = label_of(rock_salt(), "nonmagnetic", Surrogate(), tmp_path)
    assert label.good
    assert label.magmoms is None


def test_gpaw_at_both_fidelities_for_real(tmp_path):
    labels = {f: label_of(mno(), f, ENGINE, tmp_path) for f in ("nonmagnetic", "magnetic")}
    for label in labels.values():
        assert label.good, label.reason
        assert np.abs(np.sum(label.forces, axis=0)).max() < 0.05
        assert label.core_hours > 0
        assert os.path.exists(f"{label.directory}/gpaw.txt")
    assert labels["nonmagnetic"].magmoms is None
    manganese = dict(
        zip((s.symbol for s in frame_of(mno()).structure.species), labels["magnetic"].magmoms, strict=True)
    )["Mn"]
    assert 4.2 < manganese < 4.9
    assert labels["magnetic"].energy != pytest.approx(labels["nonmagnetic"].energy, abs=0.1)
    # Adopted, not repeated: the second job finds the folder and returns the first one's numbers and cost at once.
    log = os.path.getmtime(f"{labels['magnetic'].directory}/gpaw.txt")
    again = label_of(mno(), "magnetic", ENGINE, tmp_path)
    assert again.energy == labels["magnetic"].energy
    assert again.core_hours == labels["magnetic"].core_hours
    assert os.path.getmtime(f"{again.directory}/gpaw.txt") == log


@pytest.mark.slow
@pytest.mark.parametrize("fidelity", ["nonmagnetic", "magnetic"])
def test_gpaw_stress_against_finite_differences(tmp_path, fidelity):
    """The pressure of a label against the energies of labels at a fixed, high cutoff; the Pulay correction included."""
    engine = Gpaw(cutoff=600, kpoint_density=2.0)
    strain, cell = 0.01, mno()
    bigger, smaller = (cell.copy().scale_lattice(cell.volume * (1 + s) ** 3) for s in (strain, -strain))
    slope = label_of(bigger, fidelity, engine, tmp_path).energy - label_of(smaller, fidelity, engine, tmp_path).energy
    slope *= 160.21766 / (bigger.volume - smaller.volume)
    label = label_of(cell, fidelity, engine, tmp_path)
    assert np.trace(label.stress) / 3 == pytest.approx(slope, abs=4.0)  # GPa; the estimate is good to about 3
    assert abs(slope) > 5


def test_gpaw_that_does_not_converge_is_a_label_with_that_status(tmp_path):
    hasty = ENGINE.model_copy(update={"max_iterations": 2})
    label = label_of(mno(), "nonmagnetic", hasty, tmp_path)
    assert label.status == "unconverged"
    assert "2 iterations" in label.reason
    assert label.energy is None
    assert label.core_hours > 0


def test_gpaw_climbs_its_ladder_for_real(tmp_path):
    """Every way of trying again reaches GPAW, and leads to the same numbers."""
    mixer = {"mixer": {"backend": "msr1", "nmaxold": 5}, "davidson": 2, "bands": 1.2, "max_iterations": 80}
    ladder = [GpawRetry(after=["unconverged"], **way) for way in ({"davidson": 3}, mixer)]
    hasty = ENGINE.model_copy(update={"max_iterations": 3, "retries": ladder})
    label, plain = label_of(mno(), "nonmagnetic", hasty, tmp_path), label_of(mno(), "nonmagnetic", ENGINE, tmp_path)
    first = label.earlier
    assert [attempt.status for attempt in first] == ["unconverged", "unconverged"]
    assert label.good
    assert label.attempt == 3
    assert label.fingerprint == plain.fingerprint
    assert label.energy == pytest.approx(plain.energy, abs=0.01)
    assert label.earlier_core_hours == pytest.approx(sum(attempt.core_hours for attempt in first))
    assert len({attempt.directory for attempt in (label, *first)}) == 3
    text = Path(label.directory, "gpaw.txt").read_text().lower()
    assert "davidson" in text
    assert "msr1" in text


def test_presets_are_values_for_what_is_left_out():
    assert (Gpaw(preset="fast").cutoff, Gpaw(preset="fast", cutoff=444).cutoff) == (500, 444)
    assert Gpaw().model_dump() == Gpaw(preset="production").model_dump()
    assert prints(Gpaw(preset="fast")) == prints(Gpaw(cutoff=500, kpoint_density=2.0))


@pytest.mark.parametrize("processes", [1, 2])
def test_gpaw_that_breaks_is_a_failed_label_with_the_reason(tmp_path, processes):
    on_top = Structure(Lattice.cubic(3), ["Mn", "O"], [[0, 0, 0], [0.001, 0, 0]])
    label = label_of(on_top, "nonmagnetic", ENGINE.model_copy(update={"processes": processes}), tmp_path)
    assert label.status == "failed"
    assert "exit code" in label.reason
    assert "Atoms are too close" in label.reason


def test_gpaw_that_takes_too_long_is_stopped(tmp_path):
    slow = ENGINE.model_copy(update={"timeout": 0.05, "cutoff": 900.0, "kpoint_density": 6.0})
    label = label_of(mno(), "magnetic", slow, tmp_path)
    assert label.status == "failed"
    assert "engine.timeout = 0.05 minutes" in label.reason
    assert label.core_hours > 0
    # its command names no folder, but runs in it
    running = [cwd.parent for cwd in Path("/proc").glob("[0-9]*/cwd") if os.path.realpath(cwd) == label.directory]
    assert not running
    assert not (Path(label.directory) / gpaw.RESULT).exists()  # it was not let run to its end


#: Stands in for GPAW in the tests of the lock: counts its starts and takes two seconds.
FAKE_GPAW = """
import json, os, sys, time
open("starts", "a").write("x")
time.sleep(2)
json.dump({"status": "unconverged", "reason": "fake", "wall_seconds": 2.0}, open("part", "w"))
os.replace("part", sys.argv[-2])
"""


def test_a_calculation_that_outlives_its_parent_is_adopted(tmp_path):
    """SIGKILL of the parent, then a second parent at once: one calculation, two readers. GPAW is a fake here; its real
    twin is the slow test in test_restart.py."""
    fake = tmp_path / "fake"
    fake.write_text(FAKE_GPAW)
    script = (
        "import sys; sys.executable = sys.argv[1]\n"
        "from mfal.dft.engines import Gpaw\nfrom mfal.dft.magnetism import Magnetism\n"
        "from mfal.dft.gpaw import GpawProcess\n"
        "from ase import Atoms\n"
        "atoms = Atoms('MnO', positions=[(0, 0, 0), (2, 0, 0)], cell=[4, 4, 4], pbc=True)\n"
        "atoms.calc = GpawProcess(Gpaw(processes=1), Magnetism(hubbard_u={}, moments={}), 'nonmagnetic')\n"
        "atoms.get_potential_energy()\n"
    )
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} {fake} "$@"\n')
    wrapper.chmod(0o755)
    first = subprocess.Popen([sys.executable, "-c", script, str(wrapper)], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (tmp_path / "starts").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.kill()
    first.wait()
    second = subprocess.run([sys.executable, "-c", script, str(wrapper)], capture_output=True, text=True)
    assert "CalculationError: fake" in second.stderr
    assert (tmp_path / "starts").read_text() == "x"


def test_what_gpaw_lacks_is_said_with_the_mend(monkeypatch):
    found = gpaw.problems(ENGINE, ["Mn", "Pu"])
    assert len(found) == 1
    assert "Pu" in found[0]
    assert "setup" in found[0]
    monkeypatch.setattr(gpaw.shutil, "which", lambda _: None)
    assert "mpirun" in gpaw.problems(ENGINE, ["Mn"])[0]
    monkeypatch.setattr(gpaw.importlib.util, "find_spec", lambda _: None)
    assert "not installed" in gpaw.problems(ENGINE, ["Mn"])[0]


def test_two_threads_calculate_once(tmp_path, monkeypatch):
    runs = []

    def pretend(*_):
        runs.append(1)
        time.sleep(0.3)
        (tmp_path / gpaw.RESULT).write_text(json.dumps({"status": "unconverged", "reason": "fake", "wall_seconds": 1}))

    monkeypatch.setattr(gpaw.GpawProcess, "_run", pretend)
    job = json.dumps({"a": 1})
    calculators = [gpaw.GpawProcess(ENGINE, MAGNETISM, "magnetic") for _ in range(2)]
    threads = [threading.Thread(target=calculator._result, args=(job,)) for calculator in calculators]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs) == 1
