"""What choosing gained over drawing at random, measured within the campaign.

Both arms run in the same rounds, from the same pool and before the same committee, so the ratio of what a core-hour
found in either is a fair comparison, without a second campaign.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import norm, t

from mfal.frames import Document

#: Below this, resampling the frames of an arm says nothing.
MIN_FRAMES = 3
RESAMPLES = 4000


class Saving(Document):
    """Force error found per core-hour: chosen frames over random ones."""

    ratio: float
    #: 95% interval. Both None: too few frames. `high` alone None: no upper bound, random frames may be worth nothing.
    low: float | None
    high: float | None
    #: Frames in each arm.
    chosen: int
    drawn: int
    #: The interval excludes 1.
    significant: bool
    message: str


def saving(
    chosen: Sequence[tuple[float, float]], drawn: Sequence[tuple[float, float]], *, against: str = "a random frame"
) -> Saving | None:
    """The ratio of the yields of two arms, the yield being the sum of errors over the sum of core-hours.

    Sums and not means of ratios: a campaign spends its budget on the sum. The interval is by bootstrap over frames.

    Args:
        chosen: of each frame the force error of its worst atom (eV/Å) by the committee that had not seen it, 0 for a
            label that came to nothing, and the core-hours spent on it: all fidelities, failures included.
        drawn: the same of the frames drawn at random.
        against: what the message calls one of those.

    Returns:
        None where there is no ratio: an arm is empty or cost nothing, or the random frames showed no error.
    """
    # [frames, 2]: error, core-hours
    arms = [np.array(arm, dtype=float).reshape(-1, 2) for arm in (chosen, drawn)]
    totals = [arm.sum(axis=0) for arm in arms]
    if totals[0][1] <= 0 or totals[1][1] <= 0 or totals[1][0] <= 0:
        return None
    ratio = float(_ratio(*totals))
    found = f"a core-hour on a chosen frame found {_short(ratio)} times"
    rest = f"the force error of one on {against}"
    fewest = min(len(chosen), len(drawn))
    low: float | None = None
    high: float | None = None
    significant = False
    if fewest < MIN_FRAMES:
        message = (
            f"{found} {rest}: not yet significant, as {len(chosen)} chosen and {len(drawn)} random frames are too few"
            f" to tell it from chance (at least {MIN_FRAMES} of each)"
        )
    else:
        rng = np.random.default_rng(0)
        sums = [arm[rng.integers(len(arm), size=(RESAMPLES, len(arm)))].sum(axis=1) for arm in arms]
        ratios = _ratio(*sums)
        # Without interpolation, as some may be infinite. The lower bound never is: a resample misses the one frame
        # that found anything with a probability of exp(-1) at most
        bounds = np.percentile(ratios[~np.isnan(ratios)], percentiles(fewest), method="inverted_cdf")
        low = float(bounds[0])
        high = float(bounds[1]) if np.isfinite(bounds[1]) else None
        significant = low > 1 or (high is not None and high < 1)
        interval = f"{_short(low)} to {_short(high)}" if high is not None else f"{_short(low)} or more"
        message = f"{found} (95%: {interval}) {rest}" + ("" if significant else ": not yet significant")
    return Saving(
        ratio=ratio,
        low=low,
        high=high,
        chosen=len(chosen),
        drawn=len(drawn),
        significant=significant,
        message=message,
    )


def percentiles(samples: int) -> tuple[float, float]:
    """The percentiles of a bootstrap distribution that bound a 95% interval.

    Wider than 2.5 and 97.5 for few samples, where plain percentiles cover 83 to 88% instead of 95: the expanded
    percentile interval of Hesterberg, The American Statistician 69, 371 (2015).
    """
    tail = 100 * norm.cdf(-np.sqrt(samples / (samples - 1)) * t.ppf(0.975, samples - 1))
    return float(tail), float(100 - tail)


def _short(ratio: float) -> str:
    return f"{ratio:.2g}" if ratio < 100 else f"{ratio:.0f}"


def _ratio(chosen: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Of the yields, from error and core-hours in the last axis; infinite or nan where the divisor is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (chosen[..., 0] * drawn[..., 1]) / (chosen[..., 1] * drawn[..., 0])
