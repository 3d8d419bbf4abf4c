"""`mfal check`: the status of every label, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.label import TRAJECTORIES
from flows.opened import HELP, opened
from flows.refuse import refusing
from mfal.config import Campaign
from mfal.config_file import load
from mfal.dft.label import gated
from mfal.dft.magnetism import Magnetism
from mfal.dft.sanity import Sanity, flagged
from mfal.frames import FIDELITIES, WORDS, Frame, Label
from stores.connect import FILE


def check(
    labels: Annotated[
        str,
        typer.Argument(
            metavar="LABELS", help=f"{HELP} Or an extended XYZ file, or a folder of them.", show_default=False
        ),
    ],
    config: Annotated[
        Path | None,
        typer.Option(help="Judge by the limits of this campaign file: magnetism and sanity.", show_default=False),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="List the good labels, too.")] = False,
) -> None:
    """Print which labels are not good, and why: status, magnetic state, limits of sanity.

    Labels in a file have no status: their moments are judged by size and valence, and not by sign. Exit code 1 says
    that there is one that is not good.
    """
    with refusing():
        campaign = load(config) if config else None
        if _is_dataset(Path(labels)):
            frames, found = _file(Path(labels), campaign)
        else:
            frames, found, campaign = _stored(labels, campaign)
        found = flagged(frames, found, campaign.sanity if campaign else Sanity())
    console = Console(highlight=False)
    shown = found if every else [label for label in found if not label.good]
    if shown:
        console.print(_table(shown, frames))
    for line in _counts(found):
        console.print(line, soft_wrap=True)
    if any(not label.good for label in _latest(found)):
        raise typer.Exit(1)


def _is_dataset(path: Path) -> bool:
    """A folder with a store is asked for what the store says, whatever else it holds."""
    return path.suffix in TRAJECTORIES or (not (path / FILE).exists() and any(path.glob("*.extxyz")))


def _file(path: Path, campaign: Campaign | None) -> tuple[dict[str, Frame], list[Label]]:
    """Of a data set, judged by the limits of a campaign or by those of its elements."""
    from mfal.dataset import read

    listed, labels = read(path)
    frames = {frame.frame_id: frame for frame in listed}
    elements = {site.specie.symbol for frame in listed for site in frame.structure}
    magnetism = campaign.magnetism if campaign else Magnetism.of(elements)
    return frames, [gated(_with_moments(label), frames[label.frame_id].structure, magnetism) for label in labels]


def _stored(place: str, campaign: Campaign | None) -> tuple[dict[str, Frame], list[Label], Campaign | None]:
    """Of a store, judged by the gate of a campaign; without one they keep their status."""
    with opened(place) as stores:
        own = stores.campaign.campaign if stores.campaign else None
        frames, labels = stores.all_frames(own), stores.all_labels(own)
        campaign = campaign or stores.campaign
    if campaign:
        magnetism = campaign.engine.gate(campaign.magnetism)
        labels = [gated(label, frames[label.frame_id].structure, magnetism) for label in labels]
    return frames, labels, campaign


def _with_moments(label: Label) -> Label:
    if label.fidelity == "magnetic" and label.magmoms is None:
        return label.model_copy(update={"flag": "has no moments, so its magnetic state cannot be told"})
    return label


def _latest(labels: Sequence[Label]) -> list[Label]:
    """The last attempt at each label."""
    last = {(label.frame_id, label.fingerprint): label for label in sorted(labels, key=lambda label: label.attempt)}
    return list(last.values())


def _table(labels: Sequence[Label], frames: dict[str, Frame]) -> Table:
    table = Table("frame", "formula", "fidelity", "status", "why", "attempt", "core-h", box=SIMPLE_HEAD)
    table.columns[4].overflow = "fold"
    for label in labels:
        frame = frames.get(label.frame_id)
        table.add_row(
            escape(label.frame_id),
            frame.structure.reduced_formula if frame else "?",
            WORDS[label.fidelity],
            "[green]ok[/]" if label.good else f"[yellow]{'flagged' if label.flag else label.status}[/]",
            escape(label.flag or label.reason),
            str(label.attempt),
            f"{label.core_hours:.3f}" if label.core_hours else "",
        )
    return table


def _counts(labels: Sequence[Label]) -> list[str]:
    lines = []
    for fidelity in FIDELITIES:
        for fingerprint in sorted({label.fingerprint for label in labels if label.fidelity == fidelity}):
            same = [label for label in labels if (label.fidelity, label.fingerprint) == (fidelity, fingerprint)]
            counts = Counter("flagged" if label.flag else label.status for label in same)
            hours = sum(label.core_hours for label in same)
            settings = f" (settings {escape(fingerprint)})" if fingerprint else ""
            words = ", ".join(f"{count} {status}" for status, count in counts.items())
            lines.append(f"{WORDS[fidelity]}{settings}: {words}; {hours:.3f} core-hours")
    for fidelity in FIDELITIES:
        if sum(line.startswith(f"{WORDS[fidelity]} ") for line in lines) > 1:
            lines.append(f"The {WORDS[fidelity]} labels are of different settings, and are never trained on together.")
    return lines
