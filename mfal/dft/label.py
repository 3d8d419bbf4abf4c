"""From what a program's output says to a label: numbers that are there and finite, then the magnetic-state gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pymatgen.core import Structure

from mfal.dft.engines import Engine
from mfal.dft.fidelity import fingerprint, settings
from mfal.dft.magnetism import Magnetism
from mfal.dft.moments import magnetic_state
from mfal.frames import Fidelity, Frame, Label

#: VASP prints kBar with the opposite sign of dE/dstrain / V, and every atomate2 document keeps to it.
GPA_PER_KBAR = -0.1
#: Å; where a program says that an atom is, against where the frame has it.
SAME_PLACE = 0.01


class CalculationError(RuntimeError):
    """The calculation ran and gave no numbers: how it ended, why, and the seconds that it cost, where that is known."""

    def __init__(
        self, status: Literal["unconverged", "failed"], reason: str, wall_seconds: float | None = None
    ) -> None:
        super().__init__(reason)
        self.status: Literal["unconverged", "failed"] = status
        self.wall_seconds = wall_seconds


@dataclass(frozen=True)
class Result:
    """What a program's output says, in a label's units and signs, with the sites in the order of the frame."""

    code: str  # name and version
    energy: float | None  # eV, total, extrapolated to zero smearing
    forces: Sequence[Sequence[float]] | None  # [N, 3] eV/Å
    stress: Sequence[Sequence[float]] | None  # [3, 3] GPa, dE/dstrain / V
    magmoms: Sequence[float] | None = None  # [N] µB, signed; None from a spin-restricted calculation
    #: None: as long as the call took.
    wall_seconds: float | None = None


def from_ase(document: Any, fidelity: Fidelity, code: str, signs: Sequence[float] | np.ndarray | None = None) -> Result:
    """The result in an `atomate2.ase` task document, whose stress is in kBar with VASP's sign."""
    step = document.output.ionic_steps[-1]
    magmoms = None
    # A spin-restricted calculation has no moments; zeros in the document are not a measurement.
    if fidelity == "magnetic" and step.magmoms is not None:
        magmoms = [float(m) for m in np.array(step.magmoms) * (1.0 if signs is None else signs)]
    return Result(
        code=code,
        energy=step.energy,
        forces=step.forces,
        stress=None if step.stress is None else (np.array(step.stress) * GPA_PER_KBAR).tolist(),
        magmoms=magmoms,
        wall_seconds=document.output.elapsed_time,
    )


def blank(frame: Frame, engine: Engine, magnetism: Magnetism, fidelity: Fidelity) -> Label:
    """The label of a calculation that gave nothing: `failed` until something better is known."""
    promised = settings(engine, magnetism, fidelity)
    return Label(
        frame_id=frame.frame_id,
        fidelity=fidelity,
        fingerprint=fingerprint(promised),
        status="failed",
        settings=promised,
    )


def judged(label: Label, result: Result, frame: Frame, magnetism: Magnetism) -> Label:
    """Fill a label from a result: numbers, then the gate, against the moments that the label asked for.

    A result that lacks a number, or holds one that is not finite, makes a `failed` label, never a good one.
    """
    magnetic, atoms = label.fidelity == "magnetic", len(frame.structure)
    wanted = {"energy": (), "forces": (atoms, 3), "stress": (3, 3)} | ({"magmoms": (atoms,)} if magnetic else {})
    numbers = {}
    for name, shape in wanted.items():
        value = getattr(result, name)
        array = np.array(np.nan if value is None else value, dtype=float)
        if array.shape != shape or not np.isfinite(array).all():
            reason = f"no finite {name} of shape {shape} in the output"
            return label.model_copy(update={"status": "failed", "reason": reason, "code": result.code})
        numbers[name] = array.tolist()
    filled = label.model_copy(update=numbers | {"status": "ok", "reason": "", "code": result.code})
    return gated(filled, frame.structure, magnetism)


def gated(label: Label, structure: Structure, magnetism: Magnetism) -> Label:
    """The label with the status that its moments give it: also one from a store, by the gate as it is set now."""
    if label.fidelity != "magnetic" or label.magmoms is None or label.status in ("unconverged", "failed"):
        return label
    status, reason = magnetic_state(structure, label.asked, label.magmoms, magnetism)
    return label.model_copy(update={"status": status, "reason": reason})


def order(frame: Structure, calculated: Structure) -> list[int]:
    """For each site of the frame, where a program has it: input sets sort sites as they like, and may invert the axes.

    Raises:
        CalculationError: it calculated another crystal.
    """
    distances = frame.lattice.get_all_distances(frame.frac_coords, calculated.frac_coords)
    found = [int(i) for i in np.argmin(distances, axis=1)] if len(calculated) else []
    same = (
        any(np.allclose(frame.lattice.matrix, hand * calculated.lattice.matrix, atol=SAME_PLACE) for hand in (1, -1))
        and sorted(found) == list(range(len(frame)))
        and all(distances[i, j] < SAME_PLACE for i, j in enumerate(found))
        and all(frame[i].specie.symbol == calculated[j].specie.symbol for i, j in enumerate(found))
    )
    if not same:
        raise CalculationError("failed", "the output is of another crystal than the frame")
    return found
