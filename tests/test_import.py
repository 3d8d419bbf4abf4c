"""`mfal import`: labels made elsewhere become those that a campaign would have calculated, or are refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from conftest import STRUCTURES, mno, rock_salt, write_campaign
from jobflow import Flow

from flows.calculation import LabelMaker, label_job
from flows.local import run_flow
from mfal import dataset
from mfal.config_file import load
from mfal.dft.fidelity import fingerprint, settings
from mfal.foreign import images
from mfal.frames import FIDELITIES, Frame, Label
from stores.campaign import open_stores

DATA = Path(__file__).parent.parent / "data" / "rocksalt-gpaw" / "labels.extxyz"
MOMENTS = {"Mn": 4.5, "O": 0.02}
CELL = (
    '2\nLattice="{0} 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 fidelity=magnetic energy=-1 pbc="T T T"\n'
    "Mn 0 0 0\nO {1} 0 0\n"
)


def image(structure, fidelity="magnetic", *, without=(), sites=None, shift=None, **info) -> Atoms:
    """An image of made-up numbers that go with the atoms, whatever their order in the file.

    Args:
        sites: the order of the atoms.
        shift: lattice vectors, whole numbers, by which the atoms are away from the cell.
    """
    rng = np.random.default_rng(len(structure))
    forces = rng.normal(size=(len(structure), 3))
    forces -= forces.mean(axis=0)
    moments = np.array([MOMENTS[site.specie.symbol] for site in structure]) + 0.01 * rng.random(len(structure))
    order = list(sites if sites is not None else range(len(structure)))
    away = np.zeros((len(structure), 3)) if shift is None else np.array(shift)
    numbers = {"energy": -20.0, "forces": forces[order], "stress": rng.normal(0, 0.01, 6), "magmoms": moments[order]}
    if fidelity == "nonmagnetic":
        del numbers["magmoms"]
    for name in (*without, *(info.keys() & numbers.keys())):
        numbers.pop(name, None)
    numbers |= {name: info.pop(name) for name in dataset.QUANTITIES if name in info}
    atoms = Atoms(
        [structure[i].specie.symbol for i in order],
        scaled_positions=(structure.frac_coords + away)[order],
        cell=structure.lattice.matrix,
        pbc=True,
        info={"fidelity": fidelity} | info,
    )
    atoms.calc = SinglePointCalculator(atoms, **numbers)
    return atoms


def written(path: Path, *found: Atoms) -> Path:
    ase.io.write(path, list(found), format="extxyz")
    return path


def labels_in(place) -> list[Label]:
    with open_stores(place) as stores:
        return stores.all_labels()


@pytest.fixture
def config(tmp_path) -> Path:
    return write_campaign(tmp_path)


def settings_of(config: Path, fidelity="magnetic") -> str:
    campaign = load(config)
    return fingerprint(settings(campaign.engine, campaign.magnetism, fidelity))


def test_a_frame_is_the_one_that_mfal_makes_and_its_numbers_stay_with_the_atoms(tmp_path):
    structure = rock_salt()
    ours = Frame.of(structure, parent="", source="")
    rng = np.random.default_rng(1)
    first = [site.specie.symbol for site in structure].index("Mn")
    sites = [first, *(i for i in range(len(structure)) if i != first)]  # of each element in the same order
    shift = rng.integers(-3, 4, (len(structure), 3))
    path = written(tmp_path / "a.extxyz", image(structure), image(mno()))
    other = written(tmp_path / "b.extxyz", image(structure, sites=sites, shift=shift, frame_id="../<b>$x"))
    plain, _ = images(path)
    (moved,) = images(other)
    assert plain.frame.frame_id == moved.frame.frame_id == moved.label.frame_id == ours.frame_id
    assert moved.frame.structure == ours.structure
    assert (moved.frame.parent, moved.frame.source) == ("b.extxyz", "image 1")
    assert plain.label.magmoms != image(structure).calc.results["magmoms"].tolist()  # the order of the file is not ours
    for name in dataset.QUANTITIES:
        np.testing.assert_allclose(getattr(moved.label, name), getattr(plain.label, name), atol=1e-7)
    for site, moment in zip(moved.frame.structure, moved.label.magmoms, strict=True):
        assert abs(moment - MOMENTS[site.specie.symbol]) <= 0.01


def test_what_mfal_exported_comes_back_as_it_was(mfal, tmp_path):
    result = mfal("import", DATA, tmp_path / "store")
    assert result.exit_code == 0, result.output
    assert "64 frames, 64 non-magnetic and 64 magnetic labels: 128 new, 0 there already, 0 not good" in result.stdout
    assert "named by the file" in result.stdout
    frames, labels = dataset.read(DATA)
    with open_stores(tmp_path / "store") as stores:
        assert stores.campaigns() == ["store"]
        assert stores.all_frames("store").keys() == {frame.frame_id for frame in frames}
        found = {(label.frame_id, label.fidelity): label for label in stores.all_labels("store")}
    for label in labels:
        kept = found[label.frame_id, label.fidelity]
        assert (kept.fingerprint, kept.core_hours, kept.status) == (label.fingerprint, label.core_hours, "ok")
        assert (kept.energy, kept.forces, kept.magmoms) == (label.energy, label.forces, label.magmoms)
        assert kept.settings["sha256"] == hashlib.sha256(DATA.read_bytes()).hexdigest()
    again = mfal("import", DATA, tmp_path / "store")
    assert again.exit_code == 0
    assert "0 new, 128 there already" in again.stdout
    assert len(labels_in(tmp_path / "store")) == 128
    assert mfal("check", tmp_path / "store").exit_code == 0


def test_the_output_is_what_jobflow_would_have_saved(mfal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert mfal("label", STRUCTURES / "rocksalt-4.cif", "--engine", "surrogate", "--out", "made").exit_code == 0
    assert mfal("import", "made/labels.extxyz", "brought", "--campaign", "made").exit_code == 0
    documents = []
    for place in ("made", "brought"):
        with open_stores(place) as stores:
            documents.append({d["metadata"]["fidelity"]: d for d in stores.jobs.query()})
    made, brought = documents
    assert made.keys() == brought.keys() == set(FIDELITIES)
    for fidelity in FIDELITIES:
        one, other = made[fidelity], brought[fidelity]
        assert list(one) == list(other)
        differ = {"completed_at", "output", "hosts", "metadata"}
        assert {k: one[k] for k in one.keys() - differ} == {k: other[k] for k in other.keys() - differ}
        assert one["metadata"].pop("ran").keys() == {"host"}  # an import ran nowhere
        assert one["metadata"] | {"limits": None} == other["metadata"]
        assert list(one["output"]) == list(other["output"])
        told = {"asked", "code", "directory", "settings", "started_at", "finished_at", *dataset.QUANTITIES}
        same = one["output"].keys() - told
        assert {k: one["output"][k] for k in same} == {k: other["output"][k] for k in same}
        np.testing.assert_allclose(one["output"]["forces"], other["output"]["forces"], atol=1e-8)
    # and whoever asks for the labels finds them
    kept = mfal("label", STRUCTURES / "rocksalt-4.cif", "--engine", "surrogate", "--out", "brought")
    assert kept.output.count("ok, kept") == 2


def test_a_campaign_does_not_calculate_what_was_brought(finished, mfal, tmp_path, monkeypatch):
    path, _ = finished
    assert mfal("export", path, tmp_path / "set").exit_code == 0
    small = yaml.safe_load(path.read_text())["training"]
    config = write_campaign(tmp_path, stop={"rounds": 1}, training=small | {"epochs": 1})
    brought = mfal("import", tmp_path / "set", config)
    assert "10 non-magnetic and 5 magnetic labels: 15 new" in brought.stdout
    assert "those of small, which takes these labels" in brought.stdout
    with open_stores(load(config)) as stores:
        theirs = {frame.frame_id: (frame.parent, frame.source) for frame in dataset.read(tmp_path / "set")[0]}
        assert {name: (x.parent, x.source) for name, x in stores.all_frames("small").items()} == theirs
    assert {parent for parent, _ in theirs.values()} == {"rock salt"}

    def never(*_):
        raise AssertionError("a label was calculated")

    monkeypatch.setattr(LabelMaker, "_attempted", never)
    run = mfal("run", config)
    assert run.exit_code == 0, run.output
    assert "No calculation was started: all 8" in run.output
    assert "round 0  train done" in run.output
    assert mfal("check", config).exit_code == 0
    assert mfal("query", "labels", config, "--format", "csv").stdout.count(",ok,") == 15
    assert mfal("export", config, tmp_path / "again.extxyz").exit_code == 0
    once, again = (dataset.read(tmp_path / name)[0] for name in ("set", "again.extxyz"))
    assert {frame.frame_id for frame in once} == {frame.frame_id for frame in again}


def test_a_folder_is_brought_as_one_and_its_settings_are_known(mfal, config, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    prints = {fidelity: settings_of(config, fidelity) for fidelity in FIDELITIES}
    low, high = (image(mno(), fidelity, fingerprint=print, core_hours=1.0) for fidelity, print in prints.items())
    first = image(rock_salt(), "nonmagnetic", fingerprint=prints["nonmagnetic"], core_hours=1.0)
    written(folder / "nonmagnetic.extxyz", first, low)
    written(folder / "magnetic.extxyz", high)
    for count, there in ((3, 0), (0, 3)):
        result = mfal("import", folder, config)
        assert result.exit_code == 0, result.output
        assert f"2 frames, 2 non-magnetic and 1 magnetic labels: {count} new, {there} there already" in result.stdout
    assert "those of small, which takes these labels" in result.stdout
    assert {(label.fidelity, label.fingerprint) for label in labels_in(load(config))} == set(prints.items())
    with open_stores(load(config)) as stores:
        frame = stores.all_frames("small")[Frame.of(rock_salt(), parent="", source="").frame_id]
    assert (frame.parent, frame.source) == ("nonmagnetic.extxyz", "image 1")
    other = image(mno(), "nonmagnetic", fingerprint=prints["nonmagnetic"], energy=-21.0)
    written(folder / "nonmagnetic.extxyz", first, other)
    refused = mfal("import", folder, config)
    assert refused.exit_code == 2
    assert f"{folder / 'nonmagnetic.extxyz'}: image 2: frame" in refused.stderr
    (tmp_path / "none").mkdir()
    assert "is a folder without any *.extxyz" in mfal("import", tmp_path / "none", config).stderr


def test_settings_are_the_campaigns_the_files_or_unknown(mfal, config, tmp_path):
    own = settings_of(config)
    stock = written(tmp_path / "plain.extxyz", image(mno()))
    campaign = load(config)

    def fingerprints(*arguments) -> tuple[str, set[str]]:
        result = mfal("import", *arguments)
        assert result.exit_code == 0, result.output
        with open_stores(campaign) as stores:
            return result.stdout, {label.fingerprint for label in stores.all_labels("small")}

    said, first = fingerprints(stock, config)
    assert "not known" in said
    (unknown,) = first
    assert unknown != own
    # the name of the file is no part of it, its content is
    (tmp_path / "moved.extxyz").write_bytes(stock.read_bytes())
    assert fingerprints(tmp_path / "moved.extxyz", config)[1] == {unknown}
    odd = written(tmp_path / "odd.extxyz", image(mno(), fingerprint="../<script>$where"))
    said, three = fingerprints(odd, config)
    assert "not known" in said
    assert len(three) == 2
    assert not any("<" in name for name in three)
    named = written(tmp_path / "named.extxyz", image(mno(), fingerprint="abc123def456"))
    said, _ = fingerprints(named, config)
    assert "named by the file, and not those of small, which does not use these labels" in said
    said, every = fingerprints(stock, config, "--same-settings")
    assert "those of small" in said
    assert every >= {own, unknown, "abc123def456"}
    with open_stores(campaign) as stores:
        (label,) = stores.labels.query(f"fingerprint={own}")
        assert label.settings == settings(campaign.engine, campaign.magnetism, "magnetic")
    refused = mfal("import", named, config, "--same-settings")
    assert refused.exit_code == 2
    assert "leave --same-settings out" in refused.stderr


def test_the_same_crystal_twice_in_a_file(mfal, tmp_path):
    one = image(mno(), frame_id="a", core_hours=1.0)
    turned = image(mno(), frame_id="b", energy=-20.00001, shift=[[1, 0, 0], [0, 0, -2]])
    result = mfal("import", written(tmp_path / "twice.extxyz", one, turned), tmp_path / "store")
    assert result.exit_code == 0, result.output
    assert (
        "1 frames, 0 non-magnetic and 1 magnetic labels: 1 new, 0 there already, 1 twice in the file" in result.stdout
    )
    assert [label.core_hours for label in labels_in(tmp_path / "store")] == [1.0]
    other = image(mno(), frame_id="b", energy=-20.5)
    refused = mfal("import", written(tmp_path / "both.extxyz", one, other), tmp_path / "new")
    assert refused.exit_code == 2
    assert "both.extxyz: image 2: is a magnetic label of the same crystal as" in refused.stderr
    assert "both.extxyz: image 1, and the two differ" in refused.stderr
    assert "-20.0000 and -20.5000 eV" in refused.stderr
    assert not (tmp_path / "new").exists()


def test_a_file_that_contradicts_the_store_changes_nothing(mfal, config, tmp_path):
    first = written(tmp_path / "first.extxyz", image(mno()))
    assert mfal("import", first, config, "--same-settings").exit_code == 0
    before = labels_in(load(config))
    second = written(tmp_path / "second.extxyz", image(rock_salt()), image(mno(), energy=-21.0))
    refused = mfal("import", second, config, "--same-settings")
    assert refused.exit_code == 2
    assert "image 2" in refused.stderr
    assert before[0].frame_id in refused.stderr
    assert "-20.0000 and -21.0000 eV" in refused.stderr
    assert labels_in(load(config)) == before
    with open_stores(load(config)) as stores:
        assert stores.frames.count() == stores.jobs.count() == 1


def test_a_fingerprint_is_of_one_fidelity(mfal, config, tmp_path):
    both = [image(mno(), fidelity, fingerprint="abc123def456") for fidelity in FIDELITIES]
    refused = mfal("import", written(tmp_path / "both.extxyz", *both), tmp_path / "store")
    assert refused.exit_code == 2
    assert "fingerprint = abc123def456: is of both fidelities" in refused.stderr
    assert not (tmp_path / "store").exists()
    swapped = image(mno(), fingerprint=settings_of(config, "nonmagnetic"))
    assert "is of both fidelities" in mfal("import", written(tmp_path / "swap.extxyz", swapped), config).stderr
    first, second = (written(tmp_path / f"{i}.extxyz", one) for i, one in enumerate(both))
    assert mfal("import", first, tmp_path / "store").exit_code == 0
    assert "is of nonmagnetic labels in the store" in mfal("import", second, tmp_path / "store").stderr


def test_a_calculation_that_came_to_nothing_makes_way(mfal, config, tmp_path):
    campaign = load(config)
    frame = Frame.of(mno(), parent="", source="")
    job = label_job(campaign.engine, campaign.magnetism, frame, "magnetic", "small", 0)
    spent = {"frame_id": frame.frame_id, "fidelity": "magnetic", "fingerprint": settings_of(config), "attempt": 2}
    failed = Label(**spent, status="failed", reason="timeout", core_hours=1.5, earlier_core_hours=0.5)
    with open_stores(campaign, make=True) as stores:
        output = failed.model_dump(mode="json") | {"@module": "mfal.frames", "@class": "Label"}
        metadata = job.metadata | {"campaign": "small"}
        stores.jobs.update(
            {
                "uuid": job.uuid,
                "index": 1,
                "output": output,
                "metadata": metadata,
                "completed_at": "2026-01-01T00:00:00",
            }
        )
    data = written(tmp_path / "data.extxyz", image(mno(), core_hours=3.0))
    assert "1 new" in mfal("import", data, config, "--same-settings").stdout
    (label,) = labels_in(campaign)
    assert (label.status, label.attempt, label.core_hours, label.earlier_core_hours) == ("ok", 3, 3.0, 2.0)
    assert "1 there already" in mfal("import", data, config, "--same-settings").stdout


def test_bad_labels_are_kept_with_the_reason(mfal, tmp_path):
    cells = [mno(), *(mno().scale_lattice(mno().volume * factor) for factor in (1.1, 1.2))]
    data = written(
        tmp_path / "bad.extxyz",
        image(cells[0], magmoms=[0.1, 0.0]),
        image(cells[1], without=["magmoms"]),
        image(cells[2], magmoms=[-4.5, 0.0]),
    )
    result = mfal("import", data, tmp_path / "store")
    assert result.exit_code == 0, result.output
    assert "3 new, 0 there already, 2 not good ('mfal check" in result.stdout
    found = labels_in(tmp_path / "store")
    assert [label.status for label in found] == ["collapsed", "other_state", "ok"]
    assert "has no moments" in found[1].reason
    assert all(label.energy == -20.0 and label.forces for label in found)
    judged = mfal("check", tmp_path / "store")
    assert judged.exit_code == 1
    assert "1 collapsed, 1 other_state, 1 ok" in judged.stdout


def test_a_campaign_calculates_what_was_brought_and_is_bad(mfal, config, tmp_path):
    data = written(tmp_path / "bad.extxyz", image(mno(), "nonmagnetic", without=["forces"], core_hours=2.0))
    assert "1 not good" in mfal("import", data, config, "--same-settings").stdout
    campaign = load(config)
    (label,) = labels_in(campaign)
    assert (label.status, label.reason) == ("failed", "has no forces, which a calculation of these settings gives")
    frame = Frame.of(mno(), parent="", source="")
    job = label_job(campaign.engine, campaign.magnetism, frame, "nonmagnetic", "small", 0)
    run_flow(Flow(job, name="small"), campaign, lambda *_: None)
    bad, good = sorted(labels_in(campaign), key=lambda label: label.attempt)
    assert (bad.status, good.status, good.attempt, good.earlier_core_hours) == ("failed", "ok", 2, 2.0)


def test_what_looks_odd_is_said(mfal, config, tmp_path):
    pushed = image(mno(), forces=[[50.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    result = mfal("import", written(tmp_path / "odd.extxyz", pushed), config)
    assert result.exit_code == 0
    assert "1 beyond the limits of sanity" in result.stdout
    assert "1 with forces that do not add up to zero" in result.stdout
    assert "1 without core_hours" in result.stdout


def test_moments_of_a_restricted_calculation_are_no_measurement(tmp_path):
    (found,) = images(written(tmp_path / "zeros.extxyz", image(mno(), "nonmagnetic", magmoms=[0.0, 0.0])))
    assert found.label.magmoms is None


def test_a_store_at_an_address(mfal, mongo_database, tmp_path):
    data = written(tmp_path / "data.extxyz", image(mno()))
    refused = mfal("import", data, mongo_database)
    assert refused.exit_code == 2
    assert "--campaign: is missing" in refused.stderr
    for said in ("1 new", "1 there already"):
        result = mfal("import", data, mongo_database, "--campaign", "brought")
        assert result.exit_code == 0, result.output
        assert said in result.stdout
    with open_stores(mongo_database) as stores:
        assert stores.campaigns() == ["brought"]
        assert len(stores.all_labels("brought")) == 1


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        ("2\nnothing\n", [], ["data.extxyz", "is not extended XYZ"]),
        (None, [], ["data.extxyz", "cannot be read"]),
        ("no fidelity", [], ["image 1", "fidelity: is missing"]),
        (CELL.format(1e9, 2), [], ["image 1", "Lattice: has a vector of 1e+09 Å"]),
        (CELL.format(4, 0), [], ["image 1", "has two atoms at one place"]),
        ("no fidelity", ["--fidelity", "magnetic", "--same-settings"], ["--same-settings", "campaign file"]),
    ],
)
def test_what_cannot_be_brought_makes_no_store(mfal, tmp_path, text, arguments, words):
    data = tmp_path / "data.extxyz"
    if text == "no fidelity":
        atoms = image(mno())
        del atoms.info["fidelity"]
        written(data, atoms)
    elif text:
        data.write_text(text)
    refused = mfal("import", data, tmp_path / "store", *arguments)
    assert refused.exit_code == 2
    for word in words:
        assert word in refused.stderr
    assert not (tmp_path / "store").exists()
