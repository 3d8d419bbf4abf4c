"""Which labels an epoch sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def shares(fidelities: Sequence[str], *, seed: int, epoch: int) -> np.ndarray:
    """The labels of one epoch by their numbers, as many as there are, fidelity by fidelity; a function of the arguments
    alone.

    Every fidelity is seen equally often, however few of the labels are its own: in the proportion in which they are
    there, few magnetic labels are outvoted by many cheap ones, and the magnetic force error was 1.4 times as large with
    6 or 12 of 70 (`data/lmfp-gpaw`). Each fidelity goes through its own labels again and again, each time in a new
    order, and goes on in an epoch where it stopped in the last one; so its labels are seen equally often, too, but for
    one time.

    Args:
        fidelities: of the labels.
        epoch: from 1.

    Returns:
        [labels]
    """
    names = sorted(set(fidelities))
    share, rest = divmod(len(fidelities), len(names))
    seen = []
    for number, name in enumerate(names):
        own = np.flatnonzero([fidelity == name for fidelity in fidelities])
        count = share + (number < rest)
        first = (epoch - 1) * count
        passes = range(first // len(own), (first + count - 1) // len(own) + 1)
        shuffled = [own[np.random.default_rng([seed, number, again]).permutation(len(own))] for again in passes]
        seen.append(np.concatenate(shuffled)[first % len(own) :][:count])
    return np.concatenate(seen)
