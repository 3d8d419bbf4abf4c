"""Numbers below 1e-38, of which the second derivative of a saturated gate is full.

Each of them takes an Intel processor a hundred times as long as another number: half of a training.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def subnormal_is_zero() -> Iterator[None]:
    """Take them for zero: in this thread while in here, and in those that it starts meanwhile.

    Not for the whole process, which belongs to others: Python's own floats would lose them, too. Threads that torch has
    already keep what they had; to start them early, on import, would leave a fork of the process waiting for them.
    """
    before = not (torch.full((1,), 2e-38) / 4).any()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
