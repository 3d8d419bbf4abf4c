"""A training on disk: where it is, so that it can go on, and its log as a table.

Written to a temporary file that then takes the name, so that a kill leaves the old one or the new one, never half.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mfal import atomic
from mfal.config import Training
from mfal.training.examples import Example

FILE = "checkpoint.pt"
LOG = "log.csv"
#: Names the layout of the file; a change of it gets a new number.
FORMAT = "mfal training 1"

State = dict[str, Tensor]
Entry = dict[str, float]


@dataclass
class Progress:
    """Everything that a training needs to go on, and nothing that its arguments determine."""

    model: State
    optimizer: dict[str, Any]
    averaged: State
    #: Of the best epoch so far by the loss on the hold-out, if that decides.
    best: State
    best_loss: float
    best_epoch: int
    epoch: int  # the one under way, from 1
    batch: int  # batches of it that are done
    sums: Tensor  # of the epoch so far: loss, absolute errors, counts
    log: list[Entry]
    finished: bool = False


def read(directory: Path, fingerprint: str) -> Progress | None:
    """The progress of this very training; None if it has not begun.

    Raises:
        ValueError: the folder holds another training, or the file is damaged.
    """
    path = directory / FILE
    if not path.exists():
        return None
    try:
        # Numbers, text and tensors only: nothing that could run.
        stored = torch.load(path, map_location="cpu", weights_only=True)
        found = (stored.pop("format"), stored.pop("fingerprint"))
        progress = Progress(**stored)
    except Exception as error:
        # Not what torch says: it advises to load the file with pickle.
        raise ValueError(f"{path}: is not the checkpoint of a training: remove it to start anew") from error
    if found != (FORMAT, fingerprint):
        raise ValueError(
            f"{directory}: holds a training with other examples, settings, seed or starting weights: give another"
            " folder, or remove this one"
        )
    return progress


def write(directory: Path, fingerprint: str, progress: Progress) -> None:
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "fingerprint": fingerprint} | asdict(progress), buffer)
    atomic.replace(directory / FILE, buffer.getvalue())


def write_log(directory: Path, log: Sequence[Entry]) -> None:
    """The log as CSV, a row an epoch."""
    columns = list(dict.fromkeys(name for entry in log for name in entry))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(log)
    atomic.replace(directory / LOG, text.getvalue().encode())


def fingerprint(
    model: torch.nn.Module, examples: Sequence[Example], hold_out: Sequence[Example], settings: Training, seed: int
) -> str:
    """The hash of all that decides what a training gives. Where it runs is not part of it: it may go on elsewhere."""
    content = hashlib.sha256(settings.model_dump_json(exclude={"device", "tf32", "compile"}).encode())
    content.update(f"seed {seed}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        content.update(name.encode())
        content.update(_bytes(tensor))
    for example in [*examples, None, *hold_out]:
        for part in _parts(example):
            content.update(part)
    return content.hexdigest()


def _parts(example: Example | None) -> Iterable[bytes]:
    if example is None:
        yield b"hold-out"
        return
    yield f"{example.frame_id} {example.fidelity} {example.energy}".encode()
    yield np.ascontiguousarray(example.graph.positions).tobytes()
    yield np.ascontiguousarray(example.graph.lattice).tobytes()
    for tensor in (example.forces, example.stress, example.magmoms):
        yield b"-" if tensor is None else _bytes(tensor)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()
