"""Occupations of a parent's sublattices that no symmetry of the parent maps onto each other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pymatgen.core import Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from pymatgen.util.coord import coord_list_mapping_pbc

from mfal.config import Parent
from mfal.section import VACANCY

#: Draws without a new ordering after which the space counts as exhausted.
PATIENCE = 200


def orderings(parent: Parent, rng: np.random.Generator) -> Iterator[Structure]:
    """Symmetry-distinct orderings of a parent in random order, until (almost) all have been seen.

    Each draw takes one composition of every sublattice, uniformly, and shuffles it over the sites.
    """
    host = parent.structure.copy()
    host.make_supercell(parent.supercell)
    symbols = [site.specie.symbol for site in host]
    permutations = _permutations(host)
    seen: set[tuple[str, ...]] = set()
    misses = 0
    while misses < PATIENCE:
        occupation = list(symbols)
        for sublattice in parent.sublattices:
            sites = [i for i, symbol in enumerate(symbols) if symbol == sublattice.element]
            composition = sublattice.compositions[rng.integers(len(sublattice.compositions))]
            species = [s for s, fraction in composition.items() for _ in range(round(fraction * len(sites)))]
            for site, species_at_site in zip(sites, rng.permutation(species), strict=True):
                occupation[site] = str(species_at_site)
        key = min(tuple(occupation[i] for i in permutation) for permutation in permutations)
        if key in seen:
            misses += 1
            continue
        misses = 0
        seen.add(key)
        yield _occupied(host, occupation)


def _occupied(host: Structure, occupation: list[str]) -> Structure:
    kept = [i for i, species in enumerate(occupation) if species != VACANCY]
    return Structure(host.lattice, [occupation[i] for i in kept], host.frac_coords[kept])


def _permutations(host: Structure) -> np.ndarray:
    """How each space-group operation of the host permutes its sites: shape (operations, sites)."""
    operations = SpacegroupAnalyzer(host).get_symmetry_operations()
    images = [coord_list_mapping_pbc(op.operate_multi(host.frac_coords), host.frac_coords, 1e-3) for op in operations]
    return np.unique(np.array(images), axis=0)
