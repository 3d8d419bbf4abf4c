"""A data set on the disk: an extended XYZ file, or a folder of such files as `mfal export` publishes it.

In the folder, `splits.json` says what the frames are for, by their ids: `{"train": [...], "hold_out": [...]}`. Lists
beside these two, such as `control`, name a part of them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from mfal import atomic

Split = Literal["train", "hold_out"]
SPLITS = "splits.json"


def files(path: Path | str) -> list[Path]:
    """The file itself, or all `*.extxyz` of the folder, by name.

    Raises:
        ValueError: the folder has none.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    # A Mac leaves ._NAME beside each NAME that it packs.
    found = sorted(file for file in path.glob("*.extxyz") if not file.name.startswith("."))
    if not found:
        raise ValueError(f"{path}: is a folder without any *.extxyz: name one that 'mfal export' wrote, or a file")
    return found


def name_of(path: Path | str) -> str:
    """What it is called, also where it is given as `.`."""
    return Path(os.path.abspath(path)).name


def versions(path: Path | str) -> tuple[tuple[Path, int], ...]:
    """The files and when each was written: another value once one has changed, come or gone."""
    return tuple((file, file.stat().st_mtime_ns) for file in files(path))


def sha256(path: Path | str) -> str:
    """Of what the files hold, one after another: names do not count."""
    content = hashlib.sha256()
    for file in files(path):
        with file.open("rb") as opened:
            hashlib.file_digest(opened, lambda: content)
    return content.hexdigest()


def splits(path: Path | str) -> dict[str, Split]:
    """What the frames are for, by their frame_id; empty for a file, and for a folder that does not say it.

    Raises:
        ValueError: splits.json cannot be used; names the mend.
    """
    file = Path(path) / SPLITS
    if not file.exists():
        return {}
    try:
        lists = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: is not JSON that can be read ({error}): take it out, or mend it") from error
    names: tuple[Split, ...] = get_args(Split)
    if not (isinstance(lists, dict) and all(_are_ids(lists.get(split)) for split in names)):
        raise ValueError(f'{file}: must be {{"train": [...], "hold_out": [...]}}, two lists of frame_ids in quotes')
    if both := sorted(set(lists["train"]) & set(lists["hold_out"])):
        raise ValueError(f"{file}: frame_id = {both[0]} is in train and in hold_out: take it out of one of the two")
    return {frame_id: split for split in names for frame_id in lists[split]}


def write_splits(folder: Path, lists: Mapping[str, Sequence[str]]) -> None:
    """
    Args:
        lists: `train` and `hold_out`, and any parts of them.
    """
    atomic.replace(folder / SPLITS, f"{json.dumps(lists, indent=2, ensure_ascii=False)}\n".encode())


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
