"""The frames that the committee is least sure of, and the atoms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mfal.frames import Frame, Score
from mfal.report.routing import ROUTES, Route, route
from mfal.report.text import formula
from mfal.report.uncertainty.groups import Group, grouped

#: Frames that are named.
LISTED = 8


class Atom(NamedTuple):
    """The least certain of a frame."""

    element: str
    #: From 0, in the order of the frame.
    site: int
    sigma: float  # eV/Å


class Worst(NamedTuple):
    """One of the least certain frames."""

    score: Score
    frame: Frame | None
    #: By the kind of sigma; without those that are not known.
    atoms: dict[str, Atom]

    @property
    def formula(self) -> str:
        return formula(self.frame)

    @property
    def route(self) -> Route:
        return ROUTES[route(self.score)]

    def numbers(self) -> dict[str, Any]:
        return {
            "frame_id": self.score.frame_id,
            "decision": self.route.name,
            **{
                f"sigma_{kind}_ev_per_angstrom": getattr(self.score, f"sigma_{kind}")
                for kind in ("magnetic", "nonmagnetic", "delta")
            },
            **{f"worst_atom_{kind}": atom._asdict() for kind, atom in self.atoms.items()},
        }


def worst(scores: Sequence[Score], frames: dict[str, Frame]) -> list[Worst]:
    """Those with the largest sigma_magnetic, the largest first."""
    known = [score for score in scores if score.sigma_magnetic is not None]
    ranked = sorted(known, key=lambda score: -(score.sigma_magnetic or 0.0))[:LISTED]
    return [Worst(score, frame := frames.get(score.frame_id), _atoms(score, frame)) for score in ranked]


def _atoms(score: Score, frame: Frame | None) -> dict[str, Atom]:
    found: dict[str, Atom] = {}
    for kind, sigmas in score.sigma_atoms.items():
        if frame is not None and len(sigmas) == len(frame.structure):
            site = int(np.argmax(sigmas))
            found[kind] = Atom(frame.structure[site].specie.symbol, site, sigmas[site])
    return found


def by_element(scores: Sequence[Score], frames: dict[str, Frame]) -> list[Group]:
    """The sigmas of all atoms of the scored frames, by element, the largest median of delta first."""
    symbols: list[str] = []
    sigmas: list[np.ndarray] = []
    for score in scores:
        frame = frames.get(score.frame_id)
        pair = [score.sigma_atoms.get("nonmagnetic", []), score.sigma_atoms.get("delta", [])]
        if frame is not None and len(pair[0]) == len(pair[1]) == len(frame.structure):
            symbols += [site.specie.symbol for site in frame.structure]
            sigmas.append(np.array(pair).T)
    if not symbols:
        return []
    found = grouped(symbols, np.concatenate(sigmas))
    return sorted(found, key=lambda group: -float(np.median(group.delta)))
