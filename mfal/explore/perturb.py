"""Random strain and rattle: the frames that a force field needs away from the minimum."""

from __future__ import annotations

import numpy as np
from pymatgen.core import Lattice, Structure


def perturb(structure: Structure, *, strain: float, rattle: float, rng: np.random.Generator) -> Structure:
    """A copy with a random symmetric strain and random displacements.

    Args:
        strain: standard deviation of each component of the strain tensor.
        rattle: standard deviation of each Cartesian coordinate, Å.
    """
    tensor = rng.normal(0.0, strain, (3, 3))
    lattice = structure.lattice.matrix @ (np.eye(3) + (tensor + tensor.T) / 2)
    positions = structure.frac_coords @ lattice + rng.normal(0.0, rattle, (len(structure), 3))
    return Structure(Lattice(lattice), structure.species, positions, coords_are_cartesian=True)
