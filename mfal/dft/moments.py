"""Moments asked for and moments that came out: where a magnetic calculation starts, and whether it ended there."""

from __future__ import annotations

from collections.abc import Sequence

from pymatgen.core import Structure

from mfal.dft.magnetism import Magnetism
from mfal.dft.ordering import Host, signs
from mfal.dft.valence import MOMENTS, assign, disagreement
from mfal.frames import Frame, Status


def initial_moments(
    frame: Frame,
    magnetism: Magnetism,
    *,
    host: Host | None = None,
    predicted: Sequence[float] | None = None,
) -> list[float]:
    """The moment (µB) that each site starts from: sign by the policy, size as predicted, else by element and valence.

    Args:
        host: of the frame's parent; None for a frame without one.
        predicted: |moment| of each site by the committee. What it says of an ion that cannot be right (nothing at all,
            more than any valence has) is not taken.
    """
    up_or_down = signs(frame, magnetism, host)
    valences = assign(frame.structure)
    result = []
    for i, site in enumerate(frame.structure):
        table = magnetism.moments.get(site.specie.symbol)
        if table is None:
            result.append(0.0)
            continue
        size = _of_valence(table, valences[i])
        if predicted is not None and magnetism.start == "committee":
            lowest, highest = _range(site.specie.symbol)
            lowest = max(lowest - magnetism.tolerance, _least(site.specie.symbol, magnetism))
            if lowest < predicted[i] < highest + magnetism.tolerance:
                size = predicted[i]
        result.append(up_or_down[i] * float(size))
    return result


def magnetic_state(
    structure: Structure, asked: Sequence[float] | None, found: Sequence[float] | None, magnetism: Magnetism
) -> tuple[Status, str]:
    """Whether a calculation ended in the magnetic state that was asked for, and if not, which site and how.

    A state is another one where some signs turned over (if all did, it is the same state), where a size belongs to no
    valence of its element (low spin, say), where an ion that should have none has a moment, or where the valences that
    the moments tell do not add up.

    Args:
        asked: signed; None where it is not known (labels made elsewhere): signs are then not judged.
    """
    if found is None:
        return "failed", "the calculation gave no moments"
    magnetic = [i for i, site in enumerate(structure) if site.specie.symbol in magnetism.moments]
    for i in magnetic:
        if abs(found[i]) < _least(structure[i].specie.symbol, magnetism):
            start = "" if asked is None else f" of the {asked[i]:+.1f} asked for"
            return "collapsed", f"{_site(structure, i)} has {found[i]:+.2f} µB{start}"
    turned = [] if asked is None else [i for i in magnetic if asked[i] * found[i] < 0]
    for i, end in enumerate(found):
        if i in magnetic:
            if asked is not None and i in turned and len(turned) < len(magnetic):
                return (
                    "other_state",
                    f"{_site(structure, i)} turned over: {end:+.2f} µB where {asked[i]:+.1f} was asked for",
                )
            lowest, highest = _range(structure[i].specie.symbol)
            if not lowest - magnetism.tolerance <= abs(end) <= highest + magnetism.tolerance:
                valences = f"which is none of its valences ({lowest:g} to {highest:g} µB)"
                return "other_state", f"{_site(structure, i)} has {end:+.2f} µB, {valences}"
            windows = magnetism.windows.get(structure[i].specie.symbol)
            if windows and not any(lower <= abs(end) <= upper for lower, upper in windows):
                return "other_state", f"{_site(structure, i)} has {end:+.2f} µB, outside of magnetism.windows"
        elif abs(end) > magnetism.stray:
            return "other_state", f"{_site(structure, i)} has {end:+.2f} µB and should have none"
    if magnetism.check_valence and (reason := disagreement(structure, found)):
        return "other_state", reason
    return "ok", ""


def _least(element: str, magnetism: Magnetism) -> float:
    """µB, below which an ion has collapsed: some have small moments in a sound state."""
    sizes = [size for size in MOMENTS.get(element, {}).values() if size]
    return min([magnetism.collapsed_below, *(size / 2 for size in sizes)])


def _of_valence(table: float | dict[int, float], valence: int | None) -> float:
    """Of a table without that valence, the entry of the nearest."""
    if not isinstance(table, dict):
        return table
    return table[min(table, key=lambda known: (abs(known - (valence or 0)), known))]


def _range(element: str) -> tuple[float, float]:
    """µB, over the valences of an element; anything for an element that none is known of."""
    known = MOMENTS.get(element)
    return (min(known.values()), max(known.values())) if known else (0.0, 10.0)


def _site(structure: Structure, i: int) -> str:
    return f"{structure[i].specie.symbol} (site {i})"
