"""`mfal watch`: looks after a campaign in the queue, and shows where it is, until it is over."""

from __future__ import annotations

import os
import shlex
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Annotated, Any, Protocol, Self

import typer
from pymongo.errors import PyMongoError
from rich.console import Console
from rich.live import Live
from rich.markup import escape

from flows import home
from flows.opened import opened
from flows.queue import FAILED, Job, Queue
from flows.refuse import errors
from flows.screen import MOST, drawn
from flows.submit import Config, Project, queued
from flows.tend import tend
from flows.view import Calculated, Event, View, name_of, silence, view, what_ails
from flows.wording import clean
from mfal.config import Campaign
from mfal.config_file import ConfigError
from mfal.frames import Round
from stores.campaign import CampaignStores

#: Seconds between two looks while the database does not answer, at most.
LONGEST = 60.0
#: News that are kept for the table.
KEPT = 50


def watch(
    config: Config,
    project: Project = None,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end: for cron and scripts.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=1)] = 10,
) -> None:
    """Look after a campaign in the queue, and show where it is, until it is over.

    Brings the results home, runs lost jobs again, lets a round go on without what is late, and writes the reports.
    Nothing in the queue stops when this does. Where it is not shown on a terminal it writes a line for all that
    happens. Ends with 1 where the campaign stands still until a person does something.
    """
    console = Console(highlight=False)
    with queued(config, project) as (campaign, queue), opened(campaign, make=True) as stores:
        watcher = Watcher(campaign, queue, stores)
        try:
            if once:
                shown = watcher.look()
                console.print(drawn(shown, console.width))
            else:
                with (Screen if console.is_terminal else Log)(console) as screen:
                    shown = _follow(watcher, screen, every)
        except KeyboardInterrupt:
            errors.print(
                "Interrupted. The campaign goes on in the queue; but results come home, and lost jobs run again, only"
                " while somebody watches: the same command goes on from here."
            )
            raise typer.Exit(130) from None
        command = shlex.join([str(config), *(["--project", project] if project else [])])
        if shown.state == "over":
            _over(console, campaign, stores, command)
        elif shown.state == "stands still":
            _stuck(console, shown, command)
            raise typer.Exit(1)


@dataclass
class Watcher:
    """Looks after a campaign, and remembers from one look to the next what need not be read again."""

    campaign: Campaign
    queue: Queue
    stores: CampaignStores
    news: deque[Event] = field(default_factory=lambda: deque(maxlen=KEPT))
    _told: set[str] = field(default_factory=set)
    _home: set[Job] | None = None  # jobs whose outputs have been brought home
    _labels: dict[tuple[str, int], Calculated] = field(default_factory=dict)
    _rounds: list[Round] = field(default_factory=list)

    def look(self) -> View:
        """A pass over everything.

        Raises:
            ConfigError: the campaign is not in the queue.
        """
        told = tend(self.queue, self.campaign.cluster)
        self._tell(told)
        found = self.queue.newest()
        project = self.queue.controller.project
        if not found:
            sends = "'mfal submit' sends it there"
            raise ConfigError(
                [f"campaign = {self.campaign.campaign!r}: is not in the queue of project {project.name}: {sends}"]
            )
        flow, jobs = found
        self._tell([*told, *self._bring(jobs)])
        self._report()
        now = datetime.now(UTC)
        controller = self.queue.controller
        runner = silence(
            controller.get_running_runner(), controller.get_runner_pings(), project.runner.delay_ping_db, now
        )
        return view(
            self.campaign,
            project.name,
            flow,
            jobs,
            self._rounds,
            [*self._labels.values()],
            now,
            news=self.news,
            runner=runner,
        )

    def _bring(self, jobs: Iterable[Job]) -> list[str]:
        """Bring home what jobs have put out since the last look; what is wrong with it.

        The first look brings all, also what other campaigns have calculated that is of use to this one.
        """
        completed = {job for job in jobs if job.state == "COMPLETED"}
        uuids = None if self._home is None else sorted({job.uuid for job in completed - self._home})
        if uuids == []:
            return []
        try:
            home.bring(self.stores, self.queue.controller.jobstore, home.outputs_of(self.campaign), uuids)
        except ValueError as error:  # the queue goes on, and needs somebody all the same
            return [f"not all results can be brought home: {error}"]
        name = self.campaign.campaign
        new = self.stores.own_labels(name) if uuids is None else {"job_uuid": {"$in": uuids}}
        self._labels |= {(label.uuid, label.attempt): label for label in calculated(self.stores, new)}
        self._rounds = self.stores.all_rounds(name)
        self._home = completed
        return []

    def _report(self) -> None:
        from flows.report import report_path, write_report

        for summary in self._rounds:
            if not report_path(self.campaign, summary.round).is_file():
                path, now = write_report(self.stores, self.campaign, summary.round).page, datetime.now(UTC)
                where = min(str(path), os.path.relpath(path), key=len)
                self.news.append(Event(now, clean(f"round {summary.round}  report: {where}"), (path, now)))

    def _tell(self, lines: list[str]) -> None:
        """As news, what the last look has not told: that somebody is needed is told each time."""
        now = datetime.now(UTC)
        self.news.extend(Event(now, clean(line), (line, now)) for line in lines if line not in self._told)
        self._told = set(lines)


def calculated(stores: CampaignStores, criteria: dict[str, Any]) -> Iterator[Calculated]:
    """Attempts at labels, without what is large in them."""
    fields = ["job_uuid", "attempt", "fidelity", "status", "core_hours", "reason", "ran"]
    for found in stores.labels.store.query(criteria, fields):
        yield Calculated(*(found.get(name) for name in fields))


class Shows(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None: ...

    def show(self, shown: View) -> None: ...

    def trouble(self, text: str) -> None: ...


class Screen:
    """The table of a terminal. It is drawn once for each look, as the line to it may be slow."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = Live("Looking ...", console=console, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._live.stop()

    def show(self, shown: View) -> None:
        self._live.update(drawn(shown, self.console.width, self.console.height - 1), refresh=True)

    def trouble(self, text: str) -> None:
        self.console.print(f"{datetime.now().astimezone():%H:%M}  {escape(text)}")


class Log:
    """A line for everything that happens from the first look on."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._seen: set[object] = set()
        self._state = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, shown: View) -> None:
        keys: set[object] = {event.key for event in shown.events} | {note.what for note in shown.notes}
        for event in shown.events if self._state else ():  # not what was there before
            if event.key not in self._seen:
                self._line(event.when, event.text)
        state = f"{shown.campaign}: {shown.state}, round {shown.round} ({shown.round + 1} of at most {shown.rounds})"
        if state != self._state:
            self._line(datetime.now(UTC), state)
        for note in shown.notes:
            if note.what not in self._seen:
                self._line(shown.now, note.text)
        self._seen, self._state = keys, state

    def trouble(self, text: str) -> None:
        self._line(datetime.now(UTC), text)

    def _line(self, when: datetime, text: str) -> None:
        self.console.print(f"{when.astimezone():%Y-%m-%d %H:%M:%S}  {text}", markup=False, soft_wrap=True)


def _follow(watcher: Watcher, screen: Shows, every: float) -> View:
    """Look and show until it is over, or until it stands still."""
    pause = every
    while True:
        try:
            shown = watcher.look()
        except (PyMongoError, OSError) as error:
            pause = max(min(2 * pause, LONGEST), every)
            what = f"the database does not answer ({type(error).__name__})"
            if isinstance(error, OSError):
                what = clean(str(error))
            screen.trouble(f"{what}: the next look is in {pause:.0f} s")
        else:
            pause = every
            screen.show(shown)
            if shown.state in ("over", "stands still"):
                return shown
        time.sleep(pause)


def _over(console: Console, campaign: Campaign, stores: CampaignStores, command: str) -> None:
    """How `mfal run` ends, too."""
    from flows.report import report_path
    from flows.status import moments_line

    rounds = stores.all_rounds(campaign.campaign)
    done = f"{len(rounds)} round{'' if len(rounds) == 1 else 's'} done"
    ended = bool(rounds) and rounds[-1].stop
    following = rounds[-1].next_step if ended else "it was stopped before its end"
    lines = [f"{done}; {'next: ' if ended else ''}{following}", moments_line(stores, campaign.campaign)]
    if not ended:
        lines.append(f"Go on:   mfal submit {command}")
    if rounds:
        lines.append(f"Report:  {report_path(campaign, rounds[-1].round).resolve()}")
    lines.append(f"Status:  mfal status {command.partition(' --project ')[0]}")
    for line in filter(None, lines):
        console.print(line, markup=False, soft_wrap=True)


def _stuck(console: Console, shown: View, command: str) -> None:
    """Which jobs are in the way, and what gets them out of it."""
    for job in shown.in_the_way[:MOST]:
        console.print(f"round {job.round}  {name_of(job)}: {what_ails(job)}", markup=False, soft_wrap=True, style="red")
    states = {job.state for job in shown.in_the_way}
    mend = f"mfal cancel {command}; mfal submit {command}   goes on from all that is done"
    if states & {*FAILED}:
        mend = f"mfal retry {command}   runs what was lost once more"
    elif "PAUSED" in states:
        mend = f"mfal resume {command}   lets it go on"
    console.print(f"{shown.campaign} stands still; {mend}", markup=False, soft_wrap=True)
