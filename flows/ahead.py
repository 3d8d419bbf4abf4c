"""Calculations side by side. jobflow's local manager takes one job after the other; so that a machine's cores are all
used, the jobs of labels are made in processes of their own as soon as the flow knows them.

They are made where the flow would make them, and are remembered there (`flows.calculation`). When the turn of a job has
come it waits for the process, and then finds what came out. Whatever dies on the way, the job is made once: by the
process, or by the flow.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Lock
from types import FrameType
from typing import Self

from jobflow import Job, JobStore
from monty.json import MontyDecoder, MontyEncoder

from flows.calculation import CalculationJob


class Ahead:
    """A context in which up to `at_a_time` calculations run; leaving it ends those that do."""

    def __init__(self, at_a_time: int, folder: Path, store: JobStore) -> None:
        self._at_a_time, self._folder, self._store = at_a_time, folder, store
        self._threads = ThreadPoolExecutor(at_a_time)
        self._made: dict[str, Future[None]] = {}
        self._lock = Lock()
        self._running: set[subprocess.Popen] = set()
        self._over = False

    def begin(self, jobs: Iterable[Job]) -> None:
        """Make those that are calculations and have not been made. One at a time is what the flow does anyway."""
        for job in jobs if self._at_a_time > 1 else ():
            if isinstance(job, CalculationJob) and job.uuid not in self._made and not job.is_kept(self._store):
                self._made[job.uuid] = self._threads.submit(self._make, json.dumps(job, cls=MontyEncoder))

    def wait_for(self, job: Job) -> None:
        """What went wrong in the process is not looked at: the flow makes the job itself, and meets it."""
        if job.uuid in self._made:
            wait([self._made[job.uuid]])

    def _make(self, job: str) -> None:
        with self._lock:
            if self._over:
                return
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.ahead"],
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            self._running.add(process)
        process.communicate(job.encode())
        with self._lock:
            self._running.discard(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._over = True
            for process in self._running:
                process.terminate()
        self._threads.shutdown(cancel_futures=True)


def main() -> None:
    """Make the job on standard input in the current folder."""
    signal.signal(signal.SIGTERM, _end)
    job = MontyDecoder().decode(sys.stdin.read())
    job.maker.label(*job.function_args, **job.function_kwargs)


def _end(signum: int, _: FrameType | None) -> None:
    """An exception, for the engine to end its program with."""
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    main()
