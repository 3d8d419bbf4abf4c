"""A campaign run before a person's eyes: its display, and how it ends."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.markup import escape

from flows.refuse import errors, refuse
from mfal.config import Campaign
from mfal.config_file import ConfigError


def play(campaign: Campaign, config: Path, *, retry_failed: bool = False) -> None:
    """Run it to its end, or on from where it stopped.

    Args:
        config: the file that `mfal status` takes for this campaign.
    """
    # Imported late: torch and atomate2 take seconds that `--help` and a wrong campaign file should not.
    from flows.display import Display
    from flows.local import AlreadyRunningError
    from flows.local import run as run_campaign

    display = Display(campaign)
    try:
        with display:
            run_campaign(campaign, display.on_event, retry_failed=retry_failed)
    except ConfigError as error:
        refuse(*error.lines)
    except AlreadyRunningError as error:
        errors.print(f"[red]{escape(str(error))}[/]: wait for it, or stop it")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        display.say("Interrupted. The same command goes on from here.")
        raise typer.Exit(130) from None
    except Exception:
        if not display.failed:
            raise
        raise typer.Exit(1) from None  # the display has said which job broke, and how
    display.summary(config)
