"""The memory of `mfal score` does not grow with the pool: `python benchmarks/score_memory.py --help`.

Each row is a process of its own. Its peak is what the kernel counted (VmHWM); a good part of it is memory that has been
freed and that glibc keeps in fragments, more or less of it from run to run. Held is what is left when that is given
back, after the last batch and before anything is closed. What a frame adds is the difference of what is held between
the largest and the smallest pool, over that of their frames.
"""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, it does not see its own package

import benchmarks  # noqa: F401, isort: skip (before torch: it sets how threads wait)
import numpy as np
import typer
from pymatgen.core import Structure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.memory import STATUS

if TYPE_CHECKING:
    from mfal.committee.stream import Scored

ROOT = Path(__file__).resolve().parents[1]
CELLS = {"rock salt, 4 atoms": "rocksalt-4.cif", "olivine, 28 atoms": "olivine-limnpo4.cif"}
SIZES = {"rock salt, 4 atoms": (200, 1000, 4000), "olivine, 28 atoms": (100, 400)}
#: What a peak is extrapolated to, and what is read for real.
LARGE = 100_000


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A minute: a tenth of the frames.")] = False,
    reading: Annotated[bool, typer.Option(help=f"Also read a pool of {LARGE} frames, which takes minutes.")] = True,
) -> None:
    """Measure the peak of the resident memory on the CPU, for a deep committee of two members."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as name, console.status(""):
        folder = Path(name)
        _committee(folder / "model")
        for cell in CELLS:
            console.print(_scored(folder, cell, 10 if quick else 1))
        if reading:
            console.print(_read(folder, LARGE // 10 if quick else LARGE))


def _scored(folder: Path, cell: str, divisor: int) -> Table:
    table = _table(f"mfal score, {cell}", "peak, MB", "held, MB", "frames/s")
    held = {}
    for frames in (size // divisor for size in SIZES[cell]):
        pool = _pool(folder / "pool.extxyz", cell, frames)
        peak, held[frames], seconds = _measured("score", folder / "model", pool, folder / f"{frames}.csv", str(frames))
        table.add_row(f"{frames} frames", f"{peak / 1e3:.0f}", f"{held[frames] / 1e3:.1f}", f"{frames / seconds:.1f}")
    few, many = min(held), max(held)
    growth = (held[many] - held[few]) / (many - few)
    table.caption = (
        f"A frame adds {growth:+.2f} kB to what is held; extrapolated, not measured: the peak of {LARGE} frames is"
        f" {(peak + growth * (LARGE - many)) / 1e3:.0f} MB"
    )
    return table


def _read(folder: Path, frames: int) -> Table:
    cell = "olivine, 28 atoms"
    pool = _pool(folder / "pool.extxyz", cell, frames)
    table = _table(f"{frames} frames of {cell}: {pool.stat().st_size / 1e6:.0f} MB", "peak, MB", "held, MB", "frames/s")
    for what in ("import", "count", "read"):
        peak, held, seconds = _measured(what, pool)
        speed = "" if what == "import" else f"{frames / seconds:.0f}"
        table.add_row(what, f"{peak / 1e3:.1f}", f"{held / 1e3:.1f}", speed)
    return table


def _table(*heads: str) -> Table:
    table = Table(*heads, box=SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _committee(folder: Path) -> None:
    from mfal.committee.files import save
    from mfal.committee.members import start_committee
    from mfal.config import Committee

    save(folder, start_committee(Committee(members=2), seed=0))


def _pool(path: Path, cell: str, frames: int) -> Path:
    """Rattled cells without ids, so that reading them also hashes them."""
    structure = Structure.from_file(ROOT / "configs" / "structures" / CELLS[cell])
    lattice = " ".join(f"{number:.8f}" for number in structure.lattice.matrix.reshape(-1))
    head = f'{len(structure)}\nLattice="{lattice}" Properties=species:S:1:pos:R:3 pbc="T T T"\n'
    symbols = [site.specie.symbol for site in structure]
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for _ in range(frames):
            positions = structure.cart_coords + rng.normal(0, 0.05, (len(structure), 3))
            rows = zip(symbols, positions.tolist(), strict=True)
            file.write(head + "".join(f"{symbol} {x:.8f} {y:.8f} {z:.8f}\n" for symbol, (x, y, z) in rows))
    return path


def _measured(*arguments: str | Path) -> tuple[int, int, float]:
    """Peak and held (kB), and seconds, those of imports left out, of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.score_memory", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip()}")
    peak, held, seconds = result.stdout.split()[-3:]
    return int(peak), int(held), float(seconds)


def _measure(what: str, paths: Sequence[str]) -> None:
    """In that process."""
    from flows import score
    from mfal.committee import stream  # noqa: F401 (torch and chgnet, which are no part of the seconds)
    from mfal.dataset import count_images, iter_frames

    held, begin = 0, time.perf_counter()
    if what == "score":
        model, pool, out, frames = *map(Path, paths[:3]), int(paths[3])
        append, done = score._append, 0

        def watched(file: BinaryIO, batch: Sequence[Scored]) -> None:
            nonlocal held, done
            append(file, batch)
            done += len(batch)
            if done == frames:
                held = _held()

        score._append = watched
        score.score(model, pool, out, device="cpu")
    elif what == "count":
        count_images(paths[0])
    elif what == "read":
        for _ in iter_frames(paths[0]):
            pass
    seconds = time.perf_counter() - begin
    print(_kilobytes("VmHWM"), held or _held(), seconds)


def _held() -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return _kilobytes("VmRSS")


def _kilobytes(field: str) -> int:
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(field))


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ("score", "import", "count", "read"):
        _measure(sys.argv[1], sys.argv[2:])
    else:
        os.environ.setdefault("PYTHONWARNINGS", "ignore")
        typer.run(main)
