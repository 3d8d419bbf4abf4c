"""Labels that converged and cannot be right are held back, and labels that do not compare are never mixed."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from conftest import rock_salt
from pymatgen.core import Lattice, Structure

from mfal.dataset import read
from mfal.dft.sanity import ENOUGH, Sanity, closest_pair, flagged
from mfal.frames import FIDELITIES, Frame, Label, Status
from mfal.training.examples import examples

LABELS = Path(__file__).parent.parent / "data" / "rocksalt-gpaw" / "labels.extxyz"


@pytest.fixture(scope="module")
def real():
    """The 64 frames of a real data set by their id, and its labels at both fidelities."""
    frames, labels = read(LABELS)
    assert len(labels) == 128
    return {frame.frame_id: frame for frame in frames}, labels


def changed(labels, at, **update):
    return [label.model_copy(update=update) if k == at else label for k, label in enumerate(labels)]


def caught(frames, labels, limits=None):
    """Which labels are flagged, by their place."""
    return [k for k, label in enumerate(flagged(frames, labels, limits or Sanity())) if label.flag]


def shifted(frames, label, per_atom):
    return label.energy + per_atom * len(frames[label.frame_id].structure)


def test_no_real_label_is_flagged(real):
    assert flagged(*real, Sanity()) == real[1]


@pytest.mark.parametrize("per_atom", [1.5, -1.5, 30.0, -1e4])
def test_an_energy_that_the_composition_does_not_explain_is_flagged_and_no_other(real, per_atom):
    frames, labels = real
    for at in range(0, 128, 9):
        planted = changed(labels, at, energy=shifted(frames, labels[at], per_atom))
        assert caught(frames, planted) == [at]
        found = flagged(frames, planted, Sanity())[at]
        assert (found.status, found.good) == ("ok", False)
        assert "eV/atom from the campaign's median (sanity.energy = 1)" in found.flag
        assert planted[at].good  # what was given is as it was


def test_many_wrong_energies_hide_none_of_each_other(real):
    frames, labels = real
    wrong = list(range(1, 128, 6))
    for at in wrong:
        labels = changed(labels, at, energy=labels[at].energy / 27.2114)  # hartree
    assert caught(frames, labels) == wrong
    assert caught(frames, labels, Sanity(energy=100.0)) == []


def test_few_labels_say_nothing_of_each_others_energies(real):
    frames, labels = real
    same = [x for x in labels if x.fidelity == "magnetic" and frames[x.frame_id].structure.reduced_formula == "LiFeO2"]
    planted = changed(same, 2, energy=0.0)
    assert caught(frames, planted[:ENOUGH]) == [2]
    assert caught(frames, planted[: ENOUGH - 1]) == []


def test_labels_of_other_settings_or_another_fidelity_do_not_judge_each_other(real):
    """Energies of other pseudopotentials differ by more than any limit, and are fine among themselves."""
    frames, labels = real
    rest = labels[40:]
    same = [x.model_copy(update={"energy": shifted(frames, x, 50.0)}) for x in labels[:20]]
    others = [x.model_copy(update={"fingerprint": "other"}) for x in same]
    assert caught(frames, [*same, *rest]) == list(range(20))
    assert caught(frames, [*others, *rest]) == []
    assert caught(frames, [*changed(others, 3, energy=labels[3].energy), *rest]) == [3]
    assert caught(frames, [x.model_copy(update={"fingerprint": "one"}) for x in labels]) == []


@pytest.mark.parametrize("vector", [[50.0, 0.0, 0.0], [0.0, -41.0, 0.0], [30.0, 30.0, 30.0]])
def test_a_force_on_any_atom_is_flagged_by_its_length(real, vector):
    frames, labels = real
    planted = changed(labels, 99, forces=[*labels[99].forces[:-1], vector])
    assert caught(frames, planted, Sanity(force=60.0)) == []
    assert caught(frames, planted) == [99]
    assert "sanity.force = 40" in flagged(frames, planted, Sanity())[99].flag


def test_atoms_on_top_of_each_other_are_flagged_and_named(real):
    frames, labels = real
    frame = frames[labels[10].frame_id].model_copy(deep=True)
    move = frame.structure[0].coords - frame.structure[1].coords + [0.4, 0, 0]
    frame.structure.translate_sites([1], move, frac_coords=False)
    judged = flagged(frames | {frame.frame_id: frame}, labels, Sanity())
    assert [label.frame_id for label in judged if label.flag] == [frame.frame_id] * 2
    for words in ("(site 0)", "(site 1)", "sanity.closest = 0.55"):
        assert words in judged[10].flag


def test_the_closest_pair_is_found_through_the_faces_of_the_cell():
    across = Structure(Lattice.cubic(4.0), ["Mn", "O"], [[0, 0, 0.02], [0, 0, 0.77]])
    share, pair = closest_pair(across)
    assert share == pytest.approx(1.0 / (1.39 + 0.66))
    assert pair == "Mn (site 0) and O (site 1)"
    thin = Structure(Lattice([[4, 0, 0], [8, 1, 0], [0, 0, 4]]), ["O"], [[0, 0, 0]])  # its own image is at 1 Å
    assert closest_pair(thin) == (pytest.approx(1.0 / 1.32), "O (site 0) and O (site 0)")
    # A cell read in the wrong unit: a search for its images must not fill the memory.
    share, _ = closest_pair(Structure(Lattice.cubic(1e9), ["O", "O"], [[0, 0, 0], [0, 0, 0.5]]))
    assert share > 1e8


def test_labels_that_are_bad_or_lack_numbers_stay_as_they_are_and_judge_nobody(real):
    frames, labels = real
    planted = changed(labels, 3, status="unconverged", energy=1e6, forces=[[1e3, 0, 0]])
    planted = changed(planted, 4, energy=None, forces=None)
    assert flagged(frames, planted, Sanity()) == planted


def test_nonsense_in_another_magnetic_state_is_flagged_too(real):
    """`train_on_other_state` trains on such labels, so they need the same limits."""
    frames, labels = real
    planted = changed(labels, 99, status="other_state", forces=(100 * np.array(labels[99].forces)).tolist())
    assert caught(frames, planted) == [99]


# What is trained on


@pytest.mark.parametrize("flag", ["", "a force of 99 eV/Å"])
@pytest.mark.parametrize("status", get_args(Status))
def test_what_a_model_may_learn_from(status, flag):
    frame = Frame.of(rock_salt(), parent="p", source="s")
    numbers = {"energy": -4.0, "magmoms": [-1.0, 2.0, 0.0, 0.0]}
    label = Label(frame_id=frame.frame_id, fidelity="magnetic", fingerprint="x", status=status, flag=flag, **numbers)
    assert label.trainable() == (status == "ok" and not flag)
    assert label.trainable(other_states=True) == (status in ("ok", "other_state") and not flag)
    for others in (False, True):
        found = [(e.energy, e.magmoms.tolist()) for e in examples([frame], [label], other_states=others)]
        assert found == [(-1.0, [1.0, 2.0, 0.0, 0.0])] * label.trainable(others)


def test_labels_of_two_fingerprints_never_share_a_training_set(real):
    frames, labels = real
    few = [label for fidelity in FIDELITIES for label in labels if label.fidelity == fidelity][62:66]
    assert len({label.fingerprint for label in few}) == 2  # one at each fidelity is fine
    assert len(examples(frames.values(), few)) == 4
    strange = few[3].model_copy(update={"fingerprint": "0123456789ab"})
    with pytest.raises(ValueError, match=rf"{few[3].frame_id} .*'0123456789ab'.*'{few[2].fingerprint}'"):
        examples(frames.values(), [*few[:3], strange])
    unused = strange.model_copy(update={"flag": "left out"})
    assert len(examples(frames.values(), [*few[:3], unused])) == 3
    other = strange.model_copy(update={"status": "other_state"})
    assert len(examples(frames.values(), [*few[:3], other])) == 3
    with pytest.raises(ValueError, match="do not compare"):
        examples(frames.values(), [*few[:3], other], other_states=True)
