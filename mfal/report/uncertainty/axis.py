"""An axis over the values that are to be seen on it: logarithmic where they are far apart, with room beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

#: An axis over a larger factor is logarithmic.
WIDEST = 30.0


class Span(NamedTuple):
    """One axis. Places are in its own units: log10 where it is logarithmic."""

    log: bool
    low: float
    high: float
    #: Where the threshold is, if there is one.
    line: float | None

    @property
    def below(self) -> float:
        """Share of the axis below the threshold."""
        return 1.0 if self.line is None else (self.line - self.low) / (self.high - self.low)


def span(values: Sequence[float], threshold: float | None = None, *, margin: float) -> Span:
    """The axis over at least one value and the threshold.

    Args:
        margin: free room beyond the outermost value, as a share of the axis.
    """
    inside = [*values, *([threshold] if threshold else [])]
    low, high = min(inside), max(inside)
    log = low > 0 and high > WIDEST * low
    ends = (math.log10(low), math.log10(high)) if log else (0.0, high)
    free = margin * (ends[1] - ends[0]) or 1.0
    first, last = ends[0] - free, ends[1] + free
    if threshold is None or not log:
        return Span(log, first, last, threshold)
    return Span(log, first, last, math.log10(threshold) if threshold else first)


def ticks(found: Span) -> dict[str, Any]:
    """The axis as plotly takes it, with few ticks."""
    if not found.log:
        # few enough that none falls into the margin below zero
        return {"range": [found.low, found.high], "nticks": 6}
    decades = range(math.floor(found.low), math.ceil(found.high) + 1)
    between = (1, 3) if len(decades) <= 4 else (1,)
    marks = [float(f"{digit}e{n}") for n in decades for digit in between]
    return {
        "type": "log",
        "range": [found.low, found.high],
        "tickvals": marks,
        "ticktext": [f"{mark:g}" for mark in marks],
    }
