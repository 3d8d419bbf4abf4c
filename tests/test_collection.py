"""Collections asked from Python: typed documents, tables and pymatgen's entries, of one campaign or of all."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from pandas import DataFrame
from pymatgen.core import Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry

import stores
from mfal.frames import Frame, Label, Member
from stores.collection import COLUMNS
from stores.where import FIELDS

ROOT = Path(__file__).parents[1]


@pytest.fixture
def campaign(finished):
    with stores.open(finished[0]) as opened:
        yield opened


def test_documents_have_their_types(campaign):
    labels = campaign.labels.query("fidelity=magnetic status=ok", sort="-core_hours", limit=2)
    assert [type(label) for label in labels] == [Label, Label]
    assert labels[0].core_hours >= labels[1].core_hours
    (frame,) = campaign.frames.query({"frame_id": labels[0].frame_id})
    assert isinstance(frame, Frame)
    assert isinstance(frame.structure, Structure)
    member = campaign.models.query("round=1 member=0")[0]
    assert isinstance(member, Member)
    assert (member.weights, len(member.log)) == ("", 2)  # the weights are a blob
    assert campaign.committee("small", 1).members[0].weights
    with pytest.raises(LookupError, match="no committee of round 7"):
        campaign.committee("small", 7)


@pytest.mark.parametrize("name", list(COLUMNS))
def test_tables(campaign, name):
    collection = campaign.collections[name]
    table = collection.table()
    assert isinstance(table, DataFrame)
    assert list(table.columns) == COLUMNS[name].split()
    assert len(table) == collection.count() == collection.store.count()
    every = collection.table(columns=[field for field in FIELDS[name] if field != "structure"])
    assert len(every) == len(table)


def test_a_table_leads_into_fields(campaign):
    table = campaign.labels.table("fidelity=magnetic", ["frame_id", "magmoms.0", "settings.kind"], sort="frame_id")
    labels = campaign.labels.query("fidelity=magnetic", sort="frame_id")
    assert list(table["magmoms.0"]) == [label.magmoms[0] for label in labels]
    assert set(table["settings.kind"]) == {"surrogate"}
    assert campaign.labels.table("fidelity=none").empty


def test_entries_carry_what_pymatgen_users_look_for(campaign):
    entries = campaign.entries("status=ok")
    labels = {(label.frame_id, label.fidelity): label for label in campaign.all_labels() if label.good}
    assert len(entries) == len(labels) > 0
    for entry in entries:
        assert isinstance(entry, ComputedStructureEntry)
        label = labels[entry.data["frame_id"], entry.data["fidelity"]]
        assert entry.energy == label.energy
        assert np.array_equal(entry.structure.site_properties["forces"], label.forces)
        assert entry.structure.site_properties.get("magmom") == label.magmoms
    assert ComputedStructureEntry.from_dict(entries[0].as_dict()).energy == entries[0].energy
    assert len({entry.entry_id for entry in entries}) == len(entries)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda c: c.labels.query("statuss=ok"), "did you mean 'status'?"),
        (lambda c: c.labels.table(columns=["energi"]), "did you mean 'energy'?"),
        (lambda c: c.labels.query(sort="-core_hour"), "did you mean 'core_hours'?"),
        (lambda c: c.entries("fidelity = magnetic"), "cannot be read"),
    ],
)
def test_what_is_no_field_is_named(campaign, ask, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        ask(campaign)


def test_two_campaigns_in_one_store_are_kept_apart(finished, tmp_path, mfal):
    """A label that one has calculated is the other's, too, and is not calculated twice."""
    folder, content = finished[0].parent, yaml.safe_load(finished[0].read_text())
    shutil.copytree(folder / "run", tmp_path / "run")
    file = f"sqlite:///{tmp_path}/run/campaign.sqlite"
    own = {"campaign": "second", "directory": str(tmp_path / "second"), "store": file}
    path = tmp_path / "second.yaml"
    path.write_text(yaml.safe_dump(content | own | {"stop": {"rounds": 1}}))
    result = mfal("run", path)
    assert result.exit_code == 0, result.output
    assert "No calculation was started" in result.stdout  # of one seed, so of the same frames
    with stores.open(file) as every, stores.open(path) as second:
        assert every.campaigns() == ["second", "small"]
        assert every.labels.count() > second.labels.count() > 0
        assert {frame.frame_id for frame in second.frames.query()} == second.all_frames("second").keys()
        assert {label.frame_id for label in second.labels.query()} <= second.all_frames("second").keys()
        assert second.rounds.count() == 1
        assert every.rounds.count() == 3
    both = mfal("status", file)
    # An address that is too long for its column goes on in the lines below.
    assert re.findall(r"^ ?(\w+) .*sqlite:", both.stdout, re.MULTILINE) == ["second", "small"]
    assert "campaign second" in mfal("status", path).stdout


@pytest.mark.parametrize("page", ["README.md", "docs/stores.md"])
def test_the_examples_of_the_docs_run(finished, page, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    asked = [block for block in blocks if "stores.open(" in block]
    assert asked
    code = "\n".join(asked).replace("configs/quickstart.yaml", str(finished[0])).replace('"quickstart"', '"small"')
    exec(compile(code, page, "exec"), {})
    assert capsys.readouterr().out
