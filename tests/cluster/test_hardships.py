"""What a cluster does to a campaign: a calculation that hangs, a training that runs out of time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import write_campaign

from flows import tend
from flows.queue import Job, Queue
from flows.send import send
from mfal.config import Campaign
from mfal.config_file import load
from stores.campaign import CampaignStores, open_stores

from .machine import Machine, until
from .test_campaign import bring_and_tend, follow

CPU = {"worker": "cpu", "resources": {"partition": "cpu", "ntasks": 1, "time": "00:20:00"}}
GPU = {"worker": "gpu", "resources": {"partition": "gpu", "ntasks": 1, "gres": "gpu:1", "time": "00:20:00"}}


@pytest.fixture(autouse=True)
def at_once(monkeypatch, tmp_path) -> None:
    """What was lost runs again after a second."""
    monkeypatch.setattr(tend, "PAUSE", timedelta(seconds=1))
    monkeypatch.setenv("MFAL_CACHE", str(tmp_path / "kept-on-workers"))


@pytest.fixture
def submitted(machine: Machine, controller: Any, tmp_path: Path) -> Iterator[Any]:
    def submit(**changes: Any) -> tuple[Campaign, Queue, CampaignStores]:
        cluster = {"jobs": {"default": CPU, "train": GPU}} | changes.pop("cluster", {})
        campaign = load(write_campaign(tmp_path, cluster=cluster, **changes))
        opened.append(open_stores(campaign, make=True))
        queue = Queue(controller, campaign.campaign)
        send(campaign, queue, opened[0])
        machine.runner.start()
        return campaign, queue, opened[0]

    opened: list[CampaignStores] = []
    yield submit
    for stores in opened:
        stores.close()


def processes(machine: Machine, queue: Queue, job: Job) -> list[int]:
    """Those of a job's Python, on the node."""
    folder = queue.controller.get_job_info(db_id=job.db_id).run_dir
    found = []
    for pid in machine.slurm.job_processes():
        with suppress(OSError):
            if folder and os.readlink(f"/proc/{pid}/cwd") == folder:
                found.append(pid)
    return found


def test_a_round_goes_on_without_a_calculation_that_hangs_and_has_it_later(machine, submitted):
    campaign, queue, stores = submitted(cluster={"share": 0.5, "wait": 0})

    def hung() -> Job | None:
        bring_and_tend(campaign, queue, stores)
        held_out = {score.frame_id for score in stores.all_scores("small") if score.arm == "hold_out"}
        for job in queue.jobs():
            if job.fidelity == "magnetic" and job.frame_id not in held_out and held_out:
                for pid in (pids := processes(machine, queue, job)):
                    os.kill(pid, signal.SIGSTOP)
                if pids:
                    return job
        return None

    late = until(hung, "a magnetic calculation runs", 600, every=0.05)
    frozen = processes(machine, queue, late)

    def trains() -> bool:
        bring_and_tend(campaign, queue, stores)
        return any(job.kind == "train" and job.state == "RUNNING" for job in queue.jobs())

    until(trains, "the first round goes on without it", 600, every=0.2)
    assert {job.uuid: job.state for job in queue.jobs()}[late.uuid] == "RUNNING"
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    follow(campaign, queue, stores)
    first, second = stores.all_rounds("small")
    assert first.counts["magnetic"] == {"ok": 2}
    assert second.counts["magnetic"] == {"ok": 3}  # its own two, and the late one
    assert second.trained_on["magnetic"] == first.trained_on["magnetic"] + 3
    assert len(stores.all_labels("small", fidelity="magnetic")) == 5


def test_a_training_that_is_killed_goes_on_from_its_checkpoint(machine, submitted):
    """As Slurm does when the walltime is over: the whole job, without asking."""
    training = {"epochs": 600, "batch_size": 2}
    campaign, queue, stores = submitted(stop={"rounds": 1}, training=training, committee={"kind": "shallow"})
    logs = machine.folder / "work" / "gpu"

    def epochs() -> int:
        bring_and_tend(campaign, queue, stores)
        files = logs.rglob("training/*/member-0/log.csv")
        return max((len(file.read_text().splitlines()) - 1 for file in files), default=0)

    def written() -> int:
        """The epochs that are in the checkpoint."""
        return next(iter(logs.rglob("training/*/member-0/checkpoint.pt")), None) and epochs()

    done = until(written, "the training has written a checkpoint", 600, every=0.05)
    (training,) = [job for job in queue.jobs() if job.kind == "train"]
    machine.slurm.ask("scancel", str(queue.controller.get_job_info(db_id=training.db_id).remote.process_id))
    assert done < 600
    seen = []
    end = time.monotonic() + 600
    while queue.live() and time.monotonic() < end:
        seen.append(epochs())
        time.sleep(0.1)
    assert min(seen) > 0.8 * done  # begun anew, its log would be as short as it can be
    assert seen[-1] == 600
    (training,) = [job for job in queue.jobs() if job.kind == "train"]
    assert (training.state, training.attempts) == ("COMPLETED", 1)
    follow(campaign, queue, stores)
    assert len(stores.committee("small", 0).members[0].log) == 600
