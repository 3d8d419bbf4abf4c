"""A stand-in for MongoDB in tests: its wire protocol on the loopback, answered from memory by mongomock-ng.

    python -m tests.wire_server --port 27018      # prints its URI and serves until it is interrupted
    python -m tests.wire_server --data FILE       # killed and started again, it knows all that it has answered for
    with WireServer() as server: pymongo.MongoClient(server.uri)      # on a free port

It passes for a standalone mongod 6.0, so it refuses transactions as one does. Commands run one at a time: each is
atomic for all clients. A command or an option that it does not know is refused. It is no database: every query looks at
every document, and nothing reaches the disk but a journal, if there is to be one.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import itertools
import os
import secrets
import socket
import socketserver
import struct
import threading
import time
import traceback
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bson
import mongomock_ng
from bson.errors import InvalidBSON
from mongomock_ng.collection import Collection
from mongomock_ng.helpers import _clone_document
from pymongo.errors import DuplicateKeyError, PyMongoError

Document = dict[str, Any]

OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013
MAX_DOCUMENT, MAX_MESSAGE = 16 * 2**20, 48_000_000
FIRST_BATCH = 101  # documents, where the client does not say
#: Any command may carry these, and none changes what is answered.
IGNORED = {"$db", "lsid", "$clusterTime", "$readPreference", "readConcern", "writeConcern", "comment", "hint"}
IGNORED |= {"maxTimeMS", "allowDiskUse", "noCursorTimeout"}
#: What a client may say before it has logged in.
OPEN = {"hello", "ismaster", "saslstart", "saslcontinue", "ping", "buildinfo", "endsessions"}


class RefusedError(Exception):
    """An error with the code and the name that MongoDB gives it."""

    def __init__(self, code: int, name: str, message: str) -> None:
        super().__init__(message)
        self.code, self.name = code, name


def _as_reply(error: Exception) -> Document:
    if isinstance(error, RefusedError):
        return {"code": error.code, "codeName": error.name, "errmsg": str(error)}
    if isinstance(error, DuplicateKeyError):
        details = error.details or {}
        named = {key: details[key] for key in ("keyPattern", "keyValue") if key in details}
        return {"code": 11000, "codeName": "DuplicateKey", "errmsg": f"E11000 duplicate key error: {named}", **named}
    if isinstance(error, NotImplementedError):
        return {"code": 238, "codeName": "NotImplemented", "errmsg": f"mongomock-ng cannot do this: {error}"}
    if isinstance(error, PyMongoError | ValueError | TypeError):
        return {"code": getattr(error, "code", None) or 2, "codeName": "BadValue", "errmsg": str(error)}
    traceback.print_exc()  # nobody has foreseen this one: a bug here or in mongomock-ng
    return {"code": 8, "codeName": "UnknownError", "errmsg": f"{type(error).__name__}: {error}"}


def _only(given: Document, *known: str) -> None:
    """Refuse what is not known: with an option ignored, a test would pass that should not."""
    if unknown := [key for key, value in given.items() if key not in IGNORED.union(known) and value]:
        raise RefusedError(115, "CommandNotSupported", f"the test server does not know {', '.join(unknown)}")


class Login:
    """The server's side of SCRAM-SHA-256 (RFC 5802 and 7677) for ASCII passwords; every connection has its own."""

    def __init__(self, users: Mapping[str, str]) -> None:
        self.users = users
        self.done = not users

    def step(self, command: Document) -> Document:
        if command["$db"] != "admin" or command.get("mechanism", "SCRAM-SHA-256") != "SCRAM-SHA-256":
            raise RefusedError(18, "AuthenticationFailed", "Authentication failed.")
        answer = self._challenge if "saslStart" in command else self._verify
        return {"payload": answer(command["payload"].decode()), "conversationId": 1, "done": self.done}

    def _challenge(self, payload: str) -> bytes:
        self.first = payload.removeprefix("n,,")
        fields = dict(field.split("=", 1) for field in self.first.split(","))
        self.user = fields["n"].replace("=2C", ",").replace("=3D", "=")
        self.nonce, self.salt = fields["r"] + secrets.token_urlsafe(), secrets.token_bytes(16)
        self.second = f"r={self.nonce},s={b64encode(self.salt).decode()},i=4096"
        return self.second.encode()

    def _verify(self, payload: str) -> bytes:
        third, proof = payload.split(",p=")
        message = f"{self.first},{self.second},{third}".encode()
        password = self.users.get(self.user, secrets.token_hex())  # that of an unknown user cannot be guessed
        salted = hashlib.pbkdf2_hmac("sha256", password.encode(), self.salt, 4096)
        key = hmac.digest(salted, b"Client Key", "sha256")
        signature = hmac.digest(hashlib.sha256(key).digest(), message, "sha256")
        expected = bytes(a ^ b for a, b in zip(key, signature, strict=True))
        if third != f"c=biws,r={self.nonce}" or not hmac.compare_digest(b64decode(proof), expected):
            raise RefusedError(18, "AuthenticationFailed", "Authentication failed.")
        self.done = True
        return b"v=" + b64encode(hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256"))


def _on_a_copy(apply: Callable[..., None]) -> Callable[..., None]:
    def apply_whole(self: Collection, document: Document, *arguments: Any) -> None:
        changed = _clone_document(document)
        apply(self, changed, *arguments)
        document.clear()
        document.update(changed)

    return apply_whole


class AtomicCollection(Collection):
    """mongomock-ng edits the stored document in place, where a failing update would leave half of itself."""

    _apply_update_document = _on_a_copy(Collection._apply_update_document)
    _apply_update_pipeline = _on_a_copy(Collection._apply_update_pipeline)


class Journal:
    """What became of each document that was written, in the kernel's hands before the client hears of it: it outlives a
    SIGKILL of the server, but not the power."""

    def __init__(self, path: Path, commands: Commands) -> None:
        path.touch()
        # Where the last was cut off, nobody was told that it is written.
        with path.open("rb") as file, suppress(InvalidBSON):
            for entry in bson.decode_file_iter(file):
                self._apply(entry, commands)
        self.file = path.with_suffix(".new").open("wb", buffering=0)
        for database in map(commands.client.__getitem__, commands.client.list_database_names()):
            for name in database.list_collection_names():
                indexes = list(database[name].list_indexes())
                self.command({"createIndexes": name, "indexes": indexes, "$db": database.name})
                self.write(database[name], list(database[name]._store._documents))
        os.replace(self.file.name, path)

    def _apply(self, entry: Document, commands: Commands) -> None:
        if command := entry.get("command"):
            getattr(commands, f"do_{next(iter(command)).lower()}")(command)
            return
        store = commands.client[entry["database"]]._store[entry["collection"]]
        if "document" in entry:
            store[entry["_id"]] = entry["document"]
        elif entry["_id"] in store:
            del store[entry["_id"]]

    def write(self, collection: Collection, ids: list[Any]) -> None:
        """These documents as they are now, or that they are gone."""
        where = {"database": collection.database.name, "collection": collection.name}
        for number in ids:
            document = collection._store._documents.get(number)
            self.file.write(bson.encode({**where, "_id": number, **({"document": document} if document else {})}))

    def command(self, command: Document) -> None:
        """One that makes or drops what holds documents."""
        self.file.write(bson.encode({"command": {k: v for k, v in command.items() if k not in IGNORED - {"$db"}}}))


class Commands:
    """MongoDB's commands, each a method with its name in lower case."""

    def __init__(self, data: Path | None = None) -> None:
        self.client = mongomock_ng.MongoClient()
        self.journal: Journal | None = None
        self.journal = Journal(data, self) if data else None
        self.cursors: dict[int, tuple[str, list[Document]]] = {}
        self.cursor_ids = itertools.count(time.time_ns() // 1000)  # not those of an earlier server on this port
        self.lock = threading.Lock()

    def answer(self, command: Document, login: Login) -> Document:
        name = next(iter(command))
        with self.lock:
            try:
                if not login.done and name.lower() not in OPEN:
                    raise RefusedError(13, "Unauthorized", f"command {name} requires authentication")
                if "txnNumber" in command:
                    problem = "Transaction numbers are only allowed on a replica set member or mongos"
                    raise RefusedError(20, "IllegalOperation", problem)
                run = login.step if name in ("saslStart", "saslContinue") else getattr(self, f"do_{name.lower()}", None)
                if run is None:
                    raise RefusedError(59, "CommandNotFound", f"no such command: '{name}'")
                return {**run(command), "ok": 1.0}
            except Exception as error:  # whatever it is, it is the client's to see
                return {"ok": 0.0, **_as_reply(error)}

    # The server

    def do_hello(self, command: Document) -> Document:
        hello = {"helloOk": True, "ismaster": True, "isWritablePrimary": True, "localTime": datetime.now(UTC)}
        hello |= {"minWireVersion": 0, "maxWireVersion": 17, "logicalSessionTimeoutMinutes": 30, "readOnly": False}
        hello |= {"maxBsonObjectSize": MAX_DOCUMENT, "maxMessageSizeBytes": MAX_MESSAGE, "maxWriteBatchSize": 100_000}
        return hello | ({"saslSupportedMechs": ["SCRAM-SHA-256"]} if "saslSupportedMechs" in command else {})

    def do_ping(self, command: Document) -> Document:  # noqa: ARG002
        return {}

    do_ismaster = do_hello
    do_endsessions = do_compact = do_ping

    def do_buildinfo(self, command: Document) -> Document:  # noqa: ARG002
        return {"version": "6.0.0", "versionArray": [6, 0, 0, 0], "gitVersion": "test server", "bits": 64}

    # Collections and indexes

    def _collection(self, command: Document, must_exist: bool = False) -> AtomicCollection:
        name = next(iter(command.values()))
        if not isinstance(name, str):
            raise RefusedError(115, "CommandNotSupported", "the test server runs this command on a collection only")
        database = self.client[command["$db"]]
        database._ensure_valid_collection_name(name)
        if must_exist and name not in database._store:
            raise RefusedError(26, "NamespaceNotFound", f"ns not found {command['$db']}.{name}")
        return AtomicCollection(database, name, database._store)

    def do_listcollections(self, command: Document) -> Document:
        _only(command, "listCollections", "filter", "nameOnly", "cursor", "authorizedCollections")
        names = self.client[command["$db"]].list_collection_names(filter=command.get("filter"))
        found = [{"name": name, "type": "collection", "options": {}, "info": {"readOnly": False}} for name in names]
        return self._cursor(f"{command['$db']}.$cmd.listCollections", found, command["cursor"])

    def do_dropdatabase(self, command: Document) -> Document:
        self._note(command)
        self.client.drop_database(command["$db"])
        return {"dropped": command["$db"]}

    def do_drop(self, command: Document) -> Document:
        collection = self._collection(command, must_exist=True)
        self._note(command)
        collection._store.drop()
        return {"ns": collection.full_name}

    def do_createindexes(self, command: Document) -> Document:
        _only(command, "createIndexes", "indexes")
        collection = self._collection(command)
        before = len(list(collection.list_indexes())) or 1
        for index in command["indexes"]:
            options = ("unique", "sparse", "expireAfterSeconds", "partialFilterExpression")
            _only(index, "key", "name", "background", "v", *options)
            chosen = {option: index[option] for option in options if option in index}
            if list(index["key"]) != ["_id"]:
                collection.create_index(list(index["key"].items()), name=index["name"], **chosen)
        self._note(command)
        return {"numIndexesBefore": before, "numIndexesAfter": len(list(collection.list_indexes()))}

    def do_listindexes(self, command: Document) -> Document:
        collection = self._collection(command, must_exist=True)
        return self._cursor(collection.full_name, list(collection.list_indexes()), command["cursor"])

    def do_dropindexes(self, command: Document) -> Document:
        collection, index = self._collection(command, must_exist=True), command["index"]
        try:
            if index == "*":
                collection.drop_indexes()
            else:
                collection.drop_index(list(index.items()) if isinstance(index, dict) else index)
        except mongomock_ng.OperationFailure as error:
            raise RefusedError(27, "IndexNotFound", str(error)) from error
        self._note(command)
        return {}

    # Reading

    def _cursor(self, namespace: str, found: list[Document], options: Document, single: bool = False) -> Document:
        first, rest = _split(found, options.get("batchSize", FIRST_BATCH))
        number = next(self.cursor_ids) if rest and not single else 0
        if number:
            self.cursors[number] = (namespace, rest)
        return {"cursor": {"id": bson.Int64(number), "ns": namespace, "firstBatch": first}}

    def do_getmore(self, command: Document) -> Document:
        number = int(command["getMore"])
        if number not in self.cursors:
            raise RefusedError(43, "CursorNotFound", f"cursor id {number} not found")
        namespace, found = self.cursors.pop(number)
        batch, rest = _split(found, command.get("batchSize") or len(found))
        if rest:
            self.cursors[number] = (namespace, rest)
        return {"cursor": {"id": bson.Int64(number if rest else 0), "ns": namespace, "nextBatch": batch}}

    def do_killcursors(self, command: Document) -> Document:
        killed = [number for number in command["cursors"] if self.cursors.pop(int(number), None)]
        missing = [number for number in command["cursors"] if number not in killed]
        return {"cursorsKilled": killed, "cursorsNotFound": missing, "cursorsAlive": [], "cursorsUnknown": []}

    def do_find(self, command: Document) -> Document:
        _only(command, "find", "filter", "projection", "sort", "skip", "limit", "batchSize", "singleBatch")
        collection, skip, limit = self._collection(command), command.get("skip", 0), command.get("limit", 0)
        found = collection.find(command.get("filter"), command.get("projection"), skip, limit, sort=_order(command))
        return self._cursor(collection.full_name, list(found), command, command.get("singleBatch", False))

    def do_aggregate(self, command: Document) -> Document:
        _only(command, "aggregate", "pipeline", "cursor")
        collection = self._collection(command)
        return self._cursor(collection.full_name, list(collection.aggregate(command["pipeline"])), command["cursor"])

    def do_count(self, command: Document) -> Document:
        _only(command, "count", "query")
        return {"n": self._collection(command).count_documents(command.get("query") or {})}

    def do_distinct(self, command: Document) -> Document:
        _only(command, "distinct", "key", "query")
        return {"values": list(self._collection(command).distinct(command["key"], command.get("query")))}

    # Writing

    def _note(self, command: Document) -> None:
        if self.journal:
            self.journal.command(command)

    @contextmanager
    def _noted(self, collection: Collection, query: Document, one: bool) -> Iterator[list[Any]]:
        """What a write does to the documents that the query finds, or that it adds to the list, goes into the journal,
        also when it fails halfway."""
        ids: list[Any] = []
        if self.journal:
            ids += [document["_id"] for document in collection.find(query, {"_id": 1}, limit=int(one))]
        try:
            yield ids
        finally:
            if self.journal:
                self.journal.write(collection, ids)

    def do_insert(self, command: Document) -> Document:
        _only(command, "insert", "documents", "ordered")
        collection = self._collection(command)

        def insert(document: Document) -> Document:
            collection.insert_one(document)
            if self.journal:
                self.journal.write(collection, [document["_id"]])
            return {"n": 1}

        return _each(insert, command["documents"], command)

    def do_update(self, command: Document) -> Document:
        _only(command, "update", "updates", "ordered")
        collection = self._collection(command)

        def update(item: Document) -> Document:
            _only(item, "q", "u", "multi", "upsert", "arrayFilters")
            return self._update(collection, item["q"], item["u"], item)

        return _each(update, command["updates"], command)

    def do_delete(self, command: Document) -> Document:
        _only(command, "delete", "deletes", "ordered")
        collection = self._collection(command)

        def delete(item: Document) -> Document:
            _only(item, "q", "limit")
            with self._noted(collection, item["q"], bool(item["limit"])):
                return (collection.delete_one if item["limit"] else collection.delete_many)(item["q"]).raw_result

        return _each(delete, command["deletes"], command)

    def do_findandmodify(self, command: Document) -> Document:
        _only(command, "findAndModify", "query", "sort", "remove", "update", "new", "fields", "upsert", "arrayFilters")
        collection, query, fields = self._collection(command), command.get("query", {}), command.get("fields")
        found = collection.find_one(query, {"_id": 1}, sort=_order(command))
        old = collection.find_one(found, fields) if found else None
        if not found and not command.get("upsert"):
            return {"lastErrorObject": {"n": 0, "updatedExisting": False}, "value": None}
        if command.get("remove"):
            with self._noted(collection, found, True):
                return {"lastErrorObject": {"n": collection.delete_one(found).deleted_count}, "value": old}
        # the query too and not only the _id: "$" in an update stands for the item of an array that the query found
        done = self._update(collection, {**query, **(found or {})}, command["update"], command)
        outcome = {"n": 1, "updatedExisting": bool(found)} | ({} if found else {"upserted": done["upserted"]})
        new = collection.find_one(found or {"_id": done["upserted"]}, fields)
        return {"lastErrorObject": outcome, "value": new if command.get("new") else old}

    def _update(self, collection: Collection, query: Document, change: Document | list, options: Document) -> Document:
        upsert, multi = options.get("upsert", False), options.get("multi", False)
        replaces = isinstance(change, dict) and not next(iter(change), "").startswith("$")
        if replaces and multi:
            raise RefusedError(9, "FailedToParse", "multi update is not supported for replacement-style update")
        with self._noted(collection, query, not multi) as ids:
            if replaces:
                done = collection.replace_one(query, change, upsert=upsert).raw_result
            else:
                update = collection.update_many if multi else collection.update_one
                done = update(query, change, upsert=upsert, array_filters=options.get("arrayFilters")).raw_result
            if done.get("upserted") is not None:
                ids.append(done["upserted"])
            return done


def _order(command: Document) -> list[tuple[str, int]] | None:
    return list(command.get("sort", {}).items()) or None


def _split(found: list[Document], count: int) -> tuple[list[Document], list[Document]]:
    """The first documents, as many as a reply can hold, and the rest."""
    sizes = itertools.accumulate(len(bson.encode(document)) for document in found[:count])
    fitting = max(sum(size < MAX_DOCUMENT for size in sizes), min(count, 1))
    return found[:fitting], found[fitting:]


def _each(write: Callable[[Document], Document], items: list[Document], command: Document) -> Document:
    """Every item for itself, as in MongoDB: those before one that fails stay, and the others too if unordered."""
    reply: Document = {"n": 0, "nModified": 0, "upserted": [], "writeErrors": []}
    for index, item in enumerate(items):
        try:
            done = write(item)
        except Exception as error:  # whatever it is, it is the client's to see
            reply["writeErrors"].append({"index": index, **_as_reply(error)})
            if command.get("ordered", True):
                break
            continue
        reply["n"] += done["n"]
        reply["nModified"] += done.get("nModified", 0)
        if done.get("upserted") is not None:
            reply["upserted"].append({"index": index, "_id": done["upserted"]})
    return {key: value for key, value in reply.items() if value != []}


class Conversation(socketserver.BaseRequestHandler):
    """One client's connection, in a thread of its own."""

    server: WireServer

    def handle(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self.server.connections.add(self.request)
        login = Login(self.server.users)
        with suppress(OSError):  # the client has gone, or the server goes
            while True:
                length, number, _, kind = struct.unpack("<iiii", self._receive(16))
                if kind not in (OP_MSG, OP_QUERY) or length > MAX_MESSAGE:
                    break  # it is no driver of MongoDB
                command, silent = (_parse_message if kind == OP_MSG else _parse_query)(self._receive(length - 16))
                reply = bson.encode(self.server.commands.answer(command, login))
                if silent:  # a write that is not to be acknowledged
                    continue
                kind, head = (OP_MSG, bytes(5)) if kind == OP_MSG else (OP_REPLY, struct.pack("<iqii", 0, 0, 0, 1))
                size = 16 + len(head) + len(reply)
                self.request.sendall(struct.pack("<iiii", size, 0, number, kind) + head + reply)
        self.server.connections.discard(self.request)

    def _receive(self, length: int) -> bytes:
        received = bytearray()
        while len(received) < length:
            part = self.request.recv(min(length - len(received), 2**20))
            if not part:
                raise ConnectionError
            received += part
        return bytes(received)


def _parse_message(body: bytes) -> tuple[Document, bool]:
    """OP_MSG: flags, then a section with the command, and others with the lists that are too long to be in it."""
    [flags] = struct.unpack_from("<I", body)
    position, end = 4, len(body) - 4 * (flags & 1)  # a checksum
    command: Document = {}
    lists: Document = {}
    while position < end:
        [size] = struct.unpack_from("<i", body, position + 1)
        section = body[position + 1 : position + 1 + size]
        if body[position] == 0:
            command = bson.decode(section)
        else:
            name, _, documents = section[4:].partition(b"\0")
            lists[name.decode()] = bson.decode_all(documents)
        position += 1 + size
    return {**command, **lists}, bool(flags & 2)


def _parse_query(body: bytes) -> tuple[Document, bool]:
    """OP_QUERY, in which a driver says its first hello: flags, namespace, two numbers, the command."""
    namespace, _, rest = body[4:].partition(b"\0")
    return {**bson.decode(rest[8:]), "$db": namespace.decode().partition(".")[0]}, False


class WireServer(socketserver.ThreadingTCPServer):
    """Serves on the loopback while in its `with`. If there are users (name: password), they log in at `admin`.
    What it is told goes to the file `data`, if that is named, and is known to the next server with the same."""

    daemon_threads = allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, port: int = 0, users: Mapping[str, str] | None = None, data: Path | None = None) -> None:
        super().__init__(("127.0.0.1", port), Conversation)
        self.commands = Commands(data)
        self.users = users or {}
        self.connections: set[socket.socket] = set()
        self.uri = f"mongodb://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> WireServer:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):  # a server that is gone answers nobody
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A stand-in for MongoDB in tests.")
    parser.add_argument("--port", type=int, default=0, help="a free one where none is given")
    parser.add_argument("--data", type=Path, help="a file that outlives the server")
    given = parser.parse_args()
    with WireServer(given.port, data=given.data) as wire_server, suppress(KeyboardInterrupt):
        print(wire_server.uri, flush=True)
        threading.Event().wait()
