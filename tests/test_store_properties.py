"""Whatever is written, asked and removed, SQLiteStore answers as maggma's MemoryStore; mongomock-ng is the judge.

The examples are the same every time. For others: MFAL_EXAMPLES=20000 pytest tests/test_store_properties.py
"""

from __future__ import annotations

import copy
import enum
import itertools
import math
import os
import sqlite3
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from bson import ObjectId
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from maggma.stores import MemoryStore
from mongomock_ng.filtering import filter_applies
from mongomock_ng.helpers import patch_datetime_awareness_in_document as as_mongo_dates
from monty.json import jsanitize

from stores.encoding import dumps, loads, quick_dumps
from stores.narrow import narrow
from stores.sqlite import SQLiteStore

EXAMPLES = int(os.environ.get("MFAL_EXAMPLES", 0))
MANY = settings(
    max_examples=EXAMPLES or 200, derandomize=not EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck)
)

texts = st.text(st.sampled_from('ab[]{"$\\~\0\n Å✓\U0001f50b1'), max_size=4) | st.sampled_from(["null", '{"$', "[x"])
numbers = (
    st.integers(-3, 3)
    | st.integers(-(2**63), 2**63 - 1)
    | st.sampled_from([2**53 - 1, 2**53, 2**53 + 1, -(2**53), 2**63 - 1, 0.1 + 0.2, 0.3, 1e15, 1e300, 5e-324, 1e-310])
    | st.floats()
    | st.floats(-3, 3).map(lambda number: round(number, 1))
)
zones = st.none() | st.just(timezone(timedelta(hours=2)))
dates = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=zones).map(lambda date: date.replace(fold=0))
near_dates = st.builds(
    lambda seconds, fraction: datetime(2024, 1, 1, 0, 0, seconds, fraction),
    st.integers(0, 2),
    st.sampled_from([0, 1000, 123456, 123000, 999999]),
)
others = st.binary(max_size=2) | st.integers(0, 3).map(lambda n: ObjectId(f"{n:024x}"))
leaves = st.none() | st.booleans() | numbers | texts | near_dates | dates | others
names = st.sampled_from(["a", "b", "c", "x y"])
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))

FIELDS = ["uuid", "n", "a", "b", "a.b", "a.b.c", "b.a", "a.0", "x y", "none"]
TYPES = ["double", "string", "object", "array", "bool", "date", "int", "long", "number", "objectId", "binData"]
fields = st.sampled_from(FIELDS)
ORDER = ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]
comparisons = st.sampled_from(ORDER)


def neighbours(value: Any) -> list[Any]:
    """The value, and what is just beside it or has its number."""
    if isinstance(value, float) and math.isfinite(value):
        same = [int(value)] if abs(value) < 2**63 else []
        return [value, math.nextafter(value, math.inf), math.nextafter(value, -math.inf), *same]
    if isinstance(value, int):
        return [value, min(value + 1, 2**63 - 1), float(value)]  # MongoDB has no larger ones
    if isinstance(value, datetime):
        return [value, value + timedelta(milliseconds=1), value.replace(microsecond=0)]
    return [value, [value], value[:-1] + "\0"] if isinstance(value, str) else [value]


#: Values that meet again: in documents, and in what is asked for.
pools = st.lists(leaves | values, min_size=2, max_size=5).map(
    lambda several: [near for value in several for near in neighbours(value)]
)


def conditions(known: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What may be demanded of a field: a value, or operators."""
    compared = st.dictionaries(comparisons, known, min_size=1, max_size=2)
    sets = st.dictionaries(
        st.sampled_from(["$in", "$nin", "$all"]), st.lists(known, max_size=3), min_size=1, max_size=2
    )
    rest = st.one_of(
        st.builds(lambda wanted: {"$exists": wanted}, st.booleans()),
        st.builds(lambda size: {"$size": size}, st.integers(0, 3)),
        st.builds(lambda kind: {"$type": kind}, st.sampled_from(TYPES)),
        st.builds(lambda pattern: {"$regex": pattern}, st.sampled_from(["^a", "b$", r"\[", "1"])),
        st.builds(lambda inner: {"$not": inner}, compared | sets),
        st.builds(lambda inner: {"$elemMatch": inner}, compared),
        st.builds(lambda name, inner: {"$elemMatch": {name: inner}}, names, known | compared),
    )
    both = st.builds(lambda one, two: one | two, compared, sets | rest)
    return known | compared | sets | rest | both | st.dictionaries(names | comparisons, known, max_size=2)


def criteria(known: st.SearchStrategy[Any]) -> st.SearchStrategy[dict]:
    simple = st.builds(lambda field, wanted: {field: wanted}, fields, conditions(known))
    plain = simple | st.dictionaries(fields, conditions(known), max_size=2)
    several = st.builds(
        lambda logical, parts: {logical: parts},
        st.sampled_from(["$and", "$or", "$nor"]),
        st.lists(plain, min_size=1, max_size=3),
    )
    return plain | several | st.builds(lambda one, two: one | two, simple, several)


options = st.fixed_dictionaries(
    {},
    optional={
        "properties": st.lists(st.sampled_from(["uuid", "n", "a.b", "b", "x y"]), unique=True)
        | st.dictionaries(st.sampled_from(["uuid", "a", "b.a", "b.c", "none"]), st.just(1))
        # below a number, mongomock drops the number, too; MongoDB does not
        | st.dictionaries(st.sampled_from(["n", "a", "b", "none"]), st.just(0)),
        "sort": st.dictionaries(fields, st.sampled_from([1, -1]), min_size=1, max_size=2),
        "skip": st.integers(0, 3),
        "limit": st.integers(0, 3),
    },
)


@st.composite
def stories(draw: st.DrawFn) -> list[tuple[str, tuple, dict]]:
    """Calls of a store. Values come from a small pool, so that they meet again."""
    known = st.sampled_from(draw(pools))
    document = st.fixed_dictionaries(
        {
            "uuid": st.sampled_from([f"u{i}" for i in range(8)]),
            "n": st.sampled_from([1, 1.0, True, 2, "s", [1, 2], 0.5]),
        },
        optional={"a": known, "b": known, "x y": known},
    )
    keys = st.sampled_from([None, "uuid", "n", ["uuid", "n"], ["n", "uuid"]])
    wanted = criteria(known)
    call = st.one_of(
        st.tuples(st.just("update"), st.tuples(st.lists(document, max_size=4), keys), st.just({})),
        st.tuples(st.just("ensure_index"), st.tuples(fields), st.just({})),
        st.tuples(st.just("remove_docs"), st.tuples(wanted), st.just({})),
        st.tuples(st.just("query"), st.tuples(wanted), options),
        st.tuples(st.just("count"), st.tuples(wanted), st.just({})),
        st.tuples(st.just("distinct"), st.tuples(fields, wanted), st.just({})),
        # without properties it gives whole documents, as MongoStore does; MemoryStore gives the keys alone
        st.tuples(
            st.just("groupby"), st.tuples(st.sampled_from(["uuid", ["n", "uuid"]]), wanted, st.just(["a"])), st.just({})
        ),
    )
    first = ("update", (draw(st.lists(document, min_size=4, max_size=8)), None), {})
    return [first, *draw(st.lists(call, min_size=4, max_size=10))]


@MANY
@given(data=st.data())
def test_what_matches_is_not_left_out(data: st.DataObject) -> None:
    """By the SQL condition alone, which may let others pass."""
    pool = data.draw(pools)
    documents = [{"a": value, "b": [value, {"a": value}]} for value in pool] + [{"a": {"b": value}} for value in pool]
    documents = [loads(dumps(document)) for document in documents]
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE docs (id INTEGER PRIMARY KEY, doc TEXT NOT NULL)")
    db.executemany("INSERT INTO docs VALUES (?, ?)", enumerate(map(dumps, documents)))
    other = data.draw(st.sampled_from(pool))
    wanted = [*pool, *({operator: value} for value in pool for operator in ORDER)]
    wanted += [{"$in": [value, other]} for value in pool] + [{"$gte": value, "$lt": other} for value in pool]
    asked = [{field: condition} for field in ("a", "b", "a.b", "b.a") for condition in wanted]
    for one in map(as_mongo_dates, [*asked, *data.draw(st.lists(criteria(st.sampled_from(pool)), max_size=20))]):
        condition, arguments = narrow(one)
        found = {row for [row] in db.execute(f"SELECT id FROM docs WHERE {condition}", arguments)}
        for row, document in enumerate(documents):
            try:
                matches = filter_applies(one, document)
            except Exception:  # such criteria have no answer
                continue
            assert row in found or not matches, (one, document)


def text(value: Any) -> str:
    """As text, since NaN equals nothing; without the _id that MongoDB adds, and with the fields in one order."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {text(value[key])}' for key in sorted(value) if key != '_id')}}}"
    return f"[{', '.join(map(text, value))}]" if isinstance(value, list | tuple) else repr(value)


def merged(values: list) -> set[str]:
    """The judge has one of 1, 1.0 and true, MongoDB a number and a boolean."""
    return {text(float(value) if isinstance(value, bool | int) else value) for value in values}


SHAPES: dict[str, Callable[[Any], Any]] = {
    "query": lambda found: [text(doc) for doc in found],
    "distinct": merged,
    "groupby": lambda groups: sorted(text(group) for group in groups),
    "count": lambda number: number,
    "update": lambda nothing: nothing,
    "remove_docs": lambda nothing: nothing,
    "ensure_index": lambda _: None,
}


@pytest.fixture(scope="module")
def path() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "s.sqlite"


numbered = itertools.count()


@MANY
@given(story=stories())
def test_answers_as_memory_store(path: Path, story: list[tuple[str, tuple, dict]]) -> None:
    memory, sqlite = MemoryStore(key="uuid"), SQLiteStore(path, f"c{next(numbered)}", key="uuid")
    memory.connect()
    for name, arguments, more in story:
        try:
            expected = SHAPES[name](getattr(memory, name)(*copy.deepcopy(arguments), **copy.deepcopy(more)))
        except Exception:  # such criteria have no answer; and a change may have been half done
            if name in ("update", "remove_docs"):
                return
            continue
        answer = SHAPES[name](getattr(sqlite, name)(*copy.deepcopy(arguments), **copy.deepcopy(more)))
        assert answer == expected, (name, arguments, more)
        assert SHAPES["query"](sqlite.query()) == SHAPES["query"](memory.query())


class Shade(enum.Enum):
    dark = "dark"


class Name(enum.StrEnum):
    of = "of"


class Count(enum.IntEnum):
    one = 1


class Word(str):
    pass


odd = st.sampled_from(
    [
        *(
            Shade.dark,
            Name.of,
            Count.one,
            Word("w"),
            UUID(int=1),
            np.float64(1.5),
            np.int64(3),
            np.array([1, 2]),
            {1, 2},
        ),
        *(OrderedDict(a=1), 2**53, 2**64 - 1, 2**64, -(2**63) - 1, (1, (2,)), {"$date": 1}, {"$dict": {}}, {1: 2}),
        *({"$oid": "x", "a": 1}, {None: 1}, math.nan, -math.inf, "null", b"x", Path("x"), 1 + 2j, bytearray(b"x")),
        *({Name.of: 1}, {Word("w"): 2}, {True: 1}, frozenset([1])),
    ]
)
anything = st.recursive(
    leaves | odd,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(texts | st.sampled_from(["$date", "$dict", "_id"]), inner, max_size=3)
    ),
)


@settings(MANY, max_examples=EXAMPLES or 1000)
@given(value=anything)
def test_the_quick_text_is_the_slow_one(value: Any) -> None:
    for part in parts(value):
        quick = quick_dumps(part)
        if quick is not None:
            assert quick == dumps(jsanitize(part, allow_bson=True, recursive_msonable=True))


def parts(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [value, *(part for item in inner for part in parts(item))]


plain_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | texts
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
)


@settings(MANY, max_examples=EXAMPLES or 200)
@given(value=plain_json)
def test_plain_json_is_quick(value: Any) -> None:
    """Nulls included, which labels have; and what was written is read."""
    assert quick_dumps(value) is not None
    assert text(loads(quick_dumps(value))) == text(value)
