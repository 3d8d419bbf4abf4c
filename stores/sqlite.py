"""A maggma Store on one SQLite file: no server, safe between processes, MongoDB's query semantics.

Documents are JSON text, one table a collection. SQL only narrows a query (with an index where there is one) to a
superset of the answer; mongomock's filter decides each document, so what matches is what MongoDB would match.
For a local disk: SQLite's write-ahead log does not work on network file systems.
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
from bson import ObjectId
from maggma.core import Sort, Store
from mongomock_ng.filtering import NOTHING, filter_applies, iter_key_candidates, resolve_sort_key
from mongomock_ng.helpers import patch_datetime_awareness_in_document as as_mongo_dates
from monty.json import jsanitize
from pydash import get, has

Criteria = dict | None
Fields = dict | list | None
Order = dict[str, Sort | int] | None

APPLICATION_ID = 0x6D66616C  # "mfal" in the file's header: another program's database is never written to
FORMAT = 1

#: Field names that may become part of an SQL text. A criterion on any other is decided by the filter alone.
_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
#: What JSON cannot hold is stored as an object of one key; a document's own object of that form as "$dict".
_DECODERS: dict[str, Any] = {
    "$date": datetime.fromisoformat,
    "$oid": ObjectId,
    "$bytes": base64.b64decode,
    "$float": float,
    "$int": int,
    "$dict": dict,
}


def _encode(value: Any) -> Any:
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else {"$int": str(value)}
    if isinstance(value, list):
        return [_encode(item) for item in value]
    if isinstance(value, dict):
        encoded = {key: _encode(item) for key, item in value.items()}
        return {"$dict": list(encoded.items())} if len(encoded) == 1 and encoded.keys() <= _DECODERS.keys() else encoded
    if isinstance(value, datetime):  # as MongoDB keeps it: UTC without a zone, milliseconds
        return {"$date": as_mongo_dates(value).isoformat()}
    if isinstance(value, ObjectId):
        return {"$oid": str(value)}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    raise TypeError(f"SQLiteStore cannot store a {type(value).__name__}")


def _decode(obj: dict) -> Any:
    tag = next(iter(obj)) if len(obj) == 1 else None
    return _DECODERS[tag](obj[tag]) if tag in _DECODERS else obj


def _dumps(value: Any) -> str:
    return orjson.dumps(_encode(value)).decode()


def _column(field: str) -> str:
    """The one spelling of a field in SQL: an index on an expression serves only the very same expression."""
    return f"json_extract(doc, '$.{field}')"


def _is_plain(value: Any) -> bool:
    """Whether SQL may compare this value with stored ones: what is equal is the same JSON, or 1 and 1.0 and true."""
    return type(value) is str or (type(value) in (int, float, bool) and abs(value) <= 2**53)


def _narrow(criteria: dict) -> tuple[str, list[str]]:
    """An SQL condition (and its arguments) that every matching document meets, though not only those.

    Only equality: without an index SQL is no faster than the filter, and few ranges have one.
    """
    clauses, arguments = ["1"], []
    for field, wanted in criteria.items():
        for operator, value in (wanted if isinstance(wanted, dict) else {"$eq": wanted}).items():
            values = [value] if operator == "$eq" else value if operator == "$in" else None
            if isinstance(values, list) and all(map(_is_plain, values)) and _PATH.fullmatch(field):
                column = _column(field)
                # MongoDB looks inside arrays, of which json_extract gives the text; and NULL, if one is on the way
                array = f"{column} BETWEEN '[' AND '\\'" + (f" OR {column} IS NULL" if "." in field else "")
                # a list as one argument, as SQLite limits the number of arguments
                clauses.append(f"({column} IN (SELECT value FROM json_each(?)) OR {array})")
                arguments.append(_dumps(values))
    return " AND ".join(clauses), arguments


def _project(value: Any, fields: list[str], keep: bool) -> Any:
    """Keep, or drop, these fields; through arrays, as MongoDB does."""
    if isinstance(value, list):
        return [_project(item, fields, keep) for item in value if isinstance(item, dict | list) or not keep]
    if not isinstance(value, dict):
        return value
    projected = {}
    for name, content in value.items():
        below = [field.removeprefix(f"{name}.") for field in fields if field.startswith(f"{name}.")]
        if below and name not in fields and isinstance(content, dict | list):
            projected[name] = _project(content, below, keep)
        elif (name in fields) == keep:
            projected[name] = content
    return projected


def _marker(value: Any) -> Any:
    """Hashable, and the same for values that MongoDB calls equal: 1 and 1.0 are, 1 and true are not."""
    return value if type(value) in (int, float) and value == value else _dumps(value)


class SQLiteStore(Store):
    """A collection of documents in a SQLite file, where a MongoStore could stand.

    Other than in MongoDB there is no ``_id`` (a given one is dropped), integers have no limit, an update is done as a
    whole or not at all, and a projection can only keep or drop fields (no ``$slice``).
    """

    def __init__(
        self, path: str | Path, collection_name: str = "docs", key: str = "task_id", timeout: float = 60, **kwargs: Any
    ) -> None:
        """The file and its folder are made at the first use; timeout: seconds to wait for others who write."""
        if not _PATH.fullmatch(collection_name) or "." in collection_name:
            raise ValueError(f"{collection_name!r} cannot name a collection: use letters, digits and underscores")
        self.path = os.path.abspath(os.path.expanduser(path))  # jobs change the working directory
        self.collection_name = collection_name
        self.timeout = timeout
        self.kwargs = kwargs  # where MSONable looks for them
        self._local = threading.local()
        super().__init__(key=key, **kwargs)

    @property
    def name(self) -> str:
        return f"sqlite://{self.path}#{self.collection_name}"

    def __eq__(self, other: object) -> bool:  # whatever the key, which a JobStore sets later
        return isinstance(other, SQLiteStore) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def connect(self, force_reset: bool = False) -> None:
        """Open the file now, not at the first use, so that a file that is refused is noticed early."""
        if force_reset:
            self.close()
        _ = self._collection

    def close(self) -> None:
        """Close this thread's connection; another thread's closes with the thread."""
        if connection := vars(self._local).pop(str(os.getpid()), None):
            connection.close()

    @property
    def _collection(self) -> sqlite3.Connection:
        # One a thread, as sqlite3 wants it, and one a process: SQLite forbids to carry a connection across a fork.
        # The parent's stays referenced in the child, since even closing it there is forbidden.
        connections = vars(self._local)
        process = str(os.getpid())
        if process not in connections:
            connections[process] = self._open()
        return connections[process]

    def _open(self) -> sqlite3.Connection:
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        try:
            db = sqlite3.connect(self.path, timeout=self.timeout, isolation_level=None)
            db.execute("BEGIN")  # one snapshot for the three, as another process may be making the file
            [application] = db.execute("PRAGMA application_id").fetchone()
            [version] = db.execute("PRAGMA user_version").fetchone()
            [tables] = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN):
                raise
            raise ValueError(f"{self.path} is no SQLite file ({error}): move it away or give another path") from error
        if application != APPLICATION_ID and (application or tables):
            raise ValueError(f"{self.path} is the SQLite database of another program: give another path")
        if version > FORMAT:
            raise ValueError(f"{self.path} has format {version}, this mfal knows {FORMAT}: update mfal")
        give_up = time.monotonic() + self.timeout
        while True:
            try:
                db.execute("PRAGMA journal_mode = WAL")  # readers and the writer do not wait for each other
                break
            except sqlite3.OperationalError as error:  # SQLite does not wait here while another process does the same
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                    raise
                time.sleep(0.01)
        db.execute("PRAGMA synchronous = FULL")  # committed is on disk: a power cut loses no acknowledged label
        if application != APPLICATION_ID:
            db.execute(f"PRAGMA user_version = {FORMAT}")
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f'CREATE TABLE IF NOT EXISTS "{self.collection_name}" (id INTEGER PRIMARY KEY, doc TEXT NOT NULL)')
        return db

    def ensure_index(self, key: str, unique: bool = False) -> bool:
        """Index a field; False where that cannot be: an odd name, or unique, which is update()'s to see to."""
        if unique or not _PATH.fullmatch(key):
            return False
        index, table = f'"{self.collection_name}/{key}"', f'"{self.collection_name}"'
        self._collection.execute(f"CREATE INDEX IF NOT EXISTS {index} ON {table} ({_column(key)})")
        return True

    def _find(self, criteria: Criteria) -> Iterator[tuple[int, dict]]:
        """The rows and documents that match, oldest first.

        The row numbers first, then a document at a time: no cursor is left open between two documents, so the caller
        may write (from an old snapshot SQLite refuses to), and memory stays small.
        """
        criteria = as_mongo_dates(criteria or {})
        condition, arguments = _narrow(criteria)
        db, table = self._collection, f'"{self.collection_name}"'
        # sorted here: with ORDER BY SQLite would rather scan the table than use an index
        for row in sorted(db.execute(f"SELECT id FROM {table} WHERE {condition}", arguments)):
            for [text] in db.execute(f"SELECT doc FROM {table} WHERE id = ?", row).fetchall():
                doc = json.loads(text, object_hook=_decode) if '{"$' in text else orjson.loads(text)
                if filter_applies(criteria, doc):
                    yield row[0], doc

    def count(self, criteria: Criteria = None) -> int:
        if not criteria:
            return self._collection.execute(f'SELECT count(*) FROM "{self.collection_name}"').fetchone()[0]
        return sum(1 for _ in self._find(criteria))

    def query(
        self, criteria: Criteria = None, properties: Fields = None, sort: Order = None, skip: int = 0, limit: int = 0
    ) -> Iterator[dict]:
        docs: Iterable[dict] = (doc for _, doc in self._find(criteria))
        for field, direction in reversed((sort or {}).items()):
            docs = sorted(docs, key=partial(resolve_sort_key, field), reverse=Sort(direction) is Sort.Descending)
        wanted = properties if isinstance(properties, dict) else dict.fromkeys(properties or [], 1)
        keep = any(kept for field, kept in wanted.items() if field != "_id")
        fields = [field for field, kept in wanted.items() if bool(kept) == keep]
        for doc in islice(docs, skip, skip + limit if limit else None):
            yield _project(doc, fields, keep) if fields else doc

    def update(self, docs: list[dict] | dict, key: list | str | None = None) -> None:
        """Insert documents, or replace those with the same key(s); after an error none is."""
        key = key or self.key
        keys = [key] if isinstance(key, str) else list(key)
        prepared = []
        for given in docs if isinstance(docs, list) else [docs]:
            doc = jsanitize(given, allow_bson=True, recursive_msonable=True)
            doc.pop("_id", None)
            if self.validator and not self.validator.is_valid(doc):
                if self.validator.strict:
                    raise ValueError(self.validator.validation_errors(doc))
                self.logger.error(self.validator.validation_errors(doc))
                continue
            same = {field: get(doc, field) for field in keys}
            if missing := [field for field, value in same.items() if value is None]:
                raise ValueError(f"a document for {self.name} lacks its key {', '.join(missing)}")
            prepared.append((same, _dumps(doc)))
        db = self._collection
        with db:  # commits, or rolls back on an exception
            db.execute("BEGIN IMMEDIATE")  # nobody else writes between the look-up and the insert
            for field in keys:
                self.ensure_index(field)
            for same, text in prepared:
                row, _ = next(self._find(same), (None, None))  # None asks for a new row
                db.execute(f'INSERT OR REPLACE INTO "{self.collection_name}" (id, doc) VALUES (?, ?)', (row, text))

    def remove_docs(self, criteria: dict) -> None:
        db = self._collection
        with db:
            db.execute("BEGIN IMMEDIATE")
            for row, _ in self._find(criteria):
                db.execute(f'DELETE FROM "{self.collection_name}" WHERE id = ?', (row,))

    def distinct(self, field: str, criteria: Criteria = None, all_exist: bool = False) -> list:  # noqa: ARG002
        found: dict[Any, Any] = {}
        for _, doc in self._find(criteria):
            for value in iter_key_candidates(field, doc):
                for item in value if isinstance(value, list) else [value]:
                    if item is not NOTHING:
                        found.setdefault(_marker(item), item)
        return list(found.values())

    def groupby(
        self,
        keys: list[str] | str,
        criteria: Criteria = None,
        properties: Fields = None,
        sort: Order = None,
        skip: int = 0,
        limit: int = 0,
    ) -> Iterator[tuple[dict, list[dict]]]:
        """The documents that have all the keys, a group at a time; sort, skip and limit are of documents."""
        keys = [keys] if isinstance(keys, str) else keys
        groups: dict[tuple, tuple[dict, list[dict]]] = {}
        for doc in self.query(criteria, [*properties, *keys] if properties else None, sort, skip, limit):
            if all(has(doc, key) for key in keys):
                marker = tuple(_marker(get(doc, key)) for key in keys)
                groups.setdefault(marker, (_project(doc, keys, keep=True), []))[1].append(doc)
        yield from groups.values()
