"""`mfal doctor`: what this machine lacks, and the mend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from flows.examine import examine
from flows.refuse import refusing
from mfal.config_file import load

STYLES = {"ok": "green", "missing": "red", "broken": "red", "not there": "dim"}


def doctor(
    config: Annotated[Path | None, typer.Argument(help="The campaign file to check for.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead, for a support request.")] = False,
) -> None:
    """Print what mfal, and a campaign, need of this machine, and how to mend what is not there.

    Red is only what is needed. Nothing is calculated or written, no password is printed. Exit code 1: something is red.
    """
    with refusing():
        campaign = load(config) if config else None
    lines = list(examine(campaign))
    rows = Table(*(Column(head, overflow="fold") for head in ("what", "state", "found", "mend")), box=SIMPLE_HEAD)
    for line in lines:
        state = f"[{STYLES[line.state]}]{line.state}[/]"
        rows.add_row(escape(line.name), state, escape(line.detail), escape(line.mend))
    if as_json:
        print(json.dumps([line._asdict() for line in lines], indent=2))
    else:
        Console(highlight=False).print(rows)
    if any(STYLES[line.state] == "red" for line in lines):
        raise typer.Exit(1)
