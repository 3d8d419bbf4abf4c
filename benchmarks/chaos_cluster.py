"""A cluster in a folder with small campaigns on it, and all that can be done to it (for benchmarks/chaos.py)."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from pymongo.errors import PyMongoError

from benchmarks import ledger
from benchmarks.chaos_seen import Kill, Observer, Small
from mfal.config_file import load
from stores.campaign import open_stores
from tests.cluster.machine import ROOT, Machine, Part

#: By kind, what the table calls it.
KINDS = {
    "runner": "the runner",
    "job": "a job",
    "slurmd": "slurmd, its jobs go on",
    "node": "slurmd and all its jobs",
    "database": "the Mongo server",
    "watch": "`mfal watch`",
    "disk": "the disk is full",
    "output": "an output is cut off",
}
#: Campaigns at once, and the minutes in which each must have ended after the last kill.
AT_ONCE, PATIENCE = 2, 15
#: Of the disk that all jobs write to, and that is filled.
DISK = 1 << 30
#: Seconds that a campaign says it needs somebody before somebody comes.
PERSON = 10.0
#: The runner waits two minutes after the database was away; here it does not.
RUNNER = """
import sys
import jobflow_remote.jobs.runner as runner
from jobflow_remote.cli.jf import app
safe = runner.SafeScheduler
runner.SafeScheduler = lambda seconds_after_failure: safe(seconds_after_failure=3)
sys.argv = ["jf", "runner", "run"]
app()
"""
WATCH = "from pathlib import Path; from benchmarks.chaos_cluster import look_after; look_after(Path({!r}))"
FORKED = f"{sys.executable} -I -S {ROOT}/benchmarks/forked.py"


@dataclass
class World:
    """The cluster with what is to be killed in it."""

    machine: Machine
    folder: Path
    draw: random.Random
    observer: Observer
    say: Callable[[str], None]
    forks: Path
    live: list[Small] = field(default_factory=list)
    over: list[Small] = field(default_factory=list)
    released: int = 0  # jobs, by hand

    def __post_init__(self) -> None:
        self.ledger = self.folder / "ledger.jsonl"
        self.work = self.machine.folder / "work"
        campaigns = self.folder / "campaigns"
        environment = self.machine.environment | {"PYTHONPATH": str(ROOT)}
        self.machine.runner = Part("runner", [sys.executable, "-c", RUNNER], self.machine.folder, environment)
        self.watch = Part(
            "watch", [sys.executable, "-c", WATCH.format(str(campaigns))], self.machine.folder, environment
        )
        self.parts = {"runner": self.machine.runner, "watch": self.watch}
        if not self.machine.mongo.given:
            self.parts["database"] = self.machine.mongo.part

    def configure(self) -> None:
        """Jobs write down what they calculate, and keep on the same disk what they were sent."""
        path = self.machine.projects / f"{self.machine.name}.yaml"
        project = yaml.safe_load(path.read_text())
        del project["workers"]["batch"]
        for worker in project["workers"].values():
            worker["execution_cmd"] = f"{FORKED} {self.forks} benchmarks.ledger {self.ledger} job {{}}"
            worker["pre_run"] += f"export MFAL_CACHE={self.work}/kept\n"
        path.write_text(yaml.safe_dump(project))

    # Campaigns

    def begin(self, number: int, seed: int) -> None:
        from flows.queue import Queue
        from flows.send import send

        cluster = {"project": self.machine.name, "stale": 1.5, "wait": 1.0}
        cluster["jobs"] = {"default": {"worker": "cpu"}, "train": {"worker": "gpu"}}
        small = Small.made(self.folder / "campaigns", f"cluster-{number}", seed, cluster=cluster)
        with open_stores(small.campaign, make=True) as stores:
            send(small.campaign, Queue.of(small.campaign), stores)
        self.observer.stores[small.name] = lambda: open_stores(small.campaign).jobs
        self.live.append(small)
        self.say(f"{small.name} is in the queue")

    def look(self) -> None:
        """Which campaigns have ended; what died by itself is started again, too."""
        for name, part in self.parts.items():
            if not part.pid:
                self.say(f"{name} had ended by itself: {part.tail()[-300:]}")
                part.start()
        for number in self._held():
            self.machine.slurm.ask("scontrol", "release", number)
            self.released += 1
            self.say(f"Slurm held a job back whose launch a dying node had cut off: scontrol release {number}")
        for small in list(self.live):
            if small.is_done():
                small.ended = time.time()
                self.live.remove(small)
                self.over.append(small)
                self.say(f"{small.name} has ended after {small.ended - small.begun:.0f} s")

    def _held(self) -> list[str]:
        """Jobs that wait for a person, as Slurm has it when a node dies while it starts them."""
        listed = self.machine.slurm.ask("squeue", "--noheader", "--format=%A %r").splitlines()
        return [line.split()[0] for line in listed if "requeued held" in line]

    # Kills

    def strike(self, kind: str) -> Kill | None:
        """Do it, and bring it back; None if there was nothing that it could hit."""
        act: Callable[[], tuple[str, str | None] | None] = getattr(self, f"_{kind}")
        self._wait_for_a_moment(kind)
        hit = tuple(small.name for small in self.live)
        before = time.time()
        if not hit or (done := act()) is None:
            return None
        how, job = done
        kill = Kill(kind, hit, self._struck, how, job)
        self.say(f"{KINDS[kind]}: {how} ({time.time() - before:.1f} s)")
        return kill

    def _wait_for_a_moment(self, kind: str) -> None:
        """Any, or when something that a job has put out is on its way through runner, database and watch; for slurmd,
        when a job has started."""
        time.sleep(self.draw.uniform(0, 5))
        if kind in ("slurmd", "node"):
            self._next_line("starts", patience=20)
            time.sleep(self.draw.uniform(0, 1))
        elif self.draw.random() < 0.6:
            self._next_line("out", patience=15)
            time.sleep(self.draw.uniform(0, 2.5))
        self._struck = time.time()

    def _next_line(self, *what: str, patience: float) -> ledger.Line | None:
        """The next that a job writes down."""
        end, seen = time.time() + patience, len(ledger.read(self.ledger))
        while time.time() < end:
            for line in ledger.read(self.ledger)[seen:]:
                if line.what in what:
                    return line
            time.sleep(0.01)
        return None

    def _down(self) -> None:
        time.sleep(self.draw.uniform(0, 5))

    def _killed(self, part: Part) -> tuple[str, None]:
        part.kill()
        self._down()
        part.start()
        return "killed", None

    def _runner(self) -> tuple[str, None]:
        return self._killed(self.machine.runner)

    def _watch(self) -> tuple[str, None]:
        return self._killed(self.watch)

    def _database(self) -> tuple[str, None] | None:
        if self.machine.mongo.given:
            return None
        done = self._killed(self.machine.mongo.part)
        self.machine.mongo.start()
        return done

    def _slurmd(self) -> tuple[str, None]:
        jobs = self._jobs()
        self.machine.slurm.node.kill()
        self._down()
        self.machine.slurm.start_node()
        return f"killed beside {len(jobs)} jobs", None

    def _node(self) -> tuple[str, None]:
        noticed = self.draw.random() < 0.5
        jobs = self._jobs()
        self.machine.slurm.node.kill()
        for pid in jobs:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.machine.slurm.kill_node(noticed)
        self._down()
        self.machine.slurm.start_node()
        return f"killed with {len(jobs)} jobs, {'noticed' if noticed else 'not noticed'} by Slurm", None

    def _jobs(self) -> dict[int, Path]:
        """The processes that run jobs, and the folders of these."""
        found = {}
        for line in ledger.read(self.ledger):
            if line.what == "starts":
                found[line.pid] = Path(line.folder)
            elif line.what == "out":
                found.pop(line.pid, None)
        return {pid: folder for pid, folder in found.items() if Path(f"/proc/{pid}").exists()}

    def _job(self) -> tuple[str, str] | None:
        """At any moment of its life, or within its calculation, or when the label is on the disk and nobody knows."""
        when = self.draw.choice(["any", "begins", "kept"])
        if when != "any":
            line = self._next_line(when, patience=20)
            if line is None:
                return None
            time.sleep(self.draw.choice([0, self.draw.uniform(0, 0.5)]))
            pid = line.pid
        elif jobs := self._jobs():
            pid = self.draw.choice(sorted(jobs))
        else:
            return None
        if not (folder := self._jobs().get(pid)):
            return None
        self._struck = time.time()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return f"killed, {when}: {uuid_of(folder)}", uuid_of(folder)
        return None

    def _disk(self) -> tuple[str, None] | None:
        ballast = self.work / "ballast"
        try:
            with ballast.open("wb", buffering=0) as file:
                for size in (1 << 20, 1 << 12):
                    with suppress(OSError):
                        while file.write(bytes(size)) == size:
                            pass
                seconds = self.draw.uniform(2, 12)
                time.sleep(seconds)
        finally:
            ballast.unlink()
        return f"for {seconds:.0f} s", None

    def _output(self) -> tuple[str, str] | None:
        """Between the end of a job and the runner, which is held meanwhile."""
        if not self._jobs():
            return None
        self.machine.runner.freeze()
        try:
            line = self._next_line("out", patience=12)  # less than after which its locks count as those of the dead
            if line is None:
                return None
            self._struck = time.time()
            folder = Path(line.folder)
            files = [folder / "jfremote_out.json", folder / "remote_job_data.json"]
            files += [file for file in folder.glob("additional_store_*.json") if file.stat().st_size > 2]
            cut = [self.draw.choice(files)]
            labels = list(folder.glob("*/label.json"))
            if labels and self.draw.random() < 0.5:
                cut.append(labels[0])
            for file in cut:
                os.truncate(file, self.draw.randrange(file.stat().st_size))
                if file in labels:
                    ledger.note(self.ledger, "cut", file.parent)
            return f"{', '.join(file.name for file in cut)} of {uuid_of(folder)}", uuid_of(folder)
        finally:
            self.machine.runner.thaw()


@contextmanager
def cluster(
    folder: Path, draw: random.Random, observer: Observer, say: Callable[[str], None], forks: Path
) -> Iterator[World]:
    machine = Machine(folder / "machine", cpus=3)
    work = machine.folder / "work"
    work.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(work)], check=True)
    try:
        with machine, machine.entered():
            world = World(machine, folder, draw, observer, say, forks)
            world.configure()
            controller = machine.controller()
            observer.stores["project"] = lambda: machine.controller().jobstore
            controller.close()
            world.machine.runner.start()
            world.watch.start()
            try:
                yield world
            finally:
                world.watch.kill()
    finally:
        kept = folder / "work"
        shutil.copytree(work, kept, symlinks=True, dirs_exist_ok=True)  # it goes with its mount
        subprocess.run(["umount", "--lazy", str(work)], check=True)


def on_the_cluster(world: World, kills: int, told: Callable[[Kill], None]) -> None:
    """So many kills, and then until all campaigns have ended."""
    waiting: list[str] = []
    number = done = 0
    last = time.time()
    while done < kills or (world.live and time.time() - last < PATIENCE * 60):
        world.look()
        while done < kills and len(world.live) < AT_ONCE:
            world.begin(number, world.draw.randrange(10**6))
            number += 1
        if done == kills:
            time.sleep(1)
            continue
        if not waiting:
            waiting = world.draw.sample(sorted(KINDS), len(KINDS))
        for kind in list(waiting):
            if kill := world.strike(kind):
                waiting.remove(kind)
                done, last = done + 1, time.time()
                told(kill)
                break
            if kind == "database" and world.machine.mongo.given:
                waiting.remove(kind)


def bring_all(world: World) -> None:
    """What the next `mfal watch` would: labels that came in after a campaign had ended."""
    from flows import home
    from flows.queue import Queue

    world.watch.kill()
    for small in world.over:
        with open_stores(small.campaign) as stores:
            home.bring(stores, Queue.of(small.campaign).controller.jobstore, home.outputs_of(small.campaign))


def look_after(folder: Path) -> None:
    """What `mfal watch` does, for all campaigns of a folder, and what a person does who is asked for 'mfal retry'. In a
    process of its own, until it is killed."""
    from flows import home, tend
    from flows.queue import Queue

    tend.PAUSE = timedelta(seconds=2)
    opened: dict[Path, Any] = {}
    asked: dict[Path, float] = {}
    while True:
        for file in sorted(folder.glob("*.yaml")):
            try:
                if file not in opened:
                    campaign = load(file)
                    opened[file] = campaign, Queue.of(campaign), open_stores(campaign, make=True)
                campaign, queue, stores = opened[file]
                told = tend.tend(queue, campaign.cluster)
                home.bring(stores, queue.controller.jobstore, home.outputs_of(campaign))
                if not any("mfal retry" in line for line in told):
                    asked.pop(file, None)
                elif time.time() - asked.setdefault(file, time.time()) > PERSON:
                    told.append(f"by hand: mfal retry: {queue.retry()} jobs")
                    del asked[file]
            except PyMongoError as error:
                told = [f"the database does not answer ({type(error).__name__})"]
            except Exception:
                told = ["ERROR " + traceback.format_exc()]
            for line in told:
                print(f"{datetime.now():%H:%M:%S} {file.stem}: {line}", flush=True)
        time.sleep(1)


def uuid_of(folder: Path) -> str:
    return folder.name.rpartition("_")[0]
