"""`mfal submit`: a campaign on a cluster, through jobflow-remote; and what a person does with it there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from pymongo.errors import PyMongoError
from rich.console import Console
from rich.markup import escape

from flows.opened import opened
from flows.refuse import refuse, refusing
from mfal.config import Campaign
from mfal.config_file import ConfigError, load

if TYPE_CHECKING:
    from flows.queue import Queue

Config = Annotated[Path, typer.Argument(help="The campaign file, e.g. configs/quickstart.yaml.", show_default=False)]
Project = Annotated[
    str | None,
    typer.Option(help="Of jobflow-remote; in place of cluster.project of the campaign file.", show_default=False),
]
console = Console(highlight=False, soft_wrap=True)


def submit(config: Config, project: Project = None) -> None:
    """Send a campaign to the queue of jobflow-remote: the same jobs that 'mfal run' runs here.

    What is done already, here or there, is not sent. The campaign file says under `cluster.jobs` which kind of job goes
    to which worker; docs/cluster.md shows how to set one up. `mfal watch` then brings the results home.
    """
    with queued(config, project) as (campaign, queue):
        from flows.send import send

        with opened(campaign, make=True) as stores:
            jobs = send(campaign, queue, stores)
        name = queue.controller.project.name
    if not jobs:
        console.print(
            f"{escape(campaign.campaign)} has ended: nothing is left to calculate (stop: in the campaign file)"
        )
        return
    kinds = Counter(job.metadata["kind"] for job in jobs)
    first = ", ".join(f"{count} {kind}" if count > 1 else kind for kind, count in kinds.items())
    console.print(
        f"{escape(campaign.campaign)} is in the queue of project {escape(name)}: {first}; the rest follows by itself"
    )
    console.print(f"Watch:   mfal watch {escape(str(config))}   (brings results home, and looks after lost jobs)")
    console.print("Runner:  jf runner status   ('jf runner start' starts it)")


def pause(config: Config, project: Project = None) -> None:
    """Send no more jobs of a campaign to the cluster. What its scheduler has already goes on to its end."""
    _act(config, project, lambda queue: queue.pause(), "paused", "; 'mfal resume' goes on")


def resume(config: Config, project: Project = None) -> None:
    """Go on with a paused campaign."""
    _act(config, project, lambda queue: queue.resume(), "released", "")


def cancel(config: Config, project: Project = None) -> None:
    """Take a campaign out of the queue; its running jobs are stopped. What is done is kept: 'mfal submit' goes on."""
    _act(config, project, lambda queue: queue.cancel(), "stopped", "; 'mfal submit' goes on where it stopped")


def retry(
    config: Config,
    status: Annotated[
        Literal["failed", "unconverged", "lost"],
        typer.Option(help="Which: `lost` jobs were killed or vanished; the others are labels with that status."),
    ] = "lost",
    project: Project = None,
) -> None:
    """Attempt once more what failed: lost jobs, or calculations that came to nothing."""
    if status == "lost":
        _act(config, project, lambda queue: queue.retry(), "sent again", "")
        return
    with queued(config, project) as (campaign, queue), opened(campaign) as stores:
        from flows.again import retry_labels

        sent, later = retry_labels(campaign, queue, stores, status)
    console.print(f"{sent} calculations sent again, {later} for the next 'mfal submit' or 'mfal run'")


@contextmanager
def queued(config: Path, project: str | None) -> Iterator[tuple[Campaign, Queue]]:
    """A campaign and its queue; what is wrong with either becomes a line and exit code 2."""
    with refusing():
        campaign = load(config)
        from flows.queue import Queue

        try:
            yield campaign, Queue.of(campaign, project)
        except ConfigError as error:
            refuse(*error.lines)
        except PyMongoError as error:  # whose text may hold more of the address than is good to show
            refuse(f"the project's MongoDB does not answer ({type(error).__name__}): try again")


def _act(config: Path, project: str | None, act: Callable[[Queue], int], done: str, then: str) -> None:
    with queued(config, project) as (campaign, queue):
        count = act(queue)
    console.print(f"{escape(campaign.campaign)}: {count} job{'' if count == 1 else 's'} {done}{then if count else ''}")
