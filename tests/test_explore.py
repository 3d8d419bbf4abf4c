"""Orderings, perturbations, dynamics; what is refused and what is dropped."""

from __future__ import annotations

import numpy as np
import pytest
from chgnet.model.dynamics import CHGNetCalculator
from conftest import STRUCTURES, rock_salt
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from mfal.config import Explore, MolecularDynamics, Parent
from mfal.explore.candidates import explore
from mfal.explore.diverse import features, novel
from mfal.explore.dynamics import relax, snapshots
from mfal.explore.orderings import orderings
from mfal.explore.perturb import perturb
from mfal.explore.physical import unphysical
from mfal.model.multifidelity import pretrained


@pytest.fixture(scope="module")
def chgnet():
    return pretrained("0.3.0")


def parent(name, *sublattices, **details):
    return Parent.model_validate(
        {"name": name, "structure": Structure.from_file(STRUCTURES / name), "sublattices": sublattices, **details}
    )


def test_orderings_are_distinct_and_complete():
    # 2 Li and 2 Mn on the four cation sites of the cubic cell: all ways are equivalent; with 1:1:2 too
    half = parent("rocksalt-8.cif", {"element": "Mn", "compositions": [{"Li": 0.5, "Mn": 0.5}]})
    assert len(list(orderings(half, np.random.default_rng(0)))) == 1
    # Olivine with half of the iron: pymatgen's matcher agrees that those found are all different
    olivine = parent("olivine-limnpo4.cif", {"element": "Mn", "compositions": [{"Mn": 0.5, "Fe": 0.5}]})
    found = list(orderings(olivine, np.random.default_rng(0)))
    assert len(found) == len(StructureMatcher().group_structures(found)) == 3
    assert all(s.composition.reduced_formula == "Li2MnFe(PO4)2" for s in found)


def test_vacancies_and_supercells():
    charged = parent(
        "olivine-limnpo4.cif",
        {"element": "Li", "compositions": [{"Li": 0.25, "vacancy": 0.75}]},
        {"element": "Mn", "compositions": [{"Fe": 1}]},
    )
    (only,) = orderings(charged, np.random.default_rng(0))
    assert only.composition.as_dict() == {"Li": 1, "Fe": 4, "P": 4, "O": 16}
    double = parent(
        "rocksalt-4.cif", {"element": "Mn", "compositions": [{"Li": 0.25, "Mn": 0.75}]}, supercell=(2, 1, 1)
    )
    assert len(next(orderings(double, np.random.default_rng(0)))) == 8


def test_perturb_moves_by_what_was_asked():
    structure = rock_salt() * (3, 3, 3)
    moved = perturb(structure, strain=0.0, rattle=0.1, rng=np.random.default_rng(0))
    assert np.std(moved.cart_coords - structure.cart_coords) == pytest.approx(0.1, rel=0.1)
    assert moved.lattice == structure.lattice
    strained = perturb(structure, strain=0.02, rattle=0.0, rng=np.random.default_rng(0))
    assert np.allclose(strained.frac_coords, structure.frac_coords)
    deformation = np.linalg.solve(structure.lattice.matrix, strained.lattice.matrix) - np.eye(3)
    assert np.allclose(deformation, deformation.T)
    assert 0.005 < np.abs(deformation).max() < 0.1


def test_unphysical_frames_are_refused():
    settings = Explore()
    fine = rock_salt()
    assert unphysical(fine, settings) is None
    close = fine.copy()
    close[2] = "O", [0.08, 0, 0]
    assert unphysical(close, settings) == "atoms too close"
    across = Structure(Lattice.cubic(4.0), ["Mn", "O"], [[0, 0, 0.02], [0, 0, 0.97]])  # through the cell's face
    assert unphysical(across, settings.model_copy(update={"volume_per_atom": (1, 99)})) == "atoms too close"
    huge = Structure(Lattice.cubic(12), fine.species, fine.frac_coords)
    assert unphysical(huge, settings) == "absurd volume"


def test_near_duplicates_are_dropped_and_the_rest_is_spread(chgnet):
    structure = rock_salt()
    twin = perturb(structure, strain=0.0, rattle=1e-4, rng=np.random.default_rng(0))
    other = perturb(structure, strain=0.05, rattle=0.1, rng=np.random.default_rng(1))
    rows = features([structure, twin, other], chgnet)
    assert sorted(novel(rows, rows[:0], count=3, tolerance=0.005))[-1] == 2
    assert len(novel(rows, rows[:0], count=3, tolerance=0.005)) == 2
    assert novel(rows, rows[:1], count=3, tolerance=0.005) == [2]
    line = np.array([[0.0], [0.1], [0.5], [1.0]])
    assert novel(line, np.zeros((0, 1)), count=3, tolerance=0.0) == [3, 0, 2]


def test_dynamics_heats_up_and_keeps_the_asked_snapshots(chgnet):
    calculator = CHGNetCalculator(chgnet, use_device="cpu")
    settings = MolecularDynamics(steps=6, snapshots=3)
    run = snapshots(rock_salt(), calculator, temperature=800, settings=settings, rng=np.random.default_rng(0))
    assert len(run) == 3
    assert np.abs(run[-1].cart_coords - run[0].cart_coords).max() > 1e-3
    squeezed = rock_salt().scale_lattice(32.0)
    assert relax(squeezed, calculator, steps=8).volume > 33.0


def test_a_round_is_determined_by_its_seed(chgnet):
    mixed = parent(
        "rocksalt-4.cif",
        {"element": "Mn", "compositions": [{"Li": 0.5, "Mn": 0.5}, {"Li": 0.5, "Fe": 0.5}]},
    )
    settings = Explore(
        frames=4,
        orderings=2,
        relax_steps=2,
        perturbations=2,
        md=MolecularDynamics(temperatures=[900], steps=3, snapshots=1),
    )
    runs = [
        explore([mixed], settings, force_field=chgnet, pretrained=chgnet, seed=seed)
        for seed in ([1, 0], [1, 0], [2, 0])
    ]
    ids = [[frame.frame_id for frame in run.frames] for run in runs]
    assert ids[0] == ids[1] != ids[2]
    assert runs[0].candidates == 5
    assert sum(runs[0].dropped.values()) == 1
    again = explore(
        [mixed],
        settings,
        force_field=chgnet,
        pretrained=chgnet,
        known=[frame.structure for frame in runs[0].frames],
        seed=[1, 0],
    )
    assert not {frame.frame_id for frame in again.frames} & set(ids[0])
