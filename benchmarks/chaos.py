"""Kills what runs campaigns, at random moments, and counts what is lost: `python -m benchmarks.chaos --kills 100`.

Small campaigns on the surrogate engine run on a whole cluster in a folder (tests/cluster/machine.py), and others in
processes of `mfal run`. What is killed is started again, as systemd or a person would do. docs/reliability.md says what
counts. Needs root, Slurm and munge, as `make test-cluster` does.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, it does not see its own package

import benchmarks  # noqa: F401, isort: skip (before torch: it sets how threads wait)
import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks import ledger, page
from benchmarks.chaos_cluster import KINDS, bring_all, cluster, on_the_cluster, uuid_of
from benchmarks.chaos_processes import in_processes, ready_to_fork
from benchmarks.chaos_seen import Kill, Observer, Small
from benchmarks.measure import machine as this_machine
from tests.cluster.machine import lacking

EMBEDDED = "`mfal run`"
HEADER = [
    "what is killed",
    "kills",
    "campaigns",
    "ended",
    "labels lost",
    "calculations repeated",
    "goes on after (median, longest)",
]


@dataclass
class Verdict:
    """What became of a run."""

    kills: list[Kill]
    campaigns: list[Small]
    seen: Counter[str]  # by campaign: labels that were acknowledged
    lost: Counter[str]
    ended: Counter[str]  # calculations
    repeated: Counter[str]
    doubled: Counter[str]
    waits: list[float | None]  # of each kill
    by_hand: int
    released: int
    errors: list[str]

    @classmethod
    def of(
        cls, folder: Path, kills: list[Kill], campaigns: list[Small], observer: Observer, released: int = 0
    ) -> Verdict:
        seen = Counter({key[1:]: observer.owners[key] for key in observer.labels}.values())
        lost = Counter({key[1:]: campaign for key, campaign in observer.lost().items()}.values())
        owner = {uuid: campaign for (_, uuid, _), campaign in observer.owners.items()}
        ended, repeated, doubled = Counter[str](), Counter[str](), Counter[str]()
        for file in [folder / "ledger.jsonl", *sorted((folder / "embedded").glob("*.jsonl"))]:
            counted = ledger.count(ledger.read(file))
            for where, found in ((ended, counted.ended), (repeated, counted.repeated), (doubled, counted.doubled)):
                for calculation in found:
                    alone = file.stem if file.parent != folder else ""
                    where[alone or owner.get(uuid_of(Path(calculation).parent), "nobody's")] += 1
        log = folder / "machine" / "logs" / "watch.log"
        told = log.read_text().splitlines() if log.exists() else []
        errors = observer.errors + [line for line in told if " ERROR " in line]
        by_hand = sum("by hand: " in line for line in told)
        waits = [observer.went_on(kill) for kill in kills]
        return cls(kills, campaigns, seen, lost, ended, repeated, doubled, waits, by_hand, released, errors)

    @property
    def is_bad(self) -> bool:
        return bool(self.lost.total() or self.repeated.total() or any(one.ended is None for one in self.campaigns))

    def rows(self) -> Iterator[list[str]]:
        for kind in [*KINDS, "embedded", "all"]:
            chosen = [i for i, kill in enumerate(self.kills) if kind in (kill.kind, "all")]
            if not chosen:
                continue
            hit = {name for i in chosen for name in self.kills[i].campaigns}
            campaigns = [small for small in self.campaigns if kind == "all" or small.name in hit]
            names = [small.name for small in campaigns] + (["nobody's"] if kind == "all" else [])

            def total(of: Counter[str], names: list[str] = names) -> int:
                return sum(of[name] for name in names)

            waits = [wait for i in chosen if (wait := self.waits[i]) is not None]
            yield [
                (KINDS | {"embedded": EMBEDDED}).get(kind, kind),
                str(len(chosen)),
                str(len(campaigns)),
                str(sum(small.ended is not None for small in campaigns)),
                f"{total(self.lost)} of {total(self.seen)}",
                f"{total(self.repeated)} of {total(self.ended)}",
                f"{median(waits):.0f} s, {max(waits):.0f} s" if waits else "",
            ]

    def notes(self) -> str:
        twice = self.doubled.total()
        return (
            f"{twice} calculations were made by two processes at once; by hand: 'mfal retry' {self.by_hand} times,"
            f" 'scontrol release' of {self.released} jobs; {len(self.errors)} errors of those who look on"
        )


def torment(
    folder: Path, kills: int, embedded: int, seed: int, say: Callable[[str], None], told: Callable[[Kill], None]
) -> Verdict:
    """So many kills on the cluster, and so many of `mfal run`, side by side."""
    done: list[Kill] = []
    campaigns: list[Small] = []
    observer = Observer()
    observer.start()

    def tell(kill: Kill) -> None:
        done.append(kill)
        told(kill)

    def run_embedded(forks: Path) -> None:
        try:
            for small in in_processes(folder, embedded, random.Random(f"{seed} e"), observer, say, tell, forks):
                campaigns.append(small)
        except Exception:
            observer.errors.append(traceback.format_exc())

    with ready_to_fork(folder) as forks:
        beside = threading.Thread(target=run_embedded, args=(forks,), daemon=True)
        beside.start()
        with cluster(folder, random.Random(f"{seed} c"), observer, say, forks) if kills else nullcontext() as world:
            if world:
                on_the_cluster(world, kills, tell)
                campaigns += world.over + world.live
            beside.join()
            if world:
                bring_all(world)
            observer.stopped.set()
            observer.join()
            return Verdict.of(folder, done, campaigns, observer, world.released if world else 0)


def main(
    kills: Annotated[int, typer.Option(help="Four in ten hit processes of 'mfal run', the rest a cluster.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the moments, the victims and the campaigns.")] = 1,
    folder: Annotated[Path | None, typer.Option(help="For all that is written; a new one if none is given.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table here, too.")] = None,
) -> None:
    """Kill, start again, and count what is lost. Ends with 1 if anything is lost or repeated, or does not end."""
    if reason := lacking():
        raise typer.BadParameter(reason)
    folder = (folder or Path(tempfile.mkdtemp(prefix="mfal-chaos-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise typer.BadParameter(f"{folder} is not empty: give another --folder")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and all that runs is ended
    embedded = round(0.4 * kills)
    console, began = Console(stderr=True), time.time()
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with (folder / "chaos.log").open("a") as log, Progress(*columns, console=console) as progress:
        bars = {
            False: progress.add_task("kills on the cluster", total=kills - embedded),
            True: progress.add_task("kills of mfal run", total=embedded),
        }

        def say(line: str) -> None:
            line = f"{datetime.now():%H:%M:%S} {line}"
            print(line, file=log, flush=True)
            progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

        verdict = torment(
            folder, kills - embedded, embedded, seed, say, lambda kill: progress.advance(bars[kill.kind == "embedded"])
        )
    stand_in = "" if os.environ.get("MONGO_URI") else "; MongoDB is the stand-in (tests/wire_server.py) with a journal"
    title = f"{this_machine(torch.device('cpu'))}; seed {seed}, {(time.time() - began) / 60:.0f} minutes{stand_in}"
    rows = list(verdict.rows())
    table = Table(*HEADER, title=title, title_justify="left", caption=verdict.notes(), caption_justify="left")
    for row in rows:
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 160).print(table)
    text = f"{title}\n\n{page.table(HEADER, rows)}\n\n{verdict.notes()}\n"
    for file in filter(None, [folder / "table.md", markdown]):
        file.write_text(text)
    if verdict.is_bad:
        console.print(f"lost: {dict(verdict.lost)}, repeated: {dict(verdict.repeated)}; the evidence is in {folder}")
        raise typer.Exit(1)
    console.print(f"Nothing is lost or repeated, and all have ended. All that was written is in {folder}")


if __name__ == "__main__":
    typer.run(main)
