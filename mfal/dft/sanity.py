"""Numbers that no label of this campaign should have: such labels are held back from training, with the reason said.

A calculation can converge to nonsense in the right magnetic state: atoms on top of each other, another POTCAR, a cell
read in the wrong unit. What is flagged depends on the campaign's limits and on its other labels, so it is judged where
labels are used, and the stored label keeps its status.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from ase.geometry.minkowski_reduction import minkowski_reduce
from pydantic import Field, PositiveFloat
from pymatgen.core import Structure
from scipy.optimize import least_squares

from mfal.frames import Fidelity, Frame, Label
from mfal.section import Section

#: With fewer labels of a fidelity their energies say nothing of each other.
ENOUGH = 8
#: eV/atom: more than this, compositions do not differ by.
ABSURD = 30.0


class Sanity(Section):
    """Limits beyond which a label is flagged."""

    #: eV/Å, on any atom.
    force: PositiveFloat = 40.0
    #: eV/atom from the median of the campaign's labels, after what the composition explains is taken off.
    energy: PositiveFloat = 1.0
    #: Share of the sum of two covalent radii.
    closest: float = Field(0.55, gt=0, lt=1)


def flagged(frames: Mapping[str, Frame], labels: Sequence[Label], limits: Sanity) -> list[Label]:
    """The same labels in their order; those that converged and yet cannot be right have a `flag`, and are not good."""
    # also of those in another magnetic state, which a campaign may train on
    judged = [label for label in labels if label.trainable(other_states=True)]
    reasons = {id(label): _own(frames[label.frame_id].structure, label, limits) for label in judged}
    comparable: dict[tuple[Fidelity, str], list[Label]] = defaultdict(list)
    for label in judged:
        if label.energy is not None and not reasons[id(label)]:
            comparable[label.fidelity, label.fingerprint].append(label)
    for same in comparable.values():
        for label, off in zip(same, _energies_off(frames, same), strict=True):
            if abs(off) > limits.energy:
                reasons[id(label)] = (
                    f"its energy is {off:+.2f} eV/atom from the campaign's median (sanity.energy = {limits.energy:g})"
                )
    return [
        label.model_copy(update={"flag": reason}) if (reason := reasons.get(id(label))) else label for label in labels
    ]


def _own(structure: Structure, label: Label, limits: Sanity) -> str:
    """What is wrong with a label by itself."""
    if label.forces is not None and (largest := float(np.linalg.norm(label.forces, axis=1).max())) > limits.force:
        return f"a force of {largest:.1f} eV/Å (sanity.force = {limits.force:g})"
    share, pair = closest_pair(structure)
    if share < limits.closest:
        return f"{pair} are at {share:.2f} of the sum of their covalent radii (sanity.closest = {limits.closest:g})"
    return ""


def closest_pair(structure: Structure) -> tuple[float, str]:
    """The smallest distance of two sites as a share of the sum of their covalent radii, and which two they are."""
    distances = structure.distance_matrix.copy()
    # an atom's own images: of the shortest lattice vector
    np.fill_diagonal(distances, np.linalg.norm(minkowski_reduce(structure.lattice.matrix)[0], axis=1).min())
    radii = np.array([covalent_radii[atomic_numbers[site.specie.symbol]] for site in structure])
    shares = distances / (radii[:, None] + radii[None])
    i, j = np.unravel_index(int(np.argmin(shares)), shares.shape)
    return float(shares[i, j]), f"{structure[i].specie.symbol} (site {i}) and {structure[j].specie.symbol} (site {j})"


def _energies_off(frames: Mapping[str, Frame], labels: Sequence[Label]) -> np.ndarray:
    """eV/atom, what the composition does not explain of each energy, from its median.

    The composition's part is a fit that outliers do not pull (Cauchy loss). A composition that few labels have can be
    explained away by the fit: the check is for the gross.
    """
    if len(labels) < ENOUGH:
        return np.zeros(len(labels))
    compositions = [frames[label.frame_id].structure.composition for label in labels]
    elements = sorted({element.symbol for composition in compositions for element in composition})
    shares = np.array([[c.get_atomic_fraction(element) for element in elements] for c in compositions])
    energies = np.array([label.energy / c.num_atoms for label, c in zip(labels, compositions, strict=True)])  # type: ignore[operator]
    # the absurd must not even pull the start
    near = np.clip(energies, np.median(energies) - ABSURD, np.median(energies) + ABSURD)
    start, *_ = np.linalg.lstsq(shares, near, rcond=1e-6)
    fit = least_squares(lambda x: shares @ x - near, start, loss="cauchy", f_scale=0.1)
    off = energies - shares @ fit.x
    return off - np.median(off)
