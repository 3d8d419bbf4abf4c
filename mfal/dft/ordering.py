"""Up or down: the sign of each initial moment, by the ordering policy of the campaign.

CHGNet learns |moment|, so two labels of one frame in different orderings would contradict each other: the policy is
part of the fingerprint, and a frame's signs follow from the policy, the frame and its parent alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from pymatgen.core import Structure
from scipy.optimize import linear_sum_assignment

from mfal.dft.magnetism import Magnetism
from mfal.frames import Frame

#: Å; how fast the weight of a pair falls with its distance beyond the nearest one.
DECAY = 1.0
#: Up to so many magnetic sites every pattern is tried; above, exchanges of an up and a down ion from random starts.
EXHAUSTIVE = 14


@dataclass(frozen=True)
class Host:
    """A parent's supercell, in which each ion of a frame has a site."""

    structure: Structure
    #: Those that a magnetic ion can sit on.
    magnetic_sites: list[int]
    #: Unit cells in it.
    cells: int = 1


def signs(frame: Frame, magnetism: Magnetism, host: Host | None = None) -> list[int]:
    """+1 or -1 for each site of a frame; +1 where no magnetic ion sits.

    Args:
        host: None for a frame without a parent, whose own magnetic sites then stand for the parent's.

    Raises:
        ValueError: a given list does not fit the magnetic sites.
    """
    structure, policy = frame.structure, magnetism.ordering
    own = [i for i, site in enumerate(structure) if site.specie.symbol in magnetism.moments]
    result = [1] * len(structure)
    if policy == "ferromagnetic" or not own:
        return result
    if policy == "random-collinear":
        rng = np.random.default_rng(list(frame.frame_id.encode()))
        for i in own:
            result[i] = int(rng.choice([1, -1]))
        return result
    whole = host or Host(structure, own)
    if policy == "antiferromagnetic":
        pattern = antiferromagnetic(whole.structure, whole.magnetic_sites)
    else:
        pattern = _given(policy, frame.parent, whole)
    for i, place in zip(own, _nearest(structure, own, whole), strict=True):
        result[i] = pattern[place]
    return result


def misfit(magnetism: Magnetism, name: str, host: Host) -> str:
    """What keeps the ordering policy from a parent's frames, with the mend; empty where nothing does."""
    if isinstance(magnetism.ordering, str) or not host.magnetic_sites:
        return ""
    try:
        _given(magnetism.ordering, name, host)
    except ValueError as error:
        return str(error)
    return ""


def antiferromagnetic(structure: Structure, sites: list[int]) -> list[int]:
    """The pattern over `sites` in which near pairs differ as far as they can; the first is up.

    Of all patterns with as many up as down (to one), that of the lowest energy of an Ising model with pairs that weigh
    exp(-(d - d_nearest) / 1 Å), periodic images included; of more than 14 sites, the best of 32 local minima. Always
    the same pattern for the same sites. Near pairs decide: that is the order of the olivines, and not that of rock salt
    (type II, set by the second neighbours across an oxygen), for which signs can be given.
    """
    if not sites:
        return []
    return list(_antiferromagnetic(_key(structure, sites)))


def _given(policy: object, name: str, host: Host) -> list[int]:
    count = len(host.magnetic_sites) // host.cells
    pattern = policy.get(name) if isinstance(policy, dict) else policy
    if pattern is None:
        raise ValueError(f"magnetism.ordering has no signs for parent {name!r}: add them, or name a policy for all")
    assert isinstance(pattern, list)
    if len(pattern) != count:
        raise ValueError(
            f"magnetism.ordering = {pattern}: has {len(pattern)} signs, and the unit cell of {name!r} has {count}"
            " magnetic sites: give one for each, in the order of the parent's file"
        )
    # pymatgen's supercells repeat each site of the unit cell one after another
    return [sign for sign in pattern for _ in range(host.cells)]


Key = tuple[tuple[float, ...], tuple[float, ...]]


def _key(structure: Structure, sites: list[int]) -> Key:
    """What the pattern depends on, to be remembered by: it is asked for once a label."""
    lattice = tuple(float(x) for x in structure.lattice.matrix.ravel())
    return lattice, tuple(float(x) for x in structure.frac_coords[sites].ravel())


@lru_cache(maxsize=64)
def _antiferromagnetic(key: Key) -> tuple[int, ...]:
    lattice, places = np.array(key[0]).reshape(3, 3), np.array(key[1]).reshape(-1, 3) % 1.0
    coupling = _couplings(lattice, places)
    count = len(places)
    if count <= EXHAUSTIVE:
        patterns = np.array([(1, *rest) for rest in product((1, -1), repeat=count - 1)])
        patterns = patterns[np.abs(patterns.sum(axis=1)) <= count % 2]
    else:
        patterns = _descended(coupling, np.random.default_rng(0))
    energies = np.round(np.einsum("pi,ij,pj->p", patterns, coupling, patterns), 6)
    return tuple(int(sign) for sign in patterns[int(np.argmin(energies))])


def _couplings(lattice: np.ndarray, places: np.ndarray) -> np.ndarray:
    """[N, N] weights of the pairs, summed over the images of the second; without an ion's own images."""
    shifts = np.array(list(product((-1, 0, 1), repeat=3)))
    vectors = (places[None, :, None, :] + shifts[None, None] - places[:, None, None, :]) @ lattice
    distances = np.linalg.norm(vectors, axis=-1)
    off_diagonal = ~np.eye(len(places), dtype=bool)
    if not off_diagonal.any():
        return np.zeros((1, 1))
    nearest = distances[off_diagonal].min()
    weights = np.exp(-(distances - nearest) / DECAY).sum(axis=-1)
    return np.where(off_diagonal, weights, 0.0)


def _descended(coupling: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Patterns that no exchange of an up and a down ion improves, from random balanced starts; the first ion is up."""
    count, found = len(coupling), []
    for _ in range(32):
        pattern = rng.permutation([1] * (count - count // 2) + [-1] * (count // 2))
        while True:
            field = coupling @ pattern
            up, down = np.flatnonzero(pattern > 0), np.flatnonzero(pattern < 0)
            # what exchanging i (up) and j (down) changes in the energy
            change = -4 * field[up][:, None] + 4 * field[down][None] - 8 * coupling[np.ix_(up, down)]
            if change.size == 0 or change.min() >= -1e-9:
                break
            i, j = np.unravel_index(int(np.argmin(change)), change.shape)
            pattern[up[i]], pattern[down[j]] = -1, 1
        found.append(pattern * pattern[0])
    return np.array(found)


def _nearest(structure: Structure, own: list[int], host: Host) -> list[int]:
    """For each magnetic ion of a frame the place of its site among the host's magnetic sites, each taken once: strain
    and heat move ions by less than the sites are apart."""
    if len(own) > len(host.magnetic_sites):
        raise ValueError(
            f"the frame has {len(own)} magnetic ions, and its parent {len(host.magnetic_sites)} sites for them"
        )
    sites = host.structure.frac_coords[host.magnetic_sites]
    distances = host.structure.lattice.get_all_distances(structure.frac_coords[own], sites)
    return [int(column) for column in linear_sum_assignment(distances**2)[1]]
