"""A process that is killed while it writes loses nothing that it was told is written, and leaves nothing half-done."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any
from zlib import crc32

from stores.sqlite import SQLiteStore

KEYS = {"frames": "uuid", "labels": ["uuid", "attempt"], "blobs": "uuid"}
SIZES = [10, 1000, 5000, 100_000]  # of a text, so that a batch takes a page, or more than SQLite keeps in memory
Batch = tuple[str, list[dict[str, Any]]]
Content = dict[str, dict[tuple, dict[str, Any]]]  # of each collection, by key

fork = multiprocessing.get_context("fork")


def batch(draw: random.Random) -> Batch:
    """Documents for a collection: some are new, some replace what is there."""
    documents = []
    for _ in range(draw.choice([1, 1, 5, 30])):
        text = draw.randbytes(draw.choice(SIZES) // 2).hex()
        known = {"uuid": f"u{draw.randrange(60)}", "attempt": draw.randrange(2)}
        documents.append(known | {"text": text, "sum": crc32(text.encode())})
    return draw.choice(list(KEYS)), documents


def key(name: str, document: dict[str, Any]) -> tuple:
    return tuple(document[field] for field in ([KEYS[name]] if isinstance(KEYS[name], str) else KEYS[name]))


def after(content: Content, batches: list[Batch]) -> Content:
    content = {name: dict(known) for name, known in content.items()}
    for name, documents in batches:
        content[name].update((key(name, document), document) for document in documents)
    return content


def stores(path: Path) -> dict[str, SQLiteStore]:
    return {name: SQLiteStore(path, name, key="uuid") for name in KEYS}


def write(path: Path, batches: list[Batch], acknowledge: int) -> None:
    opened = stores(path)
    for name, documents in batches:
        opened[name].update(documents, key=KEYS[name])
        os.write(acknowledge, b".")
    signal.pause()


def read(path: Path, stop: Event) -> None:
    opened = stores(path)
    while not stop.is_set():
        for store in opened.values():
            assert all(crc32(document["text"].encode()) == document["sum"] for document in store.query())


def content_of(path: Path) -> Content:
    opened = stores(path)
    content: Content = {}
    for name, store in opened.items():
        documents = list(store.query())
        content[name] = {key(name, document): document for document in documents}
        assert len(content[name]) == len(documents) == store.count()
    assert opened["frames"]._collection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    for store in opened.values():
        store.close()
    return content


def test_fifty_kills(tmp_path: Path) -> None:
    path, draw = tmp_path / "s.sqlite", random.Random(1)
    content: Content = content_of(path)
    acknowledged = 0
    for kill in range(50):
        batches = [batch(draw) for _ in range(20)]
        stop = fork.Event()
        reader = fork.Process(target=read, args=(path, stop), daemon=True)
        if kill % 3 == 0:
            reader.start()
        heard, say = os.pipe()
        writer = fork.Process(target=write, args=(path, batches, say))
        writer.start()
        os.close(say)
        done = sum(len(os.read(heard, 1)) for _ in range(draw.randrange(8)))
        time.sleep(draw.uniform(0, 0.02))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        assert writer.exitcode == -signal.SIGKILL
        done += len(os.read(heard, len(batches)))
        os.close(heard)
        if kill % 3 == 0:
            stop.set()
            reader.join()
            assert reader.exitcode == 0
        # Only now: SQLite recovers when nobody has the file open, and may then find an update that was all but done.
        found = content_of(path)
        # The one that was cut off is there as a whole or not at all.
        assert found in (after(content, batches[:done]), after(content, batches[: done + 1])), (kill, done)
        content = found
        acknowledged += done
    assert acknowledged > 50
    assert all(len(known) == count for known, count in zip(content.values(), (60, 120, 60), strict=True))
