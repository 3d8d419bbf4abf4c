"""SQLiteStore against maggma's own stores, on documents of 28-atom frames: `python -m benchmarks.stores`.

With MONGO_URI in the environment, a MongoDB takes part, too (in a database of its own, which is dropped).
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Annotated, Any, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, it does not see its own package

import orjson
import torch
import typer
from maggma.core import Store
from maggma.stores import JSONStore, MemoryStore
from maggma.stores.mongolike import MongoURIStore
from monty.json import jsanitize
from pymongo import MongoClient
from rich.console import Console
from rich.table import Table

from benchmarks import page
from benchmarks.cells import olivines
from benchmarks.measure import machine
from mfal.frames import Frame
from stores.sqlite import SQLiteStore

KEY = ["campaign", "frame_id"]
BATCH, FOUND, WRITERS = 100, 100, 4
SMALL, MEDIUM = 1_000, 10_000  # documents; maggma's own stores get no more than SMALL
DATABASE = "mfal_benchmark"
START = datetime(2024, 1, 1)
Row = tuple[str, int]  # what is measured, on how many documents
T = TypeVar("T")


def templates() -> list[bytes]:
    """Frames as the builder writes them."""
    frames = [Frame.of(structure, parent="LiMnPO4", source="rattle") for structure in olivines(20)]
    trace = {"campaign": "olivine", "round": 0, "job_uuid": "73cde5c0-24f9-57fe-8054-c9c5b3f31a25"}
    return [orjson.dumps(trace | jsanitize(frame.model_dump(), strict=True)) for frame in frames]


TEMPLATES = templates()


def name(i: int) -> str:
    return hashlib.sha256(str(i).encode()).hexdigest()[:12]


def frames(start: int, count: int = BATCH) -> list[dict[str, Any]]:
    """Some of an endless row of frames: FOUND that follow each other share a round, and each has costs of its own."""
    documents = [orjson.loads(TEMPLATES[i % len(TEMPLATES)]) for i in range(start, start + count)]
    for i, document in enumerate(documents, start):
        document |= {"frame_id": name(i), "round": i // FOUND, "core_hours": costs(i)}
    return documents


def dates(start: int) -> list[dict[str, Any]]:
    return [{"n": i, "when": START + timedelta(minutes=i)} for i in range(start, start + BATCH)]


def costs(i: int) -> float:
    return int(name(i), 16) / 16**12


@dataclass(frozen=True)
class Contestant:
    """A kind of store. open: a new object for the documents of this name, with this key; writes: of each process."""

    open: Callable[[str, str], Store]
    sizes: tuple[int, ...]
    writes: int = 0
    stays: bool = True

    def connect(self, name: str, key: str = "frame_id") -> Store:
        store = self.open(name, key)
        store.connect()
        return store


@contextmanager
def contestants(folder: Path, documents: int) -> Iterator[dict[str, Contestant]]:
    sizes = tuple(sorted({SMALL, min(MEDIUM, documents), documents}))
    found = {
        "SQLiteStore": Contestant(lambda name, key: SQLiteStore(folder / f"{name}.sqlite", name, key), sizes, 500),
        "MemoryStore": Contestant(lambda name, key: MemoryStore(name, key=key), (SMALL,), stays=False),
        "JSONStore": Contestant(
            lambda name, key: JSONStore(f"{folder}/{name}.json", read_only=False, key=key), (SMALL,), 50
        ),
    }
    uri = os.environ.get("MONGO_URI")
    if uri:
        found["MongoStore"] = Contestant(lambda name, key: MongoURIStore(uri, name, DATABASE, key=key), sizes, 500)
    try:
        yield found
    finally:
        if uri:
            MongoClient(uri).drop_database(DATABASE)


def in_turn(
    contestants: Mapping[str, T], ask: Callable[[T], Any], expected: Any = None, repeats: int = 5
) -> dict[str, float]:
    """The median seconds of each, in turns, so that what else the machine does hits all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            found = ask(contestant)
            seconds[name].append(time.perf_counter() - start)
            if found != expected:
                raise SystemExit(f"{name}: found {found} instead of {expected}")
    return {name: median(taken) for name, taken in seconds.items()}


def filled(
    stores: dict[str, Store], documents: Callable[[int], list[dict[str, Any]]], size: int, indexes: list[str]
) -> dict[str, float]:
    """Write that many documents in batches; the mean seconds of a document."""
    key, total = [field for field in indexes if field in KEY] or indexes[:1], Counter[str]()
    for store in stores.values():
        for field in indexes:
            store.ensure_index(field)
    for start in range(0, size, BATCH):
        batches = {name: (store, documents(start)) for name, store in stores.items()}
        total.update(in_turn(batches, lambda batch: batch[0].update(batch[1], key=key), repeats=1))
    return {name: seconds / size for name, seconds in total.items()}


def measured(contestants: dict[str, Contestant], size: int) -> Iterator[tuple[str, dict[str, float]]]:
    """What is measured, and the seconds of each contestant."""

    def found(*query: Any) -> Callable[[Store], int]:
        return lambda store: sum(1 for _ in store.query(*query))

    def of_each(seconds: dict[str, float], count: int) -> dict[str, float]:
        return {name: taken / count for name, taken in seconds.items()}

    stores = {name: one.connect(f"frames_{size}") for name, one in contestants.items()}
    yield "write, a document", filled(stores, frames, size, ["round", "core_hours", *KEY])
    some = [i * size // 25 for i in range(25)]
    wanted = [{"campaign": "olivine", "frame_id": name(i)} for i in some]
    by_key = in_turn(stores, lambda s: [s.query_one(one)["core_hours"] for one in wanted], [costs(i) for i in some])
    yield "one by its key", of_each(by_key, len(some))
    yield f"{FOUND} by an indexed field", in_turn(stores, found({"round": size // FOUND // 2}), FOUND)
    dearest = {"core_hours": {"$gt": sorted(map(costs, range(size)))[-FOUND - 1]}}
    yield f"{FOUND} by a range of numbers", in_turn(stores, found(dearest), FOUND)
    yield "read all, a document", of_each(in_turn(stores, found(), size, 3), size)
    two = found({}, ["frame_id", "core_hours"])
    yield "two fields of all, a document", of_each(in_turn(stores, two, size, 3), size)
    distinct = in_turn(stores, lambda store: len(store.distinct("round")), size // FOUND, 3)
    yield "the values of a field, a document", of_each(distinct, size)
    stay = {name: one for name, one in contestants.items() if one.stays}
    yield "open and count", in_turn(stay, lambda one: one.connect(f"frames_{size}").count(), size, 3)

    dated = {name: one.connect(f"dates_{size}", "n") for name, one in contestants.items()}
    filled(dated, dates, size, ["n", "when"])
    latest = {"when": {"$gte": START + timedelta(minutes=size - FOUND)}}
    yield f"{FOUND} by a range of dates", in_turn(dated, found(latest), FOUND)


def write(contestant: Contestant, writer: int) -> None:
    store = contestant.connect("shared")
    for i in range(contestant.writes):
        store.update(frames(writer * contestant.writes + i, 1), key=KEY)


def shared(contestant: Contestant) -> str:
    """What is kept of documents that several processes write at once, one at a time."""
    contestant.connect("shared")
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write, args=(contestant, writer)) for writer in range(WRITERS)]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    return f"{contestant.connect('shared').count()} of {WRITERS * contestant.writes}"


def table(results: dict[Row, dict[str, float | str]], names: Iterable[str]) -> list[list[str]]:
    """A row for each number of documents; what maggma's own stores take is for SMALL in each of them."""
    lines = []
    for what, size in sorted(results, key=lambda row: [what for what, _ in results].index(row[0])):
        peers = results.get((what, SMALL), results[what, size])
        times = {name: results[what, size].get(name, peers.get(name, "")) for name in names}
        rivals = [seconds for name in ("MemoryStore", "JSONStore") if isinstance(seconds := times[name], float)]
        ratio = min(rivals) / times["SQLiteStore"] if rivals else None
        cells = [what, f"{size:,}" if size else "", *map(shown, times.values())]
        lines.append([*cells, "" if ratio is None else f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.2g}"])
    return lines


def shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def main(
    documents: Annotated[int, typer.Option(help="Of the largest SQLiteStore; in hundreds.", min=SMALL)] = 100_000,
    markdown: Annotated[Path | None, typer.Option(help="Write the table here, too.")] = None,
) -> None:
    """Measure the stores in turns, small and large, and print a table."""
    console, results, load = Console(stderr=True), dict[Row, dict[str, float | str]](), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, contestants(Path(folder), documents) as taking_part:
        for size in sorted({size for one in taking_part.values() for size in one.sizes}):
            those = {name: one for name, one in taking_part.items() if size in one.sizes}
            with console.status(f"{size:,} documents in {', '.join(those)}"):
                for what, seconds in measured(those, size):
                    results[what, size] = dict(seconds)
        with console.status("several processes"):
            kept = {name: shared(one) for name, one in taking_part.items() if one.writes}
            results[f"kept of what {WRITERS} processes write at once", 0] = dict(kept)
    title = f"{machine(torch.device('cpu'))}, load {load:.1f}, maggma {version('maggma')}, SQLite "
    title += f"{sqlite3.sqlite_version}; a document has {sum(map(len, TEMPLATES)) / len(TEMPLATES) / 1e3:.1f} kB"
    names = [name if len(one.sizes) > 1 else f"{name}, {SMALL:,}" for name, one in taking_part.items()]
    lines = [["what", "documents", *names, "times faster"], *table(results, taking_part)]
    printed = Table(*lines[0], title=title, title_justify="left")
    for line in lines[1:]:
        printed.add_row(*line)
    Console(width=160).print(printed)
    if markdown:
        markdown.write_text(f"{title}\n\n{page.table(lines[0], lines[1:])}\n")


if __name__ == "__main__":
    typer.run(main)
