"""From what a campaign file says of its store to open maggma stores: outputs, blobs and the five collections."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import pymongo
from jobflow import SETTINGS, JobStore
from maggma.core import Store
from maggma.stores import GridFSStore, JSONStore, MemoryStore, MongoStore
from monty.json import MontyDecoder
from pymongo.errors import OperationFailure, PyMongoError

from mfal.storage import MONGODB, PLACEHOLDER, SQLITE
from stores.outputs import Outputs
from stores.sqlite import SQLiteStore

#: In a campaign's directory, where nothing else is said.
FILE = "campaign.sqlite"
#: What makes a document of a collection the same document.
KEYS = {
    "frames": ["campaign", "frame_id"],
    "labels": ["frame_id", "fingerprint", "attempt"],
    "scores": ["campaign", "round", "frame_id"],
    "models": ["campaign", "round", "member"],
    "rounds": ["campaign", "round"],
}
#: What is asked for beside them.
INDEXES = {"labels": ["job_uuid"], "outputs": ["uuid", "index", "metadata.kind"]}
#: Seconds to wait for a server that does not answer.
PATIENCE = 10


def address(storage: Any, directory: Path | None) -> str:
    """Where a store is, for people: without user, password and options."""
    if storage is None:
        return str(directory)
    if storage == "jobflow":
        return "the store of jobflow's settings"
    if isinstance(storage, dict):
        given = storage.get("docs_store", storage)
        known = [str(given[key]) for key in ("host", "path", "database_path", "database") if key in given]
        return f"{given.get('type') or given.get('@class')} {'/'.join(known)}".strip()
    return re.sub(r"//[^@/]+@|\?.*", lambda part: "//" if part[0].startswith("//") else "", storage)


def connect(storage: Any, directory: Path | None) -> tuple[JobStore, dict[str, Store]]:
    """The JobStore, and a store for each collection.

    Args:
        storage: as `mfal.storage.Storage` has it; None is a SQLite file in the directory.

    Raises:
        ValueError: it cannot be used, or not be reached; names the place without what is secret, and the mend.
    """
    with _explained(storage, directory):
        docs, blobs, prefix = _given(storage, directory)
        _ping(docs)
        jobs = Outputs(docs, additional_stores={"data": blobs})
        collections = {name: _sibling(docs, f"{prefix}{name}", keys[-1]) for name, keys in KEYS.items()}
        jobs.connect()
        for store in collections.values():
            store.connect()
        for name, store in (*collections.items(), ("outputs", docs)):
            _index(store, KEYS.get(name, []), INDEXES.get(name, []))
    return jobs, collections


def reach(storage: Any, directory: Path | None) -> None:
    """Whether a server is there and takes user and password; writes nothing.

    Raises:
        ValueError: as `connect`.
    """
    with _explained(storage, directory):
        _ping(_given(storage, directory)[0])


@contextmanager
def _explained(storage: Any, directory: Path | None) -> Iterator[None]:
    place = f"store = {address(storage, directory)}"
    try:
        yield
    except OperationFailure as error:
        mend = "check the user, and the environment that the password is taken from"
        raise ValueError(f"{place}: refuses mfal (MongoDB's code {error.code}): {mend}") from None
    except PyMongoError as error:
        mend = "is the server up, and the address right?"
        raise ValueError(f"{place}: cannot be reached ({type(error).__name__}): {mend}") from None
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def _ping(store: Store) -> None:
    if is_mongodb(store):
        store.connect()
        with pymongo.timeout(PATIENCE):
            store._collection.database.command("ping")


def _index(store: Store, keys: list[str], others: list[str]) -> None:
    """MongoDB needs one over all the keys, and unique: without it two that build at once may both insert."""
    if is_mongodb(store) and keys:
        with suppress(OperationFailure):  # may only read; without the index it is slower, and nothing else
            store._collection.create_index([(key, 1) for key in keys], unique=True)
    for key in others if is_mongodb(store) else [*keys, *others]:
        store.ensure_index(key)


def is_mongodb(store: Store) -> bool:
    """A MongoStore for real: maggma's stores in memory and in files say that they are one, too."""
    return isinstance(store, MongoStore) and not isinstance(store, MemoryStore)


def sqlite_file(storage: Any, directory: Path | None) -> Path | None:
    """The file that holds the store, where it is SQLite."""
    if storage is None:
        return Path(directory or ".") / FILE
    found = SQLITE.fullmatch(storage) if isinstance(storage, str) else None
    return Path(_filled(found["path"])).expanduser() if found else None


def _given(storage: Any, directory: Path | None) -> tuple[Store, Store, str]:
    """The stores of outputs and blobs, and what the names of the collections begin with where others keep theirs."""
    if file := sqlite_file(storage, directory):
        return SQLiteStore(file, "outputs", key="uuid"), SQLiteStore(file, "blobs", key="blob_uuid"), ""
    if storage == "jobflow":
        return *_both(SETTINGS.JOB_STORE), "mfal_"
    if isinstance(storage, dict):
        return *_both(_decoded(_filled(storage))), "mfal_"
    return *_mongodb(storage), ""


def _mongodb(storage: str) -> tuple[Store, Store]:
    """User and password beside the address, not in it: maggma's stores go by their address, and log it."""
    found = MONGODB.fullmatch(storage)
    assert found
    user, _, password = (found["user"] or "").partition(":")
    options = _filled(found["options"] or "")
    where: dict[str, Any] = {
        "database": found["database"],
        "host": f"{found['scheme']}://{found['host']}/?{options}",
        "username": _filled(unquote(user)),
        "password": _filled(unquote(password)),
        "auth_source": parse_qs(options).get("authSource", [found["database"]])[0],
    }
    return MongoStore(**where, collection_name="outputs", key="uuid"), GridFSStore(**where, collection_name="blobs")


def _decoded(spec: dict[str, Any]) -> JobStore | Store:
    """A JobStore or a store, as jobflow's settings or maggma's own dictionaries have it."""
    try:
        if "docs_store" in spec:
            return JobStore.from_dict_spec(spec)
        return (
            MontyDecoder().process_decoded(spec)
            if "@class" in spec
            else JobStore.from_dict_spec({"docs_store": spec}).docs_store
        )
    except Exception as error:  # whose text may repeat what stood for a password
        raise ValueError(
            f"is not what maggma makes a store of ({type(error).__name__}): write it as jobflow's JOB_STORE"
        ) from None


def _both(given: JobStore | Store) -> tuple[Store, Store]:
    """Of outputs and of blobs; where there are none of blobs, beside the outputs."""
    others = given.additional_stores if isinstance(given, JobStore) else {}
    docs = given.docs_store if isinstance(given, JobStore) else given
    if not isinstance(docs, Store):
        raise ValueError("is no maggma store: write it as jobflow's JOB_STORE has it")
    if "data" in others:
        return docs, others["data"]
    if is_mongodb(docs):
        same = (
            "database",
            "host",
            "port",
            "username",
            "password",
            "auth_source",
            "mongoclient_kwargs",
            "ssh_tunnel",
            "uri",
        )
        return docs, GridFSStore(
            **{key: getattr(docs, key) for key in same}, collection_name=f"{docs.collection_name}_blobs"
        )
    return docs, _sibling(docs, f"{getattr(docs, 'collection_name', '')}_blobs", "blob_uuid")


def _sibling(store: Store, collection: str, key: str) -> Store:
    """Another collection of the same database."""
    kind = type(store)
    if kind in (MemoryStore, JSONStore) or not hasattr(store, "collection_name"):
        why = {MemoryStore: "forgets all when the process ends", JSONStore: "loses what two processes write at once"}
        raise ValueError(f"{kind.__name__} {why.get(kind, 'has no collections')}: take a MongoStore, or a SQLite file")
    return kind.from_dict(store.as_dict() | {"collection_name": collection, "key": key})


def _filled(value: Any) -> Any:
    """With what the environment has in the place of its names."""
    if isinstance(value, dict):
        return {key: _filled(content) for key, content in value.items()}
    if isinstance(value, list):
        return [_filled(content) for content in value]
    return PLACEHOLDER.sub(_variable, value) if isinstance(value, str) else value


def _variable(name: re.Match[str]) -> str:
    if (found := os.environ.get(name[1])) is None:
        raise ValueError(f"{name[0]} is not in the environment: export {name[1]}=...")
    return found
