"""`mfal watch`: what it works out of jobs, what it draws, and a campaign that it looks after from submit to the end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import write_campaign
from remote_project import ENVIRONMENT, PROJECT, RUN, set_up


def worker(folder: Path) -> dict[str, object]:
    """Two jobs at a time, and what they keep stays in the folder."""
    found = {"type": "local", "scheduler_type": "shell", "work_dir": str(folder / "work"), "execution_cmd": RUN}
    return found | {"pre_run": f"{ENVIRONMENT} MFAL_CACHE={folder / 'cache'}", "max_jobs": 2}


@contextmanager
def runner(folder: Path) -> Iterator[None]:
    """`jf runner run` in a process of its own."""
    command = [str(Path(sys.executable).parent / "jf"), "-p", PROJECT, "runner", "run"]
    with (folder / "runner.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield
        finally:
            process.terminate()


@pytest.mark.slow
def test_a_campaign_from_submit_to_the_end(tmp_path, mongo_database, monkeypatch, mfal):
    set_up(tmp_path, mongo_database, monkeypatch, workers={"local": worker(tmp_path)}).close()
    config = write_campaign(tmp_path)
    sent = mfal("submit", config)
    assert sent.exit_code == 0, sent.output
    with runner(tmp_path):
        watched = mfal("watch", config, "--every", 1)
    print(watched.output)
    assert watched.exit_code == 0
    print(mfal("status", config).output)
    print(mfal("report", config).output)
    print(mfal("submit", config).output)
