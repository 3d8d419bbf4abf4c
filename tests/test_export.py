"""`mfal export CAMPAIGN FOLDER`: a data set that explains itself, is whole or not there, and says nothing private."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from datetime import date
from html.parser import HTMLParser

import ase.io
import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt

from mfal import dataset
from mfal.config_file import load
from mfal.data_card import costs, markdown
from mfal.data_card.card import render
from mfal.data_card.data_set import DataSet
from mfal.frames import Label, Score
from stores.campaign import open_stores

ALWAYS = {"README.md", "splits.json", "settings.json"}
HOSTILE = "<script>alert(1)</script> a|b `c` [d](javascript:e) ![f](g) _h_ **i** ~~j~~ $k$ &amp; \\|\n# l\\"


@pytest.fixture(scope="session")
def content(finished_campaign):
    """The campaign that ran, its frames, labels and scores."""
    path, _ = finished_campaign
    campaign = load(path).model_copy(update={"directory": path.parent / "run"})
    with open_stores(campaign) as stores:
        name = campaign.campaign
        return campaign, stores.all_frames(name), stores.all_labels(name), stores.all_scores(name)


@pytest.fixture
def data(content):
    return DataSet.of(*content)


@pytest.fixture
def exported(finished, mfal, tmp_path):
    out = tmp_path / "set"
    result = mfal("export", finished[0], out, "--licence", "CC-BY-4.0")
    assert result.exit_code == 0, result.output
    return out


def card(data: DataSet, licence: str = "") -> str:
    return render(data, licence=licence, made=date(2025, 11, 21))


class Page(HTMLParser):
    """The tags and the text of a page, and the text of each cell of its tables, row by row."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, _: object) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data


def read_as_people_do(text: str) -> Page:
    """As GitHub shows it: HTML passes through, and there are tables."""
    return Page(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))


def test_the_folder_holds_what_the_one_file_holds(finished, exported, mfal, tmp_path):
    assert mfal("export", finished[0], tmp_path / "all.extxyz").exit_code == 0
    everything = dataset.read(tmp_path / "all.extxyz")[1]
    splits = json.loads((exported / "splits.json").read_text())
    for fidelity in ("nonmagnetic", "magnetic"):
        path = exported / f"{fidelity}.extxyz"
        frames, labels = dataset.read(path)
        assert labels == [label for label in everything if label.fidelity == fidelity]
        images = ase.io.read(path, index=":")
        assert len(images) == len(frames) == len(labels) > 0
        for image, label in zip(images, labels, strict=True):
            assert image.info["units"] == "energy eV, forces eV/Ang, stress eV/Ang^3, magmoms muB"
            assert image.info["frame_id"] in splits[image.info["split"]]
            assert image.get_potential_energy() == label.energy
            assert np.allclose(image.get_forces(), label.forces)
    assert {path.name for path in exported.iterdir()} == ALWAYS | {"nonmagnetic.extxyz", "magnetic.extxyz"}
    assert list(tmp_path.glob(".*")) == []


def test_what_is_printed(finished, mfal, tmp_path):
    out = tmp_path / "deep" / "set"
    result = mfal("export", finished[0], out)
    lines = result.stdout.splitlines()
    assert lines[0] == f"{out}/nonmagnetic.extxyz: 10 labels (9 train, 1 hold_out)"
    assert lines[1] == f"{out}/magnetic.extxyz: 5 labels (4 train, 1 hold_out)"
    assert lines[2].startswith(f"{out}/splits.json: 9 train, 1 hold_out, ")
    assert [line.split(":")[0] for line in lines[3:5]] == [f"{out}/settings.json", f"{out}/README.md"]
    assert "no licence" in lines[5]
    assert len(lines) == 6


def test_splits_are_of_the_scores(content, exported):
    _, _, labels, scores = content
    splits = json.loads((exported / "splits.json").read_text())
    good = {label.frame_id for label in labels if label.good}
    assert set(splits["train"]).isdisjoint(splits["hold_out"])
    assert {*splits["train"], *splits["hold_out"]} == good
    assert splits["hold_out"] == sorted({score.frame_id for score in scores if score.arm == "hold_out"})
    assert splits["control"] == sorted({score.frame_id for score in scores if score.arm == "control"})
    assert set(splits["control"]) < set(splits["train"])


def test_a_frame_held_out_once_is_never_trained_on_and_one_without_a_score_is(content):
    campaign, frames, labels, _ = content
    one, other, *rest = sorted({label.frame_id for label in labels if label.good})
    scores = [
        Score(campaign="small", round=n, frame_id=name, arm=arm, decision="both", reason="")
        for n, name, arm in [(0, one, "hold_out"), (1, one, "control"), (1, other, "control"), (1, "gone", "hold_out")]
    ]
    found = DataSet.of(campaign, frames, labels, scores).split_lists()
    assert found == {"train": [other, *rest], "hold_out": [one], "control": [other]}


def test_the_settings_give_the_fingerprints(exported):
    settings = json.loads((exported / "settings.json").read_text())
    for fingerprint, about in settings.items():
        text = json.dumps(about["settings"], sort_keys=True)
        assert hashlib.sha256(text.encode()).hexdigest()[:12] == fingerprint
        images = ase.io.read(exported / f"{about['fidelity']}.extxyz", index=":")
        assert {image.info["fingerprint"] for image in images} == {fingerprint}
        assert about["code"][0].startswith("CHGNet")
    assert sorted(about["fidelity"] for about in settings.values()) == ["magnetic", "nonmagnetic"]


def test_what_the_card_tells_to_run_runs(exported, mfal, tmp_path, monkeypatch):
    text = (exported / "README.md").read_text()
    monkeypatch.chdir(exported)
    for program in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(program, {})
    (command,) = re.findall(r"```sh\nmfal (.*?)\n```", text, re.S)
    quick = tmp_path / "quick.yaml"
    quick.write_text(yaml.safe_dump({"training": {"epochs": 1, "batch_size": 8}}))
    result = mfal(*command.split(), "--config", quick)
    assert result.exit_code == 0, result.output
    assert "9 non-magnetic, 4 magnetic labels; held out: 1 non-magnetic, 1 magnetic" in result.stdout
    # and it is still what was published
    assert {path.name for path in exported.iterdir()} == ALWAYS | {"nonmagnetic.extxyz", "magnetic.extxyz"}


def test_nothing_private_is_in_it(content, exported):
    campaign, _, labels, _ = content
    assert all(label.directory for label in labels)
    for path in exported.iterdir():
        text = path.read_text()
        assert str(campaign.directory) not in text
        assert "calculations/" not in text


def test_a_folder_that_is_there(finished, exported, mfal, tmp_path):
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    result = mfal("export", finished[0], exported)
    assert result.exit_code == 2
    assert "is there already" in result.stderr
    assert "--force" in result.stderr
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before
    assert mfal("export", finished[0], exported, "--force", "--licence", "CC0-1.0").exit_code == 0
    assert "CC0-1.0" in (exported / "README.md").read_text()
    assert (exported / "magnetic.extxyz").read_bytes() == before["magnetic.extxyz"]
    assert list(tmp_path.glob(".*")) == []


def test_only_a_folder_of_an_export_is_replaced(finished, exported, mfal, tmp_path):
    notes = exported / "notes.txt"
    notes.write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(exported)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "README.md").write_text("mine")
    file = tmp_path / "file"
    file.write_text("mine")
    for out, why in [(exported, "notes.txt"), (link, "is not a folder"), (mine, "settings.json"), (file, "is not a")]:
        result = mfal("export", finished[0], out, "--force")
        assert result.exit_code == 2
        assert why in result.stderr
    assert notes.read_text() == (mine / "README.md").read_text() == file.read_text() == "mine"
    assert link.is_symlink()


@pytest.mark.parametrize("force", [False, True])
def test_a_kill_leaves_no_half(finished, exported, tmp_path, force):
    """The process ends without a word as the card, the last of the files, is to be written."""
    out = exported if force else tmp_path / "other"
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    program = "; ".join(
        [
            "import os, sys",
            "from mfal.data_card import card",
            "card.render = lambda *_, **__: os._exit(9)",
            "from flows.cli import app",
            f"app(['export', {str(finished[0])!r}, {str(out)!r}] + ['--force'] * {force})",
        ]
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    assert out.exists() == force
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before
    (left,) = tmp_path.glob(".*")
    assert not (left / "README.md").exists()


def test_what_cannot_be_exported(finished, mfal, tmp_path):
    result = mfal("export", finished[0], tmp_path / "all.extxyz", "--licence", "CC0-1.0")
    assert result.exit_code == 2
    assert "is for a folder" in result.stderr
    other = tmp_path / "other.yaml"
    engine = {"kind": "surrogate", "magnetic": "0.3.0", "nonmagnetic": "0.3.0"}
    other.write_text(yaml.safe_dump(yaml.safe_load(finished[0].read_text()) | {"engine": engine}))
    result = mfal("export", other, tmp_path / "set")
    assert result.exit_code == 2
    assert result.stderr == f"{tmp_path / 'set'}: there is no good label to write\n"
    assert not (tmp_path / "set").exists()


def test_labels_are_judged_by_the_gate_as_it_is_now(finished, mfal, tmp_path):
    tree = yaml.safe_load(finished[0].read_text())
    tree["magnetism"]["windows"] = {"Mn": [[0.1, 0.2]], "Fe": [[0.1, 0.2]]}
    strict = tmp_path / "strict.yaml"
    strict.write_text(yaml.safe_dump(tree))
    result = mfal("export", strict, tmp_path / "set")
    assert result.exit_code == 0, result.output
    assert "Left out: 5 labels that are not good ('mfal check' says why)" in result.stdout
    assert {path.name for path in (tmp_path / "set").iterdir()} == ALWAYS | {"nonmagnetic.extxyz"}
    text = (tmp_path / "set" / "README.md").read_text()
    assert "There is no good magnetic label" in text
    assert "outside of magnetism.windows" in text


def test_the_card_adds_up(data):
    page = read_as_people_do(card(data))
    assert "None of this is DFT." in page.text
    assert "No licence is stated" in page.text
    rows = {tuple(row[:2]): row[2:] for row in page.rows}
    assert rows["train", "9"][:2] == ["9", "4"]
    assert rows["hold_out", "1"][:2] == ["1", "1"]
    assert rows["non-magnetic", "ok"][:2] == ["10", "10"]
    assert rows["magnetic", "ok"][:2] == ["5", "5"]
    spent = sum(label.core_hours for label in data.labels if label.fidelity == "magnetic")
    assert rows["magnetic", markdown.number(spent)] == ["5", markdown.number(spent / 5)]
    names = {row[0]: row[1:] for row in page.rows}
    energies = [label.energy / len(data.frames[label.frame_id].structure) for label in data.of_fidelity("magnetic")]
    assert names["energy, eV/atom"][1].startswith(f"{min(energies):.3f} to {max(energies):.3f} ")
    ions = sum(len(data.frames[label.frame_id].structure) for label in data.of_fidelity("magnetic"))
    kinds = {name: int(row[0]) for name, row in names.items() if re.fullmatch(r"(Li|Mn|Fe|O)(\d\+)?", name)}
    assert sum(kinds.values()) == ions
    assert {kind for kind in kinds if kind.startswith(("Mn", "Fe"))} <= {"Mn2+", "Mn3+", "Mn4+", "Fe2+", "Fe3+"}


def test_what_went_wrong_is_counted_paid_and_told_without_names(content):
    campaign, frames, labels, scores = content
    magnetic = [label for label in labels if label.fidelity == "magnetic"]
    cheap = [label for label in labels if label.fidelity == "nonmagnetic"]
    forces = [[50.0, 0.0, 0.0], *cheap[0].forces[1:]]
    turned = [0.0 if abs(moment) > 1 else moment for moment in magnetic[1].magmoms]
    words = "RuntimeError: /home/joe/run: no such file on node cn0123"
    planted = [
        magnetic[0].model_copy(update={"status": "failed", "reason": f"GPAW stopped with exit code 1: {words}"}),
        magnetic[1].model_copy(update={"magmoms": turned}),
        magnetic[2].model_copy(update={"attempt": 2, "earlier_core_hours": 0.5}),
        magnetic[2].model_copy(
            update={"attempt": 1, "core_hours": 0.5, "status": "unconverged", "reason": "no self-consistency"}
        ),
        *magnetic[3:],
        cheap[0].model_copy(update={"forces": forces}),
        cheap[1].model_copy(update={"started_at": "", "core_hours": 0.0}),
        *cheap[2:],
        cheap[0].model_copy(update={"fingerprint": "another", "core_hours": 3.0}),
    ]
    data = DataSet.of(campaign, frames, planted, scores)
    assert len(data.good) == 12
    text = card(data)
    for private in ("joe", "cn0123", "/home"):
        assert private not in text
    page = read_as_people_do(text)
    found = {tuple(row[:2]): row[2:] for row in page.rows if len(row) == 5}
    assert found["magnetic", "ok"][:2] == ["3", "3"]
    assert found["magnetic", "failed"][:2] == ["1", "1"]
    assert found["magnetic", "collapsed"][:2] == ["1", "1"]
    assert found["magnetic", "unconverged"] == ["0", "1", "0.500"]
    assert found["non-magnetic", "ok, but flagged"][:2] == ["1", "1"]
    reasons = {row[1]: row[2:] for row in page.rows if len(row) == 4}
    assert ["magnetic", "unconverged → ok", "1"] in page.rows
    assert reasons["failed"] == ["GPAW stopped with exit code 1", "1"]
    assert reasons["unconverged"] == ["no self-consistency", "1"]
    assert reasons["ok, but flagged"] == ["a force of … eV/Å (sanity.force = 40)", "1"]
    assert "1 labels of other settings (1 of them good; 3.00 core-hours)" in page.text
    assert "Good labels without a cost, left out of that of a good label: 1." in page.text
    # failures are paid, too, and the price is of those that are good
    spent = sum(label.core_hours for label in planted if label.fidelity == "magnetic")
    assert ("magnetic", markdown.number(spent), 3, markdown.number(spent / 3)) in costs.spent(data)
    cheap_ones = sum(label.core_hours for label in planted if label.fingerprint == cheap[0].fingerprint)
    dearer = markdown.number((spent / 3) / (cheap_ones / 8))  # of ten, one is flagged and one has no cost
    assert f"a good magnetic label {dearer} times a good non-magnetic one" in page.text


@pytest.mark.parametrize(
    ("status", "reason", "told"),
    [
        ("failed", "VASP stopped with exit code 2: OSError: /scratch/joe/x", "VASP stopped with exit code 2"),
        (
            "failed",
            "GPAW ran longer than engine.timeout = 10 minutes",
            "GPAW ran longer than engine.timeout = 10 minutes",
        ),
        ("failed", "no file /scratch/joe/OUTCAR of joe@cn01", "no file … of …"),
        (
            "other_state",
            "Fe (site 3) has +3.78 µB, outside of magnetism.windows",
            "Fe has … µB, outside of magnetism.windows",
        ),
        (
            "other_state",
            "Mn (site 0) has -2.10 µB, which is none of its valences (3 to 4.5 µB)",
            "Mn has … µB, which is none of its valences (3 to 4.5 µB)",
        ),
    ],
)
def test_alike_reasons_are_one(status, reason, told):
    label = Label(frame_id="a", fidelity="magnetic", fingerprint="b", status=status, reason=reason)
    assert costs.reason(label) == told


def test_names_stay_text(content):
    """Whatever a person calls a parent, the licence or the reason of a bad label."""
    campaign, frames, labels, scores = content
    named = {name: frame.model_copy(update={"parent": HOSTILE, "source": HOSTILE}) for name, frame in frames.items()}
    bad = labels[0].model_copy(update={"status": "failed", "reason": HOSTILE})
    text = card(DataSet.of(campaign, named, [bad, *labels[1:]], scores), licence=HOSTILE)
    page = read_as_people_do(text)
    assert not page.tags & {"script", "a", "img", "em", "s"}
    plain = " ".join(HOSTILE.split())
    (row,) = (row for row in page.rows if row[0] == plain)
    assert row[4] == f"{len(named) - 1} {plain}"
    assert f"Licence: {plain}\n" in page.text
    assert [row[2] for row in page.rows if row[1:2] == ["failed"] and len(row) == 4] == [plain]
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({line.count("|") for line in table.splitlines()}) == 1


@pytest.mark.parametrize("plain", ["rock salt, 4 atoms", "site_3 (2 × 1)", "CC-BY-4.0", "-1.5 to 2.0", "Å^3 + 'x'"])
def test_names_without_harm_stay_as_they_are(plain):
    assert markdown.text(plain) == plain
    assert read_as_people_do(f"x {plain}").text == f"x {plain}\n"


def test_numbers_have_three_figures():
    assert [markdown.number(x) for x in (0, 0.00962, 0.5, 12.34, 12345.6, None)] == [
        "0",
        "0.00962",
        "0.500",
        "12.3",
        "12346",
        "–",
    ]
