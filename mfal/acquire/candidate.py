"""A frame as the routing sees it: how unsure the committee is of what, and what finding out would cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mfal.acquire.batch import Action
from mfal.committee.calibrate import KINDS, Calibration, Kind
from mfal.committee.conditional import condition, variance_left
from mfal.committee.decompose import Reduce, both, by_atom, reduced
from mfal.committee.predict import Prediction
from mfal.config import Acquire
from mfal.frames import Case, Fidelity

#: eV/Å, of a committee of one mind.
TINY = 1e-9


@dataclass(frozen=True)
class Candidate:
    """A frame as the committee sees it. Sigmas are calibrated, eV/Å; costs are core-hours for one good label."""

    frame_id: str
    nonmagnetic: float
    delta: float
    magnetic: float
    #: Of the magnetic forces once the non-magnetic label is known.
    conditional: float
    #: Share of sigma_magnetic that a non-magnetic label is expected to take away.
    explained: float
    core_hours: Mapping[Fidelity, float]
    features: np.ndarray
    #: [N] of each site, eV/Å, to three significant digits.
    atoms: Mapping[Literal["nonmagnetic", "delta"], list[float]]

    def action(self, fidelity: Fidelity, gain: float) -> Action:
        return Action(self.frame_id, fidelity, gain, self.core_hours[fidelity], self.features)


@dataclass(frozen=True)
class Thresholds:
    """eV/Å: a sigma above its own is high."""

    nonmagnetic: float
    delta: float
    magnetic: float
    conditional: float


def candidate(
    frame_id: str,
    prediction: Prediction,
    calibration: Mapping[Kind, Calibration],
    core_hours: Mapping[Fidelity, float],
    reduce: Reduce,
    *,
    label: np.ndarray | None = None,
) -> Candidate:
    """A frame from its prediction.

    Args:
        calibration: kinds that are not in it keep the committee's own sigma.
        label: the calculated non-magnetic forces [N, 3], where there are.

    Raises:
        ValueError: fewer than two members, or a fidelity was not predicted.
    """
    parts = by_atom(prediction)
    low, high = both(prediction, "forces")
    scales = {kind: calibration[kind].scale if kind in calibration else 1.0 for kind in KINDS}
    # Of the sigmas as they are: two scales of their own, each with its error, would hide what one label can do.
    explained = 1 - reduced(variance_left(low, high), reduce) / max(reduced(parts.magnetic, reduce), TINY)
    if label is None:
        left = variance_left(low, high, scale=scales["nonmagnetic"])
    else:
        left = condition(low, high, label).variance

    def sigma(kind: Kind, variance: np.ndarray) -> float:
        return reduced(variance, reduce) * scales[kind]

    return Candidate(
        frame_id,
        nonmagnetic=sigma("nonmagnetic", parts.nonmagnetic),
        delta=sigma("delta", parts.delta),
        magnetic=sigma("magnetic", parts.magnetic),
        conditional=sigma("conditional", left),
        explained=max(explained, 0.0),
        core_hours=core_hours,
        features=prediction.features,
        atoms={
            "nonmagnetic": _rounded(np.sqrt(parts.nonmagnetic) * scales["nonmagnetic"]),
            "delta": _rounded(np.sqrt(parts.delta) * scales["delta"]),
        },
    )


def _rounded(sigmas: np.ndarray) -> list[float]:
    return [float(f"{sigma:.3g}") for sigma in sigmas]


def thresholds(
    settings: Acquire, candidates: Sequence[Candidate], calibration: Mapping[Kind, Calibration]
) -> Thresholds:
    """What counts as high: the number in the settings; else the typical sigma of the random frames, or that of the
    candidates where it is lower, so that half of them are always worth a look."""
    if settings.threshold is not None:
        return Thresholds(*[settings.threshold] * len(KINDS))
    found = {}
    for kind in KINDS:
        ordinary = float(np.median([getattr(candidate, kind) for candidate in candidates]))
        found[kind] = min(ordinary, calibration[kind].typical) if kind in calibration else ordinary
    return Thresholds(**found)


def case(candidate: Candidate, limits: Thresholds) -> Case:
    """Of the four cases, the frame's."""
    high = candidate.nonmagnetic > limits.nonmagnetic, candidate.delta > limits.delta
    cases: dict[tuple[bool, bool], Case] = {
        (False, False): "low",
        (True, False): "nonmagnetic",
        (False, True): "delta",
        (True, True): "both",
    }
    return cases[high]
