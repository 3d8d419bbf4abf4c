"""A flow run before a person's eyes: its display, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Protocol

import typer
from pymongo.errors import PyMongoError
from rich.markup import escape

from flows.refuse import errors, refuse, resumable
from mfal.config import Campaign
from mfal.config_file import ConfigError

AtATime = Annotated[
    int, typer.Option("--jobs", help="Calculations side by side, each on engine.processes cores.", min=1)
]


class Screen(Protocol):
    #: Jobs that broke; the screen has said which, and how.
    failed: list[str]


def play(campaign: Campaign, config: Path, *, retry_failed: bool = False, at_a_time: int = 1) -> None:
    """Run it to its end, or on from where it stopped.

    Args:
        at_a_time: calculations that run side by side.
        config: the file that `mfal status` takes for this campaign.
    """
    # Imported late: torch and atomate2 take seconds that `--help` and a wrong campaign file should not.
    from flows.display import Display
    from flows.local import run as run_campaign

    display = Display(campaign)
    with ended(display), display:
        run_campaign(campaign, display.on_event, retry_failed=retry_failed, at_a_time=at_a_time)
    display.summary(config)


@contextmanager
def ended(screen: Screen) -> Iterator[None]:
    """Around a flow that runs: what went wrong becomes a line and an exit code."""
    from flows.local import AlreadyRunningError

    try:
        with resumable():
            yield
    except ConfigError as error:
        refuse(*error.lines)
    except PyMongoError as error:  # whose text may hold more of the address than is good to show
        errors.print(f"[red]The store does not answer ({type(error).__name__})[/]: the same command goes on from here")
        raise typer.Exit(1) from None
    except AlreadyRunningError as error:
        errors.print(f"[red]{escape(str(error))}[/]: wait for it, or stop it")
        raise typer.Exit(1) from None
    except Exception:
        if not screen.failed:
            raise
        raise typer.Exit(1) from None
