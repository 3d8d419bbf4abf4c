"""Frames that no DFT should be spent on: atoms on top of each other, absurd volumes."""

from __future__ import annotations

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from pymatgen.core import Structure

from mfal.config import Explore


def unphysical(structure: Structure, settings: Explore) -> str | None:
    """The reason why a frame is refused, or None."""
    if not (np.isfinite(structure.lattice.matrix).all() and np.isfinite(structure.cart_coords).all()):
        return "not finite"
    smallest, largest = settings.volume_per_atom
    volume = structure.volume / len(structure)
    if not smallest <= volume <= largest:
        return "absurd volume"
    radii = np.array([covalent_radii[atomic_numbers[site.specie.symbol]] for site in structure])
    # A cut-off at the largest allowed distance lists every pair that could be too close, periodic images included.
    first, second, _, distances = structure.get_neighbor_list(r=float(2 * radii.max() * settings.closest))
    if np.any(distances < settings.closest * (radii[first] + radii[second])):
        return "atoms too close"
    return None
