"""`mfal export`, `train`, `evaluate` and `fold`, on real models and cells of a few atoms."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import yaml
from chgnet.model import CHGNet
from conftest import STRUCTURES, rock_salt
from fake_report import islands
from pymatgen.core import Structure

from flows import train as command
from mfal import dataset
from mfal.committee.calculator import MfalCalculator
from mfal.committee.evaluate import errors
from mfal.committee.files import load, save
from mfal.committee.members import start_committee
from mfal.committee.predict import predict
from mfal.committee.strategies import Strategy
from mfal.config import Committee, TrainingFile
from mfal.config_file import load_training
from mfal.dataset_files import write_splits
from mfal.frames import Frame, Label
from mfal.model.multifidelity import MultiFidelityCHGNet, silence
from mfal.report.standalone import number
from mfal.training.examples import examples
from mfal.training.hold_out import draw

SETTINGS = {"seed": 1, "training": {"epochs": 2, "batch_size": 4}}


def label_of(frame: Frame, fidelity: str, teacher: MultiFidelityCHGNet) -> Label:
    """What a pretrained CHGNet says: a real potential, in place of DFT."""
    (found,) = predict([teacher], [frame], ["magnetic"])
    return Label(
        frame_id=frame.frame_id,
        fidelity=fidelity,
        fingerprint=f"chgnet-{fidelity}",
        status="ok",
        energy=float(found.energy[0, 0]) * len(frame.structure),
        forces=found.forces[0, 0].tolist(),
        stress=found.stress[0, 0].tolist(),
        magmoms=found.magmoms[0, 0].tolist() if fidelity == "magnetic" else None,
    )


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """Six frames of 4 atoms with non-magnetic labels, four of them with magnetic ones, too."""
    parent = Structure.from_file(STRUCTURES / "rocksalt-4.cif")
    frames = []
    for seed in range(6):
        shifts = np.random.default_rng(seed).normal(0, 0.05, (4, 3))
        structure = Structure(parent.lattice, parent.species, parent.cart_coords + shifts, coords_are_cartesian=True)
        structure[0] = ("Li", "Fe")[seed % 2]
        frames.append(Frame.of(structure, parent="p", source="s"))
    low, high = (MultiFidelityCHGNet.from_pretrained(name).eval() for name in ("0.2.0", "r2scan"))
    labels = [label_of(frame, "nonmagnetic", low) for frame in frames]
    labels += [label_of(frame, "magnetic", high) for frame in frames[:4]]
    path = tmp_path_factory.mktemp("labelled") / "small.extxyz"
    dataset.write(path, frames, labels)
    return path


@pytest.fixture
def published(labelled, tmp_path) -> tuple[Path, list[str]]:
    """The same labels as a folder, and the two frames that it holds out, one of them with a magnetic label."""
    folder = tmp_path / "set.v1"
    frames, labels = dataset.read(labelled)
    ids = [frame.frame_id for frame in frames]
    held = [ids[0], ids[5]]
    for fidelity in ("nonmagnetic", "magnetic"):
        of_fidelity = [label for label in labels if label.fidelity == fidelity]
        dataset.write(folder / f"{fidelity}.extxyz", frames, of_fidelity)
    write_splits(folder, {"train": ids[1:5], "hold_out": held, "control": ids[1:2]})
    return folder, held


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(SETTINGS))
    return path


@pytest.fixture
def train(mfal, labelled, config, tmp_path):
    """Runs `mfal train` on the small file into a folder of this test."""
    return lambda *more, out="model": mfal("train", labelled, "--config", config, "--out", tmp_path / out, *more)


def refused(result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    for word in words:
        assert word in line


def test_train_evaluate_fold(train, mfal, tmp_path):
    result = train("--hold-out", "0.25")
    assert result.exit_code == 0, result.output
    model = tmp_path / "model"
    assert "4 non-magnetic, 3 magnetic labels; held out: 2 non-magnetic, 1 magnetic" in result.stdout
    assert result.stdout.splitlines()[-1] == f"Model:  {model}"
    assert {path.name for path in model.iterdir()} == {
        "member-0.safetensors",
        "member-0",
        "hold-out.extxyz",
        "training.yaml",
    }
    held_frames, held = dataset.read(model / "hold-out.extxyz")
    assert len({label.frame_id for label in held}) == len(held_frames) == 2
    expected = errors(load(model), examples(held_frames, held))
    for fidelity in ("nonmagnetic", "magnetic"):
        assert re.search(rf"{expected[fidelity].energy:.1f}/.* {expected[fidelity].forces:.1f}/", result.stdout)
    used = load_training(model / "training.yaml")
    assert used == TrainingFile.model_validate(SETTINGS)

    result = mfal("evaluate", model, model / "hold-out.extxyz", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["parity"] == str(model / "parity.html")
    for row in found["errors"]:
        assert row["frames"] == expected[row["fidelity"]].frames
        for name in dataset.QUANTITIES:
            value = getattr(expected[row["fidelity"]], name)
            assert (row[name] is None) == (value is None)
            if value is not None:
                assert row[name]["mae"] == pytest.approx(value)
                assert row[name]["rmse"] >= row[name]["mae"]

    folded = tmp_path / "folded.pth.tar"
    result = mfal("fold", model, "--fidelity", "nonmagnetic", "--out", folded)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].endswith(f"CHGNetCalculator.from_file('{folded}')")
    with silence():
        stock = CHGNet.from_file(folded)
    assert type(stock) is CHGNet
    assert b"mfal" not in folded.read_bytes()
    (ours,) = predict(load(model), [rock_salt()], ["nonmagnetic"])
    np.testing.assert_allclose(stock.predict_structure(rock_salt())["f"], ours.forces[0, 0], atol=1e-4)


@pytest.mark.parametrize("strategy", ["high-only", "transfer", "delta"])
def test_every_strategy_holds_out_the_same_frames(train, mfal, labelled, tmp_path, strategy):
    result = train("--strategy", strategy)
    assert result.exit_code == 0, result.output
    held = {label.frame_id for label in dataset.read(tmp_path / "model" / "hold-out.extxyz")[1]}
    assert held == draw(dataset.read(labelled)[1], 0.1, seed=1)
    rows = json.loads(mfal("evaluate", tmp_path / "model", labelled, "--json").stdout)["errors"]
    knows_both = strategy == "delta"
    assert [row["frames"] for row in rows] == [6 if knows_both else 0, 4]
    assert (rows[0]["forces"] is not None) == knows_both
    assert rows[1]["magmoms"]["mae"] > 0
    refold = mfal("fold", tmp_path / "model", "--out", tmp_path / "folded.pth.tar")
    if strategy == "delta":
        refused(refold, "member-0.safetensors", "delta-learning", "another strategy", "MfalCalculator")
        assert not (tmp_path / "folded.pth.tar").exists()
    else:
        assert refold.exit_code == 0, refold.output


def test_strategies_are_those_that_there_are():
    assert get_args(command.Strategy) == get_args(Strategy)


def test_interrupted_and_run_again_is_the_same_model(train, tmp_path, monkeypatch):
    assert train(out="whole").exit_code == 0
    whole = (tmp_path / "whole" / "member-0.safetensors").read_bytes()
    show = command.TrainingProgress.on_epoch

    def interrupt(self, *arguments):
        show(self, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command.TrainingProgress, "on_epoch", interrupt)
        result = train()
    assert result.exit_code == 130
    assert "goes on from here" in result.stderr
    assert not (tmp_path / "model" / "member-0.safetensors").exists()
    for _ in range(2):  # the second time it is finished already
        assert train().exit_code == 0
        assert (tmp_path / "model" / "member-0.safetensors").read_bytes() == whole


def test_a_folder_of_another_training_is_refused(train, config, tmp_path):
    assert train().exit_code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "model").rglob("*") if path.is_file()}
    refused(train("--strategy", "high-only"), "training.yaml", "other settings or strategy", "another --out")
    refused(train("--hold-out", "0.5"), str(tmp_path / "model"), "other examples", "another folder")
    config.write_text(yaml.safe_dump(SETTINGS | {"committee": {"members": 2}}))
    refused(train(), "training.yaml", "other settings or strategy")
    assert before == {path: path.read_bytes() for path in (tmp_path / "model").rglob("*") if path.is_file()}


def test_a_hold_out_of_its_own(train, labelled, tmp_path):
    frames, labels = dataset.read(labelled)
    own = Frame.of(rock_salt(), parent="p", source="s")
    kept = labels[-1].model_copy(update={"frame_id": own.frame_id})
    dataset.write(tmp_path / "own.extxyz", [own], [kept])
    result = train("--hold-out", tmp_path / "own.extxyz")
    assert result.exit_code == 0, result.output
    assert "6 non-magnetic, 4 magnetic labels; held out: 0 non-magnetic, 1 magnetic" in result.stdout
    assert [label.frame_id for label in dataset.read(tmp_path / "model" / "hold-out.extxyz")[1]] == [own.frame_id]
    dataset.write(tmp_path / "leak.extxyz", [own, *frames[:1]], [kept, labels[0]])
    refused(train("--hold-out", tmp_path / "leak.extxyz"), "leak.extxyz: 1 of its frames are in", labels[0].frame_id)


def held_out(model: Path) -> set[str]:
    return {frame.frame_id for frame in dataset.read(model / "hold-out.extxyz")[0]}


def test_a_folder_is_trained_on_and_evaluated_by_its_own_splits(published, config, mfal, tmp_path, monkeypatch):
    folder, held = published
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.chdir(tmp_path)
    result = mfal("train", folder.name, "--config", config)
    assert result.exit_code == 0, result.output
    assert (
        "set.v1: 4 non-magnetic, 3 magnetic labels; held out: 2 non-magnetic, 1 magnetic (the hold-out of splits.json)"
        in result.stdout
    )
    assert "Left out" not in result.stdout
    model = Path("runs/train-set.v1-multi-fidelity")
    assert result.stdout.splitlines()[-1] == f"Model:  {model}"
    assert held_out(model) == set(held)

    # in the folder, as its card has it
    monkeypatch.chdir(folder)
    result = mfal("evaluate", tmp_path / model, ".", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["split"] == "hold_out"
    assert [row["frames"] for row in found["errors"]] == [2, 1]
    expected = errors(load(tmp_path / model), examples(*dataset.read(tmp_path / model / "hold-out.extxyz")))
    assert found["errors"][1]["forces"]["mae"] == pytest.approx(expected["magnetic"].forces)
    assert "<h1>set.v1, hold-out</h1>" in (tmp_path / model / "parity.html").read_text()
    # several: beside the folder, and not in it
    for labels, told, count in ((".", True, 2), ("nonmagnetic.extxyz", False, 6)):
        result = mfal("evaluate", tmp_path / model, tmp_path / model, labels)
        assert result.exit_code == 0, result.output
        assert ("set.v1: on its hold-out alone (splits.json)" in result.stdout) == told
        assert re.search(rf"non-magnetic +{count} ", result.stdout)
        assert result.stdout.splitlines()[-1] == f"Parity plots:  {tmp_path / 'parity.html'}"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_another_hold_out_than_that_of_the_folder(published, labelled, mfal, config, tmp_path):
    """Whatever is asked for, what the folder holds out is not learned from."""
    folder, held = published

    def split(out: str, *more) -> tuple[str, set[str]]:
        result = mfal("train", folder, "--config", config, "--out", tmp_path / out, *more)
        assert result.exit_code == 0, result.output
        return result.stdout, held_out(tmp_path / out)

    said, drawn = split("share", "--hold-out", "0.1")
    assert "3 non-magnetic, 2 magnetic labels; held out: 1 non-magnetic, 1 magnetic (a share of 0.1, drawn)" in said
    assert "Left out: 2 non-magnetic, 1 magnetic, which splits.json holds out" in said
    assert drawn.isdisjoint(held)
    # the hold-out itself, as a file
    frames, labels = dataset.read(labelled)
    own = tmp_path / "own.extxyz"
    dataset.write(own, frames, [label for label in labels if label.frame_id in held])
    said, given = split("file", "--hold-out", own)
    assert f"4 non-magnetic, 3 magnetic labels; held out: 2 non-magnetic, 1 magnetic ({own})" in said
    assert given == set(held)
    leak = tmp_path / "leak.extxyz"
    dataset.write(leak, frames, labels[:2])
    refused(mfal("train", folder, "--hold-out", leak), "leak.extxyz: 1 of its frames are in", labels[1].frame_id)


def test_a_folder_that_holds_out_nothing_is_like_a_file(published, mfal, config, labelled, tmp_path):
    folder, _ = published
    (folder / "splits.json").unlink()
    result = mfal("train", folder, "--config", config, "--out", tmp_path / "folder")
    assert result.exit_code == 0, result.output
    assert "(a share of 0.1, drawn)" in result.stdout
    assert held_out(tmp_path / "folder") == draw(dataset.read(labelled)[1], 0.1, seed=1)
    result = mfal("evaluate", tmp_path / "folder", folder, "--json")
    assert json.loads(result.stdout)["split"] is None
    assert [row["frames"] for row in json.loads(result.stdout)["errors"]] == [6, 4]
    (folder / "splits.json").write_text("{}")
    refused(mfal("train", folder), "splits.json: must be {", "frame_ids in quotes")
    refused(mfal("evaluate", tmp_path / "folder", folder), "splits.json: must be {")


def test_nothing_held_out(train, tmp_path):
    result = train("--hold-out", "0")
    assert result.exit_code == 0, result.output
    assert "held out: 0 non-magnetic, 0 magnetic" in result.stdout
    assert not (tmp_path / "model" / "hold-out.extxyz").exists()


def test_the_hold_out_takes_whole_frames_of_every_kind():
    labels = [
        Label(frame_id=f"{i:02}", fidelity=fidelity, fingerprint="", status="ok")
        for i in range(20)
        for fidelity in (("nonmagnetic", "magnetic") if i < 8 else ("nonmagnetic",))
    ]
    held = draw(labels, 0.25, seed=0)
    assert sum(name < "08" for name in held) == 2
    assert sum(name >= "08" for name in held) == 3
    assert held == draw(labels[::-1], 0.25, seed=0)
    assert held != draw(labels, 0.25, seed=1)
    assert draw(labels, 0, seed=0) == set()
    assert len(draw(labels, 0.01, seed=0)) == 2
    assert len(draw(labels, 0.99, seed=0)) == 18
    with pytest.raises(ValueError, match="takes no frame of 1"):
        draw(labels[-1:], 0.5, seed=0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--hold-out", "1"], ["hold-out of 1", "less than 1"]),
        (["--hold-out", "nan"], ["hold-out of nan"]),
        (["--hold-out", "a tenth"], ["--hold-out a tenth", "neither a share such as 0.1 nor a file"]),
        (["--config", "no-such.yaml"], ["no-such.yaml", "cannot be read"]),
        (["--device", "cuda"], ["device = cuda", "take cpu or auto"]),
    ],
)
def test_train_refuses(train, tmp_path, monkeypatch, arguments, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(train(*arguments), *words)
    assert not (tmp_path / "model").exists()


def test_train_refuses_labels_that_do_not_do(mfal, labelled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frames, labels = dataset.read(labelled)
    dataset.write("low.extxyz", frames, labels[:6])
    refused(mfal("train", "low.extxyz", "--strategy", "transfer"), "'transfer' needs magnetic labels")
    refused(mfal("train", "[b]none.extxyz"), "[b]none.extxyz: cannot be read")
    assert [path.name for path in tmp_path.iterdir()] == ["low.extxyz"]


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"sed": 1}, ["sed: unknown key", "did you mean 'seed'"]),
        ({"training": {"epochs": 0}}, ["training.epochs = 0", "greater than 0"]),
        ({"explore": {}}, ["explore: unknown key", "committee, seed, training"]),
        (
            {"training": {"weights_by_fidelity": {"magnetic": {"energi": 1}}}},
            ["training.weights_by_fidelity.magnetic.energi: unknown key", "did you mean 'energy'"],
        ),
        (
            {"training": {"weights_by_fidelity": {"magnetik": {}}}},
            ["training.weights_by_fidelity.magnetik = 'magnetik'", "'magnetic'"],
        ),
        ({"campaign": "c", "committee": {"members": 1}}, ["is missing"]),
    ],
)
def test_settings_of_a_training_are_checked_like_a_campaign(train, config, tree, words):
    config.write_text(yaml.safe_dump(tree))
    result = train()
    assert result.exit_code == 2
    for word in words:
        assert word in result.stderr
    assert str(config) in result.stderr


def test_shipped_settings_are_the_defaults():
    path = Path(__file__).parent.parent / "configs" / "training.yaml"
    assert load_training(path) == TrainingFile()
    tree = yaml.safe_load(path.read_text())
    assert tree.keys() == TrainingFile.model_fields.keys()
    assert tree["training"].keys() == type(TrainingFile().training).model_fields.keys()
    assert tree["committee"].keys() == Committee.model_fields.keys()


@pytest.fixture(scope="module")
def committees(tmp_path_factory) -> Path:
    """`two` of two members, and `[b]one`, of one, whose name is no markup."""
    folder = tmp_path_factory.mktemp("committees")
    models = start_committee(Committee(members=2), seed=0)
    save(folder / "two", models)
    save(folder / "[b]one", models[:1])
    return folder


def test_evaluate_compares_models_side_by_side(committees, mfal, labelled, monkeypatch, tmp_path):
    monkeypatch.chdir(committees)
    copy = tmp_path / "<b>small.extxyz"
    copy.write_bytes(labelled.read_bytes())
    result = mfal("evaluate", "two", "[b]one", copy)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.strip() for line in lines if line.strip() in ("two", "[b]one")] == ["two", "[b]one"]
    page = (tmp_path / "parity.html").read_text()
    assert lines[-1] == f"Parity plots:  {tmp_path / 'parity.html'}"
    drawn = islands(page)
    kinds = [f"{q}-{f}" for q in ("energy", "forces", "stress") for f in ("nonmagnetic", "magnetic")]
    assert drawn.keys() == {f"parity-{i}-{kind}" for i in (0, 1) for kind in (*kinds, "magmoms-magnetic")}
    (forces,) = drawn["parity-1-forces-magnetic"]["data"]
    expected = errors(load(Path("[b]one")), examples(*dataset.read(labelled)))["magnetic"]
    assert forces["name"].startswith(f"MAE {number(expected.forces)}, RMSE ")
    assert forces["name"].endswith(" meV/Å, n = 4 frames")
    assert len(forces["hovertext"]) == 48
    assert f"{forces['name']}</li>" in page
    assert "<h2>[b]one</h2>" in page
    assert "<h1>&lt;b&gt;small.extxyz</h1>" in page
    body = page.split("<body>")[1].split('id="plotly"')[0]
    assert not re.findall(r"""(?:src|href|action)\s*=\s*["']?[^"'>\s]+""", body)
    assert not re.search(r"https?://|@import|url\(|<link|<iframe|<base", page)


def test_the_mean_of_a_folder_counts(committees, mfal, labelled):
    """The error of the mean is not the mean of the errors."""

    def energy_error(*models):
        result = mfal("evaluate", *models, labelled, "--json", "--plot", committees / "p.html")
        return json.loads(result.stdout)["errors"][-1]["forces"]["rmse"]

    _, labels = dataset.read(labelled)
    frames = {frame.frame_id: frame for frame in dataset.read(labelled)[0]}
    missed = [
        predict(load(committees / "two"), [frames[label.frame_id]], ["magnetic"])[0].forces.mean(axis=(0, 1))
        - np.array(label.forces)
        for label in labels
        if label.fidelity == "magnetic"
    ]
    expected = 1000 * np.sqrt(np.mean(np.square(missed)))
    assert energy_error(committees / "two") == pytest.approx(expected, rel=1e-4)
    assert energy_error(committees / "two" / "member-1.safetensors") != pytest.approx(expected, rel=1e-3)
    assert (committees / "p.html").is_file()


def test_fold_wants_one_model(committees, mfal, tmp_path):
    out = tmp_path / "folded.pth.tar"
    refused(mfal("fold", committees / "two", "--out", out), "2 members", "member-0.safetensors, member-1.safetensors")
    one = committees / "two" / "member-1.safetensors"
    refused(mfal("fold", one, "--fidelity", "hybrid", "--out", out), "'hybrid' is not one", "nonmagnetic, magnetic")
    refused(mfal("fold", tmp_path / "none", "--out", out), "none: is not there")
    refused(mfal("evaluate", tmp_path, tmp_path / "x.extxyz"), str(tmp_path), "holds no member-0.safetensors")
    assert not out.exists()


def test_fold_writes_nothing_that_chgnet_reads_differently(committees, mfal, tmp_path, monkeypatch):
    """The check before writing bites: here the folded model is of the other fidelity."""
    model = load(committees / "two" / "member-0.safetensors")[0]
    with torch.no_grad():
        model.atom_embedding.embedding.delta[1] += 0.05
    save(tmp_path, [model])
    right = MultiFidelityCHGNet.fold
    monkeypatch.setattr(MultiFidelityCHGNet, "fold", lambda self, _: right(self, "nonmagnetic"))
    result = mfal("fold", tmp_path, "--out", tmp_path / "folded.pth.tar")
    assert isinstance(result.exception, AssertionError)
    assert not (tmp_path / "folded.pth.tar").exists()


def test_export(finished, mfal, tmp_path):
    path, _ = finished
    out = tmp_path / "all.extxyz"
    result = mfal("export", path, out)
    assert result.exit_code == 0, result.output
    frames, labels = dataset.read(out)
    counts = [sum(label.fidelity == name for label in labels) for name in ("nonmagnetic", "magnetic")]
    assert result.stdout == f"{out}: {counts[0]} non-magnetic, {counts[1]} magnetic labels\n"
    assert sum(counts) == 15
    assert len(examples(frames, labels)) == 15
    before = out.read_bytes()
    refused(mfal("export", path, out), "all.extxyz: is there already", "--force")
    assert mfal("export", path, out, "--force").exit_code == 0
    assert out.read_bytes() == before
    # Labels of other settings do not compare: with another functional in the file there is none yet.
    tree = yaml.safe_load(path.read_text())
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(tree | {"engine": {"kind": "surrogate", "magnetic": "0.3.0"}}))
    result = mfal("export", other, tmp_path / "other.extxyz")
    assert f"{counts[0]} non-magnetic, 0 magnetic labels" in result.stdout
    assert f"Left out: {counts[1]} good labels of other settings" in result.stdout


def test_the_calculator_of_a_trained_folder(train, tmp_path):
    assert train().exit_code == 0
    calculator = MfalCalculator.from_files(tmp_path / "model", device="cpu")
    assert calculator.fidelity == "magnetic"
