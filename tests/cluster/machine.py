"""A cluster in a folder: Slurm on one node, a MongoDB, a project of jobflow-remote and its runner.

    eval "$(python -m tests.cluster.machine start DIR)"  # all but the runner is up, and this shell finds it
    jf runner run                                        # or `python -m tests.cluster.machine start DIR --runner`
    python -m tests.cluster.machine stop DIR

    with Machine(folder) as machine, machine.entered(): ...  # in a test or a benchmark; the runner is machine.runner

Each part is a process of its own that can be killed and started again. It outlives the one that started it: what runs
is known by the files in DIR/pids. Several machines run side by side. Needs root, slurm-wlm and munge.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, ClassVar
from unittest.mock import patch

import yaml

if TYPE_CHECKING:
    from jobflow_remote.jobs.jobcontroller import JobController

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TEMPLATE = ROOT / "configs" / "jobflow-remote" / "single-machine.yaml"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
#: Also where only root's shell looks.
PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
#: Of the runner, in seconds: it looks once a second, and more often it cannot.
DELAYS = {
    "delay_checkout": 1,
    "delay_advance_status": 1,
    "delay_check_run_status": 1,
    "delay_update_batch": 1,
    "delay_refresh_limited": 5,
    "delay_ping_db": 5,
    "delta_retry": [1, 2, 5],
}
#: Seconds after which what should have happened will not. On a busy machine a job may take a minute to start.
PATIENCE = 300.0


class MachineError(RuntimeError):
    """A part of the machine does not do what it should; the message has the end of its log."""


def lacking() -> str:
    """Why no machine can be brought up here; empty if one can."""
    if missing := [program for program in PROGRAMS if not shutil.which(program, path=PATH)]:
        return (
            f"Slurm is not installed (no {', '.join(missing)}): apt-get install slurm-wlm munge, or make test-cluster"
        )
    return "" if os.geteuid() == 0 else "Slurm's daemons are started as root here, and this is not root"


def until(happened: Callable[[], Any], what: str, patience: float = PATIENCE, every: float = 0.1) -> Any:
    """Wait for it, and give what it gave.

    Raises:
        MachineError: it has not happened.
    """
    end = time.monotonic() + patience
    while True:
        if found := happened():
            return found
        if time.monotonic() > end:
            raise MachineError(f"not within {patience:.0f} s: {what}")
        time.sleep(every)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Part:
    """One process, known by a file with its number and when it started, so that any process can end it."""

    name: str
    command: list[str]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.folder / "logs" / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        """None if it does not run: never the number of a later process."""
        with suppress(OSError, ValueError):
            pid, started = (self.folder / "pids" / self.name).read_text().split()
            with suppress(ChildProcessError):
                os.waitpid(int(pid), os.WNOHANG)  # a child that is dead is no zombie then
            if _started(int(pid)) == started:
                return int(pid)
        return None

    def start(self) -> None:
        if self.pid:
            return
        for file in (self.log, self.folder / "pids" / self.name):
            file.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean_environment() | dict(self.environment),
                cwd=self.folder,
                start_new_session=True,  # a Ctrl-C is not for it
            )
        (self.folder / "pids" / self.name).write_text(f"{process.pid} {_started(process.pid)}")
        process.returncode = 0  # it is waited for in `pid`, and outlives this object without a warning

    def kill(self, what: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal; after a SIGKILL it is gone when this returns."""
        if pid := self.pid:
            os.kill(pid, what)
            if what == signal.SIGKILL:
                until(lambda: not self.pid, f"{self.name} ends after a SIGKILL")

    def stop(self, patience: float = 20.0) -> None:
        """As it would like to be stopped, and if it does not, not."""
        self.kill(signal.SIGTERM)
        end = time.monotonic() + patience
        while self.pid and time.monotonic() < end:
            time.sleep(0.05)
        self.kill()

    def freeze(self) -> None:
        """It hears nobody until `thaw`, as behind a network that is down."""
        self.kill(signal.SIGSTOP)

    def thaw(self) -> None:
        self.kill(signal.SIGCONT)

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else "(no log)"


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty for one that is a zombie."""
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return "" if state[0] in "ZX" else state[19]


def clean_environment() -> dict[str, str]:
    """Of this process, without what it says of another Slurm or project."""
    others = ("SLURM_", "SBATCH_", "JFREMOTE_")
    return {key: value for key, value in os.environ.items() if not key.startswith(others)} | {"PATH": PATH}


@dataclass
class Slurm:
    """One node with the partitions `cpu` and `gpu`, the latter with a GPU that is none."""

    folder: Path
    cpus: int = 4
    #: Whether Slurm itself starts a job again whose node has died, as it does where nobody says otherwise.
    requeue: bool = True

    host: ClassVar = socket.gethostname().partition(".")[0]

    def __post_init__(self) -> None:
        path = self.folder / "slurm.conf"
        self.environment = {"SLURM_CONF": str(path)}
        socket_, key = self.folder / "munge.socket", self.folder / "munge.key"
        munged = ["munged", "--foreground", "--force", f"--socket={socket_}", f"--key-file={key}"]
        munged += [f"--{kind}-file={self.folder}/munge.{kind}" for kind in ("pid", "log", "seed")]
        self.munged = Part("munged", munged, self.folder)
        self.controller = Part("slurmctld", ["slurmctld", "-D", "-f", str(path)], self.folder, self.environment)
        self.node = Part("slurmd", ["slurmd", "-D", "-f", str(path)], self.folder, self.environment)
        self.parts = (self.munged, self.controller, self.node)

    def start(self) -> None:
        """Start what does not run; the node is idle when this returns."""
        if not (self.folder / "slurm.conf").exists():
            self._write()
        for part in self.parts:
            part.start()
            if part is self.munged:
                until((self.folder / "munge.socket").exists, f"munged opens its socket\n{part.tail()}")
        self._ready()

    def _write(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(1024))
        # Slurm takes a device and no file; this one is /dev/null
        os.mknod(self.folder / "nvidia0", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        known = {"folder": self.folder, "host": self.host, "cpus": self.cpus}
        known |= {"requeue": int(self.requeue), "controller_port": free_port(), "node_port": free_port()}
        for name in ("gres.conf", "slurm.conf"):
            (self.folder / name).write_text(Template((HERE / name).read_text()).substitute(known))

    def _ready(self) -> None:
        def idle() -> bool:
            for part in self.parts:
                if not part.pid:
                    raise MachineError(f"{part.name} has ended:\n{part.tail()}")
            state = self.ask("sinfo", "--noheader", "--partition=cpu", "--format=%T").strip()
            if "drain" in state:  # a controller that was killed has found a job that it had not heard of
                self.ask("scontrol", "update", f"nodename={self.host}", "state=resume")
            return state in ("idle", "mixed", "allocated", "completing")

        until(idle, "Slurm's node is idle")

    def ask(self, *command: str) -> str:
        """What one of Slurm's commands prints; empty if it fails, as when the controller is not there."""
        environment = clean_environment() | self.environment
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE, check=False)
        return done.stdout if done.returncode == 0 else ""

    def queue(self) -> dict[str, str]:
        """The jobs that wait or run, by number: their states as squeue has them (`PENDING`, `RUNNING`)."""
        return dict(line.split() for line in self.ask("squeue", "--noheader", "--format=%A %T").splitlines())

    def cancel_all(self) -> None:
        if jobs := self.queue():
            self.ask("scancel", *jobs)
            until(lambda: not self.queue(), "Slurm's jobs are cancelled")

    def job_processes(self) -> list[int]:
        """All that Slurm's jobs are, their keepers (slurmstepd) included."""
        found = []
        ours = f"SLURM_CONF={self.environment['SLURM_CONF']}"
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                environment = (process / "environ").read_text(errors="replace").split("\0")
                keeper = (process / "comm").read_text().startswith("slurmstepd")
                if ours in environment and (keeper or any(entry.startswith("SLURM_JOB_ID=") for entry in environment)):
                    found.append(int(process.name))
        return found

    def kill_node(self, noticed: bool = True) -> None:
        """The power goes: slurmd and all that its jobs are end at once, and tell nobody.

        Args:
            noticed: Slurm is told that the node is down; else it hears of it when the node is back, or in five minutes.
        """
        self.node.kill()
        while jobs := self.job_processes():
            for pid in jobs:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        if noticed:
            self._down()

    def _down(self) -> None:
        self.ask("scontrol", "update", f"nodename={self.host}", "state=down", "reason=power")

    def start_node(self) -> None:
        """After a kill of slurmd alone its jobs are there. Where they are not, Slurm is told: of those that had just
        started it would take half an hour to see that they have gone."""
        if not self.node.pid and not self.job_processes():
            self._down()
        self.node.start()
        self._ready()

    def stop(self) -> None:
        """Jobs included."""
        if self.controller.pid and self.node.pid:
            self.cancel_all()
        for part in reversed(self.parts):
            part.stop()
        self.kill_node(noticed=False)


@dataclass
class Mongo:
    """The server that MONGO_URI names, else the stand-in, which knows all that it answered for when it is killed."""

    folder: Path
    given: str | None = field(default_factory=lambda: os.environ.get("MONGO_URI"))

    def __post_init__(self) -> None:
        port = self.folder / "mongo.port"
        if not self.given:
            if not port.exists():
                self.folder.mkdir(parents=True, exist_ok=True)
                port.write_text(str(free_port()))
            self.port = int(port.read_text())
        command = [sys.executable, str(ROOT / "tests" / "wire_server.py"), f"--port={'' if self.given else self.port}"]
        command.append(f"--data={self.folder / 'mongo.data'}")
        self.part = Part("mongo", command, self.folder)

    @property
    def uri(self) -> str:
        return self.given or f"mongodb://127.0.0.1:{self.port}"

    def start(self) -> None:
        if self.given:
            return
        self.part.start()

        def answers() -> bool:
            if not self.part.pid:
                raise MachineError(f"the stand-in of MongoDB has ended:\n{self.part.tail()}")
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
            return False

        until(answers, "the stand-in of MongoDB answers")

    def stop(self) -> None:
        self.part.stop()


@dataclass
class Machine:
    """All of it. The runner is started by who wants one: `machine.runner.start()`."""

    folder: Path
    name: str = "mfal"
    cpus: int = 4
    requeue: bool = True

    def __post_init__(self) -> None:
        self.folder = Path(self.folder).absolute()
        self.slurm = Slurm(self.folder / "slurm", self.cpus, self.requeue)
        self.mongo = Mongo(self.folder)
        self.projects = self.folder / "projects"
        # what a shell, the runner and a test need to find all this
        self.environment = {
            **self.slurm.environment,
            "JFREMOTE_PROJECTS_FOLDER": str(self.projects),
            "JFREMOTE_PROJECT": self.name,
            "JFREMOTE_CONFIG_FILE": str(self.projects / "none"),  # not what the user has in ~/.jfremote.yaml
        }
        programs = Path(sys.executable).parent
        # A process that does all, as `jf runner start --single` has one below its supervisor.
        command = [str(programs / "jf"), "runner", "run"]
        path = {"PATH": f"{programs}{os.pathsep}{PATH}"}
        self.runner = Part("runner", command, self.folder, self.environment | path)

    def start(self) -> None:
        """Bring up what does not run. The jobs of before are there, also after a kill of all of it."""
        if reason := lacking():
            raise MachineError(reason)
        self.slurm.start()
        self.mongo.start()
        if not (self.projects / f"{self.name}.yaml").exists():
            self._write_project()
        with self.entered():
            controller = self.controller()
            if not controller.auxiliary.find_one({"next_id": {"$exists": True}}):
                controller.reset(max_limit=0)
            controller.close()

    def _write_project(self) -> None:
        """The file that users copy, with a runner that does not wait and a database that nobody else has."""
        known = {"WORK_DIR": self.folder / "work", "VENV": sys.prefix, "MONGO_URI": self.mongo.uri}
        project = yaml.safe_load(Template(TEMPLATE.read_text()).substitute(known))
        project["name"] = self.name
        project["runner"] |= DELAYS
        project["workers"]["batch"]["batch"] |= {"max_wait": 5, "sleep_time": 0.2}
        database = f"mfal-test-{secrets.token_hex(6)}"
        stores = [project["queue"]["store"], project["jobstore"]["docs_store"]]
        for store in (*stores, *project["jobstore"]["additional_stores"].values()):
            store["database"] = database
        # what the tests define is found by the runner and on the node
        for worker in project["workers"].values():
            worker["pre_run"] += f"export PYTHONPATH={ROOT}:{ROOT / 'tests'}\n"
        self.projects.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.projects / f"{self.name}.yaml").write_text(yaml.safe_dump(project, sort_keys=False))

    @contextmanager
    def entered(self) -> Iterator[None]:
        """In it, this process finds the project and Slurm, as a shell with `environment` does."""
        from jobflow_remote import SETTINGS

        # jobflow-remote has looked at the environment when it was imported, and does not again
        settings = patch.multiple(SETTINGS, projects_folder=str(self.projects), project=self.name)
        with patch.dict(os.environ, self.environment), settings:
            yield

    def controller(self) -> JobController:
        """A new connection to the queue; only while `entered`."""
        from jobflow_remote.jobs.jobcontroller import JobController

        return JobController.from_project_name(self.name)

    def reset(self) -> None:
        """As new: no runner, nothing in Slurm, no jobs, no outputs, no files of jobs."""
        self.runner.kill()
        self.slurm.start()
        self.slurm.cancel_all()
        self.mongo.start()
        with self.entered():
            controller = self.controller()
            controller.reset(reset_output=True, max_limit=0)
            controller.close()
        shutil.rmtree(self.folder / "work", ignore_errors=True)

    def stop(self) -> None:
        """All of it, running jobs included; of a real MongoDB only the database of this machine is dropped."""
        self.runner.kill()
        if (self.projects / self.name / "daemon" / "supervisord.pid").exists():  # somebody has said `jf runner start`
            command = [self.runner.command[0], "runner", "shutdown", "--wait", "--max-wait", "30"]
            subprocess.run(
                command, env=clean_environment() | dict(self.runner.environment), capture_output=True, check=False
            )
        self.slurm.stop()
        if self.mongo.given and (self.projects / f"{self.name}.yaml").exists():
            with self.entered():
                controller = self.controller()
                controller.db.client.drop_database(controller.db.name)
                controller.close()
        self.mongo.stop()
        shutil.rmtree(self.projects, ignore_errors=True)

    def __enter__(self) -> Machine:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["start", "stop", "reset"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", default="mfal", help="of the project")
    parser.add_argument("--cpus", type=int, default=4, help="of the node, as Slurm sees it")
    parser.add_argument("--runner", action="store_true", help="start the runner, too")
    given = parser.parse_args()
    machine = Machine(given.folder, given.name, given.cpus)
    getattr(machine, given.what)()
    if given.what == "start":
        if given.runner:
            machine.runner.start()
        print("\n".join(f"export {key}={shlex.quote(value)}" for key, value in machine.environment.items()))
        print(f"# to stop it: {sys.executable} -m tests.cluster.machine stop {shlex.quote(str(machine.folder))}")


if __name__ == "__main__":
    try:
        main()
    except MachineError as error:
        sys.exit(str(error))
