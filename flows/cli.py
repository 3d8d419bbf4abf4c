"""The `mfal` command."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Annotated

import typer

from flows.bring import bring
from flows.check import check
from flows.doctor import doctor
from flows.evaluate import evaluate
from flows.export import export
from flows.fold import fold
from flows.forecast import forecast
from flows.label import label
from flows.play import AtATime, play
from flows.query import query
from flows.refuse import refusing
from flows.rehearse import rehearse
from flows.report import report
from flows.score import score
from flows.serve import serve
from flows.status import status
from flows.submit import cancel, pause, resume, retry, submit
from flows.train import train
from flows.watch import watch
from flows.why import why
from mfal.config import Campaign
from mfal.config_file import load

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
    at_a_time: AtATime = 1,
) -> None:
    """Run a campaign in this process, or go on where it stopped.

    Nothing that was calculated is calculated again, so the command can be interrupted and repeated at will. What failed
    or did not converge is attempted again when engine.timeout or engine.max_iterations has changed. The store, the
    calculations and the reports are written below the `directory` of the campaign file.
    """
    play(_load(config), config, retry_failed=retry_failed, at_a_time=at_a_time)


COMMANDS = (
    *(report, serve, status, submit, watch, pause, resume, cancel, retry, doctor, label, check, why, query),
    *(rehearse, forecast, export, train, evaluate, fold, score),
)
for command in COMMANDS:
    app.command()(command)
app.command("import")(bring)


def _load(config: Path) -> Campaign:
    with refusing():
        return load(config)


def main() -> None:
    # Third-party notices (pymatgen on rounding, torch on tensors that need no gradient) would bury what matters.
    warnings.simplefilter("ignore")
    app()
