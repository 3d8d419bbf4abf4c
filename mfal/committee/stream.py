"""How unsure a committee is of frames that come one after the other: however many, memory stays flat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mfal.committee.decompose import Quantity, Reduce, Sigma, decompose
from mfal.committee.predict import batched, predict_each
from mfal.frames import Frame
from mfal.model.delta import Model
from mfal.model.graph import Graph

#: Of a sigma and of a covariance, as the columns of a table have them.
UNITS: dict[Quantity, tuple[str, str]] = {
    "forces": ("eV_per_A", "eV2_per_A2"),
    "energy": ("eV_per_atom", "eV2_per_atom2"),
    "stress": ("GPa", "GPa2"),
}
#: The columns that are parts of a Sigma: of which quantity, and which part.
SIGMAS: dict[str, tuple[Quantity, str]] = {
    column: (quantity, part)
    for quantity, (unit, square) in UNITS.items()
    for column, part in (
        *((f"sigma_{part}_{quantity}_{unit}", part) for part in ("nonmagnetic", "delta", "magnetic")),
        (f"covariance_{quantity}_{square}", "covariance"),
    )
}
MOMENTS = "sigma_magnetic_moments_muB"
#: Of `Scored.row`.
COLUMNS = ("frame_id", "formula", "atoms", *SIGMAS, MOMENTS)


@dataclass(frozen=True)
class Scored:
    """What `mfal.committee.decompose.decompose` says of one frame."""

    frame_id: str
    formula: str
    atoms: int
    forces: Sigma  # eV/Å
    energy: Sigma  # eV/atom
    stress: Sigma  # GPa
    moments: float  # µB, of the magnetic ones; no label ever trained the others

    def row(self) -> dict[str, str | int | float]:
        """All in one flat line, COLUMNS, with the units in the names."""
        sigmas = [getattr(getattr(self, quantity), part) for quantity, part in SIGMAS.values()]
        return dict(zip(COLUMNS, [self.frame_id, self.formula, self.atoms, *sigmas, self.moments], strict=True))


def score_stream(
    models: Sequence[Model], frames: Iterable[Frame], reduce: Reduce = "max", *, batch_size: int = 16
) -> Iterator[Scored]:
    """The sigmas of each frame, in the order of the frames; no more than a batch of them is read ahead.

    The last digits of a float32 prediction depend on the frames beside it in the batch: the same stream, cut at a
    multiple of `batch_size`, gives the same numbers.

    Args:
        reduce: from the atoms of a frame to the frame.

    Raises:
        ValueError: fewer than two members, a model that does not know both fidelities, or a frame whose atoms have no
            neighbours or lie on one another; names the frame.
    """
    for chunk in batched(frames, batch_size):
        try:
            predictions = list(predict_each(models, chunk, batch_size=batch_size))
        except ValueError:
            _must_have_graphs(chunk)
            raise
        for frame, prediction in zip(chunk, predictions, strict=True):
            if not all(np.isfinite(x).all() for x in (prediction.energy, prediction.forces, prediction.stress)):
                raise ValueError(f"{_name(frame)}: the prediction is not finite: do atoms lie on one another?")
            yield Scored(
                frame_id=frame.frame_id,
                formula=frame.structure.composition.reduced_formula,
                atoms=len(frame.structure),
                forces=decompose(prediction, "forces", reduce),
                energy=decompose(prediction, "energy", reduce),
                stress=decompose(prediction, "stress", reduce),
                moments=decompose(prediction, "magmoms", reduce).magnetic,
            )


def _must_have_graphs(frames: Iterable[Frame]) -> None:
    """Say which of the frames it is that has no graph: one stops its whole batch."""
    for frame in frames:
        try:
            Graph.of(frame.structure)
        except ValueError as error:
            raise ValueError(f"{_name(frame)}: {error}") from error


def _name(frame: Frame) -> str:
    return f"{frame.parent}: {frame.source}: frame {frame.frame_id}"
