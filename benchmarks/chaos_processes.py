"""Small campaigns in processes of `mfal run`, killed and run again (for benchmarks/chaos.py)."""

from __future__ import annotations

import os
import random
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import forked, ledger
from benchmarks.chaos_seen import Kill, Observer, Small
from stores.campaign import open_stores
from tests.cluster.machine import ROOT, Part, until

#: Minutes in which a campaign must have ended.
PATIENCE = 15


@contextmanager
def ready_to_fork(folder: Path) -> Iterator[Path]:
    """The socket of a process that has imported what jobs need."""
    path = folder / "forks"
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    part = Part("forks", [sys.executable, "-m", "benchmarks.forked", "serve", str(path)], folder, environment)
    part.start()
    try:
        until(lambda: path.exists() or not part.pid, "mfal is imported", patience=300)
        yield path
    finally:
        part.kill()


@dataclass
class Embedded:
    """A process of `mfal run`, forked."""

    forks: Path
    notes: Path
    log: Path

    def start(self, small: Small) -> None:
        words = ["benchmarks.ledger", str(self.notes), "mfal", "run", str(small.file)]
        with self.log.open("ab") as log:
            self.pid, self.connection = forked.ask(str(self.forks), words, log.fileno(), dict(os.environ))

    def runs(self) -> bool:
        return not select.select([self.connection], [], [], 0)[0]

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        forked.end(self.connection)
        self.connection.close()


def in_processes(
    folder: Path,
    kills: int,
    draw: random.Random,
    observer: Observer,
    say: Callable[[str], None],
    told: Callable[[Kill], None],
    forks: Path,
) -> Iterator[Small]:
    """`mfal run`, killed so many times, and each campaign then to its end."""
    number = 0
    while kills > 0:
        small = Small.made(folder / "embedded", f"embedded-{number}", draw.randrange(10**6))
        yield small
        number += 1
        observer.stores[small.name] = lambda small=small: open_stores(small.campaign).jobs
        process = Embedded(forks, small.file.with_suffix(".jsonl"), small.file.with_suffix(".log"))
        here, end = min(kills, draw.randrange(3, 7)), time.time() + PATIENCE * 60
        while not small.is_done() and time.time() < end:
            process.start(small)
            lines = len(ledger.read(process.notes)) + draw.randrange(1, 6)
            moment = time.time() + draw.uniform(0.1, 15)
            by_line = draw.random() < 0.7
            while process.runs() and time.time() < end:
                if here and (len(ledger.read(process.notes)) >= lines if by_line else time.time() >= moment):
                    time.sleep(draw.choice([0, draw.uniform(0, 0.5)]))
                    break
                time.sleep(0.005)
            if not process.runs():
                if not small.is_done():
                    say(f"{small.name} ended by itself: {process.log.read_text()[-500:]}")
            else:
                at = time.time()
                process.kill()
                if here:
                    here, kills = here - 1, kills - 1
                    told(Kill("embedded", (small.name,), at, "killed"))
        if small.is_done():
            small.ended = time.time()
            say(f"{small.name} has ended after {small.ended - small.begun:.0f} s")
