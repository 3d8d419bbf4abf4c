"""A project of jobflow-remote for tests, on the shell of this machine, and small jobs that look like a campaign's.

The jobs are imported where they run: what is slow to import is imported where it is needed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid5

import yaml
from jobflow import CURRENT_JOB, Flow, Job, JobConfig, OnMissing, Response, job
from pymongo.collection import Collection

CAMPAIGN, PROJECT = "small", "mfal-test"
HERE = Path(__file__).parent
#: Starts in half the time that jobflow-remote's own command needs, and is the process that is killed for it: else that
#: is the shell, and what it has started runs on.
RUN = f"exec {sys.executable} -c 'from jobflow_remote.jobs.run import run_remote_job as run; run(\"{{}}\")'"
ENVIRONMENT = f"export PYTHONPATH={HERE}:{HERE.parent} OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE"


def project_file(folder: Path, uri: str, **changes: Any) -> Path:
    """The YAML of a project with a worker `local`, all of it in this folder and in this database."""
    where = {"type": "MongoStore", "host": uri, "database": urlsplit(uri).path.strip("/")}
    work, projects = folder / "work", folder / "projects"
    work.mkdir(exist_ok=True)
    projects.mkdir(exist_ok=True)
    worker = {"type": "local", "scheduler_type": "shell", "work_dir": str(work)}
    worker |= {"execution_cmd": RUN, "pre_run": ENVIRONMENT}
    project = {
        "name": PROJECT,
        "workers": {"local": worker},
        "queue": {"store": where | {"collection_name": "jobs"}},
        "jobstore": {
            "docs_store": where | {"collection_name": "job_outputs"},
            "additional_stores": {"data": where | {"type": "GridFSStore", "collection_name": "job_blobs"}},
        },
        "runner": {"delay_checkout": 1, "delay_check_run_status": 1, "delay_advance_status": 1, "delta_retry": [1]},
    }
    path = projects / f"{PROJECT}.yaml"
    path.write_text(yaml.safe_dump(project | changes))
    return path


def set_up(folder: Path, uri: str, monkeypatch: Any, **changes: Any) -> Any:
    """Such a project, where this process and those that it starts look for projects; its JobController."""
    import jobflow_remote
    import jobflow_remote.jobs.runner

    projects = project_file(folder, uri, **changes).parent
    for name, value in (("projects_folder", str(projects)), ("project", PROJECT)):
        monkeypatch.setenv(f"JFREMOTE_{name.upper()}", value)
        monkeypatch.setattr(jobflow_remote.SETTINGS, name, value)  # was read when it was imported
    # A Runner silences the loggers of its process: those of mfal, too, for the tests that follow.
    monkeypatch.setattr(jobflow_remote.jobs.runner, "initialize_runner_logger", lambda **_: None)
    controller = jobflow_remote.JobController.from_project_name(PROJECT)
    controller.reset(max_limit=0)
    return controller


def run(seconds: float = 60) -> None:
    """A runner in this process, until there is nothing that it can do."""
    from jobflow_remote.jobs.runner import Runner

    runner, end = Runner(project_name=PROJECT), time.monotonic() + seconds
    steps = ["CHECKED_OUT", "UPLOADED", "RUN_FINISHED", "DOWNLOADED"]
    busy = {"state": {"$in": [*steps, "READY", "SUBMITTED", "RUNNING"]}, "lock_id": None}
    while runner.job_controller.count_jobs(busy):
        assert time.monotonic() < end, "the jobs did not end"
        runner.checkout()
        runner.advance_state(steps)
        runner.check_run_status()
        time.sleep(0.05)
    runner.job_controller.close()


def run_until_killed(moment: str) -> None:
    """A runner in a process of its own, killed by SIGKILL while it completes a job that gives birth to others.

    Args:
        moment: when it has written the births into the flow's document (`noted`), then some of their own (`partly`),
            then all (`born`), then that their parent is completed (`completed`), then which are ready (`released`).
    """
    child = os.fork()
    if child:
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), f"nothing was {moment}"
        return
    try:
        _die(moment)
        run()
    finally:
        os._exit(1)


def _die(moment: str) -> None:
    from jobflow_remote import JobController

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    insert, update = Collection.insert_many, Collection.update_one

    def insert_many(self: Collection, documents: list[Any], *args: Any, **kwargs: Any) -> Any:
        if self.name == "jobs" and moment == "noted":
            kill()
        if self.name == "jobs" and moment == "partly":
            insert(self, documents[:-1])
            kill()
        return insert(self, documents, *args, **kwargs)

    def update_one(self: Collection, criteria: Any, change: Any, *args: Any, **kwargs: Any) -> Any:
        completes = self.name == "jobs" and isinstance(change, dict) and change["$set"].get("state") == "COMPLETED"
        if completes and moment == "born":
            kill()
        done = update(self, criteria, change, *args, **kwargs)
        if completes and moment == "completed":
            kill()
        return done

    Collection.insert_many, Collection.update_one = insert_many, update_one
    if moment == "released":
        JobController.update_flow_state = lambda *_, **__: kill()


# Jobs


def made(kind: str, name: str, work: Job, round: int = 0, missing: OnMissing = OnMissing.ERROR, **metadata: Any) -> Job:
    """The job as a campaign makes its own."""
    born_of = CURRENT_JOB.job.uuid if CURRENT_JOB.job else None
    work.set_uuid(uid(name))
    work.name = name
    work.metadata = {"kind": kind, "campaign": CAMPAIGN, "round": round, "born_of": born_of, **metadata}
    work.config = JobConfig(on_missing_references=missing, pass_manager_config=False)
    return work


def uid(name: str) -> str:
    return str(uuid5(NAMESPACE_URL, name))


def label(name: str, log: Path | str, fidelity: str = "magnetic", round: int = 0, **how: Any) -> Job:
    return made("label", name, work(str(log), name, **how), round, fidelity=fidelity, frame_id=f"f-{name}")


def submit(controller: Any, jobs: list[Job]) -> str:
    """The jobs as a campaign's flow; its uuid."""
    flow = Flow(jobs, name=CAMPAIGN, metadata={"mfal": {"campaign": CAMPAIGN}})
    controller.add_flow(flow, worker="local")
    return flow.uuid


def ran(log: Path) -> Counter[str]:
    """How often each job was run."""
    return Counter(log.read_text().split("\n")[:-1]) if log.exists() else Counter()


@job
def work(log: str, name: str, inputs: Any = None, deaths: int = 0, seconds: float = 0) -> dict[str, Any]:
    """Writes down that it runs, and dies as often as asked; a file in its folder counts how often it has."""
    with open(log, "a") as lines:
        lines.write(f"{name}\n")
    with open("tries", "a") as tries:
        tries.write("x")
    count = len(Path("tries").read_text())
    if count <= deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(seconds)
    return {"name": name, "try": count, "inputs": inputs}


@job
def parent(log: str, name: str, labels: int = 2, deaths: int = 0) -> Response:
    """Gives birth to labels, of which the first dies as often as asked, and to what waits for them."""
    work.original(log, name)
    born = [label(f"{name}-{i}", log, deaths=deaths if i == 0 else 0) for i in range(labels)]
    inputs = [one.output for one in born]
    train = made("train", f"{name}-train", work(log, f"{name}-train", inputs))
    evaluate = made("evaluate", f"{name}-evaluate", work(log, f"{name}-evaluate", [*inputs, train.output]))
    return Response(output=name, addition=Flow([*born, train, evaluate]))


@job
def replaced(log: str, name: str, again: bool = False) -> Any:
    """Replaces itself once."""
    work.original(log, f"{name}-{2 if again else 1}")
    if again:
        return name
    now = CURRENT_JOB.job
    other = Job(now.function, (log, name), {"again": True}, uuid=now.uuid, index=2, name=name, config=now.config)
    other.metadata = now.metadata | {"born_of": now.uuid}
    return Response(replace=Flow([other]))


@job(data="large")
def stored(log: str, name: str, after: Any = None, children: int = 0) -> Any:
    """Puts out something that goes to the blob store."""
    work.original(log, name, after)
    output = {"large": [name] * 100, "frames": []}
    born = [made("explore", f"{name}-{i}", work(log, f"{name}-{i}")) for i in range(children)]
    return Response(output=output, addition=Flow(born)) if born else output
