"""`mfal export`: the good labels of a campaign, as one file to train on or as a folder to publish."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from flows.label import TRAJECTORIES
from flows.opened import opened
from flows.refuse import refuse, refusing
from mfal import atomic
from mfal.config_file import load
from mfal.dataset_files import SPLITS, write_splits
from mfal.frames import FIDELITIES, WORDS

if TYPE_CHECKING:
    from mfal.data_card.data_set import DataSet

README, SETTINGS = "README.md", "settings.json"
#: What a folder is told by to be an export's: all of these, and nothing else but labels.
ALWAYS = {README, SPLITS, SETTINGS}
LABELS = {fidelity: f"{fidelity}.extxyz" for fidelity in FIDELITIES}


def export(
    config: Annotated[
        Path, typer.Argument(help="The campaign file, e.g. configs/quickstart.yaml.", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="A folder to publish, with splits, settings and a data card; or OUT.extxyz, one file to train on.",
            show_default=False,
        ),
    ],
    licence: Annotated[
        str,
        typer.Option(help="Of the folder: an SPDX identifier such as CC-BY-4.0, or a sentence.", show_default=False),
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the file, or a folder that an export wrote.")
    ] = False,
) -> None:
    """Write the good labels of a campaign's present settings: as a folder to publish, or as one file to train on.

    The file has the labels of both fidelities, for 'mfal train'. The folder has a file for each fidelity, and says what
    they are, how they were made, what they cost and what was left out.
    """
    one_file = out.suffix in TRAJECTORIES
    with refusing():
        campaign = load(config)
        if one_file and licence:
            refuse(f"--licence {licence}: is for a folder, whose card says it: give an OUT without {out.suffix}")
        if one_file and out.exists() and not force:
            refuse(f"{out}: is there already: give another name, or --force to overwrite it")
        if not one_file:
            _must_be_free(out, force)
    from mfal.data_card.data_set import DataSet

    with opened(campaign) as stores:
        name = campaign.campaign
        data = DataSet.of(campaign, stores.all_frames(name), stores.all_labels(name), stores.all_scores(name))
        if not data.good:
            refuse(f"{out}: there is no good label to write")
        lines = _write_file(out, data) if one_file else _write_folder(out, data, licence)
    console = Console(highlight=False, soft_wrap=True)
    for line in lines:
        console.print(escape(line))
    if data.flagged:
        console.print(f"Left out: {len(data.flagged)} labels beyond the limits of sanity ('mfal check' says which)")
    if data.bad:
        console.print(f"Left out: {len(data.bad)} labels that are not good ('mfal check' says why)")
    if good := sum(label.good for label in data.others):
        console.print(f"Left out: {good} good labels of other settings than {escape(str(config))} has now")
    if not (one_file or licence):
        console.print("The card states no licence: --licence CC-BY-4.0, say, does")


def _write_file(out: Path, data: DataSet) -> list[str]:
    from mfal.dataset import write

    write(out, data.frames.values(), data.good)
    found = ", ".join(f"{len(data.of_fidelity(fidelity))} {WORDS[fidelity]}" for fidelity in FIDELITIES)
    return [f"{out}: {found} labels"]


def _write_folder(out: Path, data: DataSet, licence: str) -> list[str]:
    """What is in it, a line a file."""
    from mfal.data_card.card import render
    from mfal.dataset import write

    lines = []
    with _whole(out) as folder:
        for fidelity in FIDELITIES:
            if labels := data.of_fidelity(fidelity):
                write(folder / LABELS[fidelity], data.frames.values(), labels, splits=data.splits)
                counts = Counter(data.splits[label.frame_id] for label in labels)
                split = ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), reverse=True))
                lines.append(f"{out / LABELS[fidelity]}: {len(labels)} labels ({split})")
        splits = data.split_lists()
        write_splits(folder, splits)
        settings = data.settings_by_fingerprint()
        atomic.replace(folder / SETTINGS, f"{json.dumps(settings, indent=2, ensure_ascii=False)}\n".encode())
        card = render(data, licence=licence, made=datetime.now(UTC).date())
        atomic.replace(folder / README, card.encode())
    counted = ", ".join(f"{len(ids)} {name}" for name, ids in splits.items())
    return [
        *lines,
        f"{out / SPLITS}: {counted} frames",
        f"{out / SETTINGS}: {', '.join(settings)}",
        f"{out / README}: the card",
    ]


def _must_be_free(out: Path, force: bool) -> None:
    if not (out.exists() or out.is_symlink()):
        return
    if not force:
        refuse(f"{out}: is there already: give another name, or --force to replace a folder that an export wrote")
    if out.is_symlink() or not out.is_dir():
        refuse(f"{out}: is not a folder that an export wrote: give another name")
    found = {path.name for path in out.iterdir()}
    if odd := sorted(found - ALWAYS - set(LABELS.values())):
        refuse(f"{out}: holds {odd[0]}, which no export wrote: give another name, or take it out")
    if missing := sorted(ALWAYS - found):
        refuse(f"{out}: is not a folder that an export wrote, as it has no {missing[0]}: give another name")


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder beside the one that is wanted, which takes its place once it is complete: a kill leaves no half."""
    out = Path(os.path.abspath(out))  # of '.', too, the name
    out.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (out.with_name(f".{out.name}.{os.getpid()}{end}") for end in ("", ".old"))
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed and had the same number
    partial.mkdir()
    try:
        yield partial
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.rename(out, old)
        os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
