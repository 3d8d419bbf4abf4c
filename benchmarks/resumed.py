"""Work in processes that is written down as it ends, a line of JSON each, so that a rerun goes on from there."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Protocol, Self, TypeVar

import torch


class Result(Protocol):
    """A pydantic model that knows which data and settings it is of."""

    fingerprint: str

    def model_dump_json(self) -> str: ...

    @classmethod
    def model_validate_json(cls, json_data: str) -> Self: ...


R = TypeVar("R", bound=Result)


def finished(path: Path, kind: type[R], fingerprint: str) -> Iterator[R]:
    """What the file has of the same data and settings."""
    for line in path.read_text().splitlines() if path.exists() else []:
        if (found := kind.model_validate_json(line)).fingerprint == fingerprint:
            yield found


def run(path: Path, function: Callable[..., R], tasks: Sequence[tuple], jobs: int) -> Iterator[R]:
    """The results of `function(*task)` as they end, each of them in the file already.

    Args:
        jobs: processes, of one thread each.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    spawn = multiprocessing.get_context("spawn")  # a fork of a process that has used torch may hang
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_begin) as pool:
        try:
            for future in as_completed([pool.submit(function, *task) for task in tasks]):
                found = future.result()
                with path.open("a") as file:
                    file.write(found.model_dump_json() + "\n")
                yield found
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin() -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool whose process was killed would compute on, for nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
