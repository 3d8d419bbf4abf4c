"""Jobs whose uuid is the hash of what they compute, so that the JobStore is the memory of the campaign.

The flow is a pure function of the campaign file. Running it again makes the same jobs with the same uuids; a job whose
output is in the JobStore is not run again, but gives birth to the same jobs. There is no other restart logic.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, Literal
from uuid import NAMESPACE_URL, uuid5

from jobflow import CURRENT_JOB, Flow, Job, JobConfig, JobStore, OnMissing, Response
from jobflow import job as jobflow_job
from jobflow.core.reference import find_and_resolve_references
from monty.json import jsanitize

from mfal.cluster import Place

logger = logging.getLogger("mfal.jobs")

What = Literal["started", "advanced", "finished", "kept", "failed"]
Kind = Literal["explore", "label", "score", "decide", "train", "evaluate"]


@dataclass(frozen=True)
class Event:
    """What a job of the campaign just did; sent as the `event` of a log record of `mfal.jobs`."""

    what: What
    job: Job
    born: tuple[Job, ...] = ()
    error: str = ""
    done: int = 0
    of: int = 0


def tell(what: What, job: Job, **details: Any) -> None:
    logger.info("%s %s", what, job.name, extra={"event": Event(what, job, **details)})


def advance(done: int, of: int) -> None:
    """How far the job that runs now has come."""
    tell("advanced", CURRENT_JOB.job, done=done, of=of)


def campaign_job(*, then: Callable[..., Sequence[Job]] | None = None, **saved: str) -> Callable[[Callable], Callable]:
    """jobflow's `job` for what a campaign does: it notes where it ran, and gives birth to what follows from it.

    Args:
        then: takes the output, the job's uuid and, by their names, any arguments of the job; returns the jobs that
            follow. Pure and cheap, as a restart calls it again.
        saved: parts of the output that go to the blob store, as for `jobflow.job`.
    """

    def decorate(function: Callable) -> Callable:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            CURRENT_JOB.job.metadata["ran"] = here()
            output = function(*args, **kwargs)
            if then is None or isinstance(output, Response):
                return output
            given = _wanted(then, function, args, kwargs)
            return Response(output=output, addition=_births(then, output, CURRENT_JOB.job.uuid, given))

        run.then = then  # type: ignore[attr-defined]
        return jobflow_job(run, **saved)

    return decorate


def _wanted(
    then: Callable[..., Sequence[Job]], function: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Those of a job's arguments that what follows from it wants to know."""
    given = signature(function).bind(*args, **kwargs).arguments
    return {name: given[name] for name in list(signature(then).parameters)[2:]}


def _births(then: Callable[..., Sequence[Job]], output: Any, uuid: str, arguments: Mapping[str, Any]) -> Flow | None:
    jobs = list(then(output, uuid, **arguments))
    for job in jobs:
        job.metadata["born_of"] = uuid
    return BornFlow(jobs) if jobs else None


def here() -> dict[str, Any]:
    """Where this process runs, as far as it can know."""
    found: dict[str, Any] = {"host": socket.gethostname()}
    scheduler = {"SLURM_JOB_ID": "slurm_job", "SLURM_JOB_PARTITION": "partition", "CUDA_VISIBLE_DEVICES": "gpu"}
    found |= {name: os.environ[variable] for variable, name in scheduler.items() if os.environ.get(variable)}
    if remote := sys.modules.get("jobflow_remote.jobs.run"):  # this job came through a queue
        document = remote.JfrState().job_doc
        found |= {"worker": document.worker, "folder": os.getcwd()} if document else {}
    return found


class BornFlow(Flow):
    """A flow whose references to finished jobs outside it are meant: jobflow lets a flow that is submitted have them,
    and refuses them in one that is born."""

    @property
    def job_uuids(self) -> tuple[str, ...]:
        return (*super().job_uuids, *{uuid for job in self.jobs for uuid in job.input_uuids})

    def as_dict(self) -> dict[str, Any]:
        # jobflow-remote knows flows by the name of their class.
        return super().as_dict() | {"@module": Flow.__module__, "@class": Flow.__name__}


class ResumableJob(Job):
    """A job that tells what it does, and is not run again when the store holds its output."""

    def run(self, store: JobStore, job_dir: Path | None = None) -> Response:
        if self.is_kept(store):
            born = followers(self, store)
            tell("kept", self, born=tuple(born.jobs) if born else ())
            return Response(addition=born)
        tell("started", self)
        try:
            response = super().run(store, job_dir)
        except Exception as error:
            tell("failed", self, error=f"{type(error).__name__}: {error}")
            raise
        tell("finished", self, born=tuple(response.addition.jobs) if response.addition else ())
        return response

    def is_kept(self, store: JobStore) -> bool:
        # A job that replaced itself by another of the same uuid has put out None.
        return store.count({"uuid": self.uuid, "output": {"$ne": None}}) > 0


def followers(job: Job, store: JobStore) -> Flow | None:
    """The jobs that a job gave birth to when it was run; its output is in the store."""
    function = getattr(job.function, "original", job.function)
    if (then := getattr(function, "then", None)) is None:
        return None
    wanted = _wanted(then, function, job.function_args, job.function_kwargs)
    output, arguments = find_and_resolve_references([job.output, wanted], store, on_missing=OnMissing.NONE)
    return _births(then, output, job.uuid, arguments)


def pinned(
    job: Job,
    *key: Any,
    kind: Kind,
    campaign: str,
    round: int,
    cls: type[ResumableJob] = ResumableJob,
    place: Place | None = None,
    missing: OnMissing = OnMissing.ERROR,
    **metadata: Any,
) -> ResumableJob:
    """The job as a `cls`, under a uuid made of its kind and `key`: whatever decides what comes out, as JSON can say it.

    Args:
        place: in a queue; of its own, so that what it gives birth to does not inherit it.
        missing: what becomes of inputs that are not there. By default a queue holds the job back when one is lost.
    """
    content = json.dumps([kind, *jsanitize(list(key), strict=True)], sort_keys=True)
    return cls(
        job.function,
        job.function_args,
        job.function_kwargs,
        output_schema=job.output_schema,
        uuid=str(uuid5(NAMESPACE_URL, content)),
        name=job.name,
        metadata={"kind": kind, "campaign": campaign, "round": round, "born_of": None, **metadata},
        config=JobConfig(
            on_missing_references=missing,
            manager_config=place.model_dump(exclude_none=True) if place else {},
            pass_manager_config=False,
        ),
        **job._kwargs,
    )
