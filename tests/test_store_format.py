"""Files of older mfals are brought to today's format, as a whole or not at all; newer ones are left alone."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import signal
import sqlite3
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from stores import database
from stores.sqlite import SQLiteStore

# Made by format 1's own code: two stores on one file, `update(DOCS)` and `update(LABELS, key=["frame_id", "attempt"])`.
OLD = Path(__file__).parent / "data" / "format-1.sqlite"
VALUES: list[Any] = [
    *(
        None,
        True,
        1,
        0.1,
        -0.0,
        10**30,
        -(2**63),
        math.inf,
        math.nan,
        "",
        "s\0t",
        "Å✓",
        [],
        [1, "s", {"a": [None]}],
        {},
    ),
    *({"$date": "x"}, {"$dict": [["$int", 1]]}, b"\0\xff", datetime(2024, 5, 1, 12, 0, 0, 123000)),
    *(datetime(2024, 5, 1, 12), ObjectId("65f0a0a0a0a0a0a0a0a0a0a0")),
]
DOCS = [{"uuid": f"u{i}", "v": value} for i, value in enumerate(VALUES)]
LABELS = [
    {"frame_id": f"f{i}", "attempt": i % 2 + 1, "core_hours": i * 0.1, "reason": None, "forces": [[0.1 * i, 0.0, -0.5]]}
    for i in range(20)
]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return shutil.copy(OLD, tmp_path / "s.sqlite")


def content(path: Path) -> tuple[int, list[str], list[str]]:
    docs, labels = SQLiteStore(path, key="uuid"), SQLiteStore(path, "labels", key="frame_id")
    [version] = docs._collection.execute("PRAGMA user_version").fetchone()
    assert docs._collection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return version, [repr(doc) for doc in docs.query()], [repr(label) for label in labels.query()]


def expected(version: int, mark: str = "") -> tuple[int, list[str], list[str]]:
    more = {"mark": mark} if mark else {}
    return version, [repr(doc) for doc in DOCS], [repr(label | more) for label in LABELS]


def test_a_file_of_format_1(old: Path) -> None:
    assert content(old) == expected(database.FORMAT)
    labels = SQLiteStore(old, "labels", key="frame_id")
    assert [label["frame_id"] for label in labels.query({"core_hours": {"$gt": 1.75}})] == ["f18", "f19"]
    labels.update({"frame_id": "f3", "attempt": 2, "seen": True}, key=["frame_id", "attempt"])
    assert (labels.count(), labels.count({"seen": True})) == (20, 1)
    assert SQLiteStore(old).query_one({"v": {"$gt": datetime(2024, 5, 1, 12)}})["uuid"] == "u18"


def mark(db: sqlite3.Connection) -> None:
    """Not the same when it is done twice."""
    db.execute("UPDATE labels SET doc = json_set(doc, '$.mark', coalesce(json_extract(doc, '$.mark'), '') || 'x')")


def mark_and_die(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA cache_size = 1")  # so that some of it is on disk
    mark(db)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def tomorrow(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An mfal that knows one more format."""
    monkeypatch.setattr(database, "MIGRATIONS", [*database.MIGRATIONS, mark])
    monkeypatch.setattr(database, "FORMAT", database.FORMAT + 1)
    return monkeypatch


def all_open(path: Path, processes: int) -> list[int]:
    several = [multiprocessing.get_context("fork").Process(target=content, args=(path,)) for _ in range(processes)]
    for process in several:
        process.start()
    for process in several:
        process.join(60)
    return [process.exitcode for process in several]


@pytest.mark.usefixtures("tomorrow")
def test_a_migration_is_done_once_though_several_open_the_file(old: Path) -> None:
    assert all_open(old, 4) == [0, 0, 0, 0]
    assert content(old) == expected(database.FORMAT, "x")
    assert content(old.with_name("new.sqlite")) == (database.FORMAT, [], [])  # a new file needs none


def test_killed_in_the_middle_of_a_migration(old: Path, tomorrow: pytest.MonkeyPatch) -> None:
    today = database.FORMAT - 1
    with tomorrow.context() as dying:
        dying.setattr(database, "MIGRATIONS", [*database.MIGRATIONS[:-1], mark_and_die])
        assert all_open(old, 1) == [-signal.SIGKILL]
    with tomorrow.context() as without:
        without.setattr(database, "FORMAT", today)
        assert content(old) == expected(today)
    assert content(old) == expected(database.FORMAT, "x")


def test_a_migration_that_fails_changes_nothing(old: Path, tomorrow: pytest.MonkeyPatch) -> None:
    def half(db: sqlite3.Connection) -> None:
        mark(db)
        db.execute("SELECT none FROM labels")

    with tomorrow.context() as failing:
        failing.setattr(database, "MIGRATIONS", [*database.MIGRATIONS[:-1], half])
        with pytest.raises(sqlite3.OperationalError, match="no such column"):
            SQLiteStore(old).connect()
    assert content(old) == expected(database.FORMAT, "x")


def test_who_has_it_open_while_it_is_migrated_writes_no_more(old: Path) -> None:
    store = SQLiteStore(old, "labels", key="frame_id")
    store.connect()
    with sqlite3.connect(old) as other:
        other.execute(f"PRAGMA user_version = {database.FORMAT + 1}")
    for change in (lambda: store.update({"frame_id": "f1"}), lambda: store.remove_docs({})):
        with pytest.raises(ValueError, match=rf"format {database.FORMAT + 1}, this mfal knows {database.FORMAT}"):
            change()
    assert store.count() == 20
