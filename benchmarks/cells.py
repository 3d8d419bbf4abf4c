"""What is measured on: olivine LiMn(x)Fe(1-x)PO4 in cells of 28 atoms and supercells of 112."""

from __future__ import annotations

import numpy as np
from pymatgen.core import Lattice, Structure

SITES = {
    "Li": (0, 0, 0),
    "Mn": (0.2822, 0.25, 0.9747),
    "P": (0.0948, 0.25, 0.4182),
    "O1": (0.0968, 0.25, 0.7428),
    "O2": (0.4571, 0.25, 0.2060),
    "O3": (0.1656, 0.0465, 0.2848),
}


def olivines(count: int, *, atoms: int = 28, seed: int = 0) -> list[Structure]:
    """Every iron content from LiMnPO4 to LiFePO4, strained and rattled; each fourth has lost half of its lithium."""
    rng = np.random.default_rng(seed)
    return [_olivine(rng, iron=i % 5, lithium=2 if i % 4 == 3 else 4, supercell=atoms == 112) for i in range(count)]


def _olivine(rng: np.random.Generator, *, iron: int, lithium: int, supercell: bool) -> Structure:
    structure = Structure.from_spacegroup(
        "Pnma", Lattice.orthorhombic(10.45, 6.10, 4.75), [name.rstrip("123") for name in SITES], list(SITES.values())
    )
    manganese, lithiums = structure.indices_from_symbol("Mn"), structure.indices_from_symbol("Li")
    for site in rng.choice(manganese, iron, replace=False):
        structure.replace(int(site), "Fe")
    structure.remove_sites([int(site) for site in rng.choice(lithiums, 4 - lithium, replace=False)])
    if supercell:
        structure = structure * (1, 2, 2)
    strain = rng.normal(0, 0.01, (3, 3))
    lattice = structure.lattice.matrix @ (np.eye(3) + strain + strain.T)
    positions = structure.frac_coords @ lattice + rng.normal(0, 0.05, (len(structure), 3))
    return Structure(lattice, structure.species, positions, coords_are_cartesian=True)
