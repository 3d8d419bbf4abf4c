"""Whether a project of jobflow-remote has what a campaign asks for, before anything is sent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args

from pydantic import TypeAdapter

from mfal.cluster import JobKind, Place
from mfal.config import Campaign
from mfal.dft.engines import Table

if TYPE_CHECKING:
    from jobflow_remote.config.base import Project


def problems(campaign: Campaign, project: Project) -> list[str]:
    """A line for each thing that is missing, or that a scheduler would refuse."""
    if isinstance(campaign.engine, Table):
        return [
            "engine.kind = table: looks labels up in a file that workers do not have: 'mfal run' does it in minutes"
        ]
    found = []
    if "data" not in (stores := project.get_jobstore().additional_stores):
        has = f"has {', '.join(stores)}" if stores else "has none"
        found.append(f"project {project.name}: the jobstore needs an additional store called data, and {has}")
    if not project.workers:
        return [*found, f"project {project.name}: has no worker: see docs/cluster.md"]
    asked: dict[tuple[str, str], list[str]] = defaultdict(list)
    for kind in get_args(JobKind):
        if kind == "default" or not (place := campaign.cluster.place(kind)):
            continue
        said = kind if kind in campaign.cluster.jobs else "default"
        for line in _refusals(place, project, campaign.engine.cores if "magnetic" in kind else 1):
            asked[said, line].append(kind)
    return found + [f"cluster.jobs.{said}{line}" for said, line in asked]


def _refusals(place: Place, project: Project, cores: int) -> Iterator[str]:
    from qtoolkit.core.data_objects import QResources

    if place.exec_config and place.exec_config not in project.exec_config:
        yield f".exec_config = {place.exec_config!r}: project {project.name} has {_names(project.exec_config)}"
    if place.worker not in project.workers:
        yield f".worker = {place.worker!r}: project {project.name} has {_names(project.workers)}"
        return
    worker = project.workers[place.worker]
    resources = worker.resources or {} if place.resources is None else place.resources
    scheduler = worker.get_scheduler_io()
    try:
        # jobflow-remote takes names that qtoolkit knows for all schedulers (processes), or the scheduler's own (ntasks)
        options = TypeAdapter(QResources | dict).validate_python(dict(resources))
        script = scheduler.get_submission_script(["true"], options)
    except Exception as error:  # each scheduler has its own
        yield f".resources = {resources}: {error}"
        return
    tasks = resources.get("ntasks")
    if tasks is not None and int(tasks) * int(resources.get("cpus_per_task") or 1) < cores:
        yield f".resources: ntasks = {tasks} for a calculation on {cores} cores (engine): ask for as many"
    if worker.scheduler_type == "slurm":
        host = worker.get_host()
        try:
            host.connect()
            # Slurm itself is asked, and submits nothing.
            out, err, code = host.execute(f"sbatch --test-only <<'MFAL'\n{script}\nMFAL")
        except Exception as error:
            yield f".worker = {place.worker!r}: cannot be reached ({type(error).__name__}): try 'jf project check'"
            return
        finally:
            host.close()
        if code:
            yield f".resources = {resources}: Slurm says: {(err or out).strip().splitlines()[-1]}"


def _names(known: dict[str, object]) -> str:
    return ", ".join(sorted(known)) if known else "none"
