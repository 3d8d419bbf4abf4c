"""Jobs whose uuid is the hash of what they compute, so that the JobStore is the memory of the campaign.

The flow is a pure function of the campaign file. Running it again makes the same jobs with the same uuids; a job whose
output is in the JobStore is not run again. There is no other restart logic.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import NAMESPACE_URL, uuid5

from jobflow import CURRENT_JOB, Job, JobConfig, JobStore, OnMissing, Response
from monty.json import jsanitize

logger = logging.getLogger("mfal.jobs")

What = Literal["started", "advanced", "finished", "kept", "failed"]
Kind = Literal["explore", "plan", "label", "score", "decide", "train", "evaluate"]


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


class CampaignJob(Job):
    """A job that tells what it does."""

    def run(self, store: JobStore, job_dir: Path | None = None) -> Response:
        tell("started", self)
        try:
            response = super().run(store, job_dir)
        except Exception as error:
            tell("failed", self, error=f"{type(error).__name__}: {error}")
            raise
        tell("finished", self, born=tuple(response.replace.jobs) if response.replace else ())
        return response


class ResumableJob(CampaignJob):
    """A job that is not run again when the store holds its output. Only for jobs that give birth to none."""

    def run(self, store: JobStore, job_dir: Path | None = None) -> Response:
        if store.count({"uuid": self.uuid, "index": self.index}):
            tell("kept", self)
            return Response()
        return super().run(store, job_dir)


def pinned(
    job: Job,
    *key: Any,
    kind: Kind,
    campaign: str,
    round: int,
    cls: type[CampaignJob] = ResumableJob,
    **metadata: Any,
) -> CampaignJob:
    """The job as a `cls`, under a uuid made of its kind and `key`: whatever decides what comes out, as JSON can say it.

    An input that is missing because a calculation was lost reaches the job as None; it never stops the campaign.
    """
    content = json.dumps([kind, *jsanitize(list(key), strict=True)], sort_keys=True)
    return cls(
        job.function,
        job.function_args,
        job.function_kwargs,
        output_schema=job.output_schema,
        uuid=str(uuid5(NAMESPACE_URL, content)),
        name=job.name,
        metadata={"kind": kind, "campaign": campaign, "round": round, **metadata},
        config=JobConfig(on_missing_references=OnMissing.NONE),
        **job._kwargs,
    )
