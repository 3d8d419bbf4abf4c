"""What is left unknown of the magnetic forces of a frame once its non-magnetic forces have been calculated.

Members whose non-magnetic force is too large have, as a rule, a magnetic force that is too large as well. With the
slope beta of that regression over the members, a calculated non-magnetic force corrects the magnetic prediction,

    E[magnetic | label] = mean(magnetic) + beta (label - mean(nonmagnetic))

and what the regression leaves over is

    Var(magnetic) - 2 beta Cov(magnetic, nonmagnetic) + beta^2 Var(nonmagnetic)

which for the best slope is Var(magnetic) (1 - rho^2). A few members give a poor slope for an atom, so it is shrunk
towards that of all atoms of the frame, and that towards 1: the slope of delta-learning, where the difference knows
nothing of the error and Var(d) is left.

A residual much larger than the committee's own sigma says that the committee is too sure of itself here. The members
are a sample of unknown variance, so prediction is by a multivariate t distribution, whose conditional scale grows with
the residual (Ding, Am. Stat. 70, 293 (2016), eq. 1): by (nu + r^2) / (nu + p), with r^2 the squared residual in units
of the committee's variance, p = 3 components and nu = 3 (K - 1) degrees of freedom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Degrees of freedom that the slope shrunk to is worth: those of an atom in a committee of five members.
PRIOR = 12.0


@dataclass(frozen=True)
class Conditional:
    """Of the N atoms of one frame."""

    forces: np.ndarray  # [N, 3] eV/Å, the magnetic forces to expect
    variance: np.ndarray  # [N] (eV/Å)2, what is left of their variance, components added up


def variance_left(nonmagnetic: np.ndarray, magnetic: np.ndarray, *, scale: float | None = None) -> np.ndarray:
    """[N] (eV/Å)2: what a non-magnetic label is expected to leave, before it is known what it says.

    Args:
        nonmagnetic, magnetic: forces of all members, [K, N, 3] each.
        scale: of the calibrated non-magnetic sigma. A committee known to be too sure of itself will be surprised. None
            leaves surprises out: the regression alone.

    Raises:
        ValueError: fewer than two members, or arrays that do not pair.
    """
    left = _regression(nonmagnetic, magnetic)[1]
    return left if scale is None else left * _surprise(len(nonmagnetic), 3 * scale**2)


def condition(nonmagnetic: np.ndarray, magnetic: np.ndarray, label: np.ndarray) -> Conditional:
    """What a non-magnetic label leaves.

    Args:
        nonmagnetic, magnetic: forces of all members, [K, N, 3] each.
        label: the calculated non-magnetic forces, [N, 3].

    Raises:
        ValueError: fewer than two members, or arrays that do not pair.
    """
    slope, left = _regression(nonmagnetic, magnetic)
    residual = label - nonmagnetic.mean(axis=0)
    variance = nonmagnetic.astype(float).var(axis=0, ddof=1).sum(axis=-1)
    # Per component; an atom of which all members say the same has no unit to measure its residual in.
    unit = np.maximum(variance / 3, np.finfo(np.float32).eps)
    surprise = _surprise(len(nonmagnetic), (residual**2).sum(axis=-1) / unit)
    return Conditional(magnetic.mean(axis=0) + slope[:, None] * residual, left * surprise)


def _surprise(members: int, squared_residual: np.ndarray | float) -> np.ndarray | float:
    """By what a squared residual, in units of the committee's variance of a component, multiplies what is left."""
    freedom = 3 * (members - 1)
    return (freedom + squared_residual) / (freedom + 3)


def _regression(nonmagnetic: np.ndarray, magnetic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The slope of every atom [N] and the variance that it leaves [N]."""
    if nonmagnetic.shape != magnetic.shape:
        raise ValueError(f"forces of shapes {nonmagnetic.shape} and {magnetic.shape} do not pair")
    members = len(nonmagnetic)
    if members < 2:
        raise ValueError("a committee of fewer than two members has no spread")
    low = nonmagnetic - nonmagnetic.mean(axis=0, dtype=float)
    high = magnetic - magnetic.mean(axis=0, dtype=float)
    squares, products = (low**2).sum(axis=(0, 2)), (low * high).sum(axis=(0, 2))
    freedom = 3 * (members - 1)
    frame = _shrunk(products.sum(), squares.sum(), freedom * len(squares), 1.0)
    slope = _shrunk(products, squares, freedom, frame)
    left = ((high - slope[None, :, None] * low) ** 2).sum(axis=(0, 2)) / (members - 1)
    return slope, left


def _shrunk(products: np.ndarray, squares: np.ndarray, freedom: int, towards: np.ndarray | float) -> np.ndarray:
    """A slope with `freedom` degrees of freedom behind it, and PRIOR of them behind what it is shrunk to."""
    own = np.divide(products, squares, out=np.ones_like(products), where=squares > 0)
    return (freedom * own + PRIOR * towards) / (freedom + PRIOR)
