"""A batch of calculations: what promises most per core-hour, no two of them nearly the same.

Greedy: the next calculation is the one of the largest value, which is the expected error drop per core-hour times
min(1, d / D)^2, where d is the distance in the committee's features to the nearest frame already taken for the same
fidelity and D the typical distance between frames of the pool. What is left of a frame's worth once something like it
is calculated is so guessed at, without training in between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mfal.frames import Fidelity

#: The typical distance is a median over pairs of no more frames than these.
SAMPLE = 300


@dataclass(frozen=True)
class Action:
    """One calculation that could be run."""

    frame_id: str
    fidelity: Fidelity
    gain: float  # eV/Å, by which the force error of the frame is expected to drop
    core_hours: float  # expected for one good label
    features: np.ndarray  # [D] of the frame

    @property
    def value(self) -> float:
        """eV/Å per core-hour."""
        return self.gain / self.core_hours


@dataclass(frozen=True)
class Batch:
    """Places in the list of actions."""

    chosen: list[int]  # in the order of choice
    duplicates: list[int]  # too near to one that is taken


def choose(
    actions: Sequence[Action],
    *,
    most: Mapping[Fidelity, int | None],
    tolerance: float,
    core_hours: float | None = None,
    taken: Sequence[Action] = (),
) -> Batch:
    """The batch.

    Args:
        most: calculations of each fidelity; None is no limit.
        tolerance: frames whose features differ by no more are near-duplicates.
        core_hours: that the batch may cost; an action that no longer fits makes room for cheaper ones.
        taken: calculations that will be run in any case, such as the control arm's.
    """
    if not actions:
        return Batch([], [])
    features = np.stack([action.features for action in actions])
    fidelities = np.array([action.fidelity for action in actions])
    values = np.array([action.value for action in actions])
    costs = np.array([action.core_hours for action in actions])
    typical = typical_distance(np.concatenate([features, *([action.features[None] for action in taken])]))
    nearest = np.full(len(actions), np.inf)
    for action in taken:
        nearest = _nearer(nearest, features, fidelities, action)
    left = np.inf if core_hours is None else core_hours
    counts: Counter[Fidelity] = Counter()
    full = {fidelity for fidelity, limit in most.items() if limit is not None and limit <= 0}
    chosen: list[int] = []
    open_ = values > 0
    while True:
        open_ &= (nearest > tolerance) & (costs <= left) & ~np.isin(fidelities, list(full))
        if not open_.any():
            break
        worth = np.where(open_, values * np.minimum(1.0, nearest / typical) ** 2, -1.0)
        best = int(worth.argmax())
        chosen.append(best)
        open_[best] = False
        left -= costs[best]
        counts[actions[best].fidelity] += 1
        limit = most.get(actions[best].fidelity)
        if limit is not None and counts[actions[best].fidelity] >= limit:
            full.add(actions[best].fidelity)
        nearest = _nearer(nearest, features, fidelities, actions[best])
    near = [int(i) for i in np.flatnonzero((nearest <= tolerance) & (values > 0)) if i not in chosen]
    return Batch(chosen, near)


def typical_distance(features: np.ndarray) -> float:
    """The median distance between two different frames of [N, D]; 1 where there are none."""
    sample = features[:: max(1, len(features) // SAMPLE)]
    squares = (sample**2).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * sample @ sample.T, 0))
    apart = distances[distances > 1e-6]
    return float(np.median(apart)) if len(apart) else 1.0


def _nearer(nearest: np.ndarray, features: np.ndarray, fidelities: np.ndarray, action: Action) -> np.ndarray:
    distances = np.linalg.norm(features - action.features, axis=1)
    return np.where(fidelities == action.fidelity, np.minimum(nearest, distances), nearest)
