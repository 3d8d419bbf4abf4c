"""How unsure a committee is of the cheap numbers, of what magnetism changes in them, and of the expensive numbers.

With y_k the prediction of member k and the paired difference d_k = y_k(magnetic) - y_k(nonmagnetic), component by
component

    Var(magnetic) = Var(nonmagnetic) + Var(d) + 2 Cov(nonmagnetic, d)

with the unbiased variance and covariance over the K members (K - 1). It is an identity and not an approximation, but
only because the difference is taken within a member: what a member gets wrong at both fidelities cancels in d. So
Var(d) is what a magnetic label could teach beyond a non-magnetic one.

The variances of the components of a vector or tensor add up (so the sigma of an atom is the expected length of its
force error), and the identity holds for the sums as well. Over the atoms of a frame they are reduced by the maximum or
a quantile, after which it holds only where the same atom is picked in all of them, or by the mean, after which it
holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mfal.committee.predict import Prediction

Quantity = Literal["energy", "forces", "stress", "magmoms"]
#: From atoms to a frame: the worst atom, the mean over atoms, or the quantile (between 0 and 1) of the atoms.
Reduce = Literal["max", "mean"] | float
#: How many axes of a quantity are components of one vector or tensor.
COMPONENTS: dict[Quantity, int] = {"energy": 0, "forces": 1, "stress": 2, "magmoms": 0}


@dataclass(frozen=True)
class Variances:
    """Over the members, of whatever has been decomposed: arrays of one shape, in the square of its unit."""

    nonmagnetic: np.ndarray
    delta: np.ndarray
    covariance: np.ndarray  # of the non-magnetic number with the difference
    magnetic: np.ndarray

    def summed(self, axes: int) -> Variances:
        """The last `axes` axes added up."""
        over = tuple(range(-axes, 0))
        return Variances(
            self.nonmagnetic.sum(axis=over),
            self.delta.sum(axis=over),
            self.covariance.sum(axis=over),
            self.magnetic.sum(axis=over),
        )


@dataclass(frozen=True)
class Sigma:
    """Of a frame, in the unit of the quantity; the covariance in its square, of the atom that `magnetic` is of."""

    nonmagnetic: float
    delta: float
    magnetic: float
    covariance: float = 0.0


def variances(nonmagnetic: np.ndarray, magnetic: np.ndarray) -> Variances:
    """The decomposition of the spread of numbers [K, ...], paired by member.

    Raises:
        ValueError: fewer than two members, or arrays that do not pair.
    """
    if nonmagnetic.shape != magnetic.shape:
        raise ValueError(f"predictions of shapes {nonmagnetic.shape} and {magnetic.shape} do not pair")
    if len(nonmagnetic) < 2:
        raise ValueError("a committee of fewer than two members has no spread")
    # float64: a difference of two float32 numbers that are nearly equal
    low = nonmagnetic.astype(float)
    high = magnetic.astype(float)
    delta = high - low
    products = (low - low.mean(axis=0)) * (delta - delta.mean(axis=0))
    return Variances(
        nonmagnetic=low.var(axis=0, ddof=1),
        delta=delta.var(axis=0, ddof=1),
        covariance=products.sum(axis=0) / (len(low) - 1),
        magnetic=high.var(axis=0, ddof=1),
    )


def both(prediction: Prediction, quantity: Quantity) -> tuple[np.ndarray, np.ndarray]:
    """The non-magnetic and the magnetic predictions of all members, [K, ...] each.

    Raises:
        ValueError: a fidelity was not predicted.
    """
    places = {name: i for i, name in enumerate(prediction.fidelities)}
    if not {"nonmagnetic", "magnetic"} <= places.keys():
        raise ValueError(f"predicted at {prediction.fidelities}: nonmagnetic and magnetic are both needed")
    values = getattr(prediction, quantity)
    return values[:, places["nonmagnetic"]], values[:, places["magnetic"]]


def by_atom(prediction: Prediction, quantity: Quantity = "forces") -> Variances:
    """Of every atom [N] (forces, magmoms) or of the frame [] (energy, stress), components added up.

    The non-magnetic moments are of a head that no label ever trained: only `magnetic` of `magmoms` means something.

    Raises:
        ValueError: as `variances` and `both`.
    """
    return variances(*both(prediction, quantity)).summed(COMPONENTS[quantity])


def decompose(prediction: Prediction, quantity: Quantity = "forces", reduce: Reduce = "max") -> Sigma:
    """The sigmas of one frame: eV/atom, eV/Å, GPa or µB.

    Raises:
        ValueError: fewer than two members, or a fidelity was not predicted.
    """
    parts = by_atom(prediction, quantity)
    # One value stands for itself, whatever the reduction.
    covariance = np.atleast_1d(parts.covariance)
    return Sigma(
        nonmagnetic=reduced(parts.nonmagnetic, reduce),
        delta=reduced(parts.delta, reduce),
        magnetic=reduced(parts.magnetic, reduce),
        covariance=float(covariance.mean() if reduce == "mean" else covariance[_picked(parts.magnetic, reduce)]),
    )


def reduced(variance: np.ndarray, reduce: Reduce) -> float:
    """The sigma of a frame from the variances of its atoms [N]; by the mean, the root mean square."""
    variance = np.atleast_1d(variance)
    return float(np.sqrt(variance.mean() if reduce == "mean" else variance[_picked(variance, reduce)]))


def _picked(variance: np.ndarray, reduce: Reduce) -> int:
    """The atom that stands for the frame."""
    order = np.argsort(np.atleast_1d(variance), kind="stable")
    share = 1.0 if reduce == "max" else float(reduce)
    return int(order[int(np.ceil(share * len(order))) - 1])
