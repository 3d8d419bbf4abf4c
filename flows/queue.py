"""A campaign in the queue of jobflow-remote: where each of its jobs is, and what a person may do with them all.

Runners, and others like this, write to the same documents at the same time. So nothing is read, changed and written
back: a write says in which state the document must still be, and can be repeated after any interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pymongo
from bson.codec_options import CodecOptions
from pymongo.errors import PyMongoError

from mfal.config import Campaign
from mfal.config_file import ConfigError
from stores.collection import pick
from stores.connect import PATIENCE

if TYPE_CHECKING:
    from jobflow_remote import JobController

Flow = Mapping[str, Any]

AWARE: CodecOptions = CodecOptions(tz_aware=True)
#: States of jobs that no runner has taken up; that were killed or lost; that are done with.
WAITING, FAILED = ("WAITING", "READY", "PAUSED"), ("FAILED", "REMOTE_ERROR")
STOPPED = ("STOPPED", "USER_STOPPED")
ENDED = ("COMPLETED", *STOPPED)
#: Where a job's document has the fields of `Job`. What it computes is never read: that may be large.
FIELDS = {name: name for name in ("uuid", "index", "db_id", "state", "worker", "parents", "error")}
FIELDS |= {"previous": "previous_state", "created": "created_on", "updated": "updated_on", "started": "start_time"}
FIELDS |= {"ended": "end_time", "locked": "lock_time", "name": "job.name", "attempts": "mfal.attempts"}
FIELDS |= {name: f"job.metadata.{name}" for name in ("kind", "fidelity", "round", "frame_id", "born_of")}


@dataclass(frozen=True)
class Job:
    """A job as the queue knows it."""

    uuid: str
    index: int
    db_id: str
    name: str
    kind: str
    fidelity: str | None
    round: int
    frame_id: str | None
    born_of: str | None  # uuid
    state: str
    previous: str | None  # state, of a REMOTE_ERROR
    worker: str
    parents: tuple[str, ...]
    created: datetime
    updated: datetime  # when it came into its state
    started: datetime | None
    ended: datetime | None
    locked: datetime | None
    error: str | None
    attempts: int  # how often it was run again because it was killed or lost

    def given_up(self, attempts: int) -> bool:
        """Whether it will not run again by itself, which it does so many times."""
        return self.state in STOPPED or (self.state in FAILED and self.attempts >= attempts)


@dataclass(frozen=True)
class Queue:
    """One campaign in one project."""

    controller: JobController
    campaign: str

    @classmethod
    def of(cls, campaign: Campaign, project: str | None = None) -> Queue:
        """The campaign in the project that is named, else in that of its file, else in the one jobflow-remote takes.

        Raises:
            ConfigError: there is no such project, or its database cannot be used.
        """
        try:
            from jobflow_remote import SETTINGS, ConfigManager, JobController
            from jobflow_remote.config.base import ConfigError as ProjectError
        except ModuleNotFoundError as error:
            raise ConfigError([f"a queue needs jobflow-remote ({error}): pip install 'mfal[remote]'"]) from error
        name = project or campaign.cluster.project or SETTINGS.project
        try:
            found = ConfigManager().get_project(name)
        except ProjectError as error:
            raise ConfigError([f"cluster.project = {name!r}: {error}: 'jf project list --warn' shows all"]) from error
        place = f"cluster.project = {found.name!r}: its database"
        try:
            with pymongo.timeout(PATIENCE):
                controller = JobController.from_project(found)
                ready = controller.auxiliary.find_one({"next_id": {"$exists": True}})
        except PyMongoError as error:  # whose text may hold more of the address than is good to show
            raise ConfigError([f"{place} does not answer ({type(error).__name__}): is queue.store right?"]) from None
        if not ready:
            raise ConfigError([f"{place} is not set up: run 'jf admin reset' once"])
        return cls(controller, campaign.campaign)

    def flows(self) -> list[dict[str, Any]]:
        """The documents of this campaign's flows, the newest last, but for the long lists of who waits for whom."""
        own, flows = {"metadata.mfal.campaign": self.campaign}, self.controller.flows.with_options(AWARE)
        return list(flows.find(own, {"ids": 0, "parents": 0}, sort=[("created_on", 1)]))

    def newest(self) -> tuple[dict[str, Any], list[Job]] | None:
        """The newest flow and its jobs, also those that were born while they were read, if their parent is seen to have
        completed: without them, a campaign would look as if it were over."""
        flows = self.flows()
        while flows:
            before, jobs = flows[-1], self.jobs(flows[-1])
            flows = self.flows()
            if flows and flows[-1]["jobs"] == before["jobs"]:
                return flows[-1], jobs
        return None

    def live(self) -> dict[str, Any] | None:
        """The newest flow, if it is not over."""
        found = self.newest()
        return found[0] if found and not is_over(*found) else None

    def jobs(self, flow: Flow | None = None) -> list[Job]:
        """Those of a flow, or of all, in the order in which they were born."""
        uuids = [uuid for one in ([flow] if flow else self.flows()) for uuid in one["jobs"]]
        jobs = self.controller.jobs.with_options(AWARE)
        found = jobs.find({"uuid": {"$in": uuids}}, [*FIELDS.values(), "remote.error"])
        return sorted(map(_job, found), key=lambda job: (job.created, job.index))

    def pause(self) -> int:
        """Start no more jobs; what a running job still gives birth to is held where somebody tends (`flows.tend`)."""
        paused = {"$set": {"metadata.mfal.paused": True}}
        return self._act(paused, lambda flow: self._move(flow, ["WAITING", "READY"], "PAUSED"))

    def resume(self) -> int:
        """Go on where `pause` stopped."""

        def let_go(flow: Flow) -> int:
            count = self._move(flow, ["PAUSED"], "WAITING")
            self.controller.refresh_children(flow["jobs"])
            return count

        now = {"metadata.mfal.resumed": datetime.now(UTC)}  # from here counts how long nothing came
        return self._act({"$unset": {"metadata.mfal.paused": True}, "$set": now}, let_go)

    def cancel(self) -> int:
        """Stop all jobs, also those that run."""
        return self._act({"$set": {"metadata.mfal.cancelled": True}}, self._stop)

    def retry(self) -> int:
        """Run what was killed or lost once more, and count from the beginning how often."""
        flow, jobs = self.newest() or ({}, [])
        if not jobs or marks(flow).get("cancelled"):
            return 0
        return sum(self.again(job, 0) for job in jobs if job.state in FAILED)

    def again(self, job: Job, attempts: int) -> bool:
        """Run a failed job again in its folder, with the files that are there. Of many callers one is told True.

        jobflow-remote's `rerun_job` sets the children back, and refuses where one has started; but a round goes on
        without what is late. The count is in the job's document, so that it and the rerun are one write.
        """
        from jobflow_remote.jobs.data import get_reset_job_base_dict

        state = "READY"
        if job.state == "REMOTE_ERROR":
            if job.previous in ("SUBMITTED", "RUNNING"):
                state = job.previous  # nobody could see it: it may still run, and must not do so twice
            elif job.previous in ("RUN_FINISHED", "DOWNLOADED") and not job.attempts:
                state = job.previous  # what it put out may be whole
        same = {"db_id": job.db_id, "state": job.state, "lock_id": None, "mfal.attempts": job.attempts or None}
        change = get_reset_job_base_dict() | {"state": state, "mfal.attempts": attempts or None}
        return self.controller.jobs.update_one(same, {"$set": change}).modified_count > 0

    def mark(self, flow: Flow, change: Mapping[str, Any]) -> bool:
        """Write to the flow's document; whether that changed it."""
        return self.controller.flows.update_one({"uuid": flow["uuid"]}, change).modified_count > 0

    def settle(self, flow: Flow) -> None:
        """Bring the flow's own state up to date, which `jf` shows. A runner that has it locked does that itself."""
        with self.controller.lock_flow(filter={"uuid": flow["uuid"]}, projection=["uuid"]) as lock:
            if lock.locked_document:
                self.controller.update_flow_state(flow["uuid"])

    def _act(self, mark: Mapping[str, Any], act: Callable[[Flow], int]) -> int:
        """Mark the flow first: who tends it finishes what is begun here."""
        if not (flow := self.live()):
            return 0
        self.mark(flow, mark)
        if count := act(flow):
            self.settle(flow)
        return count

    def _move(self, flow: Flow, states: Collection[str], state: str) -> int:
        criteria = {"uuid": {"$in": flow["jobs"]}, "state": {"$in": [*states]}}
        return self.controller.jobs.update_many(criteria, {"$set": {"state": state}}).modified_count

    def _stop(self, flow: Flow) -> int:
        from jobflow_remote.utils.db import LockedDocumentError
        from jobflow_remote.utils.remote import SharedHosts

        count = self._move(flow, WAITING, "STOPPED")
        with SharedHosts(self.controller.project):
            for job in self.jobs(flow):
                if job.state not in (*WAITING, *FAILED, *ENDED):
                    with suppress(LockedDocumentError, ValueError):  # a runner is at it, or it has just ended
                        self.controller.stop_job(db_id=job.db_id)
                        count += 1
        return count


def marks(flow: Flow) -> dict[str, Any]:
    """What mfal has written into a flow's document."""
    return flow["metadata"]["mfal"]


def is_over(flow: Flow, jobs: list[Job]) -> bool:
    """Whether nothing runs or waits. Not for a lost calculation: what still needs it waits."""
    ended = (*ENDED, *FAILED) if marks(flow).get("cancelled") else ENDED
    return all(job.state in ended or (job.kind == "label" and job.state in FAILED) for job in jobs)


def _job(document: Mapping[str, Any]) -> Job:
    found = {name: pick(document, path.split(".")) for name, path in FIELDS.items()}
    found["error"] = found["error"] or pick(document, ["remote", "error"])
    return Job(**found | {"parents": tuple(found["parents"] or ()), "attempts": found["attempts"] or 0})
