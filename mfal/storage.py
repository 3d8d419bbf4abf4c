"""Where a campaign is kept, as its file may say it. What it says never holds a password, only the name of one:
`${MONGO_PASSWORD}` is looked up in the environment when the store is opened (`stores.connect`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

FORMS = (
    "write sqlite:///folder/name.sqlite, mongodb://host/database, a mapping such as jobflow's settings have it ('type:"
    " MongoStore' and so on), or 'jobflow' for the store of those settings"
)
#: The name of something in the environment.
PLACEHOLDER = re.compile(r"\$\{(\w+)\}")
SQLITE = re.compile(r"sqlite:///(?P<path>.+)")
MONGODB = re.compile(
    r"(?P<scheme>mongodb(?:\+srv)?)://(?:(?P<user>[^@/]+)@)?(?P<host>[^@/?]+)/(?P<database>[^/\\. \"$*<>:|?@]{1,63})"
    r"(?:\?(?P<options>[^@]*))?"
)
_SECRET = re.compile(r"passw|secret|token|credential|authmechanismproperties|access_?key", re.IGNORECASE)
_MEND = "write ${MONGO_PASSWORD} in its place, and export MONGO_PASSWORD where mfal runs"


def _form(value: Any) -> Any:
    """Refuses without repeating: what was given may hold a password where none is looked for."""
    if isinstance(value, dict):
        if not {"type", "@class", "docs_store"} & value.keys():
            raise ValueError(f"is a mapping without 'type': {FORMS}")
    elif not (value in (None, "jobflow") or is_address(value)):
        raise ValueError(f"is no address of a store: {FORMS}")
    return value


def is_address(value: Any) -> bool:
    return isinstance(value, str) and bool(SQLITE.fullmatch(value) or MONGODB.fullmatch(value))


def _without_secrets(value: Any) -> Any:
    for key, content in _leaves(value):
        if _SECRET.search(key) and PLACEHOLDER.sub("", content):
            raise ValueError(f"{key}: holds a password: {_MEND}")
        if "://" in content and "@" in content:  # of maggma's stores, some go by their address, and log it
            raise ValueError(f"{key}: holds a user: write the address alone, 'store: mongodb://...'")
    return value


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """What a name stands before: in mappings, and in an address its password and its options."""
    if isinstance(value, dict):
        for name, content in value.items():
            yield from _leaves(content, str(name))
    elif isinstance(value, list):
        for content in value:
            yield from _leaves(content, key)
    elif key:
        yield key, "" if value is None else str(value)
    elif address := MONGODB.fullmatch(value or ""):
        yield "password", (address["user"] or "").partition(":")[2]
        for option in (address["options"] or "").split("&"):
            name, _, content = option.partition("=")
            yield name, content


def _absolute(value: Any) -> Any:
    """As jobs change the working directory."""
    file = SQLITE.fullmatch(value) if isinstance(value, str) else None
    if not file or PLACEHOLDER.match(file["path"]):
        return value
    return f"sqlite:///{Path(file['path']).expanduser().absolute()}"


def checked(value: str) -> str:
    """The address of a store that a person gave.

    Raises:
        ValueError: it is none, or holds a password.
    """
    try:
        return _absolute(_without_secrets(_form(value)))
    except ValueError as error:
        raise ValueError(f"store: {error}") from None


#: None is a SQLite file in the campaign's directory.
Storage = Annotated[
    str | dict[str, Any] | None, BeforeValidator(_form), AfterValidator(_without_secrets), AfterValidator(_absolute)
]
