"""From MongoDB's criteria to an SQL condition that every matching document meets, though not only those.

It need not be sharp, as a filter decides afterwards; but what it leaves out, nobody will look at. So it says something
only of what SQLite surely compares as MongoDB does: texts, numbers and dates.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import orjson

from stores.encoding import dumps

Condition = tuple[str, list[Any]]  # and the arguments for its question marks

#: Field names that may become part of an SQL text. A criterion on any other is decided by the filter alone.
PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
#: What SQLite can hold: it cuts a text from JSON at a NUL, and half a surrogate pair is no UTF-8.
_TEXT = re.compile("[^\0\ud800-\udfff]*")
#: Never sharp: SQLite, or the one that made the index, may have read the last digit of a number differently.
_SIGNS = {"$eq": (">=", "<="), "$gt": (">=",), "$gte": (">=",), "$lt": ("<=",), "$lte": ("<=",)}


def column(field: str) -> str:
    """The one spelling of a field in SQL: an index on an expression serves only the very same expression."""
    return f"json_extract(doc, '$.{field}')"


def narrow(criteria: dict) -> Condition:
    clauses, arguments = ["1"], []
    for field, wanted in criteria.items():
        if field == "$and" and isinstance(wanted, list):
            conditions = [narrow(part) for part in wanted if isinstance(part, dict)]
        else:
            conditions = [_of_field(field, wanted)] if PATH.fullmatch(field) else []
        for clause, more in conditions:
            clauses.append(clause)
            arguments.extend(more)
    return " AND ".join(clauses), arguments


def without_lists(criteria: dict) -> tuple[dict, list[tuple[str, frozenset[str]]]]:
    """The criteria without those that a field be one of some texts, and these: a filter that goes through ten thousand
    texts for each of ten thousand documents takes minutes. They are of fields of the document itself, and mean what
    they say for documents where each of these fields is a text."""
    rest, lists = dict(criteria), []
    for field, wanted in criteria.items():
        if field == "$and" and isinstance(wanted, list) and all(isinstance(part, dict) for part in wanted):
            parts = [without_lists(part) for part in wanted]
            rest[field] = [part for part, _ in parts]
            lists += [item for _, found in parts for item in found]
        elif not field.startswith("$") and "." not in field and isinstance(wanted, dict) and [*wanted] == ["$in"]:
            texts = wanted["$in"]
            if isinstance(texts, list) and all(type(text) is str for text in texts):
                lists.append((field, frozenset(texts)))
                del rest[field]
    return rest, lists


def _of_field(field: str, wanted: Any) -> Condition:
    operators = isinstance(wanted, dict) and wanted and all(str(name).startswith("$") for name in wanted)
    tests = [test for item in (wanted if operators else {"$eq": wanted}).items() for test in _tests(*item)]
    if not tests:
        return "1", []
    met = " AND ".join(f"{column(field)} {test}" for test, _ in tests)
    # MongoDB looks inside arrays, of which json_extract gives the text; and NULL, if one is on the way.
    # A number is also compared with infinities and very large ones, which have tags: any text may be one of those.
    look = "BETWEEN '' AND x''" if any(type(value) is float for _, value in tests) else "BETWEEN '[' AND '\\'"
    missing = f" OR {column(field)} IS NULL" if "." in field else ""
    return f"({met} OR {column(field)} {look}{missing})", [value for _, value in tests]


def _tests(operator: str, value: Any) -> list[tuple[str, Any]]:
    """What SQL can say of a value under an operator, each with its argument; nothing where that might be wrong."""
    if operator == "$in" and isinstance(value, list):
        same = [_same(item) for item in value]
        # a list as one argument, as SQLite limits the number of arguments
        return [] if None in same else [("IN (SELECT value FROM json_each(?))", orjson.dumps(same).decode())]
    same = _same(value)
    if operator == "$eq" and same is not None:
        return [("= ?", same)]
    if isinstance(same, str):
        return [(f"{sign} ?", same) for sign in _SIGNS.get(operator, ())]
    if type(value) in (int, float) and abs(value) < 1e300:
        slack = abs(value) * 1e-12 + 1e-300
        return [(f"{sign} ?", value - slack if sign == ">=" else value + slack) for sign in _SIGNS.get(operator, ())]
    return []


def _same(value: Any) -> Any:
    """What SQLite has for all that equals this value: 1 for 1.0 and true; None where it may have several things."""
    if type(value) is datetime:
        return dumps(value)
    if type(value) is str:
        return value if _TEXT.fullmatch(value) else None
    return int(value) if type(value) in (bool, int, float) and abs(value) <= 2**53 and value == int(value) else None
