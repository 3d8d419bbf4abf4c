"""Labels as extended XYZ: to a file and back, files made elsewhere, and what is wrong with a file."""

from __future__ import annotations

import re

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from conftest import mno, rock_salt

from mfal import dataset
from mfal.dataset_files import SPLITS, sha256, splits, write_splits
from mfal.frames import Frame, Label
from mfal.training.examples import examples

GPA_PER_EV_A3 = 160.21766208


def frame_of(structure) -> Frame:
    return Frame.of(structure, parent="p", source="s")


def label_of(frame: Frame, fidelity="magnetic", **changes) -> Label:
    """Numbers drawn from a generator, not from any calculation."""
    atoms = len(frame.structure)
    rng = np.random.default_rng(atoms)
    stress = rng.normal(0, 5, (3, 3))
    content = {
        "fingerprint": f"fake-{fidelity}",
        "status": "ok",
        "energy": float(rng.normal(-20, 1)),
        "forces": rng.normal(size=(atoms, 3)).tolist(),
        "stress": ((stress + stress.T) / 2).tolist(),
        "magmoms": [-4.5, *[0.1] * (atoms - 1)] if fidelity == "magnetic" else None,
    }
    return Label(frame_id=frame.frame_id, fidelity=fidelity, **content | changes)


def two_frames() -> tuple[list[Frame], list[Label]]:
    one, two = frame_of(mno()), frame_of(rock_salt())
    return [one, two], [label_of(one, "nonmagnetic"), label_of(two, "nonmagnetic"), label_of(two)]


def test_round_trip(tmp_path):
    frames, labels = two_frames()
    labels[0] = labels[0].model_copy(update={"energy": None, "stress": None})
    bad = label_of(frames[0]).model_copy(update={"status": "collapsed"})
    dataset.write(tmp_path / "data.extxyz", frames, [*labels, bad])
    found_frames, found = dataset.read(tmp_path / "data.extxyz")
    for before, after in zip(frames, found_frames, strict=True):
        assert after.frame_id == before.frame_id
        assert after.structure.species == before.structure.species
        np.testing.assert_allclose(after.structure.lattice.matrix, before.structure.lattice.matrix, atol=1e-12)
        np.testing.assert_allclose(after.structure.cart_coords, before.structure.cart_coords, atol=1e-8)
        assert (after.parent, after.source) == ("p", "s")
    for before, after in zip(labels, found, strict=True):
        assert (after.frame_id, after.fidelity, after.status) == (before.frame_id, before.fidelity, "ok")
        assert after.fingerprint == before.fingerprint
        for name in dataset.QUANTITIES:
            assert (getattr(after, name) is None) == (getattr(before, name) is None), name
            if getattr(before, name) is not None:
                np.testing.assert_allclose(getattr(after, name), getattr(before, name), rtol=0, atol=1e-8)
    assert len(examples(found_frames, found)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["data.extxyz"]


def test_what_a_label_cost_travels_with_it(tmp_path):
    path = tmp_path / "data.extxyz"
    frames, labels = two_frames()
    costs = [{"core_hours": 0.1 + 0.2}, {}, {"core_hours": 2.0, "earlier_core_hours": 3e-5}]
    dataset.write(path, frames, [label.model_copy(update=cost) for label, cost in zip(labels, costs, strict=True)])
    assert [label.core_hours for label in dataset.read(path)[1]] == [0.1 + 0.2, 0.0, 2.00003]
    assert ase.io.read(path, index=2).info["core_hours"] == 2.00003
    assert path.read_text().count("core_hours") == 2


def test_ase_reads_its_own_units_and_sign(tmp_path):
    frames, labels = two_frames()
    dataset.write(tmp_path / "data.extxyz", frames, labels)
    image = ase.io.read(tmp_path / "data.extxyz", index=2)
    assert image.get_potential_energy() == labels[2].energy
    np.testing.assert_allclose(image.get_stress(voigt=False) * GPA_PER_EV_A3, labels[2].stress, atol=1e-8)
    np.testing.assert_allclose(image.get_magnetic_moments(), labels[2].magmoms)
    assert image.pbc.all()
    names = {"fidelity": "magnetic", "frame_id": frames[1].frame_id, "fingerprint": "fake-magnetic"}
    assert image.info == names | {"parent": "p", "source": "s"}
    assert "magmoms" not in ase.io.read(tmp_path / "data.extxyz", index=0).calc.results


@pytest.mark.parametrize("name", ["12e456789012", "012345678901", "123456789012"])
def test_an_id_that_looks_like_a_number_stays_itself_through_ase(tmp_path, name):
    frame = frame_of(mno()).model_copy(update={"frame_id": name})
    dataset.write(tmp_path / "1.extxyz", [frame], [label_of(frame, fingerprint=name)])
    ase.io.write(tmp_path / "2.extxyz", ase.io.read(tmp_path / "1.extxyz", index=":"))
    for path in sorted(tmp_path.iterdir()):
        (found,), (label,) = dataset.read(path)
        assert found.frame_id == label.frame_id == label.fingerprint == name


def foreign(path, *images: dict) -> None:
    """A file as another program might write it: oxygen first, no ids."""
    written = []
    for image in images:
        given = {"fidelity": "magnetic", "energy": -17.0} | image
        symbols, positions = given.pop("symbols", "OMn"), given.pop("positions", [[2.2, 2.2, 2.3], [0, 0, 0]])
        atoms = Atoms(symbols, positions=positions, cell=4.4 * np.eye(3), pbc=given.pop("pbc", True))
        if given.pop("no_cell", False):
            atoms.cell[:] = 0
        for name in [key for key in given if key in ("REF_forces", "REF_magmoms")]:
            atoms.arrays[name] = np.array(given.pop(name))
        results = {key: given.pop(key) for key in ("energy", "forces", "stress", "magmoms") if key in given}
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info = {key: value for key, value in given.items() if value is not None}
        written.append(atoms)
    ase.io.write(path, written, format="extxyz")


def test_a_file_made_elsewhere_keeps_its_order(tmp_path):
    path = tmp_path / "elsewhere.extxyz"
    forces = [[0.0, 0, 1.5], [0, 0, -1.5]]
    foreign(path, {"forces": np.array(forces), "magmoms": np.array([0.1, -4.5])}, {"fidelity": "nonmagnetic"})
    (frame,), labels = dataset.read(path)
    assert [site.specie.symbol for site in frame.structure] == ["O", "Mn"]
    assert labels[0].forces == forces
    assert labels[0].magmoms == [0.1, -4.5]
    assert [label.fidelity for label in labels] == ["magnetic", "nonmagnetic"]
    assert {label.fingerprint for label in labels} == {""}
    # The same crystal has the same id, however it was written down.
    assert frame.frame_id == frame_of(frame.structure).frame_id
    (of_magnetic, _) = examples([frame], labels)
    assert of_magnetic.graph.elements.tolist() == [7, 24]
    assert of_magnetic.forces.tolist() == forces


def test_reference_keys_and_a_default_fidelity(tmp_path):
    path = tmp_path / "ref.extxyz"
    stress = np.diag([0.1, 0.2, 0.3]).reshape(-1)
    forces = [[0.0, 0, 0.5], [0, 0, -0.5]]
    foreign(path, {"fidelity": None, "energy": -1.0, "REF_energy": -18.0, "REF_stress": stress, "REF_forces": forces})
    _, (label,) = dataset.read(path, fidelity="nonmagnetic")
    assert (label.fidelity, label.energy, label.forces) == ("nonmagnetic", -18.0, forces)
    np.testing.assert_allclose(label.stress, np.diag([0.1, 0.2, 0.3]) * GPA_PER_EV_A3)


GOOD = {"fidelity": "nonmagnetic"}


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([GOOD, {"fidelity": None}], ["image 2: fidelity: is missing", "write fidelity=nonmagnetic or"]),
        ([{"fidelity": "hybrid"}], ["image 1: fidelity = 'hybrid'", "nonmagnetic or magnetic"]),
        ([{"pbc": [True, True, False]}], ["image 1: Lattice", "not periodic in three directions", 'pbc="T T T"']),
        ([{"no_cell": True}], ["image 1: Lattice", "not periodic"]),
        ([{"symbols": "OCm"}], ["image 1: species = Cm", "from H to Pu"]),
        ([{"positions": [[0, 0, np.nan], [2, 2, 2]]}], ["image 1: Lattice or pos: is not finite"]),
        ([{"energy": np.nan}], ["image 1: energy: is not finite", "leave out"]),
        ([{"energy": np.array([1.0, 2.0])}], ["image 1: energy: has shape (2,)", "()"]),
        ([{"forces": np.array([[0, 0, np.inf], [0, 0, 0]])}], ["image 1: forces: is not finite"]),
        ([{"REF_forces": [[0.0, 0], [0, 0]]}], ["image 1: REF_forces: has shape (2, 2)", "(2, 3)"]),
        ([{"magmoms": np.zeros((2, 3))}], ["image 1: magmoms: has shape (2, 3)", "(2,)"]),
        ([{"REF_stress": np.ones(4)}], ["image 1: REF_stress: has shape (4,)", "(6,) or (9,) or (3, 3)"]),
        ([{"REF_energy": "low"}], ["image 1: REF_energy = 'low': is not made of numbers"]),
        ([GOOD, {"core_hours": -0.5}], ["image 2: core_hours = -0.5: is less than nothing", "leave out"]),
        ([{"core_hours": np.inf}], ["image 1: core_hours: is not finite", "leave out"]),
        ([{"core_hours": np.array([1.0, 2.0])}], ["image 1: core_hours: has shape (2,)"]),
        ([{"core_hours": True}], ["image 1: core_hours = True: is not made of numbers"]),
        ([{"energy": None}], ["image 1: has none of energy, forces, stress, magmoms"]),
        ([{}, GOOD, {}], ["image 3: frame", "has a magnetic label in image 1 already: take one of the two out"]),
        (
            [{"fingerprint": "a"}, {"fingerprint": "b"}],
            ["image 2", "in image 1 already, of other settings", "'a', here 'b'", "keep the labels of one"],
        ),
        (
            [{"frame_id": "x"}, {"frame_id": "x", "positions": [[2, 2, 2], [0, 0, 0]]} | GOOD],
            ["image 2: frame_id = x is another crystal than in image 1"],
        ),
        (
            [{"frame_id": "x", "fingerprint": "a"}, {"frame_id": "y", "fingerprint": "b"}],
            ["the magnetic labels are of different settings (fingerprint = 'a', 'b')", "keep those of one"],
        ),
    ],
)
def test_what_is_wrong_is_named_with_a_mend(tmp_path, images, words):
    path = tmp_path / "bad.extxyz"
    foreign(path, *images)
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        dataset.read(path)
    for word in words:
        assert word in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_files_that_are_no_dataset(tmp_path):
    path = tmp_path / "odd.extxyz"
    with pytest.raises(ValueError, match=r"odd\.extxyz: cannot be read"):
        dataset.read(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"odd\.extxyz: cannot be read"):
        dataset.read(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match=r"odd\.extxyz: holds no images"):
        dataset.read(path)
    path.write_text("shopping list\n")
    with pytest.raises(ValueError, match=r"odd\.extxyz: is not extended XYZ"):
        dataset.read(path)
    foreign(path, GOOD, {"positions": [[2, 2, 2], [0, 0, 0]]})
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], "Mn 0 0"]))
    with pytest.raises(ValueError, match=r"odd\.extxyz: is not extended XYZ that ASE reads, after image 1"):
        dataset.read(path)
    path.write_text("\n".join([*lines[:4], "", *lines[4:], "", ""]))
    for function in (dataset.read, dataset.count_images):
        with pytest.raises(ValueError, match=r"odd\.extxyz: line 5: is empty, and images follow"):
            function(path)
    path.write_text("\n".join([*lines[:4], "0", "", *lines[4:]]))
    with pytest.raises(ValueError, match=r"after image 1: line 5: must be a number of atoms, not '0'"):
        dataset.read(path)


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "data.extxyz"
    path.write_text("old")
    frames, labels = two_frames()
    with pytest.raises(ValueError, match="no good label"):
        dataset.write(path, frames, [labels[0].model_copy(update={"status": "failed"})])
    with pytest.raises(ValueError, match=f"magnetic label of {frames[1].frame_id} has no frame"):
        dataset.write(path, frames[:1], labels)
    with pytest.raises(ValueError, match="has 2 good magnetic labels"):
        dataset.write(path, frames, [*labels, labels[2].model_copy(update={"fingerprint": "other"})])
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["data.extxyz"]


@pytest.mark.parametrize(
    "name", ["md 600 K", '"><script>', "12", "1 2 3", "True", "{1, 2}", "_JSON 3", "it's", 'a "b"', "x=y", "é µ"]
)
def test_where_a_frame_came_from_stays_text(tmp_path, name):
    frame = frame_of(mno()).model_copy(update={"parent": name, "source": name})
    dataset.write(tmp_path / "data.extxyz", [frame], [label_of(frame)])
    ((again,), _) = dataset.read(tmp_path / "data.extxyz")
    assert (again.parent, again.source) == (name, name)


def folder_of(tmp_path, splits: dict | None = None):
    """Two frames with three labels in a folder, a file a fidelity, beside what is no label."""
    folder = tmp_path / "set"
    folder.mkdir()
    frames, labels = two_frames()
    for fidelity in ("nonmagnetic", "magnetic"):
        of_fidelity = [label for label in labels if label.fidelity == fidelity]
        dataset.write(folder / f"{fidelity}.extxyz", frames, of_fidelity)
    (folder / "README.md").write_text("no labels")
    (folder / "._magnetic.extxyz").write_bytes(b"\x00\x05\x16\x07")  # of a Mac
    if splits is not None:
        write_splits(folder, splits)
    return folder, frames, labels


def test_the_files_of_a_folder_are_read_as_one(tmp_path):
    folder, frames, labels = folder_of(tmp_path)
    one = tmp_path / "one.extxyz"
    one.write_bytes(b"".join((folder / f"{name}.extxyz").read_bytes() for name in ("magnetic", "nonmagnetic")))
    found_frames, found = dataset.read(folder)
    assert found == dataset.read(one)[1]
    assert [(label.frame_id, label.fidelity) for label in found] == [
        (label.frame_id, label.fidelity) for label in (labels[2], labels[0], labels[1])
    ]
    assert [frame.frame_id for frame in found_frames] == [frames[1].frame_id, frames[0].frame_id]
    assert len(examples(found_frames, found)) == 3
    assert sha256(folder) == sha256(one) != sha256(folder / "magnetic.extxyz")


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ({"frame_id": "x", "positions": [[2, 2, 2], [0, 0, 0]]}, ["another crystal than in image 2 of a.extxyz"]),
        ({"frame_id": "x"}, ["has a magnetic label in image 2 of a.extxyz already: take one"]),
        ({"frame_id": "x", "fingerprint": "b"}, ["in image 2 of a.extxyz already, of other settings"]),
        ({"REF_energy": "low"}, ["REF_energy = 'low'"]),
    ],
)
def test_what_is_wrong_in_a_folder_is_named_by_file_and_image(tmp_path, image, words):
    foreign(tmp_path / "a.extxyz", {"frame_id": "w", "positions": [[2, 2, 2.1], [0, 0, 0]]}, {"frame_id": "x"})
    foreign(tmp_path / "b.extxyz", image)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'b.extxyz'}: image 1: ")) as caught:
        dataset.read(tmp_path)
    for word in words:
        assert word in str(caught.value)


def test_the_files_of_a_folder_are_of_the_same_settings(tmp_path):
    foreign(tmp_path / "a.extxyz", {"frame_id": "x", "fingerprint": "a"})
    foreign(tmp_path / "b.extxyz", {"frame_id": "y", "fingerprint": "b"})
    with pytest.raises(ValueError, match=r"the magnetic labels are of different settings \(fingerprint = 'a', 'b'\)"):
        dataset.read(tmp_path)


def test_a_folder_without_labels(tmp_path):
    (tmp_path / "labels.xyz.gz").write_text("")
    for function in (dataset.read, dataset.read_splits, sha256):
        with pytest.raises(ValueError, match=re.escape(f"{tmp_path}: is a folder without any *.extxyz: name one that")):
            function(tmp_path)


def test_a_folder_says_what_its_frames_are_for(tmp_path):
    folder, (one, two), _ = folder_of(tmp_path)
    assert splits(folder) == splits(folder / "magnetic.extxyz") == {}
    assert {name: len(found) for name, (_, found) in dataset.read_splits(folder).items()} == {"train": 3, "hold_out": 0}
    # one that has no label here, and a list that is a part of another
    write_splits(folder, {"train": [one.frame_id, "gone"], "hold_out": [two.frame_id], "control": ["gone"]})
    assert splits(folder) == {one.frame_id: "train", "gone": "train", two.frame_id: "hold_out"}
    parts = dataset.read_splits(folder)
    assert [frame.frame_id for frame in parts["train"][0]] == [one.frame_id]
    assert [label.frame_id for label in parts["train"][1]] == [one.frame_id]
    assert [frame.frame_id for frame in parts["hold_out"][0]] == [two.frame_id]
    assert sorted(label.fidelity for label in parts["hold_out"][1]) == ["magnetic", "nonmagnetic"]
    assert len(dataset.read_splits(folder / "nonmagnetic.extxyz")["train"][1]) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON that can be read"),
        (b"\xff\xff", "is not JSON that can be read"),
        ("[" * 100_000, "is not JSON that can be read"),
        ("1" * 10_000, "is not JSON that can be read"),
        ("[]", "must be {"),
        ('{"train": []}', "must be {"),
        ('{"train": {"a": 1}, "hold_out": []}', "must be {"),
        ('{"train": "abc", "hold_out": []}', "must be {"),
        ('{"train": [12], "hold_out": []}', "two lists of frame_ids in quotes"),
        ('{"train": ["a", "b"], "hold_out": ["b"]}', "frame_id = b is in train and in hold_out: take it out of one"),
    ],
)
def test_splits_that_cannot_be_used(tmp_path, text, words):
    (tmp_path / SPLITS).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        splits(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / SPLITS}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_splits_that_do_not_fit_the_labels(tmp_path):
    folder, (one, two), _ = folder_of(tmp_path, {"train": ["a"], "hold_out": ["b"]})
    with pytest.raises(ValueError, match=f"2 of its frames are in no split .*{one.frame_id}.*: write them into"):
        dataset.read_splits(folder)
    write_splits(folder, {"train": [one.frame_id, two.frame_id], "hold_out": ["b"]})
    with pytest.raises(ValueError, match=r"has no label of the frames that splits\.json holds out: put the file"):
        dataset.read_splits(folder)
