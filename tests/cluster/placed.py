"""A job that says where it ran, for the tests of the machine; in a file of its own, as the nodes import it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from jobflow import job

TOLD = ("SLURM_JOB_ID", "SLURM_JOB_PARTITION", "CUDA_VISIBLE_DEVICES")


@job
def placed(diary: str, gate: str | None = None, after: Any = None) -> dict[str, str | None]:
    """Write a line into the diary, wait until the gate is there if there is to be one, and say where this is."""
    with Path(diary).open("a") as lines:
        lines.write(f"{os.environ.get('SLURM_JOB_ID')} {'second' if after else 'first'}\n")
    while gate and not Path(gate).exists():
        time.sleep(0.1)
    return {name: os.environ.get(name) for name in TOLD}
