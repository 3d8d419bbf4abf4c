"""What a budget would buy, from the rounds of a rehearsal.

The error of a machine-learned model falls as a power of its data (Huang & von Lilienfeld, J. Chem. Phys. 145, 161102
(2016)): error = a hours^-b, a straight line in log-log. That core-hours may stand for data assumes that a label goes on
costing about the same. The line is fitted by ordinary least squares and comes with the prediction interval of
Student's t, which is wide for the few rounds of a rehearsal, as it should be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from mfal.frames import Document, Fidelity

#: With two points a line has no scatter to tell how wrong it is.
MIN_POINTS = 3
#: A budget beyond so many times the largest observed core-hours is an extrapolation.
REACH = 2.0
#: Of a logarithm: beyond it a float64 overflows.
LARGEST = 700.0


class Forecast(Document):
    """The magnetic force error that a budget is expected to reach."""

    core_hours: float
    #: MAE on the hold-out, meV/Å, with the 95% interval of what one more such campaign would measure.
    force_error: float
    low: float
    high: float
    #: b of error = a hours^-b; negative if the errors rose.
    exponent: float
    #: Points that the law was fitted to.
    rounds: int
    #: Beyond twice the largest observed core-hours.
    extrapolated: bool
    #: Expected good labels.
    labels: dict[Fidelity, int]


@dataclass(frozen=True)
class _Law:
    """log(error) = intercept - exponent * (log(hours) - centre); mean and slope are then uncorrelated."""

    centre: float
    intercept: float
    exponent: float
    spread: float  # sum of squares of log(hours) about the centre
    variance: float  # of log(error) about the line
    freedom: int


def forecast(
    points: Sequence[tuple[float, float]], budget: float, *, labels_per_core_hour: Mapping[Fidelity, float]
) -> Forecast:
    """The force error at a budget, and the labels that it pays for.

    Args:
        points: after each round, the cumulative core-hours and the magnetic force MAE on the hold-out (meV/Å).
        budget: core-hours, counted as those of the points are: from the start of the campaign.
        labels_per_core_hour: good labels of each fidelity per core-hour of the whole campaign.

    Raises:
        ValueError: fewer than 3 points with different core-hours, numbers that are not positive.
    """
    if not budget > 0:
        raise ValueError(f"a budget of {budget:g} core-hours buys nothing: give a number above 0")
    law = _fit(points)
    step = np.log(budget) - law.centre
    middle = law.intercept - law.exponent * step
    rounds = law.freedom + 2
    error = np.sqrt(law.variance * (1 + 1 / rounds + step**2 / law.spread))
    width = t.ppf(0.975, law.freedom) * error
    # Clipped, as JSON has no infinity and one degree of freedom makes very wide intervals
    bounds = np.exp(np.clip([middle - width, middle, middle + width], -LARGEST, LARGEST))
    low, force_error, high = (float(bound) for bound in bounds)
    return Forecast(
        core_hours=budget,
        force_error=force_error,
        low=low,
        high=high,
        exponent=law.exponent,
        rounds=rounds,
        extrapolated=budget > REACH * max(hours for hours, _ in points),
        labels={fidelity: round(rate * budget) for fidelity, rate in labels_per_core_hour.items()},
    )


def budget_for(points: Sequence[tuple[float, float]], target: float) -> float | None:
    """The core-hours at which the fitted law reaches a force error (meV/Å).

    None if the errors of the points do not fall, or so slowly that no budget would do.

    Raises:
        ValueError: as `forecast`.
    """
    if not target > 0:
        raise ValueError(f"a force error of {target:g} meV/Å is never reached: give a number above 0")
    law = _fit(points)
    if law.exponent <= 0:
        return None
    hours = law.centre + (law.intercept - np.log(target)) / law.exponent
    return float(np.exp(hours)) if hours < LARGEST else None


def _fit(points: Sequence[tuple[float, float]]) -> _Law:
    if len({hours for hours, _ in points}) < MIN_POINTS:
        raise ValueError(
            f"a forecast needs {MIN_POINTS} rounds with different core-hours, and there are"
            f" {len({hours for hours, _ in points})}: run at least {MIN_POINTS} rounds (stop.rounds)"
        )
    if any(hours <= 0 or error <= 0 for hours, error in points):
        raise ValueError("a power law needs core-hours and errors above 0: leave out the rounds without")
    x, y = np.log(np.array(points, dtype=float)).T
    centre = x.mean()
    spread = np.sum((x - centre) ** 2)
    slope = (x - centre) @ y / spread
    residuals = y - y.mean() - slope * (x - centre)
    freedom = len(points) - 2
    return _Law(
        centre=float(centre),
        intercept=float(y.mean()),
        exponent=float(-slope),
        spread=float(spread),
        variance=float(residuals @ residuals / freedom),
        freedom=freedom,
    )
