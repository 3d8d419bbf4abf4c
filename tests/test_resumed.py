"""Benchmarks that take hours, killed in the middle: `benchmarks.resumed`."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pydantic import BaseModel

from benchmarks import resumed

ROOT = Path(__file__).parents[1]


class Noted(BaseModel):
    fingerprint: str = "of these"
    task: int


def note(task: int, folder: Path, ready: Path) -> Noted:
    """Says which process it is. What comes after the first waits until it may."""
    (folder / f"{task}.pid").write_text(str(os.getpid()))
    while task and not ready.exists():
        time.sleep(0.05)
    return Noted(task=task)


def run(folder: Path) -> list[int]:
    path = folder / "done.jsonl"
    done = {found.task for found in resumed.finished(path, Noted, "of these")}
    tasks = [(task, folder, folder / "ready") for task in range(3) if task not in done]
    return sorted(found.task for found in resumed.run(path, note, tasks, jobs=1))


def wait_for(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_killed_it_leaves_no_process_and_goes_on_with_what_is_not_written_down(tmp_path):
    code = f"from pathlib import Path; from tests.test_resumed import run; run(Path({str(tmp_path)!r}))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    done, second = tmp_path / "done.jsonl", tmp_path / "1.pid"
    wait_for(lambda: done.exists() and done.read_text().endswith("\n") and second.exists() and second.read_text())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    worker = int(second.read_text())
    wait_for(lambda: gone(worker))
    (tmp_path / "ready").touch()
    assert run(tmp_path) == [1, 2]
    assert [found.task for found in resumed.finished(done, Noted, "of these")] == [0, 1, 2]
