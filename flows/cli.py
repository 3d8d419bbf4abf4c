"""The `mfal` command."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from flows.check import check
from flows.doctor import doctor
from flows.evaluate import evaluate
from flows.fold import fold
from flows.forecast import forecast
from flows.label import label
from flows.opened import opened
from flows.play import play
from flows.query import query
from flows.refuse import refuse
from flows.rehearse import rehearse
from flows.score import score
from flows.status import status
from flows.train import train
from flows.why import why
from mfal.config import Campaign
from mfal.config_file import ConfigError, load
from mfal.frames import WORDS

# Before torch is imported: its threads must sleep while they wait; beside a busy process they would spin to a crawl.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    help="Active learning over two DFT fidelities: training data for magnetic battery cathodes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
Config = Annotated[Path, typer.Argument(help="The campaign file, e.g. configs/quickstart.yaml.", show_default=False)]


@app.command()
def run(
    config: Config,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Attempt failed and unconverged calculations once more.")
    ] = False,
) -> None:
    """Run a campaign in this process, or go on where it stopped.

    Nothing that was calculated is calculated again, so the command can be interrupted and repeated at will. What failed
    or did not converge is attempted again when engine.timeout or engine.max_iterations has changed. The store, the
    calculations and the reports are written below the `directory` of the campaign file.
    """
    play(_load(config), config, retry_failed=retry_failed)


@app.command()
def report(
    config: Config,
    round: Annotated[int | None, typer.Option(help="The round; the last finished one by default.", min=0)] = None,
) -> None:
    """Write the HTML report of a round again, from the stores, and print where it is."""
    campaign = _load(config)
    from flows.report import write_report

    with opened(campaign) as stores:
        try:
            print(write_report(stores, campaign, round))
        except LookupError as error:
            refuse(str(error.args[0]))


@app.command()
def export(
    config: Config,
    out: Annotated[Path, typer.Argument(metavar="OUT.extxyz", help="The file to write.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it is there.")] = False,
) -> None:
    """Write the campaign's good labels as extended XYZ: one file to share, or to train on with 'mfal train'."""
    campaign = _load(config)
    from flows.export import export as write

    if out.exists() and not force:
        refuse(f"{out}: is there already: give another name, or --force to overwrite it")
    with opened(campaign) as stores:
        counts, others, flagged = write(stores, campaign, out)
    found = ", ".join(f"{count} {WORDS[fidelity]}" for fidelity, count in counts.items())
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{escape(str(out))}: {found} labels")
    if flagged:
        console.print(f"Left out: {flagged} labels beyond the limits of sanity ('mfal check' says which)")
    if others:
        console.print(f"Left out: {others} good labels of other settings than {escape(str(config))} has now")


for command in (status, doctor, label, check, why, rehearse, forecast, train, evaluate, fold, score, query):
    app.command()(command)


def _load(config: Path) -> Campaign:
    try:
        return load(config)
    except ConfigError as error:
        _refuse(error)


def _refuse(error: ConfigError) -> NoReturn:
    refuse(*error.lines)


def main() -> None:
    # Third-party notices (pymatgen on rounding, torch on tensors that need no gradient) would bury what matters.
    warnings.simplefilter("ignore")
    app()
