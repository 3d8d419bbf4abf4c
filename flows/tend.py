"""A pass over a campaign in a queue that mends what died, runs again what was lost, and lets rounds go on.

All is decided anew from what the documents say, and a write says in which state its document must still be (see
`flows.queue`): passes may run in several processes at once, and may be killed anywhere.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flows.home import incomplete
from flows.queue import FAILED, WAITING, Flow, Job, Queue, marks
from flows.wording import last_line
from mfal.cluster import Cluster
from mfal.frames import WORDS

#: A job that failed is run again when this has passed, the next time after twice this, and so on: so three attempts
#: outlast an hour in which nothing can be submitted.
PAUSE = timedelta(minutes=10)
#: A runner may lock what it finds a little before it is written down that it was started.
STARTING = timedelta(minutes=1)


@dataclass(frozen=True)
class Look:
    """What a rule decides from: the newest flow of a campaign and its jobs, as they are now."""

    queue: Queue
    cluster: Cluster
    now: datetime
    flow: Flow
    jobs: list[Job]

    @property
    def goes_on(self) -> bool:
        return not marks(self.flow).get("paused") and not marks(self.flow).get("cancelled")


def tend(queue: Queue, cluster: Cluster, now: datetime | None = None) -> list[str]:
    """One pass.

    Returns:
        News for people. What was done is told once; that somebody is needed is told by every pass until he has come.
    """
    now = now or datetime.now(UTC)
    news: list[str] = []
    for rules in ((_mend,), (_hold, _run_again, _go_on), (_release, _settle)):
        if found := queue.newest():
            look = Look(queue, cluster, now, *found)
            news += [line for rule in rules for line in rule(look) or []]
    return news


def _mend(look: Look) -> list[str]:
    """Undo births that a runner died in, and break the locks of the dead.

    Under the flow's lock, taken from the dead if need be: so no runner completes a job meanwhile.
    """
    queue, flow, dead = look.queue, look.flow, _dead(look)
    locked = [lock for lock in (flow["lock_time"], *(job.locked for job in look.jobs)) if lock and lock < dead]
    if not locked and not _half_born(look.jobs) and not _replaced(look.jobs):
        return []
    free = {"uuid": flow["uuid"], "$or": [{"lock_id": None}, {"lock_time": {"$lt": dead}}]}
    with queue.controller.lock_flow(filter=free, break_lock=True) as lock:
        if not (flow := lock.locked_document):
            return []  # a runner is at it, or another pass
        news, jobs = [], queue.jobs(flow)
        for parent, born in _half_born(jobs).items():
            unborn = {"db_id": {"$in": [job.db_id for job in born]}, "state": {"$in": [*WAITING, "STOPPED"]}}
            queue.controller.jobs.delete_many(unborn)
            news.append(f"{_name(parent)}: a runner died when it added {len(born)} jobs after it; they are added again")
        for job in _replaced(jobs):
            done = {"state": "COMPLETED", "error": None, "remote.error": None}
            queue.controller.jobs.update_one({"db_id": job.db_id, "state": job.state}, {"$set": done})
        _forget_unborn(queue, flow)
        left = {"uuid": {"$in": flow["jobs"]}, "lock_time": {"$lt": dead}}
        unlock = {"$set": {"lock_id": None, "lock_time": None}}
        if count := queue.controller.jobs.update_many(left, unlock).modified_count:
            news.append(f"a runner died and left {count} job{'s' if count > 1 else ''} locked: unlocked")
    return news


def _dead(look: Look) -> datetime:
    """Whoever locked something before this is dead: nothing takes so long, and a project has one runner at a time."""
    runner = look.queue.controller.get_running_runner()
    started = runner["start_time"].replace(tzinfo=UTC) - STARTING if isinstance(runner, dict) else None
    limit = look.now - timedelta(minutes=look.cluster.stale)
    return max(limit, started) if started else limit


def _half_born(jobs: list[Job]) -> dict[Job, list[Job]]:
    """By parent, the jobs that it will give birth to once more, as it is not yet completed.

    jobflow-remote writes them into the flow's document, then their own, and then that the parent is completed. Where it
    died in between, every later try finds them there and fails.
    """
    unfinished = {job.uuid: job for job in jobs if job.state != "COMPLETED"}
    found = defaultdict(list)
    for job in jobs:
        if (parent := unfinished.get(job.born_of or "")) and parent.uuid != job.uuid:
            found[parent].append(job)
    # Where some have started, the birth was whole: somebody has the parent run again.
    return {parent: born for parent, born in found.items() if all(job.state in (*WAITING, "STOPPED") for job in born)}


def _replaced(jobs: list[Job]) -> list[Job]:
    """Jobs that gave way to another of their uuid, or gave birth to others before they were run again, which may run
    already, but of which it was not yet written that they are completed."""
    there = {(job.uuid, job.index) for job in jobs}
    started = {job.born_of for job in jobs if job.state not in (*WAITING, "STOPPED")}
    return [
        job
        for job in jobs
        if (job.state in ("DOWNLOADED", "REMOTE_ERROR") and (job.uuid, job.index + 1) in there)
        or (job.state == "REMOTE_ERROR" and job.previous == "DOWNLOADED" and job.uuid in started)
    ]


def _forget_unborn(queue: Queue, flow: Flow) -> None:
    """Take out of the flow's whole document, which is locked, what has no document of its own."""
    there = {(job.db_id, job.uuid, job.index) for job in queue.jobs(flow)}
    if not (unborn := [entry for entry in flow["ids"] if tuple(entry) not in there]):
        return
    indices = {(uuid, index) for _, uuid, index in unborn} - {(uuid, index) for _, uuid, index in there}
    gone = sorted({uuid for uuid, _ in indices} - {uuid for _, uuid, _ in there})
    paths = {f"parents.{uuid}" if uuid in gone else f"parents.{uuid}.{index}" for uuid, index in indices}
    change = {"$pullAll": {"ids": unborn, "jobs": gone}}
    queue.mark(flow, change | ({"$unset": dict.fromkeys(paths, "")} if paths else {}))


def _hold(look: Look) -> None:
    """What was born since a campaign was paused or cancelled is so, too."""
    if marks(look.flow).get("cancelled"):
        look.queue.cancel()
    elif marks(look.flow).get("paused"):
        look.queue.pause()


def _run_again(look: Look) -> list[str]:
    """What was killed or lost, up to `attempts` times; and what has lost a part of its output since."""
    news, attempts = [], look.cluster.attempts
    ended = [job for job in look.jobs if job.state == "COMPLETED" and job.kind != "label"]  # a label has no blobs
    broken = incomplete(look.queue.controller.jobstore, [job.uuid for job in ended]) if look.goes_on else ()
    for job in ended:
        if (job.uuid, job.index) in broken and job.attempts < attempts and look.queue.again(job, job.attempts + 1):
            news.append(f"{_name(job)} lost a part of its output and runs again ({job.attempts + 1} of {attempts})")
    for job in look.jobs if look.goes_on else ():
        if job.state not in FAILED:
            continue
        if job.attempts < attempts:
            due = job.updated + PAUSE * 2**job.attempts
            if look.now >= due and look.queue.again(job, job.attempts + 1):
                times = f"{job.attempts + 1} of {attempts}"
                news.append(f"{_name(job)} was lost and runs again ({times}): {last_line(job.error)}")
        elif job.kind != "label":
            problem = f"{_name(job)} is lost and the campaign waits for it"
            news.append(f"{problem}: {last_line(job.error)}: 'mfal retry' runs it again")
    return news


def _go_on(look: Look) -> list[str]:
    """Decide to go on without a round's calculations that are late. `_release` then does it."""
    asked: dict[tuple[int, Any], list[Job]] = defaultdict(list)
    for job in look.jobs if look.goes_on else ():
        if job.kind == "label":
            asked[job.round, job.fidelity].append(job)
    awaited = {uuid for job in look.jobs if job.state == "WAITING" for uuid in job.parents}
    awaited -= {*marks(look.flow).get("without", ())}
    news = []
    for (round, fidelity), labels in asked.items():
        late = [job for job in labels if job.state != "COMPLETED" and job.uuid in awaited]
        lost = [job for job in late if job.given_up(look.cluster.attempts)]
        came = [job.updated for job in labels if job.state == "COMPLETED"]
        needed = math.ceil(look.cluster.share * len(labels) - 1e-9)  # 0.56 * 25 is a little more than 14
        of = f"of {len(labels)} {WORDS[fidelity]} calculations"
        if late and len(came) >= needed:
            last = max(*came, marks(look.flow).get("resumed", came[0]))  # while it is paused, none can come
            if lost == late or look.now - last >= timedelta(minutes=look.cluster.wait):
                without = {"metadata.mfal.without": {"$each": [job.uuid for job in late]}}
                if look.queue.mark(look.flow, {"$addToSet": without}):
                    news.append(f"round {round} goes on without {len(late)} {of}; what comes late joins the next round")
        elif late and lost == late:
            problem = f"round {round} waits: {len(late)} {of} are lost, and {needed} must be in to go on"
            news.append(f"{problem}: {_name(late[0])}: {last_line(late[0].error)}: 'mfal retry' runs them again")
    return news


def _release(look: Look) -> None:
    """Make ready what has all that it waits for. A runner does that, too, unless it dies before.

    A job that goes without some of its parents loses them only here, and only here learns to do without: else a runner
    would let it go without any other, too, that has failed and is about to run again.
    """
    queue, without = look.queue, {*marks(look.flow).get("without", ())}
    states = {job.uuid: job.state for job in sorted(look.jobs, key=lambda job: job.index)}
    for job in look.jobs if look.goes_on else ():
        late = [uuid for uuid in job.parents if uuid in without and states.get(uuid) != "COMPLETED"]
        needed = [uuid for uuid in job.parents if uuid not in late]
        if job.state != "WAITING" or any(states.get(uuid) != "COMPLETED" for uuid in needed):
            continue
        if queue.controller.jobs.count_documents({"uuid": {"$in": needed}, "state": {"$ne": "COMPLETED"}}):
            continue  # one replaced itself while the others were read
        change: dict[str, Any] = {"$set": {"state": "READY", "updated_on": datetime.now(UTC)}}
        if late:
            queue.mark(look.flow, {"$pullAll": {f"parents.{job.uuid}.{job.index}": late}})
            change["$set"]["job.config.on_missing_references"] = "none"
            change["$pullAll"] = {"parents": late}
        queue.controller.jobs.update_one({"db_id": job.db_id, "state": "WAITING"}, change)


def _settle(look: Look) -> None:
    """The flow's own state, where something has changed a job's and not it; a runner needs its lock, so only then."""
    from jobflow_remote.jobs.jobcontroller import get_flow_leafs
    from jobflow_remote.jobs.state import FlowState, JobState

    jobs = [vars(job) | {"state": JobState(job.state)} for job in look.jobs]
    state = FlowState.from_jobs_states(*([job["state"] for job in some] for some in (jobs, get_flow_leafs(jobs))))
    if jobs and state.value != look.flow["state"]:
        look.queue.settle(look.flow)


def _name(job: Job) -> str:
    return f"{job.name} of round {job.round}"
