"""How unsure a committee is of the cheap forces, of what magnetism changes in them, and of the expensive forces.

With f_k the forces of member k and the paired difference d_k = f_k(magnetic) - f_k(nonmagnetic), component by component

    Var(magnetic) = Var(nonmagnetic) + Var(d) + 2 Cov(nonmagnetic, d)

with the unbiased variance and covariance over the K members (K - 1). It is an identity and not an approximation, but
only because the difference is taken within a member: what a member gets wrong at both fidelities cancels in d. So
Var(d) is what a magnetic label could teach beyond a non-magnetic one, and it decides which frames get one.

The variances of the three components of an atom's force add up to sigma2 of the atom, and the sigma of a frame is that
of its worst atom (eV/Å). The identity holds for components and for atoms; for frames only where the same atom is the
worst in all three.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mfal.committee.predict import Prediction


@dataclass(frozen=True)
class Variances:
    """Of each force component over the members: arrays of the shape of the forces, (eV/Å)2."""

    nonmagnetic: np.ndarray
    delta: np.ndarray
    covariance: np.ndarray  # of the non-magnetic force with the difference
    magnetic: np.ndarray


@dataclass(frozen=True)
class Sigma:
    """Of the worst atom of a frame, eV/Å."""

    nonmagnetic: float
    delta: float
    magnetic: float


def variances(nonmagnetic: np.ndarray, magnetic: np.ndarray) -> Variances:
    """The decomposition of the spread of forces [K, ...], paired by member.

    Raises:
        ValueError: fewer than two members, or arrays that do not pair.
    """
    if nonmagnetic.shape != magnetic.shape:
        raise ValueError(f"forces of shapes {nonmagnetic.shape} and {magnetic.shape} do not pair")
    if len(nonmagnetic) < 2:
        raise ValueError("a committee of fewer than two members has no spread")
    # float64: a difference of two float32 forces that are nearly equal
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


def decompose(prediction: Prediction) -> Sigma:
    """The sigmas of one frame.

    Raises:
        ValueError: fewer than two members, or a fidelity was not predicted.
    """
    places = {name: i for i, name in enumerate(prediction.fidelities)}
    if not {"nonmagnetic", "magnetic"} <= places.keys():
        raise ValueError(f"predicted at {prediction.fidelities}: nonmagnetic and magnetic are both needed")
    parts = variances(
        prediction.forces[:, places["nonmagnetic"]],
        prediction.forces[:, places["magnetic"]],
    )
    return Sigma(_worst(parts.nonmagnetic), _worst(parts.delta), _worst(parts.magnetic))


def _worst(variance: np.ndarray) -> float:
    return float(np.sqrt(variance.sum(axis=-1).max()))
