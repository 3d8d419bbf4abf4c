"""Which rule needs how many core-hours to a target force error: `python benchmarks/acquisition.py --help`."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, it does not see its own package

import benchmarks  # noqa: F401, isort: skip (before torch: it sets how threads wait)
import numpy as np
import typer
from rich.console import Console
from rich.table import Table as Printed

from benchmarks import curves, page, picture, resumed, surrogate
from benchmarks.play import TEST_SHARE, Play, Settings, play
from benchmarks.rules import RULES, WINDOW
from mfal.config import Committee, Training
from mfal.dataset import read
from mfal.dft.engines import Table
from mfal.dft.table import frames, look_up, problems
from mfal.frames import Fidelity

#: Where the file does not say what a label cost.
CORE_HOURS: dict[Fidelity, float] = {"nonmagnetic": 1.0, "magnetic": 3.0}
RUNS = Path("runs/acquisition")
console = Console(stderr=True)


def main(
    data: Annotated[Path, typer.Option(help="A file, or folder, with both labels of frames and core_hours.")] = Path(
        "data/rocksalt-gpaw/labels.extxyz"
    ),
    surrogates: Annotated[
        int | None, typer.Option("--surrogate", help="In place of --data: so many frames labelled by CHGNets.", min=20)
    ] = None,
    rules: Annotated[list[str] | None, typer.Option("--rule", help="Only this one; can be repeated.")] = None,
    seeds: Annotated[int, typer.Option(min=1)] = 5,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    start: Annotated[int, typer.Option(help="Frames that every rule starts from.", min=1)] = 8,
    buys: Annotated[float, typer.Option(help="Magnetic labels that a round's budget pays for on average.")] = 5.0,
    kind: Annotated[str, typer.Option(help="Of the committee: shallow or deep.")] = "shallow",
    members: Annotated[int, typer.Option(min=2)] = 4,
    epochs: Annotated[int, typer.Option(min=1)] = 12,
    batch_size: Annotated[int, typer.Option(min=1)] = 4,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile trainings: minutes first, then twice as fast.")
    ] = False,
    target: Annotated[float | None, typer.Option(help="meV/Å. By default what random ends with, seed by seed.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes, of one thread each.", min=1)] = 2,
    results: Annotated[Path | None, typer.Option(help="Finished plays, from which a rerun goes on.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the learning curves here, as SVG.")] = None,
    into: Annotated[Path | None, typer.Option("--page", help="Fill the table of this page in.")] = None,
) -> None:
    """Play several selection rules over the same pool, seeds and budget, and print what each needs."""
    chosen = rules or list(RULES)
    if unknown := set(chosen) - set(RULES):
        raise typer.BadParameter(f"there is no rule {', '.join(sorted(unknown))}; there are {', '.join(RULES)}")
    if surrogates is not None:
        data = RUNS / f"surrogate-{surrogates}.extxyz"
        if not data.exists():
            console.print(f"labelling {surrogates} frames with pretrained CHGNets")
            surrogate.build(data, surrogates)
    table = _table(data)
    magnetic = float(np.mean([look_up(table, frame.frame_id, "magnetic").core_hours for frame in frames(table)]))
    settings = Settings(
        rounds=rounds,
        start=start,
        core_hours=buys * magnetic,
        committee=Committee(kind=cast(Literal["shallow", "deep"], kind), members=members),
        training=Training(epochs=epochs, batch_size=batch_size, device="cpu", compile=compiled),
    )
    plays = _played(results or RUNS / f"{data.stem}.jsonl", chosen, range(seeds), table, settings, jobs)
    summary = curves.Table.of(plays, target)
    labels = "a surrogate (pretrained CHGNets), not DFT" if surrogates is not None else str(data)
    wanted = "what random ends with, seed by seed: " if target is None else ""
    title = (
        f"{len(frames(table))} frames with labels of {labels}, {TEST_SHARE:.0%} of them to test on, {start} to start"
        f" from; {len(summary.targets)} seeds, {rounds} rounds of {settings.core_hours:.3g} core-hours; {kind}"
        f" committee of {members}, {epochs} epochs a round. Target: {wanted}{np.mean(summary.targets):.3g} meV/Å on"
        f" average. Window of dp-gen: quantiles {WINDOW[0]:g} to {WINDOW[1]:g} of its first round's deviations."
    )
    printed = Printed(*curves.HEADER, title=title, title_justify="left", caption=curves.NOTES, caption_justify="left")
    for row in summary.rows():
        printed.add_row(*row)
    Console(width=None if Console().is_terminal else 200).print(printed)
    if plot is not None:
        picture.draw(plot, summary, title)
    if into is not None:
        shown = [f"![Force error against core-hours, by rule]({os.path.relpath(plot, into.parent)})"] if plot else []
        rows = page.table(curves.HEADER, summary.rows())
        page.fill(into, "acquisition", "\n\n".join([*shown, rows, title, curves.NOTES]))


def _table(path: Path) -> Table:
    if not path.exists():
        raise typer.BadParameter(f"there is no {path}: give --data, or try it with --surrogate 80")
    table = Table(data=path, core_hours=CORE_HOURS)
    if found := problems(table, 1):
        raise typer.BadParameter(found[0])
    if any(not label.core_hours for label in read(path)[1]):
        console.print(f"{path}: some labels do not say what they cost; they count {CORE_HOURS} core-hours")
    return table


def _played(
    path: Path, rules: Sequence[str], seeds: Sequence[int], table: Table, settings: Settings, jobs: int
) -> list[Play]:
    """All plays, in the order of the rules; those that the file has are not played again."""
    content = f"{table.promised('magnetic')['data']} {settings.model_dump_json()}"
    fingerprint = hashlib.sha256(content.encode()).hexdigest()[:12]
    done = {(play.rule, play.seed): play for play in resumed.finished(path, Play, fingerprint)}
    # Seed by seed, so that an interrupted run has all rules of its first seeds.
    missing = [(rule, seed) for seed in seeds for rule in rules if (rule, seed) not in done]
    tasks = [(rule, seed, table, settings, fingerprint) for rule, seed in missing]
    for number, found in enumerate(resumed.run(path, play, tasks, jobs), 1):
        done[found.rule, found.seed] = found
        console.print(
            f"{number} of {len(missing)}: {found.rule}, seed {found.seed}:"
            f" {found.points[0].force_error:.1f} to {found.points[-1].force_error:.1f} meV/Å with"
            f" {found.points[-1].total:.3g} core-hours, {found.seconds:.0f} s",
            highlight=False,
        )
    return [done[rule, seed] for rule in rules for seed in seeds]


if __name__ == "__main__":
    typer.run(main)
