"""`mfal score`: how unsure a committee is of every frame of a pool, however large, as a CSV file."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task
from rich.table import Table
from rich.text import Text

from flows.device import Device, ready
from flows.refuse import refuse, refusing, resumable
from mfal import atomic
from mfal.frames import FIDELITIES

if TYPE_CHECKING:
    from mfal.committee.decompose import Reduce
    from mfal.committee.stream import Scored
    from mfal.model.delta import Model

#: Frames that are predicted, written and gone on from together: the last digits of a frame depend on its company. (On
#: a GPU they also depend on the order in which it adds up, which is another every time.)
BATCH = 16
#: Of the first and of the last bytes of a pool, which tell it from another.
MEGABYTE = 2**20


def score(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="A folder of members, or a .safetensors file.", show_default=False),
    ],
    pool: Annotated[
        Path, typer.Argument(metavar="POOL.extxyz", help="The frames; they need no labels.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("sigmas.csv"),
    reduce: Annotated[
        str,
        typer.Option(
            metavar="max|mean|QUANTILE",
            help="From the atoms of a frame to the frame: the worst atom, the mean, or a quantile such as 0.95.",
        ),
    ] = "max",
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it is there.")] = False,
) -> None:
    """Write how unsure a committee is of each frame of a pool: without magnetism, of its difference, and with it.

    Memory does not grow with the pool. It can be interrupted and repeated at will: the rows are in OUT.part until all
    are there, and the same command goes on after them.
    """
    if out.is_dir() or (out.exists() and not force):
        refuse(f"{out}: is there already: give another --out, or --force to overwrite a file")
    from mfal.committee.files import load
    from mfal.committee.predict import batched
    from mfal.committee.stream import score_stream
    from mfal.dataset import count_images, iter_frames

    console = Console(highlight=False)
    part = out.with_name(f"{out.name}.part")
    with refusing():
        over = _reduce(reduce)
        place = ready(device)
        models = [member.to(place) for member in load(model)]
        _must_disagree(model, models)
        total = count_images(pool)
        with _going_on(part, _about(model, pool, over, place.type), total) as (file, done):
            if done:
                console.print(f"{escape(str(part))}: goes on after {done} of {total} frames", soft_wrap=True)
            scored = score_stream(models, iter_frames(pool, skip=done), over, batch_size=BATCH)
            try:
                with resumable(), _progress(console) as progress:
                    bar = progress.add_task("", total=total, completed=done)
                    for rows in batched(scored, BATCH):
                        _append(file, rows)
                        progress.advance(bar, len(rows))
            except ValueError as error:
                raise ValueError(f"{error}\n{part}: has the rows of the batches before it") from error
            os.replace(part, out)
            _sidecar(part).unlink()
    console.print(_summary(out))
    console.print(f"Sigmas of {total} frames:  {escape(str(out))}", soft_wrap=True)


def _reduce(text: str) -> Reduce:
    named: dict[str, Reduce] = {"max": "max", "mean": "mean"}
    if text in named:
        return named[text]
    try:
        quantile = float(text)
    except ValueError:
        quantile = 0.0
    if not 0 < quantile <= 1:
        raise ValueError(f"--reduce {text}: must be max, mean or a quantile above 0 and up to 1, such as 0.95")
    return quantile


def _must_disagree(path: Path, models: Sequence[Model]) -> None:
    """Refuse what has no spread, or none of the difference."""
    if sum(model.heads for model in models) < 2:
        raise ValueError(
            f"{path}: is one member, and the spread of one is not there: give a folder of several, which 'mfal train'"
            " makes where its settings have committee.members: 2 or more"
        )
    for model in models:
        if missing := set(FIDELITIES) - set(model.fidelities):
            raise ValueError(
                f"{path}: does not know the fidelity {', '.join(sorted(missing))}, and the spread of the difference is"
                " within a member: give a committee of both, such as --strategy multi-fidelity or delta makes"
            )


def _about(model: Path, pool: Path, reduce: Reduce, device: str) -> dict[str, Any]:
    """Whatever decides the bytes of the file."""
    from mfal.committee.files import member_files
    from mfal.committee.stream import COLUMNS

    status = pool.stat()
    with pool.open("rb") as file:
        first = file.read(MEGABYTE)
        file.seek(max(status.st_size - MEGABYTE, 0))
        ends = hashlib.sha256(first + file.read(MEGABYTE)).hexdigest()
    return {
        "model": [hashlib.sha256(file.read_bytes()).hexdigest() for file in member_files(model)],
        "pool": {"bytes": status.st_size, "modified_ns": status.st_mtime_ns, "sha256_of_its_ends": ends},
        "reduce": reduce,
        "device": device,
        "batch": BATCH,
        "columns": list(COLUMNS),
    }


def _sidecar(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


@contextmanager
def _going_on(part: Path, about: dict[str, Any], total: int) -> Iterator[tuple[BinaryIO, int]]:
    """The unfinished file to append to, and how many rows are in it: whole batches only.

    Raises:
        ValueError: it is of something else, or another process is at it.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{part}: another 'mfal score' writes it: wait for it, or stop it") from None
        if file.tell():
            _must_be_ours(part, about)
        else:
            # Before the first row: a row without it could be of anything.
            atomic.replace(_sidecar(part), f"{json.dumps(about, indent=2)}\n".encode())
        yield file, _cut(file, total)


def _must_be_ours(part: Path, about: dict[str, Any]) -> None:
    try:
        found = json.loads(_sidecar(part).read_bytes())
        others = [name for name, value in about.items() if found.get(name) != value]
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{_sidecar(part)}: cannot be read ({error}): give another --out, or remove {part}") from error
    if others:
        raise ValueError(
            f"{part}: was begun with another {', another '.join(others)}: give what it was begun with or another --out,"
            " or remove it to start over"
        )


def _cut(file: BinaryIO, total: int) -> int:
    """Cut off what a kill left of the last batch, and count the rows before it. The header is in the first batch."""
    file.seek(0)
    end = rows = size = 0
    for i, line in enumerate(file):
        if not line.endswith(b"\n"):
            break
        size += len(line)
        if i and (i % BATCH == 0 or i == total):
            end, rows = size, i
    file.truncate(end)
    file.seek(end)
    return rows


def _append(file: BinaryIO, batch: Sequence[Scored]) -> None:
    rows = [scored.row() for scored in batch]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if not file.tell():
        writer.writerow(rows[0])
    for row in rows:
        # Five digits: the spread of a few float32 numbers has no more.
        writer.writerow(f"{value:.5g}" if isinstance(value, float) else value for value in row.values())
    file.write(text.getvalue().encode())
    file.flush()
    os.fsync(file.fileno())


class _Pace(ProgressColumn):
    """Frames per second, and when the last of them will be done."""

    def render(self, task: Task) -> Text:
        if not task.speed or task.time_remaining is None:
            return Text("")
        end = datetime.now() + timedelta(seconds=task.time_remaining)
        return Text(f"{task.speed:.3g} frames/s, ends {end:%a %H:%M}")


def _progress(console: Console) -> Progress:
    # Batches of large cells come minutes apart.
    return Progress(BarColumn(), MofNCompleteColumn(), _Pace(), console=console, speed_estimate_period=600)


def _summary(path: Path) -> Table:
    """Of the forces, over the frames."""
    import numpy as np

    from mfal.committee.stream import SIGMAS

    columns = [column for column, (quantity, part) in SIGMAS.items() if quantity == "forces" and part != "covariance"]
    with path.open(newline="") as file:
        numbers = (float(row[column]) for row in csv.DictReader(file) for column in columns)
        values = np.fromiter(numbers, dtype=float).reshape(-1, len(columns))
    table = Table("σ of the forces, eV/Å", "median", "90%", "max", box=SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for name, found in zip(("non-magnetic", "difference", "magnetic"), values.T, strict=True):
        table.add_row(name, *(f"{np.quantile(found, share):.4f}" for share in (0.5, 0.9, 1)))
    return table
