"""What a worker was sent before, kept on its disk, so that no round ships what earlier ones shipped.

A job names the outputs that its worker should have and brings those that are new. Where the worker has not got them (a
new worker, another disk, a cleaned one) the job replaces itself by one that brings everything.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypeVar

from monty.json import jsanitize
from pydantic import TypeAdapter

from mfal import atomic

T = TypeVar("T")


class NotKeptError(LookupError):
    """This worker was never sent some outputs, or has lost them."""


def folder() -> Path:
    """`MFAL_CACHE`, or the folder that the desktop's rules name for such files."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MFAL_CACHE") or Path(cache) / "mfal")


def unpacked(brought: Mapping[str, T | None], kept: Collection[str], kind: type[T]) -> dict[str, T | None]:
    """All outputs by the uuid of their job, in the order of `brought`: those brought, and those kept from before.

    Args:
        brought: the outputs; None for those kept, and for those that are lost.
        kept: the uuids of outputs that this worker should have.
        kind: of which all are.

    Raises:
        NotKeptError: it does not have them all.
    """
    return {uuid: _read(uuid, kind) if uuid in kept else content for uuid, content in brought.items()}


def keep(contents: Mapping[str, T | None], kind: type[T]) -> None:
    """For the jobs to come."""
    for uuid, content in contents.items():
        if content is not None and not _file(uuid).is_file():
            plain = jsanitize(TypeAdapter(kind).dump_python(content), strict=True)
            atomic.replace(_file(uuid), json.dumps(plain).encode())


def _read(uuid: str, kind: type[T]) -> T:
    try:
        return TypeAdapter(kind).validate_python(json.loads(_file(uuid).read_bytes()))
    except (OSError, ValueError) as error:  # pydantic's and json's are ValueErrors
        raise NotKeptError(uuid) from error


def _file(uuid: str) -> Path:
    return folder() / uuid[:2] / f"{uuid}.json"
