"""What a good label of a frame is expected to cost: core-hours of a calculation over the chance that it is good.

The cost follows a power law per fidelity,

    log(core-hours) = w0 + w1 log(atoms / 28) + w2 log(1 + magnetic atoms) + noise,

fitted by Bayesian ridge regression towards the prior's exponents (Bishop, Pattern Recognition and Machine Learning,
2006, section 3.3). Plane-wave DFT of small cells grows with about the square of the atoms, so that is the prior's.
A budget is spent on means, while exp(w0 + ...) is a median: Duan's smearing (J. Am. Stat. Assoc. 78, 605 (1983)), the
mean of observed over fitted costs, makes it a mean. The log-normal factor exp(s2 / 2) would do so, too, but a few
calculations that broke down at once and cost nothing put it wrong by orders of magnitude.

The chance is the share of good labels among like frames, shrunk towards wider groups (empirical Bayes), because a
chemistry that never converges is known by its elements long before it is known by anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import NonNegativeInt, PositiveInt
from pymatgen.core import Structure

from mfal.dft.magnetism import MAGNETIC_ELEMENTS
from mfal.frames import FIDELITIES, Document, Fidelity, Frame, Label

#: Atoms of a non-magnetic calculation that takes one core-hour before there is data; only ratios matter then.
ATOMS = 28
#: Prior cost of a magnetic calculation over that of a non-magnetic one: two spins and more iterations.
MAGNETIC_RATIO = 3.0
#: log(core-hours) before there is data: of ATOMS atoms, and the exponents of the atoms and of 1 + magnetic atoms.
PRIOR = np.array([0.0, 2.0, 0.0])
#: Precision of the prior exponents in units of the noise: with a scatter of 0.3 they are known to about +-1.
PRECISION = 0.1
#: Number of calculations that the prior counts for in the smearing (no scatter) and in the share of good labels.
PRIOR_WEIGHT = 2.0
#: Prior share of good labels.
PRIOR_GOOD = 0.8
#: Of the median, with the size taken into account by PRIOR. What cost less broke down at once and says nothing of how
#: the cost grows, so in the logarithm it counts as this much.
FLOOR = 0.1
#: Core-hours of the least calculation that can be told from nothing.
LEAST = 1e-4


class Calculation(Document):
    """What a label cost and whether it came out, beside what is known of its frame before the calculation."""

    fidelity: Fidelity
    atoms: PositiveInt
    #: Those of MAGNETIC_ELEMENTS that occur, sorted.
    elements: list[str]
    magnetic_atoms: NonNegativeInt
    #: Of all attempts.
    core_hours: float
    #: Converged and in the right state.
    good: bool

    @classmethod
    def of(cls, label: Label, frame: Frame) -> Calculation:
        magnetic = _magnetic(frame.structure)
        return cls(
            fidelity=label.fidelity,
            atoms=len(frame.structure),
            elements=sorted(set(magnetic)),
            magnetic_atoms=len(magnetic),
            core_hours=label.core_hours + label.earlier_core_hours,
            good=label.good,
        )


@dataclass(frozen=True)
class CostModel:
    """Expected costs at both fidelities, however little data there is."""

    #: w0, w1 and w2 of the mean cost, [3].
    weights: Mapping[Fidelity, np.ndarray]
    #: Share of good labels, shrunk: of a fidelity, and of its frames with the same set of magnetic elements.
    rates: Mapping[Fidelity, float]
    group_rates: Mapping[tuple[Fidelity, frozenset[str]], float]

    @classmethod
    def fit(cls, calculations: Sequence[Calculation]) -> CostModel:
        """The model after these calculations, failed ones included: their core-hours are spent, too."""
        weights: dict[Fidelity, np.ndarray] = {}
        rates: dict[Fidelity, float] = {}
        group_rates: dict[tuple[Fidelity, frozenset[str]], float] = {}
        for fidelity in FIDELITIES:
            here = [c for c in calculations if c.fidelity == fidelity]
            if here:
                weights[fidelity] = _regression(here)
            rates[fidelity] = _rate([c.good for c in here], PRIOR_GOOD)
            groups: dict[frozenset[str], list[bool]] = {}
            for c in here:
                groups.setdefault(frozenset(c.elements), []).append(c.good)
            for elements, good in groups.items():
                group_rates[fidelity, elements] = _rate(good, rates[fidelity])
        return cls(_completed(weights), rates, group_rates)

    def core_hours(self, fidelity: Fidelity, structure: Structure) -> float:
        """Expected core-hours of one calculation, good or not."""
        features = _features(len(structure), len(_magnetic(structure)))
        return float(np.exp(features @ self.weights[fidelity]))

    def probability(self, fidelity: Fidelity, structure: Structure) -> float:
        """That the label comes out good; between 0 and 1, both excluded."""
        group = fidelity, frozenset(_magnetic(structure))
        return self.group_rates.get(group, self.rates[fidelity])

    def per_label(self, fidelity: Fidelity, structure: Structure) -> float:
        """Expected core-hours per good label, of this fidelity alone."""
        return self.core_hours(fidelity, structure) / self.probability(fidelity, structure)


def _magnetic(structure: Structure) -> list[str]:
    symbols = (site.specie.symbol for site in structure)
    return [symbol for symbol in symbols if symbol in MAGNETIC_ELEMENTS]


def _features(atoms: int, magnetic_atoms: int) -> np.ndarray:
    return np.array([1.0, np.log(atoms / ATOMS), np.log1p(magnetic_atoms)])


def _regression(calculations: Sequence[Calculation]) -> np.ndarray:
    """The weights of the mean cost, [3]. The prior knows nothing of the intercept."""
    x = np.array([_features(c.atoms, c.magnetic_atoms) for c in calculations])
    cost = np.array([c.core_hours for c in calculations])
    # What the prior leaves to explain
    y = np.log(np.maximum(cost, LEAST)) - x @ PRIOR
    y = np.maximum(y, np.median(y) + np.log(FLOOR))
    precision = np.diag([0.0, PRECISION, PRECISION])
    weights = PRIOR + np.linalg.solve(x.T @ x + precision, x.T @ y)
    observed = np.maximum(cost, 0) / np.exp(x @ weights)
    weights[0] += np.log((observed.sum() + PRIOR_WEIGHT) / (len(cost) + PRIOR_WEIGHT))
    return weights


def _completed(weights: Mapping[Fidelity, np.ndarray]) -> dict[Fidelity, np.ndarray]:
    """A fidelity without calculations costs the prior ratio of the other; without any, the prior says it all."""
    shift = np.array([np.log(MAGNETIC_RATIO), 0.0, 0.0])
    magnetic = weights.get("magnetic")
    nonmagnetic = weights.get("nonmagnetic", PRIOR if magnetic is None else magnetic - shift)
    return {"nonmagnetic": nonmagnetic, "magnetic": nonmagnetic + shift if magnetic is None else magnetic}


def _rate(good: Sequence[bool], prior: float) -> float:
    return (sum(good) + PRIOR_WEIGHT * prior) / (len(good) + PRIOR_WEIGHT)
