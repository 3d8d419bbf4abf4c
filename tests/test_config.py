"""Bad input gets one line that names the field, the value and the mend; exit code 2; nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from conftest import small_campaign, write_campaign

from mfal.config import TrainingFile
from mfal.config_file import ConfigError, load, load_training

CONFIGS = Path(__file__).parent.parent / "configs"


#: For `mfal train`: no campaign.
TRAININGS = {CONFIGS / "training.yaml", CONFIGS / "lmfp-model.yaml"}


@pytest.mark.parametrize("path", sorted({*CONFIGS.glob("*.yaml")} - TRAININGS), ids=lambda path: path.name)
def test_shipped_campaigns_load(path):
    assert load(path).campaign == path.stem


@pytest.mark.parametrize("path", sorted(TRAININGS), ids=lambda path: path.name)
def test_shipped_trainings_load(path):
    assert isinstance(load_training(path), TrainingFile)


def test_lmfp_is_the_28_atom_olivine_with_vacancies():
    campaign = load(CONFIGS / "lmfp-gpaw.yaml")
    assert len(campaign.parents[0].structure) == 28
    assert campaign.elements() == {"Li", "Mn", "Fe", "P", "O"}


def set_deep(tree: dict, path: str, value: object) -> None:
    *folders, name = path.split(".")
    for folder in folders:
        tree = tree[int(folder)] if isinstance(tree, list) else tree[folder]
    tree[name] = value


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("acquire.treshold", 0.1, ["acquire.treshold", "unknown key", "did you mean 'threshold'"]),
        ("sed", 1, ["sed", "unknown key", "did you mean 'seed'"]),
        ("acquire.threshold", -0.1, ["acquire.threshold = -0.1", "greater than or equal to 0"]),
        ("training.epochs", "many", ["training.epochs = 'many'", "integer"]),
        ("committee.members", 1, ["committee.members = 1", "no spread", "take 2 or more"]),
        ("engine", {"kind": "vsap"}, ["engine", "'vsap'", "'gpaw'"]),
        ("engine", {"kind": "gpaw", "cutof": 300}, ["engine.cutof", "did you mean 'cutoff'"]),
        ("magnetism.hubbard_u", {"Mn": 3.9}, ["magnetism.hubbard_u", "no entry for Fe", "Fe: 5.3"]),
        ("magnetism.moments", {"Fe": 4.0}, ["magnetism.moments", "no entry for Mn", "Mn: 5.0"]),
        ("parents.0.structure", "no-such.cif", ["parents.0.structure", "no-such.cif", "there is no file"]),
        ("parents.0.supercell", [0, 1, 1], ["parents.0.supercell.0 = 0", "greater than 0"]),
        ("parents.0.sublattices", [{"element": "P", "compositions": [{"P": 1}]}], ["P is not in the parent"]),
        ("parents.0.sublattices", [{"element": "Mn", "compositions": [{"Xx": 1}]}], ["'Xx' is not an element"]),
        ("parents.0.sublattices", [{"element": "Mn", "compositions": [{"Li": 0.7}]}], ["add up to 1"]),
        (
            "parents.0.sublattices",
            [{"element": "Mn", "compositions": [{"Li": 0.25, "Mn": 0.75}]}],
            ["0.25 of 2 Mn sites is not a whole number", "supercell"],
        ),
        ("acquire.hold_out", 9, ["acquire.hold_out = 9", "explore.frames = 5"]),
        ("campaign", "../elsewhere", ["campaign = '../elsewhere'", "pattern"]),
    ],
)
def test_bad_values_are_named_with_a_mend(tmp_path, mfal, path, value, words):
    tree = small_campaign(tmp_path / "run")
    set_deep(tree, path, value)
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(tree))
    result = mfal("run", file)
    assert result.exit_code == 2
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0]
    assert not (tmp_path / "run").exists()


def test_every_wrong_field_is_reported_at_once(tmp_path):
    path = write_campaign(tmp_path, seed=-1, stop={"rounds": 0})
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert len(caught.value.lines) == 2


@pytest.mark.parametrize(
    ("content", "word"), [("a: [1", "is not YAML"), ("just text", "YAML mapping"), (None, "cannot be read")]
)
def test_a_file_that_is_no_campaign(tmp_path, mfal, content, word):
    path = tmp_path / "odd.yaml"
    if content is not None:
        path.write_text(content)
    result = mfal("run", path)
    assert result.exit_code == 2
    assert word in result.stderr


def test_a_structure_file_that_is_none(tmp_path, mfal):
    (tmp_path / "notes.cif").write_text("shopping list")
    tree = small_campaign(tmp_path / "run")
    tree["parents"][0]["structure"] = "notes.cif"
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(tree))
    result = mfal("run", file)
    assert result.exit_code == 2
    assert "parents.0.structure" in result.stderr
    assert "is not a structure that pymatgen reads" in result.stderr
    assert not (tmp_path / "run").exists()


def gpaw_campaign(tmp_path, **composition):
    tree = small_campaign(tmp_path / "run") | {"engine": {"kind": "gpaw"}}
    tree["parents"][0]["sublattices"] = [{"element": "Mn", "compositions": [composition]}]
    path = tmp_path / "gpaw.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_an_element_without_a_setup(tmp_path, mfal):
    result = mfal("run", gpaw_campaign(tmp_path, Li=0.5, Pu=0.5))
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "element Pu" in result.stderr
    assert "leave Pu out" in result.stderr
    assert not (tmp_path / "run").exists()


def test_gpaw_not_installed(tmp_path, mfal, monkeypatch):
    monkeypatch.setattr("mfal.dft.gpaw.importlib.util.find_spec", lambda _: None)
    result = mfal("run", gpaw_campaign(tmp_path, Li=0.5, Mn=0.5))
    assert result.exit_code == 2
    assert "engine.kind = 'gpaw': GPAW is not installed" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_directory_that_cannot_be_made(tmp_path, mfal):
    (tmp_path / "run").write_text("a file")
    result = mfal("run", write_campaign(tmp_path))
    assert result.exit_code == 2
    assert "directory = " in result.stderr
    assert "cannot be made" in result.stderr
