"""Moments asked for and moments that came out.

CHGNet learns |moment|, so the sign enters only through the ordering policy, which is part of the fingerprint.
"""

from __future__ import annotations

from collections.abc import Sequence

from pymatgen.core import Structure

from mfal.config import Magnetism
from mfal.frames import Status


def initial_moments(structure: Structure, magnetism: Magnetism) -> list[float]:
    """The moment (µB) that each site starts from; ferromagnetic: all of one sign."""
    return [magnetism.moments.get(site.specie.symbol, 0.0) for site in structure]


def magnetic_state(
    structure: Structure, asked: Sequence[float], found: Sequence[float] | None, magnetism: Magnetism
) -> tuple[Status, str]:
    """Whether a calculation ended in the magnetic state that was asked for, and if not, which site and how."""
    if found is None:
        return "failed", "the calculation gave no moments"
    for i, (start, end) in enumerate(zip(asked, found, strict=True)):
        site = f"{structure[i].specie.symbol} (site {i})"
        if start and abs(end) < magnetism.collapsed_below:
            return "collapsed", f"{site} has {end:+.2f} µB of the {start:+.1f} asked for"
        if start * end < 0:
            return "other_state", f"{site} turned over: {end:+.2f} µB where {start:+.1f} was asked for"
    return "ok", ""
