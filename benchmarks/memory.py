"""The most memory that one step takes beyond what was there before it, measured in a process of its own."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.cells import olivines
from benchmarks.contestants import Ours, Stock

CONTESTANTS = {"stock": Stock, "ours": Ours}
#: With glibc's own, which grows, freed memory stays in fragments, more or less of it from run to run.
STEADY = {"MALLOC_MMAP_THRESHOLD_": "131072"}
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def of_step(contestant: str, step: str, *, frames: int, device: str, threads: int) -> float:
    """MB of one `train` or `predict` of frames of 28 atoms."""
    command = [sys.executable, "-m", __name__, contestant, step, str(frames), device, str(threads)]
    root = Path(__file__).resolve().parents[1]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | STEADY, cwd=root)
    if result.returncode:
        raise RuntimeError(f"memory of {contestant} {step}: {result.stderr.strip().splitlines()[-1]}")
    return float(result.stdout.split()[-1])


def _main(contestant: str, step: str, frames: str, device: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    kind, place = CONTESTANTS[contestant], torch.device(device)
    structures = olivines(int(frames))
    # Libraries keep buffers from the first time on; they are no part of a step.
    getattr(kind(structures[:1], place), step)()
    measured = kind(structures, place)
    gc.collect()
    if place.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        getattr(measured, step)()
        print((torch.cuda.max_memory_allocated() - before) / 2**20)
        return
    ctypes.CDLL(None).malloc_trim(0)  # what is freed already goes back, so that it does not hide what is taken
    before = _kilobytes("VmRSS")
    RESET.write_text("5")
    getattr(measured, step)()
    print((_kilobytes("VmHWM") - before) / 2**10)


def _kilobytes(field: str) -> int:
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(field))


if __name__ == "__main__":
    _main(*sys.argv[1:])
