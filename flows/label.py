"""`mfal label`: labels for structures that a person has, without a campaign."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from flows.play import AtATime
from flows.refuse import refuse, refusing
from mfal.config_file import load
from mfal.dft.magnetism import Magnetism
from mfal.frames import FIDELITIES, WORDS, Fidelity, Frame, Label

if TYPE_CHECKING:
    from flows.jobs import Event
    from mfal.dft.engines import Engine
    from stores.campaign import CampaignStores

#: Files that may hold many structures.
TRAJECTORIES = (".extxyz", ".xyz")


def label(
    structures: Annotated[
        list[Path],
        typer.Argument(
            help="CIF, POSCAR, pymatgen JSON, or extended XYZ with any number of images.", show_default=False
        ),
    ],
    fidelity: Annotated[
        Literal["both", "nonmagnetic", "magnetic"], typer.Option(help="Which calculations to run.")
    ] = "both",
    engine: Annotated[
        Literal["gpaw", "vasp", "cp2k", "surrogate"], typer.Option(help="With its default settings.")
    ] = "gpaw",
    preset: Annotated[
        Literal["fast", "production"] | None, typer.Option(help="Settings of GPAW; production by default.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Take engine and magnetism from this campaign file.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder for labels, calculations and the store.")] = Path("labels"),
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Attempt failed and unconverged calculations once more.")
    ] = False,
    at_a_time: AtATime = 1,
) -> None:
    """Calculate labels of any structure files at one fidelity or both.

    Nothing that was calculated is calculated again, so the command can be interrupted and repeated at will, also with
    more structures. The good labels are written to labels.extxyz; 'mfal check OUT' says what is wrong with the others.
    """
    with refusing():
        frames = [frame for path in structures for frame in read(path)]
        section, magnetism = _settings(engine, preset, config, frames)
    fidelities = [name for name in FIDELITIES if fidelity in ("both", name)]
    # Imported late: torch and atomate2 take seconds that `--help` and a wrong file should not.
    from jobflow import Flow

    from flows.calculation import label_job
    from flows.engines import engine as engine_of
    from flows.local import run_flow
    from flows.play import ended

    elements = {site.specie.symbol for frame in frames for site in frame.structure}
    if problems := engine_of(section, magnetism).problems(elements):
        refuse(*problems)
    unique = {frame.frame_id: frame for frame in frames}
    name = out.resolve().name
    with refusing():
        jobs = [label_job(section, magnetism, frame, f, name, 0) for frame in unique.values() for f in fidelities]
    screen = _Screen({frame.frame_id: f"{frame.parent} {frame.source}".strip() for frame in unique.values()}, len(jobs))
    with ended(screen), screen.progress:
        run_flow(
            Flow(jobs, name=name),
            out.resolve(),
            screen.on_event,
            retry_failed=retry_failed,
            at_a_time=at_a_time,
            frames=list(unique.values()),
        )
    _finish(out, unique, screen)


def read(path: Path) -> list[Frame]:
    """The structures of a file, as frames in canonical order; the name of the file is their parent.

    Raises:
        ValueError: it cannot be read, or a structure is disordered.
    """
    from pymatgen.core import Structure

    from mfal.dataset import iter_frames

    if path.suffix in TRAJECTORIES:
        return [Frame.of(frame.structure, parent=path.name, source=frame.source) for frame in iter_frames(path)]
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        structure = Structure.from_file(path)
    except Exception as error:
        raise ValueError(
            f"{path}: is not a structure that pymatgen reads ({type(error).__name__}): give a CIF, a POSCAR, a pymatgen"
            " JSON or extended XYZ"
        ) from error
    if not structure.is_ordered:
        raise ValueError(f"{path}: has sites with several species: give one ordered structure")
    return [Frame.of(structure, parent=path.name, source="")]


def _settings(kind: str, preset: str | None, config: Path | None, frames: Sequence[Frame]) -> tuple[Engine, Magnetism]:
    from pydantic import TypeAdapter

    from mfal.dft.engines import Engine

    if config is not None:
        campaign = load(config)
        return campaign.engine, campaign.magnetism
    if preset and kind != "gpaw":
        raise ValueError(f"--preset {preset}: is for --engine gpaw; give --config FILE for the settings of {kind}")
    section = TypeAdapter(Engine).validate_python({"kind": kind} | ({"preset": preset} if preset else {}))
    return section, Magnetism.of(site.specie.symbol for frame in frames for site in frame.structure)


class _Screen:
    """A line for each label, and a bar over all of them."""

    def __init__(self, names: dict[str, str], total: int) -> None:
        self.names, self.labels = names, dict[tuple[str, Fidelity], Label]()
        self.console = Console(highlight=False)
        self.failed: list[str] = []
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        self.progress = Progress(*columns, console=self.console)
        self.bar = self.progress.add_task("", total=total)

    def on_event(self, event: Event, stores: CampaignStores) -> None:
        metadata = event.job.metadata
        name, fidelity = self.names[metadata["frame_id"]], metadata["fidelity"]
        if event.what == "started":
            self.progress.update(self.bar, description=escape(f"{name}, {WORDS[fidelity]}"))
        if event.what == "failed":
            self.failed.append(event.job.uuid)
            self.progress.print(f"[red]{escape(name)}, {WORDS[fidelity]}: {escape(event.error)}[/]")
        if event.what in ("finished", "kept"):
            label: Label = stores.output(event.job.uuid)
            self.labels[label.frame_id, label.fidelity] = label
            state = "[green]ok[/]" if label.good else f"[yellow]{label.status}[/]: {escape(label.reason)}"
            attempts = f", attempt {label.attempt}" if label.attempt > 1 else ""
            kept = ", kept" if event.what == "kept" else ""
            self.progress.print(f"{escape(name)}, {WORDS[fidelity]}: {state}{attempts}{kept}", soft_wrap=True)
            self.progress.advance(self.bar)


def _finish(out: Path, frames: dict[str, Frame], screen: _Screen) -> None:
    from mfal.dataset import write
    from mfal.dft.sanity import Sanity, flagged

    labels = flagged(frames, list(screen.labels.values()), Sanity())
    good = [label for label in labels if label.good]
    hours = sum(label.core_hours + label.earlier_core_hours for label in labels)
    console = screen.console
    if good:
        write(out / "labels.extxyz", frames.values(), good)
        console.print(f"{len(good)} good labels:  {escape(str(out / 'labels.extxyz'))}", soft_wrap=True)
    if len(good) < len(labels):
        console.print(f"{len(labels) - len(good)} not good: 'mfal check {escape(str(out))}' says why", soft_wrap=True)
    console.print(f"{hours:.3f} core-hours")
    if not good:
        raise typer.Exit(1)
