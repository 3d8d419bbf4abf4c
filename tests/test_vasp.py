"""VASP through atomate2 and custodian, for real; the program itself is the stand-in of tests/stand_in."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import STRUCTURES, mno, rock_salt, write_campaign
from jobflow import Flow, JobStore, run_locally
from maggma.stores import MemoryStore
from pymatgen.core import Structure
from pymatgen.io.vasp import Incar, Kpoints, Poscar

from flows.calculation import LabelMaker
from flows.engines import engine
from flows.engines.contract import validate
from mfal.config_file import ConfigError, load
from mfal.dft import launch
from mfal.dft.engines import Vasp, VaspRetry
from mfal.dft.fidelity import fingerprint, settings
from mfal.dft.magnetism import Magnetism
from mfal.dft.moments import initial_moments
from mfal.frames import Frame
from stores.campaign import open_stores

STAND_IN = Path(__file__).parent / "stand_in"
MAGNETISM = Magnetism(hubbard_u={"Mn": 3.9, "Fe": 5.3}, moments={"Mn": {2: 5, 3: 4}, "Fe": {2: 4, 3: 5}})
ENGINE = Vasp(potcar_spec=True, processes=4, retries=[])


@pytest.fixture(autouse=True)
def plan(tmp_path, monkeypatch):
    """The stand-in on the PATH; returns what tells it how to behave: a mapping from a part of a path to modes."""
    monkeypatch.setenv("PATH", f"{STAND_IN}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("VASP_STAND_IN", str(tmp_path / "plan.json"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    return lambda modes: (tmp_path / "plan.json").write_text(json.dumps(modes))


def charged_olivine() -> Frame:
    """Li0.5Mn0.5Fe0.5PO4: two of four Li gone, so both Fe are 3+ and both Mn stay 2+."""
    structure = Structure.from_file(STRUCTURES / "olivine-limnpo4.cif")
    manganese = [i for i, site in enumerate(structure) if site.specie.symbol == "Mn"]
    lithium = [i for i, site in enumerate(structure) if site.specie.symbol == "Li"]
    structure[manganese[0]] = structure[manganese[3]] = "Fe"
    structure.remove_sites([lithium[1], lithium[2]])
    return Frame.of(structure, parent="olivine", source="test")


def labels_of(frames, fidelity="magnetic", section=ENGINE, magnetism=MAGNETISM):
    """One flow of one job a frame, as `mfal run` runs them; what each put out, in their order."""
    jobs = [
        LabelMaker(section, magnetism, fidelity).make(
            frame, initial_moments(frame, magnetism) if fidelity == "magnetic" else None
        )
        for frame in frames
    ]
    store = JobStore(MemoryStore())
    out = run_locally(Flow(jobs), store=store, root_dir="jobs", log=False, raise_immediately=True)
    return [out[job.uuid][1].output for job in jobs]


def different(count: int) -> list[Frame]:
    rng = np.random.default_rng(1)
    frames = []
    for _ in range(count):
        cell = rock_salt()
        places = cell.cart_coords + rng.normal(0, 0.02, (4, 3))
        structure = Structure(cell.lattice, cell.species, places, coords_are_cartesian=True)
        frames.append(Frame.of(structure, parent="p", source="s"))
    return frames


def written(label, name):
    return gzip.open(Path(label.directory) / f"{name}.gz", "rt").read()


def test_input_files_of_both_fidelities_say_what_was_promised():
    frame = charged_olivine()
    symbols = [site.specie.symbol for site in frame.structure]
    (magnetic,), (nonmagnetic,) = labels_of([frame]), labels_of([frame], "nonmagnetic")
    assert magnetic.good, magnetic.reason
    assert nonmagnetic.good
    files = {}
    for name, label in (("magnetic", magnetic), ("nonmagnetic", nonmagnetic)):
        poscar = Poscar.from_str(written(label, "POSCAR"))
        assert [site.specie.symbol for site in poscar.structure] == symbols
        assert np.allclose(poscar.structure.frac_coords, frame.structure.frac_coords, atol=1e-6)
        files[name] = Incar.from_str(written(label, "INCAR")), Kpoints.from_str(written(label, "KPOINTS")), poscar
    incar, kpoints, poscar = files["magnetic"]
    assert poscar.site_symbols == ["Li", "O", "P", "Mn", "Fe"]
    assert (incar["ISPIN"], incar["LDAU"], incar["LDAUTYPE"]) == (2, True, 2)
    assert incar["LDAUU"] == [0, 0, 0, 3.9, 5.3]
    assert incar["LDAUL"] == [-1, -1, -1, 2, 2]
    assert incar["LDAUJ"] == [0] * 5
    # both Fe have given up an electron for the two Li that are gone
    assert incar["MAGMOM"] == [{"Mn": 5, "Fe": 5}.get(symbol, 0) for symbol in symbols]
    other = files["nonmagnetic"][0]
    assert other["ISPIN"] == 1
    assert not {"MAGMOM", "LDAUU", "LDAUL", "LDAUJ"} & other.keys()
    assert not other.get("LDAU", False)
    owned = {"ISPIN", "MAGMOM", "LDAU", "LDAUTYPE", "LDAUU", "LDAUL", "LDAUJ"}
    assert {k: v for k, v in incar.items() if k not in owned} == {k: v for k, v in other.items() if k not in owned}
    for key, value in {"ENCUT": 520, "NSW": 0, "GGA": "Pe", "LASPH": True, "ISIF": 2, "ISMEAR": 0}.items():
        assert incar[key] == value, key
    assert kpoints.kpts == files["nonmagnetic"][1].kpts
    assert kpoints.style == Kpoints.supported_modes.Gamma
    assert kpoints.kpts[0][1] > kpoints.kpts[0][0]  # a is twice as long as b


def test_a_label_has_the_numbers_of_the_output_in_its_own_units_and_signs():
    (label,) = labels_of([charged_olivine()])
    text = written(label, "OUTCAR")
    assert label.energy == pytest.approx(float(text.split("energy(sigma->0) =")[-1].split()[0]), abs=1e-6)
    kbar = [float(x) for x in text.split("in kB")[-1].split("\n")[0].split()]
    assert np.allclose(np.diag(label.stress), -0.1 * np.array(kbar[:3]), atol=1e-4)
    # the first of the two tables in OUTCAR is 10% too small
    iron = [m for site, m in zip(charged_olivine().structure, label.magmoms, strict=True) if site.specie.symbol == "Fe"]
    assert all(4.1 < moment < 4.3 for moment in iron)
    assert label.code == "VASP 6.4.2"
    assert label.core_hours == pytest.approx(4 * launch.seconds(Path(label.directory)) / 3600)
    assert label.asked is not None


@pytest.mark.parametrize("cell", [mno, rock_salt])
def test_the_engine_keeps_the_contract(cell, tmp_path):
    structure = cell()
    moments = [5.0 if site.specie.symbol == "Mn" else 0.0 for site in structure]
    assert validate(engine(ENGINE, MAGNETISM), structure, moments, tmp_path / "calculations") == []


def test_forces_of_a_left_handed_cell_are_those_of_its_right_handed_twin():
    """pymatgen writes the inverted crystal of left-handed axes."""
    right = rock_salt()
    left = Structure(right.lattice.matrix[[1, 0, 2]], right.species, right.frac_coords[:, [1, 0, 2]])
    assert np.linalg.det(left.lattice.matrix) < 0
    one, other = labels_of([Frame.of(s, parent="p", source="s") for s in (right, left)])
    assert one.good
    assert other.good, other.reason
    assert np.abs(one.forces).max() > 0.1
    assert np.allclose(one.forces, other.forces, atol=1e-4)
    assert np.allclose(one.stress, other.stress, atol=1e-3)


#: What the stand-in does, what becomes of the label, and a word of the reason.
MISBEHAVIOUR = {
    "ok": ("ok", ""),
    "unconverged": ("unconverged", "no self-consistency"),
    "crash": ("failed", "exit code 139"),
    "hang": ("failed", "engine.timeout = 0.5 minutes"),
    "flipped": ("other_state", "turned over"),
    "wrong_size": ("other_state", "+1.90 µB, which is none of its valences"),
    "collapsed": ("collapsed", "+0.00 µB of the +5.0 asked for"),
    "one_collapsed": ("collapsed", "+0.00 µB"),
    "wrong_valence": ("other_state", "add up to"),
    "truncated": ("failed", "its output cannot be used"),
    "nan_forces": ("failed", "no finite forces"),
    "edddav": ("failed", "exit code 1"),
    "zbrent": ("failed", "custodian changed what is calculated: INCAR has IBRION = 1"),
    "error_then_ok": ("ok", ""),
}


def test_every_misbehaviour_is_a_label_with_its_status_and_cost_and_the_rest_goes_on(plan):
    frames = different(len(MISBEHAVIOUR))
    plan({frame.frame_id: [mode] for frame, mode in zip(frames, MISBEHAVIOUR, strict=True)})
    # long enough that only what never ends meets it, on a busy machine, too
    labels = dict(zip(MISBEHAVIOUR, labels_of(frames, section=ENGINE.model_copy(update={"timeout": 0.5})), strict=True))
    for mode, (status, word) in MISBEHAVIOUR.items():
        label = labels[mode]
        assert label.status == status, (mode, label.reason)
        assert word in label.reason, mode
        assert label.core_hours > 0, mode
        assert label.core_hours == pytest.approx(4 * launch.seconds(Path(label.directory)) / 3600), mode
        assert (label.energy is None) == (status in ("unconverged", "failed")), mode
    assert labels["hang"].core_hours * 3600 / 4 >= 0.5 * 60
    # custodian ran VASP again, and the label paid for both
    assert len(launch.launches(Path(labels["error_then_ok"].directory))) == 2


def test_the_ladder_is_climbed_by_status_and_every_rung_is_booked(plan):
    calm = VaspRetry(after=["unconverged"], incar={"AMIX": 0.1})
    other_start = VaspRetry(after=["other_state", "collapsed"], moments=1.3, incar={"ALGO": "All", "NBANDS": 60})
    section = ENGINE.model_copy(update={"retries": [calm, other_start], "handlers": []})
    cured, stubborn = different(2)
    plan({cured.frame_id: ["unconverged", "collapsed", "ok"], stubborn.frame_id: ["flipped"]})
    label, hopeless = labels_of([cured, stubborn], section=section)
    assert label.good
    assert label.attempt == 3
    assert [attempt.status for attempt in label.earlier] == ["unconverged", "collapsed"]
    assert [attempt.attempt for attempt in label.earlier] == [1, 2]
    assert label.earlier_core_hours == pytest.approx(sum(attempt.core_hours for attempt in label.earlier))
    assert all(attempt.core_hours > 0 for attempt in label.earlier)
    assert len({label.fingerprint, *(attempt.fingerprint for attempt in label.earlier)}) == 1
    assert Incar.from_str(written(label.earlier[1], "INCAR"))["AMIX"] == 0.1
    last = Incar.from_str(written(label, "INCAR"))
    assert (last["ALGO"], last["NBANDS"]) == ("All", 60)
    assert max(last["MAGMOM"]) == pytest.approx(1.3 * 5)
    # the rung for the unconverged is not for it
    assert hopeless.status == "other_state"
    assert hopeless.attempt == 2
    assert hopeless.energy is not None


def test_what_failed_is_attempted_again_when_a_limit_changes_or_a_person_insists(tmp_path, mfal, plan):
    (frame,) = different(1)
    frame.structure.to(filename=str(tmp_path / "one.json"))
    plan({frame.frame_id: ["hang", "crash", "ok"]})

    def attempt(timeout, *options):
        config = write_campaign(
            tmp_path,
            engine={"kind": "vasp", "potcar_spec": True, "timeout": timeout, "retries": []},
            magnetism={"hubbard_u": {"Mn": 3.9, "Fe": 5.3}, "moments": {"Mn": 5.0, "Fe": 4.0}},
        )
        mfal("label", "one.json", "--fidelity", "magnetic", "--config", config, "--out", "out", *options)
        stores = open_stores(tmp_path / "out")
        found = sorted(stores.all_labels(), key=lambda label: label.attempt)
        stores.close()
        return found

    (hung,) = attempt(0.03)
    assert hung.status == "failed"
    assert attempt(0.03) == [hung]
    _, crashed = attempt(5.0)
    assert (crashed.status, crashed.attempt) == ("failed", 2)
    assert "exit code 139" in crashed.reason
    *_, last = attempt(5.0, "--retry-failed")
    assert (last.status, last.attempt) == ("ok", 3)
    # each has its own folder and cost, and the last knows what the others cost
    assert len({label.directory for label in (hung, crashed, last)}) == 3
    assert last.earlier_core_hours == pytest.approx(hung.core_hours + crashed.core_hours)
    for label in (hung, crashed, last):
        assert label.core_hours * 3600 == pytest.approx(launch.seconds(Path(label.directory)))


def test_a_job_run_again_repeats_no_attempt_that_ended(plan):
    section = ENGINE.model_copy(
        update={"handlers": [], "retries": [VaspRetry(after=["unconverged"], incar={"AMIX": 0.1})]}
    )
    (frame,) = different(1)
    plan({frame.frame_id: ["unconverged", "ok"]})
    (first,) = labels_of([frame], section=section)
    (second,) = labels_of([frame], section=section)  # as after a kill between the calculation and the store
    assert first == second
    counts = json.loads(Path("plan.json.launches").read_text())
    assert counts == {frame.frame_id: 2}


@pytest.mark.parametrize(
    ("powerup", "word"),
    [
        ({"ISPIN": 1}, "INCAR has ISPIN = 1"),
        ({"LDAUU": {"Mn": 1.0}}, "INCAR has LDAUU"),
        ({"MAGMOM": {"Mn": 0.5}}, "INCAR has MAGMOM"),
    ],
)
def test_a_broken_promise_stops_the_job_before_vasp_starts(powerup, word, plan):
    """A powerup gets past the settings; the file that it leads to does not get past the check."""
    plan({"": ["ok"]})
    section = ENGINE.model_copy(update={"powerups": [{"update_user_incar_settings": {"incar_updates": powerup}}]})
    with pytest.raises(RuntimeError, match=word):
        labels_of(different(1), section=section)
    assert not Path("plan.json.launches").exists()


def test_powerups_handlers_and_settings_of_the_config_reach_the_files(plan):
    section = Vasp(
        potcar_spec=True,
        cutoff=450,
        incar={"algo": "VeryFast", "LMAXMIX": 6},
        kpoints={"reciprocal_density": 500},
        handlers=["UnconvergedErrorHandler"],
        powerups=[{"update_user_incar_settings": {"incar_updates": {"SIGMA": 0.02}}}],
        retries=[],
    )
    frame, other = different(2)
    plan({other.frame_id: ["edddav"]})
    label, uncorrected = labels_of([frame, other], section=section)
    incar = Incar.from_str(written(label, "INCAR"))
    assert (incar["ENCUT"], incar["ALGO"], incar["LMAXMIX"], incar["SIGMA"]) == (450, "Veryfast", 6, 0.02)
    (dense,) = labels_of([frame], section=section.model_copy(update={"kpoints": {"reciprocal_density": 50}}))
    meshes = [Kpoints.from_str(written(one, "KPOINTS")).kpts[0] for one in (label, dense)]
    assert np.prod(meshes[0]) > np.prod(meshes[1])
    assert label.fingerprint != dense.fingerprint
    assert uncorrected.status == "failed"
    assert len(launch.launches(Path(uncorrected.directory))) == 1  # nobody there who handles that error


def test_fingerprint_is_of_what_is_calculated_and_not_of_how():
    def print_of(**changes):
        return fingerprint(settings(ENGINE.model_copy(update=changes), MAGNETISM, "magnetic"))

    base = print_of()
    for how in (
        {"processes": 64},
        {"timeout": 1.0},
        {"max_iterations": 99},
        {"command": "srun vasp"},
        {"handlers": []},
    ):
        assert print_of(**how) == base
    for what in ({"cutoff": 500.0}, {"incar": {"SIGMA": 0.1}}, {"potcars": {"Fe": "Fe_pv"}}, {"kpoints": {"a": 1}}):
        assert print_of(**what) != base
    ordered = MAGNETISM.model_copy(update={"ordering": "antiferromagnetic"})
    assert fingerprint(settings(ENGINE, ordered, "magnetic")) != base
    assert fingerprint(settings(ENGINE, ordered, "nonmagnetic")) == fingerprint(
        settings(ENGINE, MAGNETISM, "nonmagnetic")
    )


def test_antiferromagnetic_signs_reach_magmom_and_are_what_the_gate_asks_for():
    ordered = MAGNETISM.model_copy(update={"ordering": "antiferromagnetic"})
    (label,) = labels_of([charged_olivine()], magnetism=ordered)
    assert label.good, label.reason
    moments = Incar.from_str(written(label, "INCAR"))["MAGMOM"]
    assert sorted(moment for moment in moments if moment) == [-5, -5, 5, 5]
    assert [np.sign(asked) for asked in label.asked] == [np.sign(moment) for moment in moments]


KILLED = """
import sys
from test_vasp import ENGINE, different, labels_of
labels_of(different(1), section=ENGINE)
"""


def test_vasp_that_outlives_who_started_it_is_waited_for_and_taken(plan, tmp_path, monkeypatch):
    """SIGKILL of the Python process while VASP runs; the next one starts no second VASP."""
    slow = tmp_path / "bin" / "vasp_std"
    slow.parent.mkdir()
    slow.write_text(f"#!/bin/sh\nsleep 4\nexec {STAND_IN / 'vasp_std'}\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    plan({"": ["ok"]})
    first = subprocess.Popen([sys.executable, "-c", KILLED], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("jobs/*/launches.jsonl")):
        assert time.monotonic() < deadline
        assert first.poll() is None
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    (label,) = labels_of(different(1))
    assert label.good, label.reason
    assert json.loads((tmp_path / "plan.json.launches").read_text()) == {"": 1}
    assert label.core_hours * 3600 / 4 > 4  # the time that it took while nobody was there


def test_a_missing_program_is_an_error_and_no_label():
    with pytest.raises(RuntimeError, match="was not started"):
        labels_of(different(1), section=ENGINE.model_copy(update={"command": "no-such-vasp"}))
    problems = engine(ENGINE.model_copy(update={"command": "no-such-vasp"}), MAGNETISM).problems(["Mn"])
    assert "engine.command = 'no-such-vasp': there is no such program" in problems[0]
    odd = ENGINE.model_copy(update={"handlers": ["NoHandler"], "powerups": [{"no_powerup": {}}]})
    problems = engine(odd, MAGNETISM).problems(["Mn"])
    assert "engine.handlers: there is no NoHandler; known are" in problems[0]
    assert "engine.powerups: there is no no_powerup; known are" in problems[1]
    assert "UnconvergedErrorHandler" in problems[0]
    assert "update_user_incar_settings" in problems[1]


def test_without_potcars_the_problem_is_named(monkeypatch):
    from flows.engines import vasp

    monkeypatch.setattr(vasp, "SETTINGS", {})
    (problem,) = engine(ENGINE.model_copy(update={"potcar_spec": False}), MAGNETISM).problems(["Mn"])
    assert "PMG_VASP_PSP_DIR" in problem


@pytest.mark.parametrize(
    ("engine_section", "words"),
    [
        ({"incar": {"ISPIN": 1}}, ["engine.incar", "ISPIN", "the fidelity decides it"]),
        ({"incar": {"encut": 400}}, ["ENCUT", "engine.cutoff"]),
        ({"retries": [{"after": ["unconverged"], "incar": {"SIGMA": 0.2}}]}, ["SIGMA", "changes what is calculated"]),
        ({"retries": [{"after": ["ok"]}]}, ["engine.retries.0.after.0 = 'ok'"]),
        ({"retrys": []}, ["engine.retrys", "did you mean 'retries'"]),
    ],
)
def test_settings_that_would_change_the_fidelity_are_refused(tmp_path, engine_section, words):
    path = write_campaign(tmp_path, engine={"kind": "vasp"} | engine_section)
    with pytest.raises(ConfigError) as caught:
        load(path)
    for word in words:
        assert word in str(caught.value)


def test_a_whole_campaign_with_vasp_that_misbehaves_runs_to_its_end(tmp_path, mfal, plan, monkeypatch):
    """mfal run, two rounds; every third calculation of the stand-in fails in another way."""
    modes = ["ok", "ok", "truncated", "ok", "ok", "flipped", "ok", "ok", "crash", "ok"]
    plan({"-nonmagnetic-": modes, "-magnetic-": ["ok", *modes[5:], "ok"]})
    section = {"kind": "vasp", "potcar_spec": True, "retries": [{"after": ["other_state"], "moments": 1.2}]}
    path = write_campaign(tmp_path, engine=section, magnetism=MAGNETISM.model_dump(mode="json"))
    result = mfal("run", path)
    assert result.exit_code == 0, result.output
    stores = open_stores(tmp_path / "run")
    labels = stores.all_labels()
    assert {label.status for label in labels} >= {"ok", "failed", "other_state"}
    assert all(label.core_hours > 0 for label in labels)
    booked = sum(sum(summary.core_hours.values()) for summary in stores.all_rounds("small"))
    assert booked == pytest.approx(sum(label.core_hours for label in labels))
    # once there is a committee, it says where a calculation starts
    asked = stores.labels.rows({"fidelity": "magnetic"}, ["round", "asked"])
    sizes = {r: {abs(moment) for round, moments in asked for moment in moments if round == r} for r in (0, 1)}
    stores.close()
    assert sizes[0] <= {0, 4, 5, 1.2 * 4, 1.2 * 5}  # the last two in a retry
    assert sizes[1] - {0, 4, 5, 1.2 * 4, 1.2 * 5}
    monkeypatch.setenv("COLUMNS", "200")
    checked = mfal("check", tmp_path / "run")
    assert checked.exit_code == 1
    assert "turned over" in checked.output
