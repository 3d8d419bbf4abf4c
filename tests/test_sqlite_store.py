"""SQLiteStore answers as maggma's MemoryStore does, loses nothing, and refuses what is not its own."""

from __future__ import annotations

import copy
import math
import multiprocessing
import os
import pickle
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bson import ObjectId
from jobflow import Flow, JobStore, job, run_locally
from maggma.core import Sort
from maggma.stores import MemoryStore

from stores import filesystem
from stores.sqlite import SQLiteStore

Pair = tuple[MemoryStore, SQLiteStore]

# What SQLite, JSON and Python see differently: each is stored, and asked for under each operator.
VALUES: list[Any] = [
    *(None, True, False, 0, 1, 1.0, -3, 2**53 + 1, 2**63 - 1, -(2**63), 0.1 + 0.2, 0.3, 1e-320, -0.0),
    *(math.inf, -math.inf, math.nan, "", "1", "s", "s\0t", "S", "[x", "{y", "~", "Å✓", "\U0001f50b"),
    *([], [1, "s"], ["s", None], [[1], [2]], [True], {"a": 1}, {}, {"a": {"b": [1]}}, b"\0\xff"),
    *(datetime(2024, 5, 1, 12, 0, 0, 123456), datetime(2024, 5, 1, 12, tzinfo=timezone(timedelta(hours=2)))),
    *([datetime(2030, 1, 1)], ObjectId("65f0a0a0a0a0a0a0a0a0a0a0"), [{"v": 1}, {"v": "s"}, 3]),
]
ODD: list[dict] = [
    *({"uuid": f"u{i}", "v": v, "sub": {"v": v}, "items": [{"v": v}, {"w": 1}, 2]} for i, v in enumerate(VALUES)),
    *({"uuid": "bare", "sub": 5, "items": {"v": [1]}}, {"uuid": "null", "sub": None, "items": None}),
]
PLAIN: list[dict] = [
    {"uuid": f"u{i}", "index": i % 3 + 1, "n": i, "energy": -i / 7, "status": ["ok", "failed", "collapsed"][i % 3]}
    | {"tags": [f"t{i % 4}", f"t{i % 6}"] if i % 2 else f"t{i % 4}", "when": datetime(2024, 1, 1 + i % 28)}
    | {"sub": {"a": i % 4, "sites": [{"k": i % 3, "v": i}, {"k": 5}]}, **({"note": None} if i % 3 else {})}
    for i in range(40)
]
QUERIES: list[dict] = [
    *({}, {"n": {"$gt": 10, "$lte": 20}}, {"energy": {"$lt": -2}, "status": "ok"}, {"n": {"$not": {"$gt": 5}}}),
    *({"uuid": {"$in": ["u2", "u3", "none such"]}, "index": {"$in": [3, 1.0]}}, {"uuid": {"$in": []}}),
    *({"tags": {"$in": ["t1", "t5"]}, "uuid": {"$in": [f"u{i}" for i in range(20)]}}, {"note": {"$in": ["t1"]}}),
    {"$and": [{"uuid": {"$in": ["u1", "u2", "u3"]}}, {"uuid": {"$in": ["u2", "u3"]}, "n": {"$gt": 2}}]},
    {"status": {"$in": ["ok", "failed"]}, "$or": [{"tags": {"$in": ["t1"]}}, {"n": 3}]},
    *({"note": None}, {"note": {"$exists": False}}, {"when": {"$gt": datetime(2024, 1, 20)}}),
    *({"tags": {"$all": ["t1", "t3"]}}, {"tags.1": "t3"}, {"sub.sites.v": {"$gte": 30}}, {"sub": {"a": 1}}),
    {"sub.sites": {"$elemMatch": {"k": 1, "v": {"$gt": 20}}}},
    *({"$or": [{"n": 3}, {"status": "collapsed"}]}, {"$and": [{"n": {"$gt": 5}}, {"sub.a": 1}]}),
    *({"status": {"$regex": "^[fc]"}}, {"status": re.compile("FAIL", re.IGNORECASE)}),
    *({"n') OR 1 --": 1}, {"n'": {"$exists": False}}),
]
OPTIONS: list[dict] = [
    {},
    {"properties": ["uuid", "sub.a", "sub.sites.k", "none.such"]},
    {"properties": {"sub.sites": 1, "sub.none": True, "_id": 0}},
    {"properties": {"sub.sites.v": 0, "tags": 0, "_id": 1}},
    {"properties": {"_id": 0}},
    {"sort": {"status": 1, "n": -1}, "skip": 3, "limit": 7},
    {"sort": {"tags": Sort.Descending, "note": Sort.Ascending}},
]


def pair(folder: Path, docs: list[dict]) -> Pair:
    stores = MemoryStore(key="uuid"), SQLiteStore(folder / "new folder" / "s.db", key="uuid")
    for store in stores:
        store.connect()
        store.update(copy.deepcopy(docs))
    return stores


def plain(docs: Iterable[dict]) -> list[str]:
    """As text, since NaN equals nothing, and without the _id that MongoDB adds."""
    return [repr({key: doc[key] for key in sorted(doc) if key != "_id"}) for doc in docs]


def answer(store: Any, criteria: dict, **options: Any) -> Any:
    try:
        return plain(store.query(criteria, **copy.deepcopy(options)))
    except Exception as error:  # is part of the contract
        return type(error)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair(tmp_path_factory.mktemp("odd"), ODD)


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("field", ["v", "sub.v", "items.v"])
@pytest.mark.parametrize("operator", [None, "$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin"])
def test_values_under_operators(odd: Pair, operator: str | None, field: str, indexed: bool) -> None:
    memory, sqlite = odd
    if indexed:
        assert sqlite.ensure_index(field)
    for value in VALUES:
        wanted = [value, "none such"] if operator in ("$in", "$nin") else value
        criteria = {field: {operator: wanted} if operator else wanted}
        assert answer(sqlite, criteria) == answer(memory, criteria), criteria


def test_values_come_back(odd: Pair, tmp_path: Path) -> None:
    memory, sqlite = odd
    assert plain(sqlite.query()) == plain(memory.query())
    store = SQLiteStore(tmp_path / "s.db", key="k")
    docs = [
        {"k": 1, "d": {"$date": {"$oid": "x"}}, "e": {"$dict": [["$int", 1]]}},  # not to be taken for our own tags
        {"k": 2, "x": [1, True, 10**30], "y": np.array([1.5, math.inf])},
        {"k": 3, "x": [1.0, math.nan, -(2**70)]},
        {"k": 4, "x": [math.nan], "z": 2**70},
    ]
    store.update([docs[0] | {"_id": 1}, *docs[1:]])
    assert "_id" not in store.query_one()
    assert plain(store.query()) == plain([docs[0], docs[1] | {"y": [1.5, math.inf]}, *docs[2:]])
    assert [store.count({"x": criterion}) for criterion in (10**30, {"$lt": -(2**69)}, {"$gt": 2**70})] == [1, 1, 1]
    assert store.query_one({"z": 2.0**70}) is not None
    assert str(store.distinct("x")) == str([1, True, 10**30, math.nan, -(2**70)])
    assert store.query_one({"k": 1}, ["d", "d.$date.none"]) == {"d": docs[0]["d"]}  # the whole field wins


@pytest.mark.parametrize("criteria", QUERIES, ids=lambda criteria: str(criteria)[:40])
def test_queries(tmp_path: Path, criteria: dict) -> None:
    memory, sqlite = pair(tmp_path, PLAIN)
    assert sqlite.count(criteria) == memory.count(criteria)
    for options in OPTIONS:
        assert answer(sqlite, criteria, **options) == answer(memory, criteria, **options), options
    for field in ("status", "tags", "sub.sites.k", "none.such"):
        assert sorted(sqlite.distinct(field, criteria)) == sorted(memory.distinct(field, criteria))

    def groups(store: Any) -> list:
        return sorted((str(key), plain(docs)) for key, docs in store.groupby(["status", "sub.a"], criteria, ["n"]))

    assert groups(sqlite) == groups(memory)


def test_update_and_remove(tmp_path: Path) -> None:
    memory, sqlite = stores = pair(tmp_path, PLAIN)
    for store in stores:
        store.update([{"uuid": "u1", "index": 2, "n": 999}, {"uuid": "u1", "index": 9}], key=["uuid", "index"])
        store.update([{"uuid": "twice", "n": 1}, {"uuid": "twice", "n": 20}])
        store.update({"uuid": "u3", "tags": "t5"}, key="tags")  # replaces the first that has it in its list
        store.remove_docs({"n": {"$lt": 5}})
    before = plain(sqlite.query())
    assert before == plain(memory.query())
    with pytest.raises(ValueError, match="lacks its key index"):
        sqlite.update([{"uuid": "good", "index": 1}, {"uuid": "bad", "index": None}], key=["uuid", "index"])
    with pytest.raises(ValueError, match="lacks its key uuid"):
        sqlite.update({"n": 1})
    assert plain(sqlite.query()) == before


def plans(store: SQLiteStore, ask: Callable[[], Any]) -> list[list[str]]:
    """How SQLite finds the documents of each look-up."""
    db, statements = store._collection, []
    db.set_trace_callback(statements.append)
    ask()
    db.set_trace_callback(None)
    look_ups = [statement for statement in statements if statement.startswith("SELECT id")]
    return [[row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {look_up}")] for look_up in look_ups]


def test_look_ups_use_the_index(tmp_path: Path) -> None:
    store, count = SQLiteStore(tmp_path / "s.db", key="uuid"), 500
    docs = [
        {"uuid": f"u{i}", "campaign": "c", "sub": {"n": i}, "when": datetime(2024, 1, 1) + timedelta(i)}
        for i in range(count)
    ]
    for start in range(0, count, 100):
        store.update(docs[start : start + 100])
    for field in ("sub.n", "when"):
        assert store.ensure_index(field)
    criteria = {
        "uuid": [{"uuid": "u7"}, {"uuid": {"$in": ["u7", "u1"]}}, {"uuid": {"$gte": "u7"}}, {"$and": [{"uuid": "u7"}]}],
        "sub.n": [{"sub.n": 7}, {"sub.n": {"$gt": 3.5, "$lte": 7}}],
        "when": [{"when": {"$lt": datetime(2024, 1, 5)}}, {"when": datetime(2024, 1, 3)}],
    }
    for field, several in criteria.items():
        for one in several:
            [plan] = plans(store, lambda one=one: store.count(one))
            assert "SCAN docs" not in plan, one
            assert any(step.startswith(f"SEARCH docs USING INDEX docs/{field} (<expr>") for step in plan), one
    [plan] = plans(store, lambda: store.update({"uuid": "u7"}))
    assert "SEARCH docs USING INDEX docs/uuid (<expr>=?)" in plan
    many = [f"u{i}" for i in range(300_000)]  # more than SQLite takes arguments
    assert store.query_one({"uuid": {"$in": many}}) == docs[0]


def test_of_two_keys_the_selective_one_is_looked_up(tmp_path: Path) -> None:
    """In one campaign, a look-up by campaign would read it all; also for who knew the collection when it was small."""
    store, other = (SQLiteStore(tmp_path / "s.db", key="frame_id") for _ in range(2))
    for start in range(0, 1200, 10):
        docs = [{"campaign": "c", "frame_id": f"f{i}"} for i in range(start, start + 10)]
        store.update(docs, key=["campaign", "frame_id"])
        for each in (store, other):
            for wanted in (f"f{start}", {"$in": [f"f{start}", "f8"]}):
                [plan] = plans(each, lambda each=each, wanted=wanted: each.count({"campaign": "c", "frame_id": wanted}))
                if start >= 200:
                    assert "SEARCH docs USING INDEX docs/frame_id (<expr>=?)" in plan


def test_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = SQLiteStore("s.db", "labels", key="frame_id", last_updated_field="changed")
    store.update({"frame_id": "f"})
    monkeypatch.chdir("/")
    for other in (copy.deepcopy(store), pickle.loads(pickle.dumps(store)), SQLiteStore.from_dict(store.as_dict())):
        assert other == store
        assert hash(other) == hash(store)
        assert (other.key, other.last_updated_field, other.count()) == ("frame_id", "changed", 1)
    assert store != SQLiteStore(tmp_path / "s.db", "scores")
    with pytest.raises(ValueError, match="cannot name a collection"):
        SQLiteStore("s.db", 'x" (y); --')


def write_fifty(store: SQLiteStore, writer: int, inherited: sqlite3.Connection | None = None) -> None:
    assert store._collection is not inherited
    for i in range(50):
        store.update([{"uuid": f"{writer}-{i}"}, {"uuid": "shared", "turn": i}])


def run_four(start: Callable[..., Any], store: SQLiteStore, *args: Any) -> list[Any]:
    workers = [start(target=write_fifty, args=(store, writer, *args)) for writer in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert sorted(store.distinct("uuid")) == sorted(["shared", *(f"{w}-{i}" for w in range(4) for i in range(50))])
    assert store.count() == 201
    return workers


@pytest.mark.parametrize("connected", [True, False])
def test_four_processes(tmp_path: Path, connected: bool) -> None:
    """Forked with an open connection, or all making the file at once."""
    store = SQLiteStore(tmp_path / "s.db", key="uuid")
    inherited = store._collection if connected else None
    processes = run_four(multiprocessing.get_context("fork").Process, store, inherited)
    assert [process.exitcode for process in processes] == [0] * 4


def test_threads_and_writing_while_reading(tmp_path: Path) -> None:
    store, other = (SQLiteStore(tmp_path / "s.db", key="uuid") for _ in range(2))
    run_four(threading.Thread, store)
    for doc in store.query():  # another connection writes between this one's read and write
        other.update({"uuid": "other", "turn": doc["uuid"]})
        store.update({**doc, "seen": True})
    assert store.count({"seen": True}) == 201


def test_killed_in_the_middle_of_an_update(tmp_path: Path) -> None:
    script = """if True:
        import os, signal, sys
        from stores.sqlite import SQLiteStore
        store = SQLiteStore(sys.argv[1], key="uuid")
        store.update([{"uuid": f"a{i}"} for i in range(20)])
        inserts = []
        def trace(sql):
            inserts.append(sql.startswith("INSERT"))
            if sum(inserts) == 80:
                os.kill(os.getpid(), signal.SIGKILL)
        store._collection.set_trace_callback(trace)
        docs = [{"uuid": f"b{i}", "text": "x" * 100_000} for i in range(100)]  # outgrows the cache, so some is on disk
        store.update([{"uuid": "a0", "late": True}, *docs])
    """
    path = tmp_path / "s.db"
    killed = subprocess.run(
        [sys.executable, "-c", script, path], cwd=Path(__file__).parents[1], timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert os.path.getsize(f"{path}-wal") > 1_000_000
    store = SQLiteStore(path, key="uuid", timeout=1)
    assert plain(store.query()) == plain({"uuid": f"a{i}"} for i in range(20))
    assert store._collection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert store._collection.execute("PRAGMA synchronous").fetchall() == [(2,)]  # FULL, for a power cut
    store.update({"uuid": "next"})
    assert store.count() == 21


@pytest.mark.parametrize(
    ("statements", "problem"),
    [
        (["CREATE TABLE other (x)"], "another program"),
        (["PRAGMA application_id = 7"], "another program"),
        (["PRAGMA application_id = 0x6D66616C", "PRAGMA user_version = 99"], "format 99.*update mfal"),
        ([], "is no SQLite file.*another path"),
    ],
)
def test_refused_files(tmp_path: Path, statements: list[str], problem: str) -> None:
    path = tmp_path / "s.db"
    path.write_text("" if statements else "my notes")
    db = sqlite3.connect(path)
    for statement in statements:
        db.execute(statement)
    db.close()
    content = path.read_bytes()
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*{problem}"):
        SQLiteStore(path).connect()
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["s.db"]
    with pytest.raises(ValueError, match="is no SQLite file"):
        SQLiteStore(tmp_path).connect()


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"disk / ext4 rw 0 0\nserver:/x {tmp_path}/far nfs4 rw 0 0\n")
    monkeypatch.setattr(filesystem, "MOUNTS", mounts)
    (tmp_path / "link").symlink_to(tmp_path / "far")
    for folder in ("far", "far/below", "link"):
        path = tmp_path / folder / "s.db"
        with pytest.raises(
            ValueError, match=rf"{re.escape(str(path))} .*\(nfs4\).*sqlite:////.*mongodb://host/database"
        ):
            SQLiteStore(path).connect()
    assert not (tmp_path / "far").exists()
    assert SQLiteStore(tmp_path / "near.db").count() == 0
    mounts.unlink()  # as on macOS
    assert SQLiteStore(tmp_path / "far" / "s.db").count() == 0


def test_waits_for_another_that_makes_the_file(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        SQLiteStore(tmp_path / "s.db", timeout=0.1).connect()
    start = time.monotonic()
    threading.Timer(0.3, other.rollback).start()
    assert SQLiteStore(tmp_path / "s.db").count() == 0
    assert time.monotonic() - start > 0.2
    other.close()


@job(data="big")
def produce(n: int) -> dict:
    return {"big": list(range(n)), "small": n}


@job
def total(numbers: list[int]) -> int:
    return sum(numbers)


def test_job_store(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    store = JobStore(SQLiteStore(path, "outputs"), additional_stores={"data": SQLiteStore(path, "blobs")})
    first = produce(1000)
    second = total(first.output["big"])
    run_locally(Flow([first, second]), store=store, ensure_success=True, create_folders=True, root_dir=tmp_path)
    again = JobStore.from_dict(store.as_dict())
    blobs = again.additional_stores["data"]
    assert again.get_output(second.uuid) == sum(range(1000))
    assert again.query_one({"uuid": first.uuid})["output"]["big"]["store"] == "data"
    assert again.get_output(first.uuid, load=True) == {"big": list(range(1000)), "small": 1000}
    assert blobs.count() == 1
    again.remove_docs({"uuid": first.uuid})
    assert (blobs.count(), again.count({"uuid": first.uuid})) == (0, 0)
