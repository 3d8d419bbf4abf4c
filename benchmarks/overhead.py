"""What mfal adds to a calculation, beside plain jobflow and plain jobflow-remote: `python -m benchmarks.overhead`.

The calculation is one that costs next to nothing: the look-up of a finished label (the engine `table`). What it cannot
show, a label's folder and an atomate2 job in it, is in the same on four atoms with a pretrained CHGNet; what that takes
by itself is subtracted from all contestants.

With --remote it needs root, Slurm and munge, and starts a cluster in a folder (`tests/cluster/machine.py`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated
from unittest.mock import patch

# Before torch is imported: one thread, as workers have it for calculations.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

import orjson
import torch
import typer
from jobflow import Flow, JobStore, run_locally
from jobflow.utils import find_key
from maggma.core import Store
from maggma.stores import JSONStore, MemoryStore
from pydash import get
from rich.console import Console
from rich.table import Table

from benchmarks.measure import machine
from benchmarks.spent import Spent, in_turn, run, shown, table, times
from benchmarks.work import NAME, ROUNDS, Work, small_campaign
from flows.campaign import campaign_flow
from flows.local import run_flow
from flows.progress import Progress
from stores.campaign import CampaignStores, open_stores
from stores.sqlite import SQLiteStore

if TYPE_CHECKING:
    from flows.jobs import Event

Contestant = Callable[[Work, Path], Callable[[], list[float]]]
REPEATS = 3
SMALL, FEW = 100, 40
#: What the peers write to; the last is what mfal writes to.
PEERS: dict[str, Callable[[Path], Store]] = {
    "MemoryStore": lambda _: MemoryStore(key="uuid"),
    "JSONStore": lambda folder: JSONStore(str(folder / "outputs.json"), read_only=False, key="uuid"),
    "SQLiteStore": lambda folder: SQLiteStore(folder / "outputs.sqlite", "outputs", key="uuid"),
}
#: What a job loads before it calculates: in a label job of mfal, and in one of who uses the same programs without it.
LOADED = {
    "GPAW": ("flows.calculation, flows.engines.gpaw", "atomate2.ase.jobs"),
    "VASP": ("flows.calculation, flows.engines.vasp", "atomate2.vasp.jobs.core"),
    "CP2K": ("flows.calculation, flows.engines.cp2k", "atomate2.cp2k.jobs.core"),
    "surrogate": ("flows.calculation, flows.engines.surrogate", "atomate2.ase.jobs, chgnet.model.dynamics"),
    "no label: explore, score, decide, train, evaluate": ("flows.campaign", "chgnet.model.dynamics, chgnet.trainer"),
}
WORKER = "jobflow_remote.jobs.run"
HEAVY = ("torch", "matplotlib", "plotly", "pandas")


def alone(work: Work, _: Path) -> Callable[[], list[float]]:
    found = work.energies()
    return lambda: found


def plainly(store: Callable[[Path], Store], work: Work, folder: Path) -> Callable[[], list[float]]:
    jobs = JobStore(store(folder), additional_stores={"data": MemoryStore()})
    done = run_locally(Flow(work.plain()), store=jobs, root_dir=folder, log=False, raise_immediately=True)
    return lambda: sorted(response[1].output["energy"] for response in done.values())


def ours(work: Work, folder: Path) -> Callable[[], list[float]]:
    run_flow(Flow(work.labels(), name=NAME), folder, lambda *_: None, frames=work.frames)

    def found() -> list[float]:
        with open_stores(folder) as stores:
            return sorted(label.energy for label in stores.all_labels(NAME) if label.energy is not None)

    return found


#: Each calculates everything in a folder of its own, and gives what shows that it did.
CONTESTANTS: dict[str, Contestant] = {
    "alone": alone,
    **{f"jobflow, {name}": partial(plainly, store) for name, store in PEERS.items()},
    "mfal": ours,
}


def embedded(work: Work) -> dict[str, Spent]:
    """What the calculation takes, and what each adds to it."""
    with tempfile.TemporaryDirectory() as folder:

        def done(contestant: Contestant, work: Work) -> Callable[[], list[float]]:
            return contestant(work, Path(tempfile.mkdtemp(dir=folder)))

        for contestant in CONTESTANTS.values():
            done(contestant, Work(work.engine, work.frames[:1]))  # what is loaded once is loaded
        contestants = {name: partial(done, contestant, work) for name, contestant in CONTESTANTS.items()}
        taken = in_turn(contestants, REPEATS, work.energies())
    alone, count = taken["alone"], len(work.frames)
    return {name: (one if one is alone else one - alone) / count for name, one in taken.items()}


def added(calculations: int) -> Iterator[tuple[str, int, dict[str, Spent]]]:
    with tempfile.TemporaryDirectory() as folder:
        for count in sorted({min(SMALL, calculations), calculations}):
            yield "look-up, 28 atoms", count, embedded(Work.look_ups(count, Path(folder)))
    yield "CHGNet, 4 atoms", FEW, embedded(Work.predictions(FEW))


def loaded() -> dict[str, float]:
    """CPU-seconds of starting Python and loading what a job needs on a worker, by what that is."""
    peers = [*dict.fromkeys(modules for both in LOADED.values() for modules in both)]
    codes = {"python": "pass", WORKER: f"import {WORKER}"} | {name: f"import {WORKER}, {name}" for name in peers}
    start = sys.executable, "-W", "ignore", "-c"
    taken = in_turn({name: partial(run, *start, code) for name, code in codes.items()}, REPEATS, 0)
    return {name: one.cpu for name, one in taken.items()}


def large(modules: str) -> str:
    """What of it is large."""
    code = f"import {modules}, sys; print(*(name for name in {HEAVY} if name in sys.modules), sep=', ')"
    command = sys.executable, "-W", "ignore", "-c", code
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def shipped(remote: bool) -> dict[tuple[str, int], tuple[float, float]]:
    """Bytes of what jobflow-remote writes for a worker, and the weights of committees in them, by the kind of job and
    the round; the mean where it has many.

    Args:
        remote: as in a queue, where workers keep what they were sent; else as it would be without that.
    """
    from jobflow_remote.remote.data import get_remote_in_file, resolve_job_dict_args

    sizes: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)

    def weigh(event: Event, stores: CampaignStores) -> None:
        if event.what == "started":
            sent = resolve_job_dict_args(event.job.as_dict(), stores.jobs)
            metadata = event.job.metadata
            kind = f"label, {metadata['fidelity']}" if metadata["kind"] == "label" else metadata["kind"]
            written = get_remote_in_file(sent, JobStore(MemoryStore())).getvalue()
            arguments = orjson.loads(written)["job"]
            weights = sum(len(get(arguments, list(at))) for at in find_key(arguments, "weights", include_end=True))
            sizes[kind, metadata["round"]].append((len(written) - weights, weights))

    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, MFAL_CACHE=f"{folder}/cache"):
        campaign = small_campaign(Path(folder))
        run_flow(campaign_flow(campaign, Progress(remote=remote)), campaign, weigh)
    return {key: (mean(size for size, _ in found), found[0][1]) for key, found in sizes.items()}


# What is printed


def table_of_embedded(calculations: int) -> Table:
    peers = [name for name in CONTESTANTS if name not in ("alone", "mfal")]
    ratios = [f"mfal's of {name.partition(', ')[2]}'s" for name in peers]
    found = table(
        "Embedded: what is added to a calculation, one of so many", "", "of", "", "itself", *peers, "mfal", *ratios
    )
    for what, count, taken in added(calculations):
        for kind, field in (("CPU", "cpu"), ("wall", "wall")):
            seconds = {name: getattr(one, field) for name, one in taken.items()}
            # what is less than a tenth of what was subtracted says nothing
            ratios = [
                times(seconds["mfal"], seconds[name]) if seconds[name] > seconds["alone"] / 10 else "" for name in peers
            ]
            found.add_row(what, f"{count:,}", kind, *map(shown, seconds.values()), *ratios)
    return found


def table_of_loaded() -> Table:
    cpu = loaded()
    both = f"Python alone {shown(cpu['python'])}, with what any job of jobflow-remote loads {shown(cpu[WORKER])}"
    title = f"CPU-seconds until a job can begin on a worker; {both}"
    found = table(title, "a job of", "peer", "mfal", "peer's", "more", "ratio", "mfal loads")
    for what, (ours, peers) in LOADED.items():
        seconds = cpu[ours], cpu[peers]
        more, ratio = shown(seconds[0] - seconds[1]), times(*seconds)
        found.add_row(what, peers, *map(shown, seconds), more, ratio, large(ours))
    return found


def table_of_shipped() -> Table:
    kept, everything = shipped(True), shipped(False)
    names = [f"round {r}{how}" for how in ("", ", all sent") for r in range(ROUNDS)]
    title = "Size of jfremote_in.json in kB, without the weights of committees in it"
    found = table(title, "a job of", *names, "weights, from round 1 on")
    for kind in dict.fromkeys(kind for kind, _ in kept):
        sizes = [sent.get((kind, r)) for sent in (kept, everything) for r in range(ROUNDS)]
        cells = [f"{size[0] / 1e3:.1f}" if size else "" for size in sizes]
        found.add_row(kind, *cells, f"{kept[kind, 1][1] / 1e3:,.0f}")
    return found


def main(
    embedded: Annotated[bool, typer.Option("--embedded", help="Only what needs no queue.")] = False,
    remote: Annotated[bool, typer.Option("--remote", help="Only what does.")] = False,
    calculations: Annotated[int, typer.Option(help="So many; on the queue a fiftieth.", min=50)] = 1000,
) -> None:
    """Measure contestants in turns and print tables."""
    torch.set_num_threads(1)
    console = Console(width=None if sys.stdout.isatty() else 250)
    versions = ", ".join(f"{name} {version(name)}" for name in ("jobflow", "jobflow-remote", "maggma", "atomate2"))
    console.print(f"{machine(torch.device('cpu'))}, load {os.getloadavg()[0]:.1f}, {versions}")
    if embedded or not remote:
        for make in (partial(table_of_embedded, calculations), table_of_loaded, table_of_shipped):
            console.print(make())
    if remote or not embedded:
        from benchmarks.queued import tables

        for made in tables(calculations // 50):
            console.print(made)
    console.print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    typer.run(main)
