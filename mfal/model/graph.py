"""The graph of one structure as flat arrays: what CHGNet's converter finds, without its objects.

CHGNet stores directed bonds; most of what a bond means is the same both ways. Here geometry belongs to the undirected
bond, a directed bond is two atoms and the number of its undirected one, and angles are between short bonds only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Graph:
    """N atoms, U bonds, E = 2 U directed bonds, S short bonds, A angles."""

    atom_cutoff: float  # Å
    bond_cutoff: float  # Å, of the bonds that take part in angles
    elements: Ints  # [N] atomic number - 1
    positions: Floats  # [N, 3] Å
    lattice: Floats  # [3, 3] Å, vectors in rows
    #: A bond is the vector positions[bond_from] - positions[bond_to] - bond_shift.
    bond_from: Ints  # [U]
    bond_to: Ints  # [U]
    bond_shift: Floats  # [U, 3] Å, a lattice vector
    edge_center: Ints  # [E] the atom that gets the message
    edge_neighbor: Ints  # [E]
    edge_bond: Ints  # [E] in 0..U
    short_bond: Ints  # [S] in 0..U
    angle_center: Ints  # [A] an atom
    angle_first: Ints  # [A] in 0..S; the bond that gets the message
    angle_second: Ints  # [A] in 0..S
    #: -1 where exactly one of the two bonds is stored the other way round than it leaves the centre.
    angle_sign: Floats  # [A]

    @property
    def atoms(self) -> int:
        return len(self.elements)

    @classmethod
    def of(cls, structure: Structure, *, atom_cutoff: float = 6.0, bond_cutoff: float = 3.0) -> Graph:
        """The graph of an ordered structure; the cutoffs of CHGNet 0.3.0 do for any of the pretrained models.

        (0.2.0 ends at 5 Å and gives what is beyond no weight.)

        Raises:
            ValueError: an atom has no neighbour; CHGNet knows nothing of such crystals.
        """
        center, neighbor, images, lengths = structure.get_neighbor_list(
            r=atom_cutoff, sites=structure.sites, numerical_tol=1e-8
        )
        alone = len(structure) - len(np.unique(center))
        if alone:
            raise ValueError(
                f"{structure.composition.formula}: {alone} of {len(structure)} atoms have no neighbour within"
                f" {atom_cutoff} Å: the cell is torn apart or not a crystal"
            )
        images = np.rint(images).astype(np.int64)
        reverse = _reverse(center, neighbor, images, len(structure))
        # A bond and its reverse are one undirected bond, stored the way of whichever comes first.
        stored, edge_bond = np.unique(np.minimum(np.arange(len(center)), reverse), return_inverse=True)
        sign = np.where(stored[edge_bond] == np.arange(len(center)), 1.0, -1.0)
        first, second = _pairs(center, np.nonzero(lengths <= bond_cutoff)[0], len(structure))
        short, places = np.unique(edge_bond[np.concatenate([first, second])], return_inverse=True)
        lattice = np.asarray(structure.lattice.matrix, dtype=float)
        return cls(
            atom_cutoff=float(atom_cutoff),
            bond_cutoff=float(bond_cutoff),
            elements=np.array([site.specie.Z - 1 for site in structure], dtype=np.int64),
            positions=structure.frac_coords @ lattice,
            lattice=lattice,
            bond_from=center[stored],
            bond_to=neighbor[stored],
            bond_shift=images[stored] @ lattice,
            edge_center=center,
            edge_neighbor=neighbor,
            edge_bond=edge_bond,
            short_bond=short,
            angle_center=center[first],
            angle_first=places[: len(first)],
            angle_second=places[len(first) :],
            angle_sign=sign[first] * sign[second],
        )


def _reverse(center: Ints, neighbor: Ints, images: Ints, atoms: int) -> Ints:
    """For each directed bond the number of the one that goes back."""
    reach = int(np.abs(images).max())
    shape = (atoms, atoms, *(3 * (2 * reach + 1,)))
    there = np.ravel_multi_index((center, neighbor, *(images + reach).T), shape)
    back = np.ravel_multi_index((neighbor, center, *(reach - images).T), shape)
    order = np.argsort(there, kind="stable")
    found = order[np.minimum(np.searchsorted(there[order], back), len(order) - 1)]
    if not np.array_equal(there[found], back):
        raise ValueError("a bond has no way back: the neighbour list of this structure is broken")
    return np.asarray(found)


def _pairs(center: Ints, short: Ints, atoms: int) -> tuple[Ints, Ints]:
    """All ordered pairs of different short directed bonds that leave the same atom."""
    short = short[np.argsort(center[short], kind="stable")]
    counts = np.bincount(center[short], minlength=atoms)
    starts = np.cumsum(counts) - counts
    partners = counts[center[short]]
    first = np.repeat(short, partners)
    offsets = np.arange(len(first)) - np.repeat(np.cumsum(partners) - partners, partners)
    second = short[np.repeat(starts[center[short]], partners) + offsets]
    different = first != second
    return first[different], second[different]
