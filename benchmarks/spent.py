"""What something costs: the seconds that processors worked for it, and those that passed; and tables of that."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

from rich.box import MARKDOWN
from rich.table import Table

T = TypeVar("T")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Spent:
    cpu: float
    wall: float

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.cpu - other.cpu, self.wall - other.wall)

    def __truediv__(self, count: float) -> Spent:
        return Spent(self.cpu / count, self.wall / count)


def now() -> Spent:
    """Of this process and those that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Spent(time.process_time() + children.ru_utime + children.ru_stime, time.perf_counter())


def middle(measured: Sequence[Spent]) -> Spent:
    return Spent(median(one.cpu for one in measured), median(one.wall for one in measured))


def in_turn(contestants: Mapping[str, Callable[[], Callable[[], T]]], repeats: int, expected: T) -> dict[str, Spent]:
    """The medians of each, in turns, so that what else the machine does hits all of them alike.

    Args:
        contestants: do their work, and give what says what came of it.

    Raises:
        SystemExit: one has not come to what is expected.
    """
    measured: dict[str, list[Spent]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, do in contestants.items():
            gc.collect()  # what others have left is not on this one's account
            before = now()
            result = do()
            measured[name].append(now() - before)
            if (found := result()) != expected:
                raise SystemExit(f"{name}: found {found} instead of {expected}")
    return {name: middle(taken) for name, taken in measured.items()}


def run(*command: str) -> Callable[[], int]:
    """Run a program to its end."""
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    return lambda: done.returncode


def of_process(pid: int) -> float:
    """CPU-seconds so far of a process and of those that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS  # utime, stime, cutime, cstime


def of_shell(times: str) -> float:
    """CPU-seconds in what bash's `times` prints, of the shell and of what it ran: four times `0m1.234s`."""
    found = [entry.rstrip("s").split("m") for entry in times.split()]
    return sum(60 * int(minutes) + float(seconds) for minutes, seconds in found)


def shown(seconds: float) -> str:
    return f"{seconds:.3g} s" if abs(seconds) >= 1 else f"{seconds * 1e3:.3g} ms"


def times(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.2g}" if theirs > 0 else ""


def table(title: str, *columns: str) -> Table:
    """That can be copied into a document."""
    return Table(*columns, title=title, title_justify="left", box=MARKDOWN)
