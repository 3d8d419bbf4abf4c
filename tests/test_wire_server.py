"""The stand-in for MongoDB answers as MongoDB does: with MONGO_URI set, a real one is asked the same."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import Int64, ObjectId
from conftest import in_database
from gridfs import GridFS
from maggma.stores import MongoStore
from pymongo import DeleteOne, InsertOne, MongoClient, ReplaceOne, ReturnDocument, UpdateOne, WriteConcern
from pymongo.collation import Collation
from pymongo.database import Database
from pymongo.errors import AutoReconnect, BulkWriteError, DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.uri_parser import parse_uri
from wire_server import WireServer

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def db(mongo_database: str) -> Iterator[Database]:
    with MongoClient(mongo_database) as client:
        yield client.get_default_database()


def code_of(action: Any, *arguments: Any, **options: Any) -> int | None:
    with pytest.raises(OperationFailure) as caught:
        action(*arguments, **options)
    return caught.value.code


def test_documents_come_back(db: Database) -> None:
    when = datetime(2024, 1, 2, 3, 4, 5, 678_000)
    document = {"_id": ObjectId(), "i": 1, "long": Int64(2**40), "f": 1.5, "s": "Å\0", "b": b"\0x", "none": None}
    document |= {"when": when, "yes": True, "items": [{"a": None, "b": [1, "2"]}, {"a": {}}]}
    db.c.insert_one(document)
    assert db.c.find_one({"when": when}) == document
    assert db.c.find_one({"_id": document["_id"]}, {"_id": 0, "items.a": 1}) == {"items": [{"a": None}, {"a": {}}]}
    assert db.list_collection_names() == ["c"]
    db.c.drop()
    assert db.list_collection_names() == []
    db.c.drop()  # what is not there can be dropped, as jobflow-remote does


def test_updates(db: Database) -> None:
    db.c.insert_one({"i": 1, "f": 1.5, "l": [{"k": 1}, {"k": 2}]})
    done = db.c.update_one({"i": 1}, {"$set": {"l.1.k": 5}, "$inc": {"f": 1}})
    assert (done.matched_count, done.modified_count) == (1, 1)
    assert db.c.find_one({}, {"_id": 0}) == {"i": 1, "f": 2.5, "l": [{"k": 1}, {"k": 5}]}
    assert db.c.update_many({}, {"$set": {"i": 1}}).modified_count == 0
    done = db.c.update_one({"i": 9}, {"$set": {"v": 1}}, upsert=True)
    assert (done.matched_count, db.c.find_one({"i": 9})) == (0, {"_id": done.upserted_id, "i": 9, "v": 1})
    assert db.c.replace_one({"i": 9}, {"j": 9}).modified_count == 1
    assert db.c.update_one({"l.k": 5}, {"$set": {"l.$.k": 6}}).modified_count == 1
    assert db.c.update_one({}, {"$set": {"l.$[one].k": 7}}, array_filters=[{"one.k": 1}]).modified_count == 1
    assert [document.get("l") for document in db.c.find()] == [[{"k": 7}, {"k": 6}], None]
    assert db.c.estimated_document_count() == db.c.count_documents({}) == 2
    assert db.c.delete_many({"j": 9}).deleted_count == 1
    assert db.c.delete_one({"j": 9}).deleted_count == 0
    with pytest.raises(PyMongoError):
        db.c.update_one({}, {"$set": {"new": 1}, "$inc": {"l": 1}})
    assert "new" not in db.c.find_one()  # an update that fails leaves nothing of itself


def test_cursors(db: Database) -> None:
    db.c.insert_many([{"x": i} for i in range(1000)])
    assert [d["x"] for d in db.c.find(batch_size=7).sort("x", -1).skip(1).limit(100)] == list(range(998, 898, -1))
    assert len(list(db.c.find({"x": {"$gte": 10}}))) == 990
    assert len(list(db.c.find(limit=-5))) == 5
    db.big.insert_many([{"text": "z" * 6_000_000} for _ in range(6)])  # more than fits into one answer
    assert len(list(db.big.find())) == 6
    cursor = db.c.find(batch_size=2)
    next(cursor)
    number = cursor.cursor_id
    cursor.close()
    assert code_of(db.command, {"getMore": Int64(number), "collection": "c"}) == 43


def test_indexes(db: Database) -> None:
    db.c.create_index("u", unique=True)
    db.c.create_index([("a", 1), ("b", -1)], name="ab", background=True)
    db.c.insert_one({"u": 1})
    with pytest.raises(DuplicateKeyError):
        db.c.insert_one({"u": 1})
    with pytest.raises(BulkWriteError) as caught:
        db.c.insert_many([{"u": 2}, {"u": 1}, {"u": 3}], ordered=False)
    assert caught.value.details["nInserted"] == 2
    assert [(error["index"], error["code"]) for error in caught.value.details["writeErrors"]] == [(1, 11000)]
    with pytest.raises(BulkWriteError):
        db.c.insert_many([{"u": 4}, {"u": 1}, {"u": 5}])
    with pytest.raises(DuplicateKeyError):
        db.c.update_one({"u": 2}, {"$set": {"u": 3}})
    assert sorted(db.c.distinct("u", {"u": {"$gt": 1}})) == [2, 3, 4]
    assert set(db.c.index_information()) == {"_id_", "u_1", "ab"}
    db.c.drop_index("ab")
    assert code_of(db.c.drop_index, "ab") == 27
    db.c.drop_indexes()
    assert set(db.c.index_information()) == {"_id_"}
    assert db.none.index_information() == {}


def test_find_one_and(db: Database) -> None:
    after: dict[str, Any] = {"return_document": ReturnDocument.AFTER, "projection": {"_id": 0}}
    db.c.insert_many([{"p": p, "state": "READY"} for p in (1, 3, 2)])
    taken = db.c.find_one_and_update({"state": "READY"}, {"$set": {"state": "TAKEN"}}, sort=[("p", -1)])
    assert (taken["p"], taken["state"]) == (3, "READY")
    assert db.c.find_one_and_update({"p": 9}, {"$set": {"state": "TAKEN"}}) is None
    pushed = {"$push": {"r": {"$each": [1, 2, 3], "$slice": -2}}}
    assert db.c.find_one_and_update({"p": 9}, pushed, upsert=True, **after) == {"p": 9, "r": [2, 3]}
    assert db.c.find_one_and_delete({"p": 9}, {"_id": 0}) == {"p": 9, "r": [2, 3]}
    assert db.c.find_one_and_replace({"p": 1}, {"a": [{"k": 1}, {"k": 2}]}, **after) == {"a": [{"k": 1}, {"k": 2}]}
    second = {"$set": {"a.$.k": 7}}
    assert db.c.find_one_and_update({"a.k": 2}, second, **after) == {"a": [{"k": 1}, {"k": 7}]}
    assert db.c.count_documents({}) == 3


def test_the_lock_of_jobflow_remote(db: Database) -> None:
    """It takes a lock with a pipeline, in which nobody else comes between the look and the write."""
    db.c.insert_one({"k": 1, "lock_id": None})

    def take(name: str) -> str:
        free = {"$cond": {"if": {"$gt": ["$lock_id", None]}, "then": "$lock_id", "else": name}}
        update = [{"$set": {"lock_id": free, "at": "$$NOW"}}]
        return db.c.find_one_and_update({"k": 1}, update, return_document=ReturnDocument.AFTER)["lock_id"]

    assert [take("a"), take("b")] == ["a", "a"]
    assert db.c.update_one({"k": 1, "lock_id": "a"}, {"$set": {"lock_id": None}}).modified_count == 1
    assert take("b") == "b"


def test_aggregate(db: Database) -> None:
    db.c.insert_many([{"g": i % 3, "x": i} for i in range(300)])
    db.names.insert_many([{"g": i, "name": f"n{i}"} for i in range(3)])
    groups = {"$group": {"_id": "$g", "n": {"$sum": 1}, "most": {"$max": "$x"}}}
    found = db.c.aggregate([{"$match": {"x": {"$lt": 150}}}, groups, {"$sort": {"_id": 1}}], allowDiskUse=True)
    assert list(found) == [{"_id": i, "n": 50, "most": 147 + i} for i in range(3)]
    join = {"$lookup": {"from": "names", "localField": "g", "foreignField": "g", "as": "found"}}
    shape = [{"$unwind": "$found"}, {"$project": {"name": "$found.name", "_id": 0}}]
    assert list(db.c.aggregate([{"$limit": 2}, join, *shape])) == [{"name": "n0"}, {"name": "n1"}]
    assert len(list(db.c.aggregate([{"$match": {}}], batchSize=11))) == 300


def test_bulk(db: Database) -> None:
    upsert = UpdateOne({"a": 2}, {"$set": {"b": 1}}, upsert=True)
    done = db.c.bulk_write([InsertOne({"a": 1}), upsert, upsert, ReplaceOne({"a": 1}, {"a": 5}), DeleteOne({"a": 2})])
    assert (done.inserted_count, done.matched_count, done.modified_count, done.deleted_count) == (1, 2, 1, 1)
    assert list(done.upserted_ids) == [1]
    assert [document["a"] for document in db.c.find()] == [5]
    silent = db.c.with_options(write_concern=WriteConcern(w=0))
    silent.insert_one({"a": 6})
    assert db.c.count_documents({"a": 6}) == 1


def test_gridfs(db: Database) -> None:
    files, data = GridFS(db, "blobs"), os.urandom(3_000_000)
    number = files.put(data, metadata={"blob_uuid": "b"})
    assert files.find_one({"metadata.blob_uuid": "b"}).read() == data
    files.delete(number)
    assert db["blobs.chunks"].count_documents({}) == 0


def test_what_is_refused(db: Database) -> None:
    db.c.insert_one({"a": 1})
    assert code_of(db.command, "noSuchCommand") == 59
    for unknown in ({"noSuchOption": 1}, {"filter": {"a": {"$none": 1}}}, {"sort": 1}):
        assert code_of(db.command, "find", "c", **unknown)
    assert code_of(lambda: list(db.c.aggregate([{"$noSuchStage": {}}])))
    assert code_of(db.c.update_one, {}, {"$noSuchOperator": {"a": 2}})
    assert db.c.find_one({}, {"_id": 0}) == {"a": 1}


def test_transactions_are_refused(db: Database) -> None:
    """As a standalone server does: jobflow-remote asks, and goes on without."""
    if "setName" in db.client.admin.command("hello"):
        pytest.skip("this MongoDB is a replica set, which has transactions")

    def try_one() -> None:
        with db.client.start_session() as session, session.start_transaction():
            db.c.find_one({}, session=session)

    assert code_of(try_one) == 20


def test_atomic_between_processes(mongo_database: str, db: Database) -> None:
    db.c.insert_one({"n": 0})
    script = """if True:
        import sys, pymongo
        c = pymongo.MongoClient(sys.argv[1]).get_default_database().c
        print(*[c.find_one_and_update({}, {"$inc": {"n": 1}})["n"] for _ in range(100)])
    """
    command = [sys.executable, "-c", script, mongo_database]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    seen = [int(n) for process in processes for n in process.communicate(timeout=60)[0].split()]
    assert sorted(seen) == list(range(300))


# What only the stand-in has


def test_options_that_mongodb_has_and_this_has_not(db: Database) -> None:
    if os.environ.get("MONGO_URI"):
        pytest.skip("a real MongoDB has them")
    assert code_of(lambda: list(db.c.find(collation=Collation("en")))) == 115
    assert code_of(db.c.update_one, {}, {"$set": {"a": 1}}, let={"b": 1}) == 115
    assert code_of(db.c.create_index, "a", weights={"a": 2}) == 115
    assert code_of(db.aggregate, [{"$currentOp": {}}]) == 115


def test_login() -> None:
    with WireServer(users={"user": "p@ss,w=rd"}) as server:
        stranger = MongoClient(server.uri)
        assert stranger.admin.command("ping")["ok"] == 1
        assert code_of(stranger.db.c.find_one) == 13
        for name, password, place in (
            *(("user", "Wr0ng-secret", "admin"), ("nobody", "Wr0ng-secret", "admin")),
            ("user", "p@ss,w=rd", "elsewhere"),
        ):
            client = MongoClient(server.uri, username=name, password=password, authSource=place)
            with pytest.raises(OperationFailure, match="Authentication failed") as caught:
                client.db.c.insert_one({})
            assert caught.value.code == 18
            assert password not in str(caught.value)
        store = MongoStore("db", "c", port=server.server_address[1], username="user", password="p@ss,w=rd")
        store.auth_source = "admin"
        with store:
            store.update({"task_id": 1})
            assert store.count() == 1
        uri = server.uri.replace("://", "://user:p%40ss%2Cw%3Drd@")
        with MongoClient(in_database(uri, "db")) as client:
            assert client.get_default_database().c.find_one()["task_id"] == 1


def test_command_line_and_the_end() -> None:
    """A client of a server that has gone is told so, and a new one on the same port knows nothing."""
    command = [sys.executable, "-m", "tests.wire_server", "--port"]
    with subprocess.Popen([*command, "0"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        uri = process.stdout.readline().strip()
        client = MongoClient(uri, serverSelectionTimeoutMS=300)
        client.db.c.insert_one({})
        process.terminate()
    with pytest.raises(AutoReconnect):
        client.db.c.find_one()
    with WireServer(int(uri.rpartition(":")[2])) as server:
        assert server.uri == uri
        client = MongoClient(uri, serverSelectionTimeoutMS=300)
        assert client.db.c.find_one() is None
    with pytest.raises(AutoReconnect):
        client.db.c.find_one()


def test_a_killed_server_knows_what_it_has_acknowledged(tmp_path: Path) -> None:
    """Documents as they were after the last answer, or after the one that nobody heard; indexes; files."""
    draw = random.Random(1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "tests.wire_server", "--port", port, "--data", str(tmp_path / "data")]

    def write(db: Database) -> None:
        i = draw.randrange(8)
        grow = {"$inc": {"n": 1}, "$push": {"l": draw.randbytes(draw.choice([1, 10_000]))}}
        [
            lambda: db.c.insert_one({"u": draw.random()}),
            lambda: db.c.update_one({"i": i}, grow, upsert=True),
            lambda: db.c.update_many({"n": {"$gt": 2}}, [{"$set": {"at": "$$NOW"}}]),
            lambda: db.c.find_one_and_update({"i": i}, {"$set": {"taken": True}}, sort=[("_id", -1)]),
            lambda: db.c.replace_one({"i": i}, {"i": i}, upsert=True),
            lambda: db.c.delete_many({"n": 3}),
            lambda: db.c.find_one_and_delete({"i": i}),
        ][draw.randrange(7)]()

    def content(db: Database) -> list[dict]:
        return list(db.c.find())

    number, before = None, []
    for kill in range(5):
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
            db = MongoClient(process.stdout.readline().strip()).db
            if kill:
                assert content(db) == before
                assert set(db.c.index_information()) == {"_id_", "u_1"}
                assert "dropped" not in db.list_collection_names()
                assert GridFS(db).get(number).read() == b"z" * 300_000
            else:
                db.c.create_index("u", unique=True, sparse=True)
                db.dropped.insert_one({})
                db.dropped.drop()
                number = GridFS(db).put(b"z" * 300_000)
            for _ in range(draw.randrange(10, 40)):
                write(db)
            before = content(db)
            process.kill()
        if kill == 2:
            with (tmp_path / "data").open("ab") as journal:
                journal.write(bson.encode({"half": "z" * 100})[:50])


@pytest.mark.parametrize(
    ("uri", "options"),
    [
        ("mongodb://one", {}),
        ("mongodb://one:1,two:2/?tls=true", {"tls": True}),
        ("mongodb://u:p%40%2F@one/", {"authsource": "admin"}),
        ("mongodb://u:p@one/users?tls=true", {"authsource": "users", "tls": True}),
        ("mongodb://u:p@one/users?AuthSource=there", {"authsource": "there"}),
    ],
)
def test_a_database_of_a_server(uri: str, options: dict) -> None:
    before, after = parse_uri(uri), parse_uri(in_database(uri, "mine"))
    assert (after["database"], {name.lower(): value for name, value in after["options"].items()}) == ("mine", options)
    for part in ("nodelist", "username", "password"):
        assert after[part] == before[part]
