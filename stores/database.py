"""Opening mfal's SQLite file: ours or refused, on a local disk, and in today's format."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stores import filesystem

APPLICATION_ID = 0x6D66616C  # "mfal" in the file's header: another program's database is never written to
#: What brings a file from format 1 to 2, from 2 to 3 and so on. It is done as one transaction when a file is opened.
MIGRATIONS: list[Callable[[sqlite3.Connection], None]] = []
FORMAT = 1 + len(MIGRATIONS)


def open_database(path: str, timeout: float) -> sqlite3.Connection:
    """A connection to the file, which is made if it is not there, and migrated if it is older.

    Raises:
        ValueError: the file cannot be ours, or its place is none for SQLite; names it, and the mend.
    """
    if kind := filesystem.shared(path):
        mend = "`store: sqlite:////a/local/disk/x.sqlite` or `store: mongodb://host/database`"
        raise ValueError(f"{path} is on a network file system ({kind}), where SQLite may lose documents: say {mend}")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        db = sqlite3.connect(path, timeout=timeout, isolation_level=None)
        version = _version(db, path)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN):
            raise
        raise ValueError(f"{path} is no SQLite file ({error}): move it away or give another path") from error
    _log_ahead(db, timeout)
    db.execute("PRAGMA synchronous = FULL")  # committed is on disk: a power cut loses no acknowledged label
    if version < FORMAT:
        with writing(db, path) as version:  # it may be another one now
            for migrate in MIGRATIONS[version - 1 :] if version else ():
                migrate(db)
            db.execute(f"PRAGMA user_version = {FORMAT}")
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    return db


@contextmanager
def writing(db: sqlite3.Connection, path: str) -> Iterator[int]:
    """A transaction in which nobody else writes: all of it is kept, or nothing after an error. Gives the format."""
    with db:
        db.execute("BEGIN IMMEDIATE")
        yield _version(db, path)  # a newer mfal may have migrated the file since it was opened


def _version(db: sqlite3.Connection, path: str) -> int:
    """The format of our file, 0 for a new one."""
    # one query, so one snapshot: another process may be making the file
    query = "SELECT * FROM pragma_application_id, pragma_user_version, (SELECT count(*) FROM sqlite_master)"
    application, version, tables = db.execute(query).fetchone()
    if application != APPLICATION_ID:
        if application or tables:
            raise ValueError(f"{path} is the SQLite database of another program: give another path")
        return 0
    if version > FORMAT:
        raise ValueError(f"{path} has format {version}, this mfal knows {FORMAT}: update mfal")
    return int(version)


def _log_ahead(db: sqlite3.Connection, timeout: float) -> None:
    """Readers and the writer do not wait for each other."""
    give_up = time.monotonic() + timeout
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:  # SQLite does not wait here while another process does the same
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
