"""From a task document of atomate2 to a label."""

from __future__ import annotations

from typing import Any

import numpy as np

from mfal.config import Engine, Magnetism
from mfal.dft.fidelity import fingerprint, settings
from mfal.dft.moments import initial_moments, magnetic_state
from mfal.frames import Fidelity, Frame, Label

#: VASP prints kBar with the opposite sign of dE/dstrain / V, and every atomate2 document keeps to it.
GPA_PER_KBAR = -0.1


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


def from_ase_task(label: Label, document: Any, frame: Frame, magnetism: Magnetism) -> Label:
    """Fill a blank label from an `atomate2.ase` task document: numbers, then the magnetic-state gate.

    A document that lacks a number, or holds one that is not finite, makes a `failed` label, never a good one.
    """
    step = document.output.ionic_steps[-1]
    magnetic = label.fidelity == "magnetic"
    numbers = {
        "energy": step.energy,
        "forces": step.forces,
        "stress": None if step.stress is None else (np.array(step.stress) * GPA_PER_KBAR).tolist(),
        # A spin-restricted calculation has no moments; zeros in the document are not a measurement.
        "magmoms": [float(m) for m in step.magmoms] if magnetic and step.magmoms is not None else None,
    }
    required = [name for name in numbers if name != "magmoms" or magnetic]
    for name in required:
        if numbers[name] is None or not np.isfinite(np.array(numbers[name], dtype=float)).all():
            return label.model_copy(update={"status": "failed", "reason": f"no finite {name} in the task document"})
    status, reason = "ok", ""
    if magnetic:
        asked = initial_moments(frame.structure, magnetism)
        status, reason = magnetic_state(frame.structure, asked, numbers["magmoms"], magnetism)
    return label.model_copy(update=numbers | {"status": status, "reason": reason})
