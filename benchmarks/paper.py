"""The experiments of arXiv 2511.11361 on our own labels: `python benchmarks/paper.py --help`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, it does not see its own package

import benchmarks  # noqa: F401, isort: skip (before torch, which others import: it sets how threads wait)
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as Printed

from benchmarks import page, paper_plots, paper_tables, resumed
from benchmarks.experiments import SHARES, Experiment, experiments
from benchmarks.trainings import Data, Result, Run, Settings, fingerprint, trained

RUNS = Path("runs/paper")
NOTE = (
    "Mean absolute errors at the magnetic fidelity, of frames that no run was trained on: geometric means over seeds"
    " with 95% intervals, of what the draw of the labels and the order of the training do. That the test frames are a"
    " sample, too, is not in them."
)
console = Console(stderr=True)


def main(
    data: Annotated[Path, typer.Option(help="A folder that 'mfal export' wrote.")] = Path("data/lmfp-gpaw"),
    figures: Annotated[list[str] | None, typer.Option("--figure", help="Only this one; can be repeated.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Minutes: one seed, to see that it runs; the numbers mean little.")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    labels_seen: Annotated[
        int, typer.Option(help="By a training, for each fidelity that it learns; random weights see more.", min=1)
    ] = 500,
    batch_size: Annotated[int, typer.Option(min=1)] = 4,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    compiled: Annotated[
        bool, typer.Option("--compile/--plain", help="Compile trainings: minutes first, then faster.")
    ] = True,
    jobs: Annotated[int, typer.Option(help="Processes, of one thread each.", min=1)] = 2,
    results: Annotated[Path, typer.Option(help="Finished trainings, from which a rerun goes on.")] = RUNS
    / "done.jsonl",
    plots: Annotated[Path, typer.Option(help="The folder of the figures.")] = RUNS,
    into: Annotated[Path | None, typer.Option("--page", help="Fill the tables of this page in.")] = None,
) -> None:
    """Train what the figures are made of, print their tables, and draw them."""
    labels = Data.read(data)
    counts = {fidelity: len(found) for fidelity, found in labels.train.items()}
    if quick:
        seeds, labels_seen, compiled = 1, min(labels_seen, 20), False
    settings = Settings(
        labels_seen=labels_seen,
        batch_size=batch_size,
        device=cast(Literal["auto", "cpu", "cuda"], device),
        compile=compiled,
    )
    all_of_them = experiments(counts, seeds, SHARES[-2:] if quick else SHARES)
    if unknown := set(figures or ()) - {experiment.name for experiment in all_of_them}:
        names = ", ".join(experiment.name for experiment in all_of_them)
        raise typer.BadParameter(f"there is no figure {', '.join(sorted(unknown))}; there are {names}")
    wanted = [experiment for experiment in all_of_them if not figures or experiment.name in figures]
    done = _trained(results, wanted, data, labels, settings, jobs)
    plots.mkdir(parents=True, exist_ok=True)
    about = (
        f"{data}: {counts['magnetic']} magnetic and {counts['nonmagnetic']} non-magnetic labels to learn from,"
        f" {sum(example.fidelity == 'magnetic' for example in labels.test)} magnetic ones to test on. Seeds: {seeds};"
        f" a training sees {labels_seen} labels for each fidelity that it learns, in batches of {batch_size}. {NOTE}"
    )
    for experiment in wanted:
        _show(experiment, done, about, plots, into)


def _show(experiment: Experiment, done: dict[Run, Result], about: str, plots: Path, into: Path | None) -> None:
    header = paper_tables.header(experiment)
    rows = list(paper_tables.rows(experiment, done))
    printed = Printed(*header, title=experiment.title, title_justify="left", caption=about, caption_justify="left")
    for row in rows:
        printed.add_row(*row)
    Console(width=None if Console().is_terminal else 160).print(printed)
    picture = plots / f"{experiment.name}.svg"
    paper_plots.draw(picture, experiment, done)
    if into is not None:
        shown = f"![{experiment.title}]({os.path.relpath(picture, into.parent)})"
        page.fill(into, experiment.name, "\n\n".join([shown, page.table(header, rows), about]))


def _trained(
    path: Path, wanted: Sequence[Experiment], folder: Path, labels: Data, settings: Settings, jobs: int
) -> dict[Run, Result]:
    """The results of all runs; those that the file has are not trained again."""
    key = fingerprint(labels, settings)
    done = {result.run: result for result in resumed.finished(path, Result, key)}
    runs = dict.fromkeys(run for experiment in wanted for run in experiment.runs)
    # Seed by seed, so that an interrupted run has all that its first seeds can tell.
    missing = sorted((run for run in runs if run not in done), key=lambda run: run.seed)
    tasks = [(run, folder, labels.digest, settings) for run in missing]
    columns = (TextColumn("trainings"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        for found in progress.track(resumed.run(path, _train, tasks, jobs), total=len(tasks)):
            done[found.run] = found
    return done


def _train(run: Run, folder: Path, digest: str, settings: Settings) -> Result:
    return trained(run, _read(folder, digest), settings)


@lru_cache(maxsize=1)
def _read(folder: Path, digest: str) -> Data:
    """Once in each process; `digest` is what the files must still be."""
    data = Data.read(folder)
    if data.digest != digest:
        raise ValueError(f"{folder}: has changed since this began: start again")
    return data


if __name__ == "__main__":
    typer.run(main)
