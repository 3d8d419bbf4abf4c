"""Training and inference against stock CHGNet: `python benchmarks/training.py --help`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, it does not see its own package

import benchmarks  # noqa: F401, isort: skip (before torch: it sets how threads wait)
import torch
import typer
from chgnet.graph import CrystalGraphConverter
from rich.console import Console

from benchmarks import memory
from benchmarks.cells import olivines
from benchmarks.contestants import Ours, Stock
from benchmarks.launches import count
from benchmarks.measure import Goal, Row, machine, markdown, plain, side_by_side, timed
from mfal.committee.members import perturb_readouts
from mfal.model import engine
from mfal.model.graph import Graph
from mfal.model.subnormal import subnormal_is_zero
from mfal.training.compiled import CompiledGradients, CompiledPredict

STOCK = f"chgnet {version('chgnet')}"
PREDICT = "energies, forces, stress, moments"


@dataclass(frozen=True)
class Settings:
    device: torch.device
    threads: int
    repeats: int
    quick: bool
    compile: bool

    def times(self, ours: Callable[[], object], peer: Callable[[], object]) -> list[list[float]]:
        return side_by_side([ours, peer], repeats=self.repeats, device=self.device)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="About a minute: fewer and smaller batches.")] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="With the compiled rows: minutes more.")] = False,
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cuda" if torch.cuda.is_available() else "cpu",
    threads: Annotated[int, typer.Option(help="Of the CPU, for both.")] = os.cpu_count() or 1,
    repeats: Annotated[int, typer.Option(help="Of everything that is timed.")] = 7,
    table: Annotated[Path | None, typer.Option("--markdown", help="Write the table here, too.")] = None,
) -> None:
    """Measure mfal against stock CHGNet, in turns, and print a table."""
    torch.set_num_threads(threads)
    settings = Settings(torch.device(device), threads, min(repeats, 3) if quick else repeats, quick, compiled)
    rows, console = [], Console(stderr=True)
    parts = (
        training,
        subnormal_numbers,
        memory_of_a_step,
        inference,
        graphs,
        launches,
        shallow_committee,
        deep_committee,
        tf32,
    )
    with console.status("") as status:
        for part in parts:
            status.update(part.__name__.replace("_", " "))
            for row in part(settings):
                rows.append(row)
                console.print(" | ".join(row.cells()), soft_wrap=True, highlight=False)
    title = machine(settings.device)
    Console(width=None if Console().is_terminal else 160).print(plain(rows, title))
    if table is not None:
        table.write_text(markdown(rows, title))


def training(settings: Settings) -> Iterator[Row]:
    """A step with the optimiser's, as either trainer makes it."""
    compiled = CompiledGradients()
    for atoms, frames in [(28, 4)] if settings.quick else [(28, 8), (28, 32), (112, 4)]:
        structures = olivines(frames, atoms=atoms)
        stock, ours = Stock(structures, settings.device), Ours(structures, settings.device)
        what = f"training step, {frames} x {atoms} atoms"
        yield timed(what, STOCK, settings.times(ours.train, stock.train), frames=frames, goal=Goal(">=", 2.3))
        if settings.compile:
            # One compilation for all sizes.
            ours.gradients = compiled
            yield timed(
                f"{what}, compiled",
                STOCK,
                settings.times(ours.train, stock.train),
                frames=frames,
                goal=Goal(">=", 4.5),
            )


def subnormal_numbers(settings: Settings) -> Iterator[Row]:
    """What it is worth that a training takes them for zero. With one thread, as each has a setting of its own."""
    frames = 4 if settings.quick else 8
    what, peer = f"training step, {frames} x 28 atoms, one CPU thread", "mfal, subnormal numbers kept"
    ours = Ours(olivines(frames), torch.device("cpu"))

    def as_trained() -> None:
        with subnormal_is_zero():
            ours.train()

    torch.set_num_threads(1)
    times = settings.times(as_trained, ours.train)
    torch.set_num_threads(settings.threads)
    yield timed(what, peer, times, frames=frames, goal=Goal(">=", 1))


def memory_of_a_step(settings: Settings) -> Iterator[Row]:
    """At its highest, above what was there before the step."""
    frames = 2 if settings.quick else 8
    for step, what, bound in (("train", "training step", 0.55), ("predict", "inference", 0.25)):
        ours, theirs = (
            memory.of_step(contestant, step, frames=frames, device=settings.device.type, threads=settings.threads)
            for contestant in ("ours", "stock")
        )
        yield Row(
            f"memory of {what}, {frames} x 28 atoms",
            STOCK,
            f"{ours / frames:.3g} MB",
            f"{theirs / frames:.3g} MB",
            ratio=ours / theirs,
            goal=Goal("<=", bound),
        )


def inference(settings: Settings) -> Iterator[Row]:
    for atoms, frames in [(28, 4)] if settings.quick else [(28, 8), (112, 8)]:
        structures = olivines(frames, atoms=atoms)
        stock, ours = Stock(structures, settings.device), Ours(structures, settings.device)
        times = settings.times(ours.predict, stock.predict)
        yield timed(f"{PREDICT}, {frames} x {atoms} atoms", STOCK, times, frames=frames, goal=Goal(">=", 2.5))


def graphs(settings: Settings) -> Iterator[Row]:
    converter = CrystalGraphConverter(atom_graph_cutoff=6, bond_graph_cutoff=3, algorithm="fast")
    for atoms in (28, 112):
        structures = olivines(4, atoms=atoms)
        times = settings.times(
            lambda structures=structures: [Graph.of(structure) for structure in structures],
            lambda structures=structures: [converter(structure) for structure in structures],
        )
        yield timed(f"graph of {atoms} atoms", f"{STOCK}, fast", times, frames=len(structures), goal=Goal(">=", 8))


def launches(settings: Settings) -> Iterator[Row]:
    """From examples to gradients."""
    for frames in (1, 2) if settings.quick else (1, 2, 8):
        structures = olivines(frames)
        ours, theirs = (count(kind(structures, settings.device).derive) for kind in (Ours, Stock))
        number, of_stock = ours.by_name.total(), theirs.by_name.total()
        yield Row(
            f"kernel launches of a training step, {frames} x 28 atoms",
            STOCK,
            f"{number}, {ours.waits.total()} waits",
            f"{of_stock}, {theirs.waits.total()} waits",
            ratio=number / of_stock,
            goal=Goal("<=", 3000),
            judged=number,
        )


def shallow_committee(settings: Settings) -> Iterator[Row]:
    frames = 4 if settings.quick else 8
    structures = olivines(frames)
    one, eight = Ours(structures, settings.device), Ours(structures, settings.device, heads=8)
    perturb_readouts(eight.model, 0)
    what, peer = f"committee of 8 heads, {frames} x 28 atoms", "mfal, one head"
    times = settings.times(eight.train, one.train)
    yield timed(f"training step of a {what}", peer, times, frames=frames, goal=Goal("<=", 1.15))
    times = settings.times(eight.predict_heads, one.predict)
    yield timed(f"inference of a {what}, forces of every head", peer, times, frames=frames)


def deep_committee(settings: Settings) -> Iterator[Row]:
    """One batch, handed to each of the models."""
    frames = 4 if settings.quick else 8
    structures = olivines(frames)
    stock, *members = Stock(structures, settings.device), *(Ours(structures, settings.device) for _ in range(4))
    for seed, member in enumerate(members):
        perturb_readouts(member.model.eval(), seed)

    def together(predict: Callable[..., engine.Output]) -> Callable[[], object]:
        def predictions() -> object:
            batch = members[0].batch()
            return [[tensor.cpu() for tensor in predict(member.model, batch)] for member in members]

        return predictions

    what, peer = f"inference of a committee of 4 models, {frames} x 28 atoms", f"{STOCK}, one model"
    times = settings.times(together(engine.predict), stock.predict)
    yield timed(what, peer, times, frames=frames, goal=Goal("<=", 1.6))
    if settings.compile:
        times = settings.times(together(CompiledPredict()), stock.predict)
        yield timed(f"{what}, compiled", peer, times, frames=frames, goal=Goal("<=", 1.0))


def tf32(settings: Settings) -> Iterator[Row]:
    """What the forces lose where matrix products are in TF32."""
    what, peer = "force error of TF32, 28 atoms", "mfal in float32"
    if settings.device.type != "cuda":
        yield Row(what, peer, "needs a GPU", "")
        return
    ours = Ours(olivines(8), settings.device)
    exact = ours.predict().forces
    torch.backends.cuda.matmul.allow_tf32 = True
    rough = ours.predict().forces
    torch.backends.cuda.matmul.allow_tf32 = False
    yield Row(what, peer, f"{(rough - exact).square().mean().sqrt() * 1e3:.2g} meV/Å", "0")


if __name__ == "__main__":
    typer.run(main)
