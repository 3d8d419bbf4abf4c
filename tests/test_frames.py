"""A frame is known by its content: the same crystal has one id, however it was written down."""

from __future__ import annotations

import numpy as np
from conftest import rock_salt
from monty.json import MontyDecoder, jsanitize
from pymatgen.core import Structure

from mfal.frames import Frame, frame_id


def frame(structure):
    return Frame.of(structure, parent="p", source="s")


def test_id_does_not_depend_on_order_wrapping_or_noise():
    structure = rock_salt()
    shuffled = structure.copy()
    shuffled._sites = [structure[i] for i in (3, 1, 2, 0)]
    # Among atoms of one element the order is kept, so this permutation only exchanges different elements' places
    shuffled._sites.sort(key=lambda site: -site.specie.Z)
    wrapped = structure.copy()
    wrapped.translate_sites([0], [1, -2, 0], to_unit_cell=False)
    noisy = structure.copy()
    noisy.translate_sites([1], [1e-9, 0, 0])
    ids = {frame(s).frame_id for s in (structure, wrapped, noisy)}
    assert len(ids) == 1
    moved = structure.copy()
    moved.translate_sites([1], [1e-3, 0, 0])
    assert frame(moved).frame_id not in ids
    assert [site.specie.Z for site in frame(shuffled).structure] == [8, 8, 25, 25]


def test_canonical_form_is_a_fixed_point_also_at_the_cell_faces():
    structure = rock_salt()
    structure[0] = "Mn", [1 - 1e-9, 0.0, -1e-12]
    once = frame(structure)
    twice = frame(once.structure)
    assert once.frame_id == twice.frame_id
    assert np.array_equal(once.structure.cart_coords, twice.structure.cart_coords)
    assert np.allclose(once.structure[2].frac_coords, 0)


def test_the_id_of_a_canonical_frame_does_not_depend_on_float_noise():
    # Another machine's linear algebra makes other last digits of the same numbers.
    rng = np.random.default_rng(0)
    for _ in range(20):
        strained = rock_salt()
        strained.lattice = strained.lattice.matrix @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3)))
        before = frame(strained.perturb(0.05))
        lattice, positions = before.structure.lattice.matrix, before.structure.cart_coords
        noise = [1e-13 * rng.normal(size=numbers.shape) for numbers in (lattice, positions)]
        again = Structure(lattice + noise[0], before.structure.species, positions + noise[1], coords_are_cartesian=True)
        assert frame_id(again) == frame(again).frame_id == before.frame_id


def test_round_trip_through_json():
    before = frame(rock_salt())
    after = MontyDecoder().process_decoded(jsanitize(before, strict=True))
    assert after == before
