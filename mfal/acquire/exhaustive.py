"""What it would have cost to label every frame magnetically: the number of frames times the mean cost of a good label.

An estimate beside the measured saving: a campaign that labels everything knows more at its end than one that chooses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mfal.acquire.cost import Calculation
from mfal.acquire.saving import MIN_FRAMES, RESAMPLES, percentiles
from mfal.frames import Document


class Exhaustive(Document):
    """Core-hours of a good magnetic label of every frame."""

    frames: int
    core_hours: float
    #: 95% interval. Both None: too few calculations. `high` alone None: perhaps none of them comes out good.
    low: float | None
    high: float | None
    #: Those that the mean is over, failed ones included, and the core-hours of a good label that they tell.
    calculations: int
    per_label: float


def exhaustive(calculations: Sequence[Calculation], frames: int) -> Exhaustive | None:
    """The estimate; None where no magnetic calculation came out good, or none cost anything.

    The cost of a good label is that of all magnetic calculations over the number of good ones. The interval is by
    bootstrap over the calculations, as in `saving`. It takes the frames to be of the sizes that were calculated.
    """
    # [calculations, 2]: core-hours, good
    known = np.array([(c.core_hours, c.good) for c in calculations if c.fidelity == "magnetic"], dtype=float)
    if not len(known) or known[:, 1].sum() == 0 or known[:, 0].sum() <= 0:
        return None
    low: float | None = None
    high: float | None = None
    per_label = float(_per_label(known.sum(axis=0)))
    if len(known) >= MIN_FRAMES:
        rng = np.random.default_rng(0)
        resampled = _per_label(known[rng.integers(len(known), size=(RESAMPLES, len(known)))].sum(axis=1))
        bounds = np.percentile(resampled, percentiles(len(known)), method="inverted_cdf")
        low = frames * float(bounds[0])
        high = frames * float(bounds[1]) if np.isfinite(bounds[1]) else None
    return Exhaustive(
        frames=frames,
        core_hours=frames * per_label,
        low=low,
        high=high,
        calculations=len(known),
        per_label=per_label,
    )


def _per_label(sums: np.ndarray) -> np.ndarray:
    """From core-hours and good labels in the last axis; infinite without a good one."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.inf)
