"""A maggma Store on one SQLite file: no server, safe between processes, MongoDB's query semantics.

Documents are JSON text, one table a collection. SQL only narrows a query (with an index where there is one) to a
superset of the answer; mongomock's filter decides each document, so what matches is what MongoDB would match.
For a local disk: SQLite's write-ahead log does not work on network file systems, which are refused.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from maggma.core import Sort, Store, StoreError
from mongomock_ng.filtering import NOTHING, filter_applies, iter_key_candidates, resolve_sort_key
from mongomock_ng.helpers import patch_datetime_awareness_in_document as as_mongo_dates
from monty.json import jsanitize
from pydash import get, has

from stores.database import open_database, writing
from stores.encoding import dumps, loads, quick_dumps
from stores.narrow import PATH, column, narrow, without_lists

Criteria = dict | None
Fields = dict | list | None
Order = dict[str, Sort | int] | None


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
    return value if type(value) in (int, float) and value == value else dumps(value)


class SQLiteStore(Store):
    """A collection of documents in a SQLite file, where a MongoStore could stand.

    Other than in MongoDB there is no ``_id`` (a given one is dropped), integers have no limit, an update is done as a
    whole or not at all, and a projection can only keep or drop fields (no ``$slice``).
    """

    def __init__(
        self, path: str | Path, collection_name: str = "docs", key: str = "task_id", timeout: float = 60, **kwargs: Any
    ) -> None:
        """The file and its folder are made at the first use; timeout: seconds to wait for others who write."""
        if not PATH.fullmatch(collection_name) or "." in collection_name:
            raise ValueError(f"{collection_name!r} cannot name a collection: use letters, digits and underscores")
        self.path = os.path.abspath(os.path.expanduser(path))  # jobs change the working directory
        self.collection_name = collection_name
        self._table = f'"{collection_name}"'
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

    @property
    def last_updated(self) -> datetime:
        # maggma tells by the _id that a document is there, though without the field
        if self.count() and not self.count({self.last_updated_field: {"$exists": True}}):
            raise StoreError(f"No field '{self.last_updated_field}' in any document of {self.name}")
        return super().last_updated

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
        db = open_database(self.path, self.timeout)
        db.execute(f"CREATE TABLE IF NOT EXISTS {self._table} (id INTEGER PRIMARY KEY, doc TEXT NOT NULL)")
        return db

    def ensure_index(self, key: str, unique: bool = False) -> bool:
        """Index a field; False where that cannot be: an odd name, or unique, which is update()'s to see to."""
        if unique or not PATH.fullmatch(key):
            return False
        index = f'"{self.collection_name}/{key}"'
        self._collection.execute(f"CREATE INDEX IF NOT EXISTS {index} ON {self._table} ({column(key)})")
        return True

    def _find(self, criteria: Criteria) -> Iterator[tuple[int, dict]]:
        """The rows and documents that match, oldest first.

        The row numbers first, then a document at a time: no cursor is left open between two documents, so the caller
        may write (from an old snapshot SQLite refuses to), and memory stays small.
        """
        criteria = as_mongo_dates(criteria or {})
        filter_applies(criteria, {})  # raises at an operator that there is none of, also where there is no document
        condition, arguments = narrow(criteria)
        rest, lists = without_lists(criteria)
        db = self._collection
        # sorted here: with ORDER BY SQLite would rather scan the table than use an index
        for row in sorted(db.execute(f"SELECT id FROM {self._table} WHERE {condition}", arguments)):
            for [text] in db.execute(f"SELECT doc FROM {self._table} WHERE id = ?", row).fetchall():
                doc = loads(text)
                texts = all(isinstance(doc.get(field), str) for field, _ in lists)
                if texts and not all(doc[field] in known for field, known in lists):
                    continue
                if filter_applies(rest if texts else criteria, doc):
                    yield row[0], doc

    def count(self, criteria: Criteria = None) -> int:
        if not criteria:
            return self._collection.execute(f"SELECT count(*) FROM {self._table}").fetchone()[0]
        return sum(1 for _ in self._find(criteria))

    def query(
        self, criteria: Criteria = None, properties: Fields = None, sort: Order = None, skip: int = 0, limit: int = 0
    ) -> Iterator[dict]:
        wanted = properties if isinstance(properties, dict) else dict.fromkeys(properties or [], 1)
        kinds = {bool(kept) for field, kept in wanted.items() if field != "_id"}
        keep = True in kinds
        if len(kinds) > 1:
            raise ValueError(f"properties = {properties}: inclusion and exclusion do not go together")
        docs: Iterable[dict] = (doc for _, doc in self._find(criteria))
        for field, direction in reversed((sort or {}).items()):
            docs = sorted(docs, key=partial(resolve_sort_key, field), reverse=Sort(direction) is Sort.Descending)
        fields = [field for field, kept in wanted.items() if bool(kept) == keep]
        for doc in islice(docs, skip, skip + limit if limit else None):
            yield _project(doc, fields, keep) if fields else doc

    def update(self, docs: list[dict] | dict, key: list | str | None = None) -> None:
        """Insert documents, or replace those with the same key(s); after an error none is."""
        key = key or self.key
        keys = [key] if isinstance(key, str) else list(key)
        prepared = []
        for given in docs if isinstance(docs, list) else [docs]:
            if checked := self._checked(given):
                doc, text = checked
                same = {field: get(doc, field) for field in keys}
                if missing := [field for field, value in same.items() if value is None]:
                    raise ValueError(f"a document for {self.name} lacks its key {', '.join(missing)}")
                prepared.append((same, text))
        db = self._collection
        with writing(db, self.path):
            for field in keys:
                self.ensure_index(field)
            for same, text in prepared:
                row, _ = next(self._find(same), (None, None))  # None asks for a new row
                put = db.execute(f"INSERT OR REPLACE INTO {self._table} (id, doc) VALUES (?, ?)", (row, text))
                count = put.lastrowid or 0
                if row is None and count > 4 and count.bit_count() == 1:
                    # As the rows double, SQLite learns which index is selective. It is a new table that makes other
                    # connections look: from few rows they would have learnt to use no index at all.
                    db.execute("DROP TABLE IF EXISTS sqlite_stat1")
                    db.execute("ANALYZE")

    def _checked(self, given: Any) -> tuple[dict, str] | None:
        """A document and its text; None if the validator does not want it."""
        if type(given) is dict and "_id" not in given and not self.validator and (text := quick_dumps(given)):
            return given, text
        doc = jsanitize(given, allow_bson=True, recursive_msonable=True)
        doc.pop("_id", None)
        if self.validator and not self.validator.is_valid(doc):
            if self.validator.strict:
                raise ValueError(self.validator.validation_errors(doc))
            self.logger.error(self.validator.validation_errors(doc))
            return None
        return doc, dumps(doc)

    def remove_docs(self, criteria: dict) -> None:
        db = self._collection
        with writing(db, self.path):
            for row, _ in self._find(criteria):
                db.execute(f"DELETE FROM {self._table} WHERE id = ?", (row,))

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
