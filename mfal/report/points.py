"""Many points in one figure: thinned evenly, spread sideways, on a logarithmic axis where they span decades."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

#: More points than this of one kind are thinned evenly before drawing; the numbers beside them are of all.
MOST_POINTS = 1500
#: An axis over a larger factor is logarithmic.
WIDEST = 10.0
#: Steps of a drawn coordinate over its range: less than a pixel each, and what is cut off packs well.
STEPS = 1000


def shown(count: int) -> np.ndarray:
    """The places of the points that are drawn."""
    return np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).astype(int))


def thinned(items: Sequence[T]) -> list[T]:
    return [items[i] for i in shown(len(items))] if items else []


def coarse(values: np.ndarray, span: float) -> np.ndarray:
    """The values as a figure over this range needs them: float32 with zeros at the end."""
    if not span:
        return values.astype(np.float32)
    step = 2.0 ** np.floor(np.log2(span / STEPS))
    return (np.round(values / step) * step).astype(np.float32)


def spread(count: int) -> np.ndarray:
    """Places between -0.5 and 0.5 that keep neighbours apart: even, and the same each time."""
    return (np.arange(count) * 0.618) % 1 - 0.5


def scaled(values: Iterable[float]) -> dict[str, Any]:
    """Of an axis over these values: logarithmic with marks at 1, 2 and 5 where they span decades, else from zero."""
    known = [value for value in values if value is not None]
    low, high = min(known), max(known)
    if low <= 0 or high <= WIDEST * low:
        return {"rangemode": "tozero"}
    return {"type": "log", **marks(low / 2, high * 2)}


def marks(low: float, high: float) -> dict[str, Any]:
    """Whole numbers between two limits: plotly would write 2 and 5 for 200 and 500."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    digits = (1, 2, 5) if len(decades) <= 4 else (1,)
    ticks = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
    inside = [tick for tick in ticks if low < tick < high]
    return {"tickvals": inside, "ticktext": [f"{tick:g}" for tick in inside]}
