"""Candidates of a rehearsal: frames of the finished data set that no round has seen yet."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from mfal.dft import table
from mfal.dft.engines import Table
from mfal.explore.candidates import Exploration


def draw(engine: Table, count: int, *, known: Collection[str], seed: Sequence[int]) -> Exploration:
    """At most `count` frames at random, without those known."""
    fresh = [frame for frame in table.frames(engine) if frame.frame_id not in known]
    drawn = np.random.default_rng(list(seed)).permutation(len(fresh))[:count]
    return Exploration(frames=[fresh[i] for i in sorted(drawn)], candidates=len(fresh))
