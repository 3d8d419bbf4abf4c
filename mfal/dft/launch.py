"""`python -m mfal.dft.launch MINUTES COMMAND...`: runs a DFT program in the current folder, as a program between it and
whoever starts it (custodian, an atomate2 job).

- It holds a lock on the folder for as long as the program lives, also when what started it is killed: whoever comes
  next waits for it (`finish_of_others`) and finds its output in place of starting a second one.
- Every launch is booked in `launches.jsonl` with its seconds, killed ones, too.
- MINUTES are for all launches of the folder together; then the program is ended.
- Where the folder has a `mfal-promise.json`, the input files are compared with it before the program starts, each time:
  between the settings of a fidelity and the file that is calculated lie an input set, powerups, and custodian's
  corrections.

Only the standard library, so that it starts at once.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

LOCK, BOOK, PROMISE = "mfal.lock", "launches.jsonl", "mfal-promise.json"
#: Seconds between a request to end and the end.
GRACE = 20
#: How a launch ended otherwise than by the program's own exit code.
End = Literal["exited", "timeout", "broken promise", "no program"]


def main(minutes: str, *command: str) -> int:
    from mfal.dft.promise import broken

    folder = Path.cwd()
    with _alone(folder) as lock:
        started = time.time()
        left = 60 * float(minutes) - seconds(folder)
        _book(folder, started=started)
        if (folder / PROMISE).is_file() and (differences := broken(folder, json.loads((folder / PROMISE).read_text()))):
            return _end(folder, started, "broken promise", 3, "; ".join(differences))
        if left <= 0:
            return _end(folder, started, "timeout", 124)
        try:
            # The program holds the lock, too: it may outlive this process.
            process = subprocess.Popen(command, pass_fds=[lock], start_new_session=True)
        except OSError as error:
            return _end(folder, started, "no program", 127, str(error))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os.killpg(process.pid, signal.SIGTERM))
        try:
            return _end(folder, started, "exited", process.wait(timeout=left))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)  # of mpirun's ranks, too
            try:
                process.wait(timeout=GRACE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            return _end(folder, started, "timeout", 124)


def command(minutes: float, program: str) -> str:
    """A shell command that runs `program` so."""
    return f"{sys.executable} -m mfal.dft.launch {minutes:g} {program}"


def finish_of_others(folder: Path) -> None:
    """Wait until nobody runs a program in the folder."""
    with _alone(folder):
        pass


def launches(folder: Path) -> list[dict[str, Any]]:
    """Each launch with `started`, `seconds`, and, unless it was killed, `end`, `code` and `why`."""
    path = folder / BOOK
    if not path.is_file():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    ends = {line["started"]: line for line in lines if "end" in line}
    newest = max((file.stat().st_mtime for file in folder.iterdir()), default=0.0)
    starts = [line["started"] for line in lines if "end" not in line]
    # A killed one lasted at least until it last wrote something.
    return [ends.get(start, {"started": start, "seconds": max(newest - start, 0.0)}) for start in starts]


def seconds(folder: Path) -> float:
    """Of all launches of a folder."""
    return sum(launch["seconds"] for launch in launches(folder))


def _end(folder: Path, started: float, end: End, code: int, why: str = "") -> int:
    _book(folder, started=started, seconds=time.time() - started, end=end, code=code, why=why)
    if why:
        print(f"mfal: {end}: {why}", file=sys.stderr)
    # as a shell says it
    return code if code >= 0 else 128 - code


def _book(folder: Path, **line: Any) -> None:
    with open(folder / BOOK, "a") as file:
        file.write(json.dumps(line) + "\n")


@contextmanager
def _alone(folder: Path) -> Iterator[int]:
    with open(folder / LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
