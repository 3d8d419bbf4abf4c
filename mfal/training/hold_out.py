"""Which frames a training never sees."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from mfal.frames import Fidelity, Label


def draw(labels: Sequence[Label], share: float, *, seed: int) -> set[str]:
    """The frame ids of a hold-out: drawn by the seed alone, whatever the order of the labels.

    A frame goes with all its labels: the label at one fidelity gives away the other. The share is taken of the frames
    that have the same fidelities, and at least one where there are two or more: what is scarce is held out, too.

    Raises:
        ValueError: the share is not one, or too small or too large for these frames.
    """
    if not 0 <= share < 1:
        raise ValueError(f"a hold-out of {share:g} is not a share: give 0 or more, and less than 1")
    fidelities: dict[str, set[Fidelity]] = defaultdict(set)
    for label in labels:
        fidelities[label.frame_id].add(label.fidelity)
    drawn: set[str] = set()
    for alike in _groups(fidelities):
        count = min(max(round(share * len(alike)), 1), len(alike) - 1) if share else 0
        order = np.random.default_rng(seed).permutation(len(alike))
        drawn |= {alike[i] for i in order[:count]}
    if share and not drawn:
        raise ValueError(f"a hold-out of {share:g} takes no frame of {len(fidelities)}: give 0 or another file")
    return drawn


def _groups(fidelities: dict[str, set[Fidelity]]) -> Iterable[list[str]]:
    """The ids of the frames that have the same fidelities, each list in order."""
    groups: dict[tuple[Fidelity, ...], list[str]] = defaultdict(list)
    for frame_id in sorted(fidelities):
        groups[tuple(sorted(fidelities[frame_id]))].append(frame_id)
    return groups.values()
