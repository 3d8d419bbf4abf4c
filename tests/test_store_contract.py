"""What SQLiteStore shares with maggma's MemoryStore and MongoStore: the same questions, the answers written out.

MongoStore asks a real MongoDB where MONGO_URI names one, else the stand-in. The answers are MongoDB's. Nothing is asked
where mongomock-ng, which decides for all but a real MongoDB, answers otherwise: to it true is 1, {} as a value is
anything, fields of a document have no order, 7 does not lack a field, and an array goes by its smallest item even in a
descending sort.
"""

from __future__ import annotations

import copy
import json
import math
import pickle
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bson import ObjectId
from jobflow import Flow, JobStore, job, run_locally
from maggma.core import Sort, Store, StoreError, Validator
from maggma.stores import GridFSStore, MemoryStore, MongoStore
from pymatgen.core import Lattice

from stores.sqlite import SQLiteStore

Make = Callable[..., Store]

NEW_YEAR = datetime(2024, 1, 1)
#: Each has a letter, so that an answer is a word; what "e" has are oddities, and "f" has nothing.
DOCS: list[dict] = [
    {"k": "a", "n": 1, "x": -3.5, "s": "ok", "tags": ["x", "y"], "sub": {"a": 1, "b": {"c": "deep"}}}
    | {"sites": [{"el": "Li", "m": 0.0}, {"el": "Mn", "m": 4.5}], "when": NEW_YEAR, "note": None, "done": True},
    {"k": "b", "n": 2, "x": -1.25, "s": "failed", "tags": "x", "sub": {"a": 2, "b": {}}, "note": "text", "done": False}
    | {"sites": [{"el": "Mn", "m": -4.5}, {"el": "Mn", "m": 4.5}], "when": datetime(2024, 2, 1, 12, 30, 0, 250_000)},
    {"k": "c", "n": 3.0, "s": "OK", "tags": [], "sub": {"a": [1, 2]}, "when": datetime(2025, 1, 1)},
    {"k": "d", "n": "3", "x": 2**53 + 1, "s": "Å ✓ 🔋", "tags": ["y", ["x"]], "sub": None, "sites": []}
    | {"note": ["text", None]},
    {"k": "e", "n": [1, 5], "x": -(2**63), "s": "collapsed", "sub": 7, "sites": [{"el": "Fe"}], "note": ""}
    | {"when": [datetime(2023, 1, 1), datetime(2024, 6, 1)], "done": "true"},
    {"k": "f"},
]
FIELDS = ["n", "x", "s", "tags", "sub", "sub.a", "sub.b.c", "sites.el", "sites.m", "when", "note", "done"]


@pytest.fixture(params=["memory", "sqlite", "mongo"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def make(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes connected stores of one kind: `make("labels", key="frame_id")`."""
    uri = request.getfixturevalue("mongo_database") if kind == "mongo" else ""
    with ExitStack() as connected:

        def make_one(name: str = "docs", key: str = "k", **options: Any) -> Store:
            options["key"] = key
            if kind == "memory":
                store: Store = MemoryStore(name, **options)
            elif kind == "sqlite":
                store = SQLiteStore(tmp_path / "s.sqlite", name, **options)
            else:
                store = MongoStore.from_uri(uri, name, **options)
            return connected.enter_context(store)

        yield make_one


@pytest.fixture
def store(make: Make) -> Store:
    return make()


def word(docs: Iterable[dict]) -> str:
    return "".join(doc["k"] for doc in docs)


def found(store: Store, criteria: dict | None) -> str:
    """In alphabetical order, as MongoDB promises none where none is asked for."""
    docs = word(sorted(store.query(criteria), key=lambda doc: doc["k"]))
    assert store.count(criteria) == len(docs)
    return docs


def plain(doc: dict) -> dict:
    """Without the _id, which MongoDB gives to every document and SQLiteStore to none."""
    return {name: value for name, value in doc.items() if name != "_id"}


def contents(store: Store) -> list[dict]:
    return [plain(doc) for doc in store.query(sort={"k": 1, "i": 1})]


HOUR_EAST = timezone(timedelta(hours=1))
CRITERIA: dict[str, list[tuple[dict | None, str]]] = {
    "numbers": [
        ({"n": 1}, "ae"),
        ({"n": 1.0}, "ae"),
        ({"n": 3}, "c"),
        ({"n": {"$eq": 2}}, "b"),
        ({"n": {"$ne": 1}}, "bcdf"),
        ({"n": {"$gt": 1}}, "bce"),
        ({"n": {"$gte": 3}}, "ce"),
        ({"n": {"$lt": 2}}, "ae"),
        ({"n": {"$lte": 2}}, "abe"),
        ({"n": {"$gt": 1, "$lt": 2}}, "e"),  # one item is larger than 1, another smaller than 2
        ({"n": {"$in": [1, "3"]}}, "ade"),
        ({"n": {"$nin": [1, "3"]}}, "bcf"),
        ({"n": {"$in": []}}, ""),
        ({"n": {"$nin": []}}, "abcdef"),
        ({"n": "3"}, "d"),
        ({"n": {"$gt": "2"}}, "d"),
        ({"x": 2**53}, ""),  # as a float it would be the number of "d"
        ({"x": float(2**53)}, ""),
        ({"x": 2**53 + 1}, "d"),
        ({"x": {"$gt": 2**53}}, "d"),
        ({"x": -(2**63)}, "e"),
        ({"x": {"$lt": -(2**62)}}, "e"),
        ({"x": {"$lte": -1.25}}, "abe"),
        ({"x": {"$gt": -math.inf}}, "abde"),
        ({"done": True}, "a"),
        ({"done": False}, "b"),
        ({"done": {"$ne": True}}, "bcdef"),
        ({"done": {"$in": [False, "true"]}}, "be"),
        ({"done": {"$gt": False}}, "a"),
    ],
    "null and missing": [
        ({"note": None}, "acdf"),
        ({"note": {"$eq": None}}, "acdf"),
        ({"note": {"$ne": None}}, "be"),
        ({"note": {"$exists": True}}, "abde"),
        ({"note": {"$exists": False}}, "cf"),
        ({"note": {"$in": [None, ""]}}, "acdef"),
        ({"note": {"$nin": [None]}}, "be"),
        ({"note": ""}, "e"),
        ({"sub": None}, "df"),
        ({"sub.a": {"$exists": False}}, "def"),
        ({"sites.m": {"$exists": True}}, "ab"),
        ({"none.such": None}, "abcdef"),
        ({"none.such": {"$exists": False}}, "abcdef"),
    ],
    "arrays": [
        ({"tags": "x"}, "ab"),
        ({"tags": {"$ne": "x"}}, "cdef"),
        ({"tags": {"$in": ["y", "none"]}}, "ad"),
        ({"tags": {"$nin": ["x"]}}, "cdef"),
        ({"tags": ["x", "y"]}, "a"),
        ({"tags": ["y", "x"]}, ""),
        ({"tags": ["x"]}, "d"),  # an item
        ({"tags": []}, "c"),
        ({"tags.0": "x"}, "a"),
        ({"tags.1": {"$exists": True}}, "ad"),
        ({"tags": {"$size": 2}}, "ad"),
        ({"tags": {"$size": 0}}, "c"),
        ({"tags": {"$not": {"$size": 2}}}, "bcef"),
        ({"tags": {"$all": ["y", "x"]}}, "a"),
        ({"tags": {"$all": ["x"]}}, "ab"),
        ({"tags": {"$elemMatch": {"$gte": "y"}}}, "ad"),
        ({"n": {"$elemMatch": {"$gt": 1, "$lt": 5}}}, ""),
        ({"n": {"$elemMatch": {"$gt": 1, "$lt": 6}}}, "e"),
        ({"n": {"$not": {"$elemMatch": {"$gt": 4}}}}, "abcdf"),
        ({"sites.el": "Mn"}, "ab"),
        ({"sites.el": {"$ne": "Mn"}}, "cdef"),
        ({"sites.el": {"$in": ["Li", "Fe"]}}, "ae"),
        ({"sites.0.el": "Mn"}, "b"),
        ({"sites.m": {"$gt": 0}}, "ab"),
        ({"sites.m": {"$lt": 0}}, "b"),
        ({"sites.el": "Li", "sites.m": {"$gt": 4}}, "a"),  # not of one site
        ({"sites": {"$elemMatch": {"el": "Li", "m": {"$gt": 4}}}}, ""),
        ({"sites": {"$elemMatch": {"el": "Mn", "m": {"$lt": 0}}}}, "b"),
        ({"sites": {"$all": [{"$elemMatch": {"el": "Mn"}}]}}, "ab"),
        ({"sites": {"el": "Fe"}}, "e"),
        ({"sites": {"$size": 1}}, "e"),
        ({"sites": []}, "d"),
    ],
    "nested documents": [
        ({"sub": {"a": 1, "b": {"c": "deep"}}}, "a"),
        ({"sub": {"a": 1}}, ""),
        ({"sub": 7}, "e"),
        ({"sub": {"$gt": {}}}, "abc"),
        ({"sub.b.c": "deep"}, "a"),
        ({"sub.b": {"$exists": True}}, "ab"),
        ({"sub.b": {"$ne": {}}}, "acdef"),
        ({"sub.a": 1}, "ac"),
        ({"sub.a": {"$gt": 1}}, "bc"),
        ({"sub.a": {"$all": [1, 2]}}, "c"),
    ],
    "text": [
        ({"s": "ok"}, "a"),
        ({"s": ""}, ""),
        ({"s": {"$regex": "ok"}}, "a"),
        ({"s": {"$regex": "^OK", "$options": "i"}}, "ac"),
        ({"s": {"$regex": re.compile("^o", re.IGNORECASE)}}, "ac"),
        ({"s": re.compile("l")}, "be"),
        ({"s": {"$not": re.compile("l")}}, "acdf"),
        ({"s": {"$not": {"$regex": "l"}}}, "acdf"),
        ({"s": {"$in": [re.compile("^o"), "failed"]}}, "ab"),
        ({"s": {"$nin": [re.compile("^o"), "failed"]}}, "cdef"),
        ({"s": {"$regex": "^ok$|^fail"}}, "ab"),
        ({"s": {"$regex": "o", "$ne": "ok"}}, "e"),
        ({"s": "Å ✓ 🔋"}, "d"),
        ({"s": {"$regex": "✓"}}, "d"),
        ({"s": {"$gt": "z"}}, "d"),
        ({"s": {"$gte": "OK", "$lt": "g"}}, "bce"),
        ({"tags": {"$regex": "^x"}}, "ab"),
        ({"note": {"$regex": ""}}, "bde"),
        ({"n": {"$regex": "3"}}, "d"),  # a number is no text
    ],
    "dates": [
        ({"when": NEW_YEAR}, "a"),
        ({"when": {"$ne": NEW_YEAR}}, "bcdef"),
        ({"when": {"$gt": NEW_YEAR}}, "bce"),
        ({"when": {"$gte": NEW_YEAR, "$lt": datetime(2025, 1, 1)}}, "abe"),
        ({"when": {"$lt": NEW_YEAR}}, "e"),
        ({"when": {"$in": [datetime(2025, 1, 1)]}}, "c"),
        ({"when": {"$not": {"$gte": datetime(2024, 2, 1)}}}, "adf"),
        ({"when": datetime(2024, 2, 1, 12, 30, 0, 250_000)}, "b"),
        ({"when": datetime(2024, 2, 1, 13, 30, 0, 250_999, HOUR_EAST)}, "b"),  # kept are UTC and milliseconds
        ({"when": {"$in": [datetime(2024, 2, 1, 13, 30, 0, 250_999, HOUR_EAST)]}}, "b"),
        ({"$and": [{"when": {"$gt": datetime(2024, 1, 1, 1, tzinfo=HOUR_EAST)}}]}, "bce"),
        ({"when": {"$gt": "2024"}}, ""),
        ({"when": {"$gt": 0}}, ""),
    ],
    "logic": [
        ({}, "abcdef"),
        (None, "abcdef"),
        ({"n": 1, "s": "ok"}, "a"),
        ({"$or": [{"n": 2}, {"s": "OK"}]}, "bc"),
        ({"$or": [{"n": 2}, {"s": "OK"}], "note": "text"}, "b"),
        ({"$and": [{"n": {"$gt": 0}}, {"done": True}]}, "a"),
        ({"$and": [{"sites.el": "Mn"}, {"sites.el": "Li"}]}, "a"),
        ({"$and": [{"$or": [{"n": 1}, {"n": 2}]}, {"$or": [{"s": "ok"}, {"k": "e"}]}]}, "ae"),
        ({"$nor": [{"n": 1}, {"s": "OK"}]}, "bdf"),
        ({"n": {"$not": {"$gt": 1}}}, "adf"),
        ({"n": {"$not": {"$in": [1, 2]}}}, "cdf"),
        ({"k": {"$gt": "a", "$lte": "c"}}, "bc"),
        ({"k": {"$in": ["a", "zz"]}}, "a"),
    ],
}


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("topic", CRITERIA)
def test_criteria(store: Store, topic: str, indexed: bool) -> None:
    store.update(DOCS)
    if indexed:
        assert all(store.ensure_index(field) for field in FIELDS + FIELDS[:1])  # the last is there already
    assert [(criteria, found(store, criteria)) for criteria, _ in CRITERIA[topic]] == CRITERIA[topic]


UNKNOWN: list[dict] = [{"n": {"$none": 1}}, {"$none": [{"n": 1}]}]


@pytest.mark.parametrize("criteria", UNKNOWN, ids=str)
def test_unknown_operators_are_refused(store: Store, criteria: dict) -> None:
    store.update(DOCS)
    for ask in (store.count, lambda criteria: list(store.query(criteria)), store.remove_docs):
        with pytest.raises(Exception, match=r"\$none"):
            ask(criteria)
    assert store.count() == 6


@pytest.mark.parametrize("criteria", UNKNOWN, ids=str)
def test_unknown_operators_are_refused_where_nothing_is(store: Store, criteria: dict) -> None:
    with pytest.raises(Exception, match=r"\$none"):
        list(store.query(criteria))


def test_properties_to_keep_and_to_drop_are_refused(store: Store) -> None:
    store.update(DOCS)
    with pytest.raises(Exception, match=r"(?i)inclu.*exclu|exclu.*inclu"):
        list(store.query(properties={"k": 1, "n": 0}))


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ({"k": -1}, "fedcba"),
        ({"k": Sort.Descending}, "fedcba"),
        ({"x": 1, "k": 1}, "cfeabd"),  # missing first, then numbers
        ({"x": -1, "k": -1}, "dbaefc"),
        ({"s": Sort.Ascending, "k": Sort.Descending}, "fcebad"),  # capitals before small letters before Å
        ({"n": 1, "k": 1}, "faebcd"),  # an array by its smallest item, then text
        ({"tags": 1, "k": 1}, "cefabd"),  # an empty array before null
        ({"when": 1, "k": 1}, "dfeabc"),
        ({"done": 1, "k": -1}, "fdceba"),  # text before false before true
        ({"sub.a": 1, "k": -1}, "fedcab"),
        ({"sub": 1, "k": 1}, "dfeabc"),  # null, a number, documents
        ({"none": 1, "k": -1}, "fedcba"),
    ],
    ids=str,
)
def test_sort(store: Store, sort: dict, expected: str) -> None:
    store.update(DOCS)
    assert word(store.query(sort=sort)) == expected


def test_skip_and_limit(store: Store) -> None:
    store.update(DOCS)
    assert word(store.query(sort={"k": 1}, skip=2, limit=3)) == "cde"
    assert word(store.query({"n": {"$exists": True}}, sort={"k": -1}, skip=1)) == "dcba"
    assert word(store.query(sort={"k": 1}, limit=2)) == "ab"
    assert word(store.query(sort={"k": 1}, skip=9)) == ""
    assert store.query_one({"n": {"$gt": 0}}, sort={"k": -1})["k"] == "e"
    assert store.query_one({"k": "none"}) is None


@pytest.mark.parametrize(
    ("properties", "a", "d"),
    [
        (["k"], {"k": "a"}, {"k": "d"}),
        (["k", "sub.a"], {"k": "a", "sub": {"a": 1}}, {"k": "d"}),
        (["sites.el"], {"sites": [{"el": "Li"}, {"el": "Mn"}]}, {"sites": []}),
        (["none", "sub.none"], {"sub": {}}, {}),
        ({"k": 1, "sub.b.c": True}, {"k": "a", "sub": {"b": {"c": "deep"}}}, {"k": "d"}),
        ({"note": 1, "_id": 0}, {"note": None}, {"note": ["text", None]}),
        (
            {"sites.m": 0, **dict.fromkeys(["n", "x", "s", "tags", "sub", "when", "note"], False)},
            {"k": "a", "sites": [{"el": "Li"}, {"el": "Mn"}], "done": True},
            {"k": "d", "sites": []},
        ),
        ({"_id": 0}, DOCS[0], DOCS[3]),
        ([], DOCS[0], DOCS[3]),
        ({}, DOCS[0], DOCS[3]),
        (None, DOCS[0], DOCS[3]),
    ],
    ids=str,
)
def test_properties(store: Store, properties: list | dict | None, a: dict, d: dict) -> None:
    store.update(DOCS)
    found = store.query({"k": {"$in": ["a", "d"]}}, copy.copy(properties), sort={"k": 1})
    assert [plain(doc) for doc in found] == [a, d]
    assert plain(store.query_one({"k": "d"}, copy.copy(properties))) == d


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("s", ["OK", "collapsed", "failed", "ok", "Å ✓ 🔋"]),
        ("n", ["3", 1, 2, 3.0, 5]),
        ("note", ["", "text", None]),  # null is a value, missing is none
        ("sub.a", [1, 2]),
        ("sites.el", ["Fe", "Li", "Mn"]),
        ("sites", [{"el": "Fe"}, {"el": "Li", "m": 0.0}, {"el": "Mn", "m": -4.5}, {"el": "Mn", "m": 4.5}]),
        ("none", []),
    ],
)
def test_distinct(store: Store, field: str, expected: list) -> None:
    store.update(DOCS)
    assert sorted(store.distinct(field), key=repr) == expected


def test_distinct_of_some(store: Store) -> None:
    store.update([*DOCS, {"k": "g", "n": [2.0, "2"]}])
    assert sorted(store.distinct("n", {"n": 2}), key=repr) == ["2", 2]
    assert store.distinct("sites.el", {"k": {"$in": ["b", "c"]}}) == ["Mn"]
    dates = store.distinct("when", {"when": {"$lt": datetime(2024, 2, 1)}})
    assert sorted(dates) == [datetime(2023, 1, 1), NEW_YEAR, datetime(2024, 6, 1)]


# In groupby maggma's stores agree on little, and the rest is not asked. Without properties MemoryStore gives the keys
# alone, MongoStore whole documents. MemoryStore leaves out a document without a key, MongoStore has a group {} for it.
# MemoryStore cannot group by null and text together. Both ignore sort, skip and limit, which SQLiteStore heeds.
@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("s", [("abd", {"s": "ok"}), ("c", {"s": "bad"})]),
        (["s", "v"], [("ad", {"s": "ok", "v": 1}), ("b", {"s": "ok", "v": 2}), ("c", {"s": "bad", "v": 1})]),
        ("sub.r", [("ac", {"sub": {"r": 1}}), ("bd", {"sub": {"r": 2}})]),
        (["v", "sub.q"], [("acd", {"v": 1, "sub": {"q": 0}}), ("b", {"v": 2, "sub": {"q": 0}})]),
    ],
)
def test_groupby(store: Store, keys: str | list[str], expected: list) -> None:
    docs = [
        {"k": "a", "s": "ok", "v": 1, "sub": {"r": 1, "q": 0}, "other": 0},
        {"k": "b", "s": "ok", "v": 2, "sub": {"r": 2, "q": 0}, "other": 0},
        {"k": "c", "s": "bad", "v": 1.0, "sub": {"r": 1, "q": 0}, "other": 0},
        {"k": "d", "s": "ok", "v": 1, "sub": {"r": 2, "q": 0}, "other": 0},
        {"k": "e", "s": None, "v": [1], "sub": 1},
    ]
    store.update(docs)
    criteria = {"k": {"$ne": "e"}}
    for properties in (["k"], {"k": 1}):
        groups = list(store.groupby(keys, criteria, properties))
        # neither the groups nor the documents in one have an order
        assert sorted((word(sorted(docs, key=lambda doc: doc["k"])), key) for key, docs in groups) == expected
        fields = {"k"} | {key.partition(".")[0] for key in ([keys] if isinstance(keys, str) else keys)}
        assert all(plain(doc).keys() == fields for _, docs in groups for doc in docs)
    assert list(store.groupby(keys, {"k": "none"}, ["k"])) == []


def test_update_inserts_and_replaces(store: Store) -> None:
    store.update([{"k": "a", "v": 1, "old": True}, {"k": "b", "v": 1}])
    store.update({"k": "a", "v": 2})
    store.update([])
    assert contents(store) == [{"k": "a", "v": 2}, {"k": "b", "v": 1}]


def test_which_keys_are_the_same(store: Store) -> None:
    for version, key in enumerate([1, "1", 1.0, np.int64(1), datetime(2024, 1, 1, 0, 0, 0, 999), NEW_YEAR, {"a": 1}]):
        store.update({"k": key, "v": version})
    assert contents(store) == [{"k": 1, "v": 3}, {"k": "1", "v": 1}, {"k": {"a": 1}, "v": 6}, {"k": NEW_YEAR, "v": 5}]


def test_update_by_several_keys(store: Store) -> None:
    keys = ["k", "i"]
    store.update([{"k": "a", "i": 1}, {"k": "a", "i": 2}, {"k": "b", "i": 1}], key=keys)
    store.update([{"k": "a", "i": 2, "v": 9}, {"k": "b", "i": 2}], key=keys)
    assert contents(store) == [{"k": "a", "i": 1}, {"k": "a", "i": 2, "v": 9}, {"k": "b", "i": 1}, {"k": "b", "i": 2}]


def test_update_by_another_key(store: Store) -> None:
    store.update([{"k": "a", "tags": ["x", "y"]}, {"k": "b", "tags": "z"}])
    store.update({"k": "c", "tags": "y"}, key="tags")  # it is in the list of "a"
    store.update({"k": "d", "tags": "z"}, key=["tags"])
    store.update({"k": "c", "v": 1})
    assert contents(store) == [{"k": "c", "v": 1}, {"k": "d", "tags": "z"}]


def test_update_without_its_key_changes_nothing(store: Store) -> None:
    """A dotted key is SQLiteStore's alone; maggma's stores look for a field with a dot in its name."""
    store.update({"k": "a"})
    for docs, key in (([{"k": "b"}, {"v": 1}], None), ({"k": "b"}, ["k", "i"])):
        with pytest.raises((KeyError, ValueError), match="k" if key is None else "i"):
            store.update(docs, key=key)
    assert contents(store) == [{"k": "a"}]


class Positive(Validator):
    """Refuses what is not positive, or leaves it out."""

    def __init__(self, strict: bool) -> None:
        self._strict = strict

    strict = property(lambda self: self._strict)

    def is_valid(self, doc: dict) -> bool:
        return doc["v"] > 0

    def validation_errors(self, doc: dict) -> list[str]:
        return [f"{doc['v']} is not positive"]


def test_validator(make: Make) -> None:
    docs = [{"k": "a", "v": 1}, {"k": "b", "v": -1}]
    lenient, strict = (make(str(strict), validator=Positive(strict)) for strict in (False, True))
    lenient.update(docs)
    with pytest.raises(ValueError, match="-1 is not positive"):
        strict.update(docs)
    assert (contents(lenient), contents(strict)) == (docs[:1], [])


def test_what_is_given_and_got_is_a_copy(store: Store) -> None:
    given = {"k": "a", "sub": {"v": [1]}, "when": NEW_YEAR}
    before = copy.deepcopy(given)
    store.update(given)
    assert given == before
    given["sub"]["v"].append(2)
    store.query_one()["sub"]["v"].append(3)
    assert contents(store) == [before]


def test_remove(store: Store) -> None:
    store.update(DOCS)
    store.remove_docs({"n": {"$lt": 2}})
    store.remove_docs({"k": "none"})
    assert found(store, {}) == "bcdf"
    store.remove_docs({"sites.el": "Mn"})
    assert found(store, {}) == "cdf"
    store.remove_docs({})
    assert (store.count(), list(store.query()), store.query_one(), store.distinct("k")) == (0, [], None, [])


def test_writing_while_reading(store: Store) -> None:
    store.update([{"k": f"k{i}"} for i in range(150)])  # more than MongoDB's first batch
    for doc in store.query():
        store.update({"k": doc["k"], "seen": True})
    assert store.count({"seen": True}) == store.count() == 150


class Fidelity(Enum):
    MAGNETIC = "magnetic"


SAME = [None, True, False, 0, 1, 1.0, -0.0, 0.1 + 0.2, 1e-320, math.inf, -math.inf, 2**53 + 1, 2**63 - 1, -(2**63)]
SAME += ["", "Å ✓ 🔋\0", b"\0\xff", {}, [], {"b": 1, "a": {"Å b": [[], [{}], None]}}, [NEW_YEAR, {"at": NEW_YEAR}]]
VALUES: list[tuple[Any, Any]] = [
    *zip(SAME, SAME, strict=True),
    (ObjectId("65f0a0a0a0a0a0a0a0a0a0a0"), ObjectId("65f0a0a0a0a0a0a0a0a0a0a0")),
    (datetime(2024, 5, 1, 12, 0, 0, 123_999), datetime(2024, 5, 1, 12, 0, 0, 123_000)),
    (datetime(2024, 5, 1, 12, tzinfo=HOUR_EAST), datetime(2024, 5, 1, 11)),
    ((1, (2.0,)), [1, [2.0]]),
    (np.eye(2, dtype=int), [[1, 0], [0, 1]]),
    (np.array([0.5, 1.0], dtype=np.float32), [0.5, 1.0]),
    ({"n": np.int64(3), "f": np.float64(0.1), "b": np.bool_(True)}, {"n": 3, "f": 0.1, "b": True}),
    ({1: "one", "p": Path("/x")}, {"1": "one", "p": "/x"}),
]


@pytest.mark.parametrize(("value", "kept"), VALUES, ids=lambda value: repr(value)[:30])
def test_values_come_back(store: Store, value: Any, kept: Any) -> None:
    """As text, in which 1, 1.0 and true are three. Numbers beyond 64 bits are SQLiteStore's alone."""
    store.update({"k": "a", "v": value, "w": [value]})
    assert repr(contents(store)) == repr([{"k": "a", "v": kept, "w": [kept]}])


def test_objects_come_back(store: Store) -> None:
    store.update({"k": "a", "lattice": Lattice.cubic(3.0), "fidelity": Fidelity.MAGNETIC})
    doc = store.query_one()
    assert Lattice.from_dict(doc["lattice"]) == Lattice.cubic(3.0)
    assert doc["fidelity"]["value"] == "magnetic"
    assert store.count({"lattice.@class": "Lattice", "lattice.matrix.0.0": 3}) == 1


LATER, LATEST = NEW_YEAR + timedelta(days=1), NEW_YEAR + timedelta(days=2)


@pytest.mark.parametrize("field", ["last_updated", "meta.at"])
def test_last_updated(make: Make, field: str) -> None:
    def doc(k: str, when: datetime | str | None) -> dict:
        return {"k": k, "last_updated": when, "meta": {"at": when}}

    store, other = make("docs", last_updated_field=field), make("text", last_updated_type="isoformat")
    assert store.last_updated == datetime.min
    store.update([doc("a", NEW_YEAR), doc("b", LATEST), doc("c", LATER), doc("d", None), {"k": "e", "meta": {}}])
    assert store.last_updated == LATEST
    other.update([doc("a", LATER.isoformat()), doc("b", NEW_YEAR.isoformat())])
    assert other.last_updated == LATER


def test_last_updated_without_its_field(store: Store) -> None:
    store.update({"k": "a"})
    with pytest.raises(StoreError, match="No field 'last_updated'"):
        _ = store.last_updated


def test_newer_in(make: Make) -> None:
    ours, theirs, nothing = make("ours"), make("theirs"), make("nothing")
    ours.update([{"k": "a", "last_updated": NEW_YEAR}, {"k": "b", "last_updated": LATER}])
    theirs.update([{"k": "a", "last_updated": LATER}, {"k": "b", "last_updated": NEW_YEAR}])
    theirs.update([{"k": "old", "last_updated": NEW_YEAR}, {"k": "new", "last_updated": LATEST}])
    assert ours.newer_in(theirs) == ["new"]  # than anything of ours
    assert sorted(ours.newer_in(theirs, exhaustive=True)) == ["a", "new", "old"]  # or not here
    assert sorted(ours.newer_in(theirs, {"k": {"$ne": "a"}}, exhaustive=True)) == ["new", "old"]
    assert theirs.newer_in(ours) == []
    for exhaustive in (True, False):
        assert sorted(nothing.newer_in(theirs, exhaustive=exhaustive)) == ["a", "b", "new", "old"]


def test_which_stores_are_the_same(make: Make, kind: str) -> None:
    store, same, other = make("docs"), make("docs", key="uuid"), make("other")  # a JobStore sets another key
    assert store == same
    assert hash(store) == hash(same)
    assert (same in [other, store], same in {other, store}) == (True, True)
    assert store != other
    assert (other in [store, same], other in {store, same}) == (False, False)
    stranger = SQLiteStore("elsewhere", "docs") if kind == "memory" else MemoryStore("docs")
    assert store != stranger
    assert store != "docs"


def test_copies(make: Make, kind: str) -> None:
    store = make("labels", key="frame_id", last_updated_field="changed", last_updated_type="isoformat")
    store.update({"frame_id": "f"})
    as_text = json.loads(json.dumps(store.as_dict()))
    for other in (type(store).from_dict(as_text), pickle.loads(pickle.dumps(store)), copy.deepcopy(store)):
        assert (type(other), other, hash(other)) == (type(store), store, hash(store))
        assert (other.key, other.last_updated_field, other.as_dict()) == ("frame_id", "changed", store.as_dict())
        with other:
            # what is in a MemoryStore is in that one alone
            assert [plain(doc) for doc in other.query()] == ([] if kind == "memory" else [{"frame_id": "f"}])


def test_close_and_connect_again(store: Store, kind: str) -> None:
    store.update({"k": "a"})
    store.close()
    store.connect(force_reset=True)
    assert found(store, {}) == ("" if kind == "memory" else "a")


# JobStore


@job(data="big")
def produce(n: int) -> dict:
    """A date is not among what becomes a blob: GridFSStore would make it text."""
    return {"small": n, "parts": [{"big": list(range(n))}, {"big": {"Å": n}, "when": NEW_YEAR}]}


@job
def total(numbers: list[int]) -> int:
    return sum(numbers)


@pytest.fixture
def jobs(make: Make, kind: str, request: pytest.FixtureRequest) -> Iterator[JobStore]:
    if kind == "mongo":
        blobs: Store = GridFSStore.from_uri(request.getfixturevalue("mongo_database"), "blobs")
    else:
        blobs = make("blobs")
    with blobs:
        yield JobStore(make("outputs"), additional_stores={"data": blobs})


def test_job_store(jobs: JobStore, kind: str, tmp_path: Path) -> None:
    first = produce(100_000)  # more than a chunk of GridFS
    second = total(first.output["parts"][0]["big"])
    run_locally(Flow([first, second]), store=jobs, ensure_success=True, create_folders=True, root_dir=tmp_path)
    whole = {"small": 100_000, "parts": [{"big": list(range(100_000))}, {"big": {"Å": 100_000}, "when": NEW_YEAR}]}
    assert jobs.get_output(second.uuid) == 4_999_950_000
    assert jobs.additional_stores["data"].count() == 2

    [doc] = jobs.query({"uuid": first.uuid})
    assert (doc["output"]["small"], doc["output"]["parts"][1]["when"]) == (100_000, NEW_YEAR)
    assert [part["big"]["store"] for part in doc["output"]["parts"]] == ["data", "data"]
    for load in (True, {"data": True}):
        assert jobs.query_one({"uuid": first.uuid}, load=load)["output"] == whole
    assert jobs.get_output(first.uuid, load=True) == whole
    assert plain(jobs.query_one({"name": "produce"}, ["output.small"])) == (
        {"uuid": first.uuid, "index": 1, "output": {"small": 100_000}}
    )
    if kind != "memory":  # whose content is in that one alone
        with JobStore.from_dict(jobs.as_dict()) as again:
            assert again.get_output(first.uuid, load=True) == whole

    jobs.remove_docs({"uuid": first.uuid})
    assert (jobs.count(), jobs.additional_stores["data"].count()) == (1, 0)
    with pytest.raises(ValueError, match="has no outputs"):
        jobs.get_output(first.uuid)


def test_job_store_keeps_every_index(jobs: JobStore) -> None:
    """A job that jobflow replaces runs again with the next index; each has a document and blobs of its own."""
    jobs.connect()
    blobs = jobs.additional_stores["data"]
    for index in (1, 3, 2):
        jobs.update({"uuid": "u", "index": index, "output": {"big": [index], "n": index}}, save={"data": ["big"]})
    jobs.update({"uuid": "u", "index": 2, "output": {"n": 20}})
    assert jobs.get_output("u", load=True) == {"big": [3], "n": 3}
    assert jobs.get_output("u", which="first", load=True) == {"big": [1], "n": 1}
    assert jobs.get_output("u", which=2) == {"n": 20}
    assert [output["n"] for output in jobs.get_output("u", which="all")] == [1, 20, 3]
    assert blobs.count() == 3  # jobflow leaves that of the replaced document
    jobs.remove_docs({"index": {"$lt": 3}})
    assert (jobs.count(), blobs.count()) == (1, 1)
    assert jobs.get_output("u", load=True) == {"big": [3], "n": 3}
