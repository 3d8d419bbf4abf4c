"""The remote half of `benchmarks.overhead`: label jobs of mfal and plain jobs, through one runner to one worker."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING

import yaml
from jobflow import Flow
from jobflow_remote import submit_flow

from benchmarks.spent import in_turn, now, of_process, of_shell, run, shown, table, times
from benchmarks.work import CELL, NAME, Work, small_campaign
from flows.home import bring
from flows.queue import Queue
from flows.tend import tend
from mfal.cluster import Cluster
from stores.campaign import open_stores
from tests.cluster.machine import Machine, until

if TYPE_CHECKING:
    from jobflow_remote import JobController
    from rich.table import Table

WORKER, REPEATS = "cpu", 3
#: Seconds for a flow to end.
PATIENCE = 900.0
#: What a person writes who submits a job without mfal.
PLAIN_SUBMIT = """
from jobflow import Flow
from jobflow_remote import submit_flow
from pymatgen.core import Structure
from benchmarks.plain import look_up
submit_flow(Flow([look_up(Structure.from_file({cell!r}), "a", "b")]), worker={worker!r})
"""


@dataclass(frozen=True)
class Cost:
    """Of one job; CPU-seconds, if nothing else is said."""

    on_worker: float
    runner: float
    submission: float
    home: float  # results into the campaign's own store
    slurm: float
    database: float  # by the stand-in of MongoDB
    wall: float
    sent: float  # bytes

    @property
    def cpu(self) -> float:
        """Of what does not depend on which database there is."""
        return self.on_worker + self.runner + self.submission + self.home + self.slurm


ROWS = {
    "CPU, the job": "on_worker",
    "CPU, the runner": "runner",
    "CPU, submission": "submission",
    "CPU, results home": "home",
    "CPU, Slurm's daemons": "slurm",
    "CPU, all of these": "cpu",
    "CPU, the stand-in of MongoDB": "database",
    "wall": "wall",
}


@dataclass(frozen=True)
class Site:
    """A machine that says what its jobs cost, with its runner."""

    machine: Machine
    controller: JobController

    @property
    def times(self) -> Path:
        return self.machine.folder / "times"

    def cpu(self) -> dict[str, float]:
        """So far, of what runs all the time."""
        parts = {"runner": self.machine.runner, "database": self.machine.mongo.part}
        found = {name: of_process(part.pid) if part.pid else 0.0 for name, part in parts.items()}
        return found | {"slurm": sum(of_process(part.pid) for part in self.machine.slurm.parts if part.pid)}

    def clear(self) -> None:
        """As if nothing had been submitted."""
        for flow in self.controller.get_flows_info():
            self.controller.delete_flow(flow.flow_id, delete_output=True, delete_files=True)
        for file in self.times.iterdir():
            file.unlink()

    def cost(self, work: Work, ours: bool) -> Cost:
        """Submit the calculations and wait for their end."""
        before, began = self.cpu(), now()
        jobs = work.labels() if ours else work.plain()
        if ours:
            flow = Flow(jobs, name=NAME, metadata={"mfal": {"campaign": NAME}})
            self.controller.add_flow(flow, worker=WORKER)
        else:
            submit_flow(Flow(jobs), worker=WORKER)
        submission = (now() - began).cpu
        count, done = len(jobs), {"uuid": {"$in": [job.uuid for job in jobs]}, "state": "COMPLETED"}
        until(lambda: self.controller.count_jobs(done) == count, f"{count} jobs end", PATIENCE, 0.2)
        wall, after = (now() - began).wall, self.cpu()
        self.check(work, [job.uuid for job in jobs])
        found = Cost(
            on_worker=sum(of_shell(file.read_text()) for file in self.times.iterdir()) / count,
            submission=submission / count,
            home=self.home() / count if ours else 0.0,
            wall=wall / count,
            sent=mean(file.stat().st_size for file in self.machine.folder.glob("work/**/jfremote_in.json")),
            **{name: (after[name] - seconds) / count for name, seconds in before.items()},
        )
        self.clear()
        return found

    def check(self, work: Work, uuids: list[str]) -> None:
        """Raises SystemExit: the outputs are others."""
        found = sorted(self.controller.jobstore.get_output(uuid)["energy"] for uuid in uuids)
        if found != (expected := work.energies()) or len(found) != len(list(self.times.iterdir())):
            raise SystemExit(f"found {found} instead of {expected}, and {len(list(self.times.iterdir()))} times")

    def home(self) -> float:
        """CPU-seconds of what `mfal watch` does once the calculations are in."""
        with tempfile.TemporaryDirectory() as folder, open_stores(Path(folder), make=True) as stores:
            began = now()
            bring(stores, self.controller.jobstore, {"metadata.campaign": NAME})
            tend(Queue(self.controller, NAME), Cluster())
            return (now() - began).cpu


@contextmanager
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory() as folder, Machine(Path(folder), name="overhead") as machine:
        (Path(folder) / "times").mkdir()
        project = machine.projects / f"{machine.name}.yaml"
        tree = yaml.safe_load(project.read_text())
        tree["workers"][WORKER]["post_run"] = f"times > {folder}/times/$SLURM_JOB_ID"
        project.write_text(yaml.safe_dump(tree, sort_keys=False))
        with machine.entered():
            controller = machine.controller()
            yield Site(machine, controller)
            controller.close()


def tables(count: int) -> Iterator[Table]:
    with site() as place:
        yield table_of_submissions(place)
        place.machine.runner.start()
        with tempfile.TemporaryDirectory() as folder:
            yield table_of_jobs(place, Work.look_ups(count, Path(folder)))


def table_of_submissions(place: Site) -> Table:
    """While no runner takes up what is submitted."""
    folder = place.machine.folder
    file = folder / "campaign.yaml"
    cluster = {"jobs": {"default": {"worker": WORKER}}}
    file.write_text(yaml.safe_dump(small_campaign(folder, cluster=cluster).model_dump(mode="json")))
    peer = PLAIN_SUBMIT.format(cell=str(CELL), worker=WORKER)
    commands = {"jobflow-remote": ("-c", peer), "mfal submit": ("-m", "flows", "submit", str(file))}

    def submitted(*command: str) -> Callable[[], tuple[int, bool]]:
        ended = run(sys.executable, *command)

        def found() -> tuple[int, bool]:
            there = bool(place.controller.get_flows_info())
            place.clear()
            shutil.rmtree(folder / "run", ignore_errors=True)
            return ended(), there

        return found

    for command in commands.values():  # what is cached is in the cache
        submitted(*command)()
    contestants = {name: partial(submitted, *command) for name, command in commands.items()}
    taken = in_turn(contestants, REPEATS, (0, True))
    found = table("From a shell, to submit the first jobs of a campaign, or one plain job", "", *taken, "ratio")
    for kind in ("cpu", "wall"):
        peers, ours = (getattr(one, kind) for one in taken.values())
        found.add_row("CPU" if kind == "cpu" else kind, shown(peers), shown(ours), times(ours, peers))
    return found


def table_of_jobs(place: Site, work: Work) -> Table:
    one, count = Work(work.engine, work.frames[:1]), len(work.frames)
    place.cost(one, False)
    costs: dict[tuple[int, bool], list[Cost]] = defaultdict(list)
    for _ in range(REPEATS):
        for some in (work, one):
            for ours in (False, True):
                costs[len(some.frames), ours].append(place.cost(some, ours))

    def row(what: str, field: str, jobs: int, show: Callable[[float], str] = shown) -> list[str]:
        peers, ours = (median(getattr(cost, field) for cost in costs[jobs, who]) for who in (False, True))
        return [what, str(jobs), show(peers), show(ours), show(ours - peers), times(ours, peers)]

    found = table("On the queue: one job of so many", "", "of", "jobflow-remote", "mfal", "more", "ratio")
    for what, field in ROWS.items():
        found.add_row(*row(what, field, count))
    found.add_row(*row("wall, until it is completed", "wall", 1))
    found.add_row(*row("sent to the worker", "sent", count, lambda size: f"{size / 1e3:.1f} kB"))
    return found
