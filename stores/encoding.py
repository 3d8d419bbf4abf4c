"""A document as JSON text, and back: what JSON cannot hold is an object of one key, the tag."""

from __future__ import annotations

import base64
import json
import marshal
import math
from datetime import datetime
from typing import Any

import orjson
from bson import ObjectId
from mongomock_ng.helpers import patch_datetime_awareness_in_document as as_mongo_dates

#: The tags; a document's own object of one such key is stored as "$dict".
_DECODERS: dict[str, Any] = {
    "$date": datetime.fromisoformat,
    "$oid": ObjectId,
    "$bytes": base64.b64decode,
    "$float": float,
    "$int": int,
    "$dict": dict,
}


def dumps(value: Any) -> str:
    """The text of anything that jsanitize(allow_bson=True) leaves.

    Raises:
        TypeError: it holds what no document can.
    """
    return orjson.dumps(_encode(value)).decode()


def quick_dumps(value: Any) -> str | None:
    """The very text of dumps(jsanitize(value)), in a tenth of the time; None if JSON cannot hold it as it is."""
    try:
        marshal.dumps(value)  # takes only Python's own types: orjson writes an Enum or a UUID, which jsanitize does not
        text = orjson.dumps(value, option=orjson.OPT_STRICT_INTEGER)
    except (TypeError, ValueError):
        return None
    # It may hold a tag's name; and orjson writes null for NaN and the infinities.
    if b'{"$' in text or (b"null" in text and orjson.loads(text) != value):
        return None
    return text.decode()


def loads(text: str) -> Any:
    return json.loads(text, object_hook=_decode) if '{"$' in text else orjson.loads(text)


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
    if isinstance(value, datetime):  # as MongoDB keeps it: UTC without a zone, milliseconds. Its text sorts as it does
        return {"$date": as_mongo_dates(value).isoformat()[:26]}  # pandas has more digits
    if isinstance(value, ObjectId):
        return {"$oid": str(value)}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    raise TypeError(f"SQLiteStore cannot store a {type(value).__name__}")


def _decode(obj: dict) -> Any:
    tag = next(iter(obj)) if len(obj) == 1 else None
    return _DECODERS[tag](obj[tag]) if tag in _DECODERS else obj
