"""From the spread of a committee to errors in eV/Å, learned on frames that were drawn at random.

Only random frames may teach it: those that the committee chose were chosen for their sigma, and are no sample of
anything. A frame gives evidence once, by a committee that had not been trained on it.

Two numbers are learned for each kind of sigma. The *scale* is that of largest likelihood, where the error of an atom
follows a multivariate t distribution about the committee's mean: its variance is known from K members only, so with
3 (K - 1) degrees of freedom. The *quantile* is split-conformal (Vovk, Gammerman & Shafer, Algorithmic Learning in a
Random World, 2005; Angelopoulos & Bates, arXiv 2107.07511): the worst error of a new random frame is below quantile
times its sigma with a probability of at least 90%, whatever the distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from scipy.optimize import minimize_scalar

from mfal.committee.conditional import condition
from mfal.committee.decompose import Reduce, both, by_atom, reduced
from mfal.committee.predict import Prediction
from mfal.frames import Document

#: The conditional sigma is of the magnetic forces of a frame whose non-magnetic forces are known.
Kind = Literal["nonmagnetic", "delta", "magnetic", "conditional"]
KINDS: tuple[Kind, ...] = get_args(Kind)
#: That a new frame's worst error is below the quantile.
CONFIDENCE = 0.9
#: A scale outside these bounds says that something else is wrong.
BOUNDS = (1e-2, 1e3)
#: (eV/Å)2; members that agree to float32's last digits.
SMALLEST = 1e-10


class Evidence(Document):
    """What one random frame says of one kind of sigma, for each of its atoms."""

    frame_id: str
    kind: Kind
    members: int
    variance: list[float]  # [N] (eV/Å)2, of the committee, not calibrated
    squared_error: list[float]  # [N] (eV/Å)2, the squared length of the force error of the committee's mean


class Calibration(Document):
    """Of one kind of sigma."""

    kind: Kind
    #: What the committee's sigma is multiplied by.
    scale: float
    #: Frames behind it.
    frames: int
    #: eV/Å, median over the random frames of the calibrated sigma.
    typical: float
    #: What the calibrated sigma of a frame is multiplied by to bound its worst error; None with too few frames.
    quantile: float | None = None
    #: Share of the frames below the bound that the other frames give; None with too few frames.
    coverage: float | None = None


def evidence(
    frame_id: str, prediction: Prediction, nonmagnetic: np.ndarray | None, magnetic: np.ndarray | None
) -> list[Evidence]:
    """Of a random frame, for the kinds that its labels allow.

    Args:
        prediction: of both fidelities, by a committee that was not trained on the frame.
        nonmagnetic, magnetic: calculated forces [N, 3], or None.

    Raises:
        ValueError: fewer than two members, or a fidelity was not predicted.
    """
    parts = by_atom(prediction)
    low, high = both(prediction, "forces")
    errors: dict[Kind, tuple[np.ndarray, np.ndarray]] = {}
    if nonmagnetic is not None:
        errors["nonmagnetic"] = parts.nonmagnetic, nonmagnetic - low.mean(axis=0)
    if magnetic is not None:
        errors["magnetic"] = parts.magnetic, magnetic - high.mean(axis=0)
    if nonmagnetic is not None and magnetic is not None:
        left = condition(low, high, nonmagnetic)
        errors["delta"] = parts.delta, errors["magnetic"][1] - errors["nonmagnetic"][1]
        errors["conditional"] = left.variance, magnetic - left.forces
    return [
        Evidence(
            frame_id=frame_id,
            kind=kind,
            members=len(low),
            variance=variance.tolist(),
            squared_error=(error**2).sum(axis=-1).tolist(),
        )
        for kind, (variance, error) in errors.items()
    ]


def calibrate(items: Sequence[Evidence], reduce: Reduce = "max") -> dict[Kind, Calibration]:
    """A calibration for every kind that there is evidence of."""
    found = {kind: [item for item in items if item.kind == kind] for kind in KINDS}
    return {kind: _calibration(kind, own, reduce) for kind, own in found.items() if own}


def _calibration(kind: Kind, items: Sequence[Evidence], reduce: Reduce) -> Calibration:
    scale = likeliest_scale(
        np.concatenate([item.variance for item in items]),
        np.concatenate([item.squared_error for item in items]),
        freedom=np.concatenate([np.full(len(item.variance), 3.0 * (item.members - 1)) for item in items]),
    )
    sigmas = np.array([scale * reduced(np.maximum(item.variance, SMALLEST), reduce) for item in items])
    worst = np.sqrt([max(item.squared_error) for item in items])
    scores = worst / sigmas
    enough = conformal_quantile(np.delete(scores, 0)) is not None
    others = [conformal_quantile(np.delete(scores, i)) for i in range(len(scores))] if enough else []
    return Calibration(
        kind=kind,
        scale=scale,
        frames=len(items),
        typical=float(np.median(sigmas)),
        quantile=conformal_quantile(scores),
        coverage=float(np.mean([s <= q for s, q in zip(scores, others, strict=True) if q is not None]))
        if others
        else None,
    )


def likeliest_scale(variance: np.ndarray, squared_error: np.ndarray, *, freedom: np.ndarray | float) -> float:
    """The scale s of largest likelihood, where an error of three components is multivariate t about the mean.

    Args:
        variance: [A] of the committee, components added up, (eV/Å)2.
        squared_error: [A] squared length of the error, (eV/Å)2.
        freedom: behind each variance: 3 (K - 1) for K members; infinite for a normal distribution.
    """
    ratios = 3 * squared_error / np.maximum(variance, SMALLEST)
    freedom = np.broadcast_to(freedom, ratios.shape)
    normal = np.isinf(freedom)
    finite = np.where(normal, 1.0, freedom)

    def loss(logarithm: float) -> float:
        scaled = ratios * np.exp(-2 * logarithm)
        tails = np.where(normal, scaled / 2, (finite + 3) / 2 * np.log1p(scaled / finite))
        return float(3 * logarithm + tails.mean())

    return float(np.exp(minimize_scalar(loss, bounds=np.log(BOUNDS), method="bounded").x))


def conformal_quantile(scores: np.ndarray, confidence: float = CONFIDENCE) -> float | None:
    """The score that a new one of the same distribution is below with at least this probability.

    The ceil((n + 1) confidence)-th smallest of n scores; None where there is no such, with fewer than 9 for 90%.
    """
    # Rounded before: 10 * 0.9 must be 9 and not a hair more.
    rank = int(np.ceil(round((len(scores) + 1) * confidence, 9)))
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else None
