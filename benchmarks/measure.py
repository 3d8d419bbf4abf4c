"""Timing side by side, and the table that it ends in."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.table import Table

from benchmarks import page

HEADER = ("what", "peer", "ours", "peer's", "ratio", "of the fastest", "goal", "")


@dataclass(frozen=True)
class Goal:
    """A bound of a number, from above (`<=`) or below."""

    sense: Literal["<=", ">="]
    bound: float

    def met(self, value: float) -> bool:
        return value <= self.bound if self.sense == "<=" else value >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.sense == '<=' else '≥'} {self.bound:g}"


@dataclass(frozen=True)
class Row:
    """Two numbers and what the one is to the other."""

    what: str
    peer: str
    ours: str
    peers: str
    ratio: float | None = None
    fastest: float | None = None  # the same of the fastest repeats
    goal: Goal | None = None
    judged: float | None = None  # what the goal is of, where that is not the ratio

    def cells(self) -> tuple[str, ...]:
        value = self.ratio if self.judged is None else self.judged
        verdict = "" if self.goal is None or value is None else "met" if self.goal.met(value) else "missed"
        numbers = ("" if number is None else f"{number:.2f}" for number in (self.ratio, self.fastest))
        return (self.what, self.peer, self.ours, self.peers, *numbers, str(self.goal or ""), verdict)


def side_by_side(
    contestants: Sequence[Callable[[], object]], *, repeats: int, device: torch.device
) -> list[list[float]]:
    """Seconds of every repeat of each, in turns, so that what else the machine does hits all of them alike."""
    for contestant in contestants:
        contestant()
    seconds: list[list[float]] = [[] for _ in contestants]
    for _ in range(repeats):
        for contestant, taken in zip(contestants, seconds, strict=True):
            _wait(device)
            start = time.perf_counter()
            contestant()
            _wait(device)
            taken.append(time.perf_counter() - start)
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(what: str, peer: str, times: Sequence[Sequence[float]], *, frames: int, goal: Goal | None = None) -> Row:
    """The times of ours and of the peer, by frame: with a lower bound as a speed-up, otherwise as a cost."""
    middle, best = ([statistic(taken) for taken in times] for statistic in (statistics.median, min))

    def ratio(ours: float, theirs: float) -> float:
        return theirs / ours if goal is not None and goal.sense == ">=" else ours / theirs

    ours, theirs = (f"{seconds * 1e3 / frames:.3g} ms" for seconds in middle)
    return Row(what, peer, ours, theirs, ratio(*middle), ratio(*best), goal)


def machine(device: torch.device) -> str:
    """The processor, its cores and the threads in use, torch, and the GPU if there is one."""
    parts = [f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads", f"torch {torch.__version__}"]
    parts += [torch.cuda.get_device_name(device)] if device.type == "cuda" else ["no GPU used"]
    return ", ".join(parts)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def plain(rows: Sequence[Row], title: str) -> Table:
    table = Table(*HEADER, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row.cells())
    return table


def markdown(rows: Sequence[Row], title: str) -> str:
    return f"{title}\n\n{page.table(HEADER, (row.cells() for row in rows))}\n"
