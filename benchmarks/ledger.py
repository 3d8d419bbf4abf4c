"""Runs a job of a queue, or `mfal run`, and writes down which calculations begin and end in it (benchmarks/chaos.py).

    python -m benchmarks.ledger FILE job FOLDER     # in place of a worker's execution_cmd
    python -m benchmarks.ledger FILE mfal run CONFIG

A line is in the kernel's hands before the process goes on, so a SIGKILL loses none.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

#: A job starts; a calculation begins; its label is on the disk, in its folder; a job has written all that it puts out;
#: somebody has cut off the label of a calculation.
What = Literal["starts", "begins", "kept", "out", "cut"]


@dataclass(frozen=True)
class Line:
    what: What
    folder: str  # of the calculation, or of the job
    pid: int
    time: float

    @property
    def calculation(self) -> str:
        """Frame, fidelity and settings."""
        return Path(self.folder).name


def note(ledger: Path, what: What, folder: Path) -> None:
    line = json.dumps(asdict(Line(what, str(folder), os.getpid(), time.time()))) + "\n"
    file = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, line.encode())  # in one piece, whoever else writes
    os.close(file)


def read(ledger: Path) -> list[Line]:
    return [Line(**json.loads(line)) for line in ledger.read_text().splitlines()] if ledger.exists() else []


@dataclass(frozen=True)
class Count:
    """Folders of calculations: that ended; that began although they had ended; that two processes made at once."""

    ended: list[str]
    repeated: list[str]
    doubled: list[str]


def count(lines: Iterable[Line]) -> Count:
    """A calculation has ended when its label is on the disk; one that is killed before may begin again."""
    kept: dict[str, str] = {}
    ended: dict[str, str] = {}
    repeated, doubled = [], []
    for line in lines:
        name = line.calculation
        if line.what == "begins" and name in kept:
            repeated.append(line.folder)
            del kept[name]
        elif line.what == "kept":
            if name in kept:
                doubled.append(line.folder)
            kept[name] = ended[name] = line.folder
        elif line.what == "cut":
            kept.pop(name, None)
    return Count(list(ended.values()), repeated, doubled)


def observe(ledger: Path) -> None:
    """From now on this process writes down what it calculates."""
    from flows.calculation import MEMORY
    from flows.engines.contract import Engine
    from mfal import atomic

    calculate, replace = Engine.calculate, atomic.replace

    def noted_calculate(self: Engine, *args: Any, **kwargs: Any) -> Any:
        note(ledger, "begins", Path.cwd())
        return calculate(self, *args, **kwargs)

    def noted_replace(path: Path, content: bytes) -> None:
        replace(path, content)
        if path.name == MEMORY:
            note(ledger, "kept", path.parent)

    Engine.calculate, atomic.replace = noted_calculate, noted_replace  # type: ignore[method-assign]


if __name__ == "__main__":
    ledger, what, *arguments = Path(sys.argv[1]), *sys.argv[2:]
    observe(ledger)
    if what == "job":
        from jobflow_remote.jobs.run import run_remote_job

        note(ledger, "starts", Path(arguments[0]))
        run_remote_job(arguments[0])
        note(ledger, "out", Path(arguments[0]))
    else:
        from flows.__main__ import main

        sys.argv[1:] = arguments
        main()
