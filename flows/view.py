"""Where a campaign in a queue is, as `mfal watch` shows it: a pure function of its jobs, labels and rounds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from flows.estimate import left
from flows.queue import FAILED, Flow, Job, is_over, marks
from flows.wording import clean, cost, last_line, span
from mfal.config import Campaign
from mfal.frames import FIDELITIES, WORDS, Fidelity, Round, Status

State = Literal["running", "paused", "stands still", "cancelled", "over"]
Column = Literal["waiting", "queued", "running", "done", "bad", "given_up"]

#: What a round consists of, in its order. Calculations go by their fidelity.
STEPS = ("explore", "score", "nonmagnetic", "decide", "magnetic", "train", "evaluate")
#: States of jobs that a runner has taken up, but that have not begun; that have, but are not brought back.
QUEUED = ("CHECKED_OUT", "UPLOADED", "SUBMITTED", "BATCH_SUBMITTED")
RUNNING = ("RUNNING", "BATCH_RUNNING", "RUN_FINISHED", "DOWNLOADED")
#: Still to come, or under way.
OPEN: tuple[Column, ...] = ("waiting", "queued", "running")
#: A longer wait for the queue is worth a word.
LONG = timedelta(hours=1)


@dataclass(frozen=True)
class Calculated:
    """An attempt at a label."""

    uuid: str  # of its job
    attempt: int
    fidelity: Fidelity
    status: Status
    core_hours: float
    reason: str
    ran: Mapping[str, str] | None


@dataclass(frozen=True)
class Spent:
    """What the calculations of a fidelity have come to."""

    fidelity: Fidelity
    good: int
    bad: int
    core_hours: float


@dataclass(frozen=True)
class Row:
    """The jobs of a round that do the same."""

    step: str
    waiting: int = 0
    queued: int = 0
    running: int = 0
    done: int = 0
    bad: int = 0  # labels with a status other than ok
    given_up: int = 0
    left: timedelta | None = None  # an estimate; None where nothing is known


@dataclass(frozen=True)
class Event:
    when: datetime
    text: str
    key: tuple[Any, ...]  # the same event has the same


@dataclass(frozen=True)
class Note:
    """What somebody may want to do something about."""

    what: str
    text: str


@dataclass(frozen=True)
class View:
    campaign: str
    project: str
    state: State
    round: int
    rounds: int  # at most
    spent: tuple[Spent, ...]
    rows: tuple[Row, ...]
    running: tuple[Job, ...]  # the longest first
    events: tuple[Event, ...]  # the oldest first
    in_the_way: tuple[Job, ...]  # where it stands still
    notes: tuple[Note, ...]
    attempts: int  # of a lost job
    now: datetime
    round_end: datetime | None  # an estimate, as the next; None where nothing is known
    campaign_end: datetime | None  # at most


def view(
    campaign: Campaign,
    project: str,
    flow: Flow,
    jobs: Sequence[Job],
    rounds: Sequence[Round],
    labels: Sequence[Calculated],
    now: datetime,
    *,
    news: Sequence[Event] = (),
    runner: str = "",
) -> View:
    """Where it is.

    Args:
        jobs: of the flow.
        labels: all of the campaign's, also those that no job of the flow made.
        news: what else has happened.
        runner: what there is to say of it (`silence`).
    """
    latest = {label.uuid: label for label in sorted(labels, key=lambda label: label.attempt)}
    newest = {job.uuid: job for job in sorted(jobs, key=lambda job: job.index)}  # of those that replaced themselves
    jobs = sorted(newest.values(), key=lambda job: job.created)
    columns = {job.uuid: _column(job, latest, campaign) for job in jobs}
    state = _state(flow, jobs, columns)
    round = max((job.round for job in jobs), default=0)
    rows = tuple(_row(step, round, jobs, columns, now) for step in STEPS)
    round_end, campaign_end = _ends(campaign, round, rows, jobs, now) if state == "running" else (None, None)
    return View(
        campaign=campaign.campaign,
        project=project,
        state=state,
        round=round,
        rounds=campaign.stop.rounds,
        spent=tuple(_spent(fidelity, labels) for fidelity in FIDELITIES),
        rows=rows,
        running=tuple(sorted((job for job in jobs if job.state in RUNNING), key=since)),
        events=tuple(sorted([*_events(jobs, latest, rounds), *news], key=lambda event: event.when)),
        in_the_way=tuple(_in_the_way(jobs, columns)) if state == "stands still" else (),
        notes=tuple(_notes(flow, state, round, jobs, columns, now, runner)),
        attempts=campaign.cluster.attempts,
        now=now,
        round_end=round_end,
        campaign_end=campaign_end,
    )


def step_of(job: Job) -> str:
    return job.fidelity or job.kind


def since(job: Job) -> datetime:
    """When a job that runs began."""
    return job.started or job.updated


def name_of(job: Job) -> str:
    """A calculation has a name of its own."""
    return clean(job.name) if job.kind == "label" else job.kind


def word(step: str) -> str:
    return {**WORDS}.get(step, step)  # type: ignore[call-overload]


def what_ails(job: Job) -> str:
    return last_line(job.error) if job.state in FAILED else f"was {job.state.lower().removeprefix('user_')} by hand"


def silence(running: Any, pings: Sequence[Mapping[str, Any]], every: float, now: datetime) -> str:
    """What to say of a runner that seems not to live; empty where one does, or where nobody can know.

    Args:
        running, pings: what the project's database has about runners; its times are UTC, and do not say so.
        every: seconds between two signs of life.
    """
    starts, long_ago = "'jf runner start' starts one", now - timedelta(seconds=2 * every + 60)
    if not running:
        # one without a daemon leaves no other sign
        heard = [ping["time"].replace(tzinfo=UTC) for ping in pings if not ping.get("daemon_id")]
        return "" if any(time > long_ago for time in heard) else f"no runner is at work: {starts}"
    if not isinstance(running, Mapping):
        return ""
    heard = [running[name].replace(tzinfo=UTC) for name in ("last_pinged", "start_time") if running.get(name)]
    if not heard or max(heard) > long_ago:
        return ""
    return f"no sign of life from the runner for {span(now - max(heard))}: see 'jf runner status'; {starts}"


def _column(job: Job, labels: Mapping[str, Calculated], campaign: Campaign) -> Column:
    if job.state in QUEUED:
        return "queued"
    if job.state in RUNNING:
        return "running"
    if job.state == "COMPLETED":
        return "bad" if job.uuid in labels and labels[job.uuid].status != "ok" else "done"
    if job.given_up(campaign.cluster.attempts):
        return "given_up"
    return "waiting"


def _state(flow: Flow, jobs: Sequence[Job], columns: Mapping[str, Column]) -> State:
    if is_over(flow, list(jobs)):
        return "over"
    if marks(flow).get("cancelled"):
        return "cancelled"
    if marks(flow).get("paused"):
        return "paused"
    completed = {job.uuid for job in jobs if job.state == "COMPLETED"}
    moves = any(
        columns[job.uuid] in ("queued", "running")
        or job.state == "READY"
        or (job.state == "WAITING" and completed.issuperset(job.parents))  # ready in a moment
        or (job.state in FAILED and columns[job.uuid] == "waiting")  # runs again by itself
        for job in jobs
    )
    return "running" if moves else "stands still"


def _in_the_way(jobs: Sequence[Job], columns: Mapping[str, Column]) -> list[Job]:
    """What the others wait for: what was lost or stopped; else, what was paused one by one."""
    awaited = {uuid for job in jobs if job.state == "WAITING" for uuid in job.parents}
    given_up = [job for job in jobs if columns[job.uuid] == "given_up" and (job.kind != "label" or job.uuid in awaited)]
    return given_up or [job for job in jobs if job.state == "PAUSED"]


def _spent(fidelity: Fidelity, labels: Sequence[Calculated]) -> Spent:
    own = [label for label in labels if label.fidelity == fidelity]
    good = sum(label.status == "ok" for label in own)
    return Spent(fidelity, good, len(own) - good, sum(label.core_hours for label in own))


def _row(step: str, round: int, jobs: Sequence[Job], columns: Mapping[str, Column], now: datetime) -> Row:
    same = [job for job in jobs if step_of(job) == step]
    own = [job for job in same if job.round == round]
    there = {STEPS.index(job.kind) for job in jobs if job.round == round and job.kind in STEPS}
    born = max(there, default=-1) >= STEPS.index(step)  # all of a step are there when the next one is
    unborn = 0 if born else sum(job.round == round - 1 for job in same)
    counts = Counter(columns[job.uuid] for job in own)
    ran = [(job.started, job.ended) for job in same if job.state == "COMPLETED" and job.started and job.ended]
    running = [since(job) for job in own if columns[job.uuid] == "running"]
    return Row(
        step,
        waiting=counts["waiting"],
        queued=counts["queued"],
        running=counts["running"],
        done=counts["done"],
        bad=counts["bad"],
        given_up=counts["given_up"],
        left=left(ran, running, counts["waiting"] + counts["queued"] + unborn, now) if born or unborn else None,
    )


def _ends(
    campaign: Campaign, round: int, rows: Sequence[Row], jobs: Sequence[Job], now: datetime
) -> tuple[datetime | None, datetime | None]:
    """When the round ends, and the campaign at most: each of its other rounds takes what the last one took."""
    known = [row.left for row in rows if row.left is not None]
    end = now + sum(known, timedelta()) if len(known) == len(rows) else None
    if not (more := max(campaign.stop.rounds - 1 - round, 0)):
        return end, end
    finished = [(job.round, job.ended) for job in jobs if job.kind == "evaluate" and job.round < round and job.ended]
    if not finished:
        return end, None
    last, ended = max(finished)
    took = ended - min(job.created for job in jobs if job.round == last)
    begun = min(job.created for job in jobs if job.round == round)
    return end, (end or max(begun + took, now)) + more * took


def _events(jobs: Sequence[Job], labels: Mapping[str, Calculated], rounds: Sequence[Round]) -> Iterator[Event]:
    summaries = {summary.round: summary for summary in rounds}
    for job in jobs:
        text = ""
        if job.state in FAILED:
            text = f"{name_of(job)}  lost: {last_line(job.error)}"
        elif job.state == "COMPLETED" and job.kind == "label":
            text = f"{name_of(job)}  {_outcome(labels[job.uuid])}" if job.uuid in labels else ""  # not at home yet
        elif job.state == "COMPLETED" and job.kind == "evaluate":
            text = f"done; next: {summaries[job.round].next_step}" if job.round in summaries else ""
        elif job.state == "COMPLETED":
            text = f"{job.kind} done" + (f" in {span(job.ended - job.started)}" if job.ended and job.started else "")
        if text:
            when = job.ended or job.updated
            yield Event(when, clean(f"round {job.round}  {text}"), (job.db_id, job.state, job.attempts, when))


def _outcome(label: Calculated) -> str:
    ran = label.ran or {}
    host, partition = ran.get("host", "").partition(".")[0], ran.get("partition")
    where = f" on {host}{f' ({partition})' if partition else ''}" if host else ""
    return f"{label.status}  {cost(label.core_hours) if label.status == 'ok' else label.reason}{where}"


def _notes(
    flow: Flow,
    state: State,
    round: int,
    jobs: Sequence[Job],
    columns: Mapping[str, Column],
    now: datetime,
    runner: str,
) -> Iterator[Note]:
    lost = [job for job in jobs if job.state in FAILED]
    if state == "over" and lost and not marks(flow).get("cancelled"):
        yield Note("lost", f"lost, and nobody waited for it: {_counted(lost)}: 'mfal retry' runs it again")
    if state not in ("running", "paused"):
        return
    if given_up := [job for job in lost if columns[job.uuid] == "given_up"]:
        yield Note("given up", f"given up after the last attempt: {_counted(given_up)}: 'mfal retry' runs them again")
    if again := [job for job in lost if columns[job.uuid] == "waiting"]:
        yield Note("lost", f"lost, will run again in a while: {_counted(again)}")
    waits: dict[str, list[timedelta]] = defaultdict(list)
    for job in jobs:
        if job.state in ("SUBMITTED", "BATCH_SUBMITTED") and now - job.updated > LONG:
            waits[job.worker].append(now - job.updated)
    for worker, spans in waits.items():
        what = f"{len(spans)} of worker {clean(worker)} wait{'s' if len(spans) == 1 else ''} in the queue"
        yield Note(f"queue of {worker}", f"{what}, the longest for {span(max(spans))}")
    if late := [job for job in jobs if job.round < round and columns[job.uuid] in OPEN]:
        yield Note("late", f"late, for the next round: {_counted(late)}")
    if runner and any(job.state == "READY" or columns[job.uuid] in ("queued", "running") for job in jobs):
        yield Note("runner", runner)


def _counted(jobs: Sequence[Job]) -> str:
    """`2 magnetic, 1 train`."""
    return ", ".join(f"{count} {word(step)}" for step, count in Counter(map(step_of, jobs)).items())
