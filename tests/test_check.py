"""`mfal check` and `mfal label` on labels that are there, and the gate that judges them again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from conftest import STRUCTURES
from pymatgen.core import Structure

from flows.steps import _judged, _usable
from mfal import dataset
from mfal.config_file import load
from stores.campaign import open_stores

WINDOWS = {"Mn": [[0.1, 0.2]], "Fe": [[0.1, 0.2]]}


@pytest.fixture
def strict(finished, tmp_path):
    """The finished campaign's file with a gate that no label passes."""
    path, _ = finished
    tree = yaml.safe_load(path.read_text())
    tree["magnetism"] |= {"windows": WINDOWS}
    out = tmp_path / "strict.yaml"
    out.write_text(yaml.safe_dump(tree))
    return out


def test_a_changed_gate_judges_the_labels_that_are_there(finished, strict, mfal):
    path, _ = finished
    fair = mfal("check", path)
    assert fair.exit_code == 0, fair.output
    judged = mfal("check", strict, "--all")
    assert judged.exit_code == 1
    assert "5 other_state" in judged.output
    assert "10 ok" in judged.output  # the non-magnetic ones have no moments
    # and so does the training, with no calculation repeated
    campaign = load(strict)
    stores = open_stores(campaign.directory)
    labels, frames = stores.all_labels(), stores.all_frames()
    stores.close()
    assert sum(label.fidelity == "magnetic" and label.good for label in labels) == 5
    again = _judged(campaign, frames.values(), labels)
    assert {label.fidelity for label in _usable(campaign, again, excluded=[])} == {"nonmagnetic"}
    others = campaign.model_copy(
        update={"magnetism": campaign.magnetism.model_copy(update={"train_on_other_state": True})}
    )
    assert len(_usable(others, again, excluded=[])) == len(labels) == 15


def test_labels_of_a_file_are_judged_by_size_and_by_the_campaign_given(finished, strict, mfal, tmp_path):
    path, _ = finished
    assert mfal("export", path, tmp_path / "labels.extxyz").exit_code == 0
    judged = mfal("check", tmp_path / "labels.extxyz", "--config", strict)
    assert judged.exit_code == 1
    assert "5 other_state" in judged.output
    frames, labels = dataset.read(tmp_path / "labels.extxyz")
    without = [label.model_copy(update={"magmoms": None}) for label in labels]
    dataset.write(tmp_path / "without.extxyz", frames, without)
    untold = mfal("check", tmp_path / "without.extxyz")
    assert untold.exit_code == 1
    assert "5 flagged" in untold.output


def test_a_folder_of_files_is_checked_as_one(mfal, tmp_path):
    source = Path(__file__).parent.parent / "data" / "rocksalt-gpaw" / "labels.extxyz"
    frames, labels = dataset.read(source)
    folder = tmp_path / "set"
    high = next(label for label in labels if label.fidelity == "magnetic")
    collapsed = high.model_copy(update={"magmoms": [0.0] * len(high.magmoms)})
    dataset.write(folder / "nonmagnetic.extxyz", frames, labels[:1])
    dataset.write(folder / "magnetic.extxyz", frames, [collapsed])
    judged = mfal("check", folder)
    assert judged.exit_code == 1
    assert "1 collapsed" in judged.output
    assert re.search(r"non-magnetic .*: 1 ok", judged.output)


def test_what_cannot_be_checked_or_labelled_is_named(mfal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "has no campaign.sqlite: 'mfal run' and 'mfal label' make one" in mfal("check", tmp_path).stderr
    assert "there is no such file" in mfal("label", "none.cif").stderr
    (tmp_path / "odd.cif").write_text("nothing")
    assert "is not a structure that pymatgen reads" in mfal("label", "odd.cif").stderr
    mixed = Structure.from_file(STRUCTURES / "rocksalt-4.cif")
    mixed.replace_species({"Mn": {"Mn": 0.5, "Fe": 0.5}})
    mixed.to(filename="mixed.json")
    assert "several species" in mfal("label", "mixed.json").stderr
    refused = mfal("label", STRUCTURES / "rocksalt-4.cif", "--engine", "surrogate", "--preset", "fast")
    assert refused.exit_code == 2
    assert "is for --engine gpaw" in refused.stderr
    assert not (tmp_path / "labels").exists()


def test_labels_of_files_are_kept_when_more_are_asked_for(mfal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = STRUCTURES / "rocksalt-4.cif", STRUCTURES / "rocksalt-8.cif"
    command = "label", "--engine", "surrogate", "--out", "out"
    one = mfal(*command, first, "--fidelity", "nonmagnetic")
    assert one.exit_code == 0, one.output
    assert "1 good labels" in one.output
    both = mfal(*command, first, second)
    assert both.exit_code == 0, both.output
    assert both.output.count(", kept") == 1
    _, labels = dataset.read("out/labels.extxyz")
    assert sorted(label.fidelity for label in labels) == ["magnetic"] * 2 + ["nonmagnetic"] * 2
