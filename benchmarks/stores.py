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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Annotated, Any

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


def timed(action: Callable[[], Any], expected: Any = None) -> float:
    start = time.perf_counter()
    found = action()
    seconds = time.perf_counter() - start
    if found != expected:
        raise SystemExit(f"found {found} instead of {expected}")
    return seconds


def often(action: Callable[[], Any], expected: Any, times: int = 5) -> float:
    return median(timed(action, expected) for _ in range(times))


def filled(contestant: Contestant, size: int) -> tuple[Store, float]:
    """A store of frames, and the seconds that one of them took."""
    store, seconds = contestant.connect(f"frames_{size}"), 0.0
    for field in ("round", "core_hours", *KEY):
        store.ensure_index(field)
    for start in range(0, size, BATCH):
        batch = frames(start)
        seconds += timed(lambda batch=batch: store.update(batch, key=KEY))
    return store, seconds / size


def answers(store: Store, size: int) -> Iterator[tuple[str, float]]:
    def found(*query: Any) -> int:
        return sum(1 for _ in store.query(*query))

    def one(i: int) -> float:
        wanted = {"campaign": "olivine", "frame_id": name(i)}
        return timed(lambda: store.query_one(wanted)["core_hours"], costs(i))

    dearest = sorted(map(costs, range(size)))[-FOUND - 1]
    yield "one by its key", median(one(i * size // 25) for i in range(25))
    yield f"{FOUND} by an indexed field", often(lambda: found({"round": size // FOUND // 2}), FOUND)
    yield f"{FOUND} by a range of numbers", often(lambda: found({"core_hours": {"$gt": dearest}}), FOUND)
    yield "read all, a document", often(lambda: found(), size, 3) / size
    yield "two fields of all, a document", often(lambda: found({}, ["frame_id", "core_hours"]), size, 3) / size
    yield "the values of a field, a document", often(lambda: len(store.distinct("round")), size // FOUND, 3) / size


def by_dates(contestant: Contestant, size: int) -> float:
    store = contestant.connect(f"dates_{size}", "n")
    store.ensure_index("n")
    store.ensure_index("when")
    for start in range(0, size, BATCH):
        store.update([{"n": i, "when": START + timedelta(minutes=i)} for i in range(start, start + BATCH)])
    late = {"when": {"$gte": START + timedelta(minutes=size - FOUND)}}
    return often(lambda: sum(1 for _ in store.query(late)), FOUND)


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


def measured(contestant: Contestant) -> Iterator[tuple[Row, float | str]]:
    for size in contestant.sizes:
        store, seconds = filled(contestant, size)
        yield ("write, a document", size), seconds
        for what, seconds in answers(store, size):
            yield (what, size), seconds
        yield (f"{FOUND} by a range of dates", size), by_dates(contestant, size)
        if contestant.stays:
            yield ("open and count", size), often(lambda size=size: contestant.connect(f"frames_{size}").count(), size)
    if contestant.writes:
        yield (f"kept of what {WRITERS} processes write at once", 0), shared(contestant)


def table(results: dict[Row, dict[str, float | str]], names: Iterable[str]) -> list[list[str]]:
    """A row for each number of documents; what maggma's own stores take is for SMALL in each of them."""
    lines = []
    for what, size in sorted(results, key=lambda row: [what for what, _ in results].index(row[0])):
        peers = results.get((what, SMALL), results[what, size])
        times = {name: results[what, size].get(name, peers.get(name, "")) for name in names}
        rivals = [seconds for name in ("MemoryStore", "JSONStore") if isinstance(seconds := times[name], float)]
        ratio = f"{min(rivals) / times['SQLiteStore']:.3g}" if rivals else ""
        lines.append([what, f"{size:,}" if size else "", *map(shown, times.values()), ratio])
    return lines


def shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def main(
    documents: Annotated[int, typer.Option(help="Of the largest SQLiteStore.", min=SMALL)] = 100_000,
    markdown: Annotated[Path | None, typer.Option(help="Write the table here, too.")] = None,
) -> None:
    """Measure the stores one after the other, in small and large, and print a table."""
    console, results, load = Console(stderr=True), dict[Row, dict[str, float | str]](), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, contestants(Path(folder), documents) as taking_part:
        for name, contestant in taking_part.items():
            with console.status(name):
                for row, value in measured(contestant):
                    results.setdefault(row, {})[name] = value
    title = f"{machine(torch.device('cpu'))}, load {load:.1f}, maggma {version('maggma')}, SQLite "
    title += f"{sqlite3.sqlite_version}; a document has {sum(map(len, TEMPLATES)) / len(TEMPLATES) / 1e3:.1f} kB"
    names = [name if len(one.sizes) > 1 else f"{name}, {SMALL:,}" for name, one in taking_part.items()]
    lines = [["what", "documents", *names, "times faster"], *table(results, taking_part)]
    printed = Table(*lines[0], title=title, title_justify="left")
    for line in lines[1:]:
        printed.add_row(*line)
    Console(width=160).print(printed)
    if markdown:
        rows = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
        markdown.write_text(f"{title}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n")


if __name__ == "__main__":
    typer.run(main)
