"""Labels of a finished data set in place of DFT, so that a campaign can be rehearsed: looked up, at the cost booked."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from mfal.dataset import read
from mfal.dataset_files import versions
from mfal.dft.engines import Table
from mfal.frames import FIDELITIES, Fidelity, Frame, Label

Labels = dict[tuple[str, Fidelity], Label]


def frames(engine: Table) -> list[Frame]:
    """The frames with a label at both fidelities: the only ones that can be rehearsed with."""
    found, labels = _content(engine)
    return [frame for frame in found if all((frame.frame_id, fidelity) in labels for fidelity in FIDELITIES)]


def look_up(engine: Table, frame_id: str, fidelity: Fidelity) -> Label:
    """The label in the data set, with its cost.

    Raises:
        ValueError: there is none, or nothing says what it cost.
    """
    label = _content(engine)[1].get((frame_id, fidelity))
    if label is None:
        raise ValueError(f"{engine.data}: has no {fidelity} label of {frame_id}")
    cost = label.core_hours or engine.core_hours.get(fidelity)
    if cost is None:
        raise ValueError(
            f"{engine.data}: the {fidelity} labels do not say what they cost: write core_hours=... into the comment"
            f" lines, or give engine.core_hours.{fidelity}"
        )
    return label.model_copy(update={"core_hours": cost})


def problems(engine: Table, needed: int) -> list[str]:
    """What stands in the way of a rehearsal with `needed` frames in its first round, each with the mend."""
    try:
        found = frames(engine)
        for fidelity in FIDELITIES:
            for frame in found:
                look_up(engine, frame.frame_id, fidelity)
    except ValueError as error:
        return [f"engine.data: {error}"]
    if len(found) < needed:
        return [
            f"engine.data: {engine.data} has {len(found)} frames with labels at both fidelities, fewer than a hold-out"
            f" and a first batch need ({needed}): make acquire.hold_out or acquire.magnetic_per_round smaller"
        ]
    return []


def _content(engine: Table) -> tuple[list[Frame], Labels]:
    return _read(engine.data, versions(engine.data))


# A rehearsal asks for one label at a time; the files are read once, and again when one has changed.
@lru_cache(maxsize=2)
def _read(path: Path, _: tuple[tuple[Path, int], ...]) -> tuple[list[Frame], Labels]:
    found, labels = read(path)
    return found, {(label.frame_id, label.fidelity): label for label in labels}
