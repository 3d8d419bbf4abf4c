"""The peers of `benchmarks.overhead`: the same calculations as plain jobs of jobflow, numbers in, numbers out.

In a file of its own, as workers import it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobflow import Job, job
from pymatgen.core import Structure

if TYPE_CHECKING:
    from mfal.dft.engines import Surrogate, Table
    from mfal.frames import Frame

Numbers = dict[str, Any]


def calculated(engine: Table | Surrogate, frame: Frame) -> Numbers:
    """The numbers of a frame's non-magnetic label, with nothing around the calculation."""
    if engine.kind == "table":
        return look_up.original(frame.structure, frame.frame_id, str(engine.data))
    return predict.original(frame.structure, engine.nonmagnetic)


def plain(engine: Table | Surrogate, frame: Frame) -> Job:
    """A job for it."""
    if engine.kind == "table":
        return look_up(frame.structure, frame.frame_id, str(engine.data))
    return predict(frame.structure, engine.nonmagnetic)


@job
def look_up(structure: Structure, frame_id: str, data: str) -> Numbers:  # noqa: ARG001  # as any calculation has it
    from mfal.dft import table
    from mfal.dft.engines import Table

    label = table.look_up(Table(data=data), frame_id, "nonmagnetic")
    return {"energy": label.energy, "forces": label.forces, "stress": label.stress}


@job
def predict(structure: Structure, checkpoint: str) -> Numbers:
    from chgnet.model.dynamics import CHGNetCalculator
    from pymatgen.io.ase import AseAtomsAdaptor

    from mfal.model.multifidelity import pretrained, silence

    atoms = AseAtomsAdaptor.get_atoms(structure)
    with silence():
        atoms.calc = CHGNetCalculator(pretrained(checkpoint), use_device="cpu", on_isolated_atoms="ignore")
    stress = atoms.get_stress(voigt=False)
    return {
        "energy": float(atoms.get_potential_energy()),
        "forces": atoms.get_forces().tolist(),
        "stress": stress.tolist(),
    }
