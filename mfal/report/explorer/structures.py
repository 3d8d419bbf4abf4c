"""The structures of many frames in few bytes, for the page's 3D view: to look at, not to calculate from.

Frames of the same species make a group, sorted by parent, and each is stored as the difference from the one before it:
what a rattle or a step of MD changes is small, and small numbers pack well. `structures.js` reads this.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mfal.frames import Frame, Score
from mfal.report.standalone import compressed

#: Å; of the positions and of the cell's vectors.
STEP, CELL_STEP = 0.01, 0.004
#: A sigma is a byte on a logarithmic scale, which begins at `SMALLEST` eV/Å and whose steps are this factor; 0 is 0.
SMALLEST, FACTOR = 1e-4, 1.05
#: Å; larger coordinates do not fit two bytes.
LARGEST = 60.0

Run = tuple[str, int]


@dataclass(frozen=True)
class Packed:
    #: Base64 of gzip: a line of JSON that says what follows it, and the bytes.
    text: str
    #: How many are in it.
    frames: int


def pack(frames: Mapping[int, Frame], scores: Mapping[int, Score | None], budget: int) -> Packed:
    """As many of the frames, the first ones first, as fit into so many characters.

    Args:
        frames: by row number.
        scores: by row number; sigmas of the sites are stored where they are all there.
    """
    rows = [row for row, frame in frames.items() if _fits(frame)]
    sigmas = {row: _sigmas(frames[row], scores[row]) for row in rows}
    while True:
        found = _pack(rows, frames, sigmas)
        if len(found.text) <= budget or not rows:
            return found
        rows = rows[: int(0.97 * len(rows) * budget / len(found.text))]


def _fits(frame: Frame) -> bool:
    structure = frame.structure
    return bool(max(np.abs(structure.lattice.matrix).max(), np.abs(structure.cart_coords).max()) < LARGEST)


def _pack(rows: Sequence[int], frames: Mapping[int, Frame], sigmas: Mapping[int, bytes]) -> Packed:
    found: dict[tuple[tuple[Run, ...], bool], list[int]] = {}
    for row in rows:
        found.setdefault((_runs(frames[row]), bool(sigmas[row])), []).append(row)
    groups: list[dict[str, Any]] = []
    cells, positions, atoms = [], [], []
    for (species, scored), members in found.items():
        members.sort(key=lambda row: (frames[row].parent, frames[row].source))
        structures = [frames[row].structure for row in members]
        cells.append(_changes(np.array([s.lattice.matrix for s in structures]), CELL_STEP))
        positions.append(_changes(np.array([s.cart_coords for s in structures]), STEP))
        atoms += [sigmas[row] for row in members]
        groups.append({"frames": members, "species": species, "sigmas": scored})
    streams = [plane for part in (cells, positions) for plane in _planes(part)]
    head = {"step": STEP, "cell": CELL_STEP, "smallest": SMALLEST, "factor": FACTOR, "groups": groups}
    return Packed(compressed(b"".join([json.dumps(head).encode(), b"\n", *streams, *atoms])), len(rows))


def _runs(frame: Frame) -> tuple[Run, ...]:
    symbols = [site.specie.symbol for site in frame.structure]
    return tuple((symbol, len(list(sites))) for symbol, sites in itertools.groupby(symbols))


def _sigmas(frame: Frame, score: Score | None) -> bytes:
    """A byte a site, non-magnetic and then delta; none unless both are there of every site."""
    found = score.sigma_atoms if score else {}
    both = [found.get("nonmagnetic", []), found.get("delta", [])]
    if any(len(one) != len(frame.structure) for one in both):
        return b""
    steps = np.round(np.log(np.maximum(both, 1e-12) / SMALLEST) / np.log(FACTOR)) + 1
    return bytes(np.clip(steps, 0, 255).astype(np.uint8))


def _changes(values: np.ndarray, step: float) -> np.ndarray:
    """[frames, ...] in steps, each frame less the one before it, without sign: 0, −1, 1, −2 become 0, 1, 2, 3."""
    whole = np.round(values.reshape(len(values), -1) / step).astype(int)
    changes = np.diff(whole, axis=0, prepend=0)
    return np.where(changes < 0, -2 * changes - 1, 2 * changes).ravel()


def _planes(parts: Sequence[np.ndarray]) -> list[bytes]:
    """All low bytes, then all high ones, which are mostly zero."""
    values = np.concatenate([*parts, np.zeros(0, int)])
    return [(values & 255).astype(np.uint8).tobytes(), (values >> 8).astype(np.uint8).tobytes()]
