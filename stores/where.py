"""The little language of `mfal query --where`: from terms to the criteria that every maggma store takes.

Such as: fidelity=magnetic status!=ok round>=1 reason~'time ?out' core_hours>0.1 status=failed,collapsed code !flag
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from datetime import datetime
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from mfal.frames import Document, Frame, Label, Member, Round, Score, TrainedCommittee

Criteria = dict[str, Any]

#: What the builder writes beside the fields of the model.
TRACE = {"campaign": str, "round": int, "job_uuid": str, "last_updated": datetime, "ran": dict[str, Any]}
#: Of a whole committee, written to each of its members.
WHOLE = ("data_fingerprint", "trained_on", "device", "seconds")
MODELS: dict[str, type[Document]] = {
    "frames": Frame,
    "labels": Label,
    "scores": Score,
    "models": Member,
    "rounds": Round,
}
#: The type of each field of a collection.
FIELDS: dict[str, dict[str, Any]] = {
    collection: TRACE
    | {name: info.annotation for name, info in model.model_fields.items()}
    | ({name: TrainedCommittee.model_fields[name].annotation for name in WHOLE} if model is Member else {})
    for collection, model in MODELS.items()
}

EXAMPLE = "write terms such as fidelity=magnetic status!=ok round>=1 reason~'time ?out' gain !case"
_OPERATORS = {"=": "$eq", "!=": "$ne", "<": "$lt", "<=": "$lte", ">": "$gt", ">=": "$gte", "~": "$regex"}
_QUOTED = r"'[^']*'|\"[^\"]*\""
# A bare value does not begin like an operator: == and =~ are of other languages, and would silently find nothing.
_TERM = re.compile(
    rf"(?P<not>!)?(?P<field>\w+(?:\.\w+)*)(?:(?P<operator>!=|<=|>=|[=<>~])(?P<value>(?:{_QUOTED}|(?![=<>~!])[^\s'\"])"
    rf"(?:{_QUOTED}|[^\s'\"])*))?(?=\s|$)"
)
_ITEM = re.compile(rf"({_QUOTED}|[^,'\"]+)(?:,(?!$)|$)")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WORDS = {"true": True, "false": False, "null": None}

#: MongoDB's operators on a field that may be given as JSON, and what each is of. None of them runs code, as $where,
#: $function and $accumulator do, and $expr may.
ARGUMENTS: dict[str, type] = {
    **dict.fromkeys(("$eq", "$ne", "$lt", "$lte", "$gt", "$gte"), object),
    **dict.fromkeys(("$in", "$nin", "$all"), list),
    **dict.fromkeys(("$elemMatch", "$not"), dict),
    **dict.fromkeys(("$regex", "$options"), str),
    "$exists": bool,
    "$size": int,
}
LOGICAL = ("$and", "$or", "$nor")
_JSON_NAMES = {list: "a list", dict: "an object", str: "text", bool: "true or false", int: "a whole number"}


def criteria(text: str, collection: str) -> Criteria:
    """MongoDB criteria of terms, all of which must hold, or of a JSON object, which is checked and taken as it is.

    Raises:
        ValueError: something cannot be read, or a field is none of the collection's; names the term and the mend.
    """
    if text.lstrip().startswith("{"):
        try:
            given = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"--where: is not JSON ({error}): write an object, or {EXAMPLE}") from error
        _check(given, lambda field: annotation(collection, field, f"--where: {field}"))
        return given
    found: Criteria = {}
    for field, condition in _terms(text, collection):
        known = found.setdefault(field, {})
        if known.keys() & condition.keys():  # the same operator twice
            found.setdefault("$and", []).append({field: condition})
        else:
            known.update(condition)
    return found


def annotation(collection: str, field: str, where: str) -> Any:
    """The type of a field, as its model has it; of a dotted one as far as it is known, otherwise Any.

    Args:
        where: it was named, for the error.

    Raises:
        ValueError: the collection has no such field; names the nearest one.
    """
    kind, fields, above = None, FIELDS[collection], collection
    for part in field.split("."):
        if get_origin(kind) is list and part.isdecimal():
            kind = get_args(kind)[0]
        elif fields and part not in fields:
            near = difflib.get_close_matches(part, fields, n=1)
            mend = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(fields)}"
            raise ValueError(f"{where}: {part!r} is no field of {above}: {mend}")
        else:
            kind = fields.get(part, Any)
        fields, above = _fields(kind), part
    return kind


def _inside(kind: Any) -> Any:
    """A type without None, and without the lists around it, which MongoDB looks into."""
    if get_origin(kind) is list:
        return _inside(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        rest = [option for option in get_args(kind) if option is not type(None)]
        return _inside(rest[0]) if len(rest) == 1 else Any
    return kind


def _fields(kind: Any) -> dict[str, Any]:
    """The fields below one of this type and what they are of; empty where they are not known."""
    kind = _inside(kind)
    if get_origin(kind) is dict and get_origin(get_args(kind)[0]) is Literal:
        names, content = get_args(kind)
        return dict.fromkeys(get_args(names), content)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: info.annotation for name, info in kind.model_fields.items()}
    return {}


def _is_text(kind: Any) -> bool:
    kind = _inside(kind)
    return kind is str or get_origin(kind) is Literal


def _terms(text: str, collection: str) -> list[tuple[str, Criteria]]:
    terms, position = [], 0
    while rest := text[position:].strip():
        position = len(text) - len(text[position:].lstrip())
        term = _TERM.match(text, position)
        if not term or (term["not"] and term["operator"]):
            raise ValueError(f"--where: {rest.split()[0]!r} cannot be read: {EXAMPLE}, no blanks around an operator")
        kind = annotation(collection, term["field"], f"--where: {term[0]!r}")
        terms.append((term["field"], _condition(term, kind)))
        position = term.end()
    return terms


def _condition(term: re.Match[str], kind: Any) -> Criteria:
    if not term["operator"]:
        return {"$eq" if term["not"] else "$ne": None}
    operator, written = _OPERATORS[term["operator"]], term["value"]
    if operator == "$regex":
        pattern = written[1:-1] if re.fullmatch(_QUOTED, written) else written
        _compile(pattern, f"--where: {term[0]!r}")
        return {operator: pattern}
    items = _ITEM.findall(written)
    if not items or sum(map(len, items)) + len(items) - 1 != len(written):
        raise ValueError(
            f"--where: {term[0]!r} cannot be read: write values as status=failed,collapsed or reason='two words'"
        )
    values = [_typed(item, kind, f"--where: {term[0]!r}") for item in items]
    if operator in ("$eq", "$ne"):
        many = {"$eq": "$in", "$ne": "$nin"}[operator]
        return {many: values} if len(values) > 1 else {operator: values[0]}
    if len(values) > 1 or values[0] is None or isinstance(values[0], bool):
        raise ValueError(f"--where: {term[0]!r} cannot be read: {term['operator']} compares with a number or a text")
    return {operator: values[0]}


def _typed(item: str, kind: Any, where: str) -> Any:
    """A value as JSON would have it. A field of text keeps digits as text: the name of a frame may be 123456789012."""
    is_text = _is_text(kind)
    if kind is datetime and item != "null":
        try:
            return datetime.fromisoformat(item.strip("'\""))
        except ValueError:
            raise ValueError(f"{where}: {item} is no time: write 2026-11-21 or 2026-11-21T14:30:00") from None
    if re.fullmatch(_QUOTED, item):
        return item[1:-1]
    if item == "null" or (item in _WORDS and not is_text):
        return _WORDS[item]
    if is_text or not _NUMBER.fullmatch(item):
        return item
    return int(item) if item.lstrip("+-").isdecimal() else float(item)


def _compile(pattern: str, where: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{where}: {pattern!r} is not a regular expression ({error})") from error


def _check(given: Any, known: Callable[[str], Any]) -> None:
    """Refuse what is not criteria: a store would find nothing, or stop only at a document that it does not fit."""
    if not isinstance(given, dict):
        raise ValueError(f'--where: {json.dumps(given)} is not an object such as {{"status": "ok"}}')
    for key, value in given.items():
        if key in LOGICAL:
            if not isinstance(value, list) or not value:
                raise ValueError(f"--where: {key}: must be a list of at least one object")
            for part in value:
                _check(part, known)
        elif key.startswith("$"):
            raise ValueError(f"--where: {key}: is not possible here: write a field, or {', '.join(LOGICAL)}")
        else:
            known(key)
            if isinstance(value, dict) and any(name.startswith("$") for name in value):
                _check_operators(key, value)


def _check_operators(field: str, operators: Criteria) -> None:
    for name, value in operators.items():
        where = f"--where: {field}: {name}"
        if name not in ARGUMENTS:
            raise ValueError(f"{where}: is not possible here: there are {', '.join(ARGUMENTS)}")
        if not isinstance(value, ARGUMENTS[name]) or (name == "$size" and isinstance(value, bool)):
            raise ValueError(f"{where} = {json.dumps(value)}: must be {_JSON_NAMES[ARGUMENTS[name]]}")
        content: Any = value
        if name == "$regex":
            _compile(content, where)
        elif name == "$options" and ("$regex" not in operators or set(content) - set("imsx")):
            raise ValueError(f"{where} = {content!r}: must be beside a $regex, and of the letters i, m, s and x")
        elif name == "$not" or (name == "$elemMatch" and any(inner.startswith("$") for inner in content)):
            _check_operators(field, content)
        elif name == "$elemMatch":
            _check(content, lambda _: None)
