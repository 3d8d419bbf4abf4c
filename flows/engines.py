"""One atomate2 Maker for each engine: `make(structure)` gives a job whose output is a task document."""

from __future__ import annotations

from dataclasses import dataclass, field

from ase.calculators.calculator import Calculator
from atomate2.ase.jobs import AseRelaxMaker
from atomate2.ase.schemas import AseResult
from chgnet.model.dynamics import CHGNetCalculator
from jobflow import Maker
from pymatgen.core import Structure

from mfal.config import Engine, Gpaw, Magnetism
from mfal.dft.gpaw import GpawProcess
from mfal.frames import Fidelity
from mfal.model.multifidelity import pretrained, silence


@dataclass
class GpawStaticMaker(AseRelaxMaker):
    """A GPAW single point. Initial moments are the structure's site property `magmom`, as in VASP's makers."""

    name: str = "GPAW static"
    engine: Gpaw = field(default_factory=Gpaw)
    magnetism: Magnetism = field(default_factory=lambda: Magnetism(hubbard_u={}, moments={}))
    fidelity: Fidelity = "nonmagnetic"
    relax_cell: bool = False
    steps: int = 1  # a single point, in atomate2's words

    def _get_calculator(self) -> Calculator:
        return GpawProcess(self.engine, self.magnetism, self.fidelity)

    def run_ase(self, mol_or_struct: Structure, prev_dir: str | None = None) -> AseResult:
        result = super().run_ase(mol_or_struct, prev_dir)
        # An adopted calculation took its time in another process.
        result.elapsed_time = self.calculator.wall_seconds
        return result


@dataclass
class SurrogateStaticMaker(AseRelaxMaker):
    """A pretrained CHGNet's single point in place of DFT: for rehearsals and tests."""

    name: str = "surrogate static"
    checkpoint: str = "0.3.0"
    relax_cell: bool = False
    steps: int = 1

    def _get_calculator(self) -> Calculator:
        with silence():
            return CHGNetCalculator(pretrained(self.checkpoint), use_device="cpu", on_isolated_atoms="ignore")


def static_maker(engine: Engine, magnetism: Magnetism, fidelity: Fidelity) -> Maker:
    """The Maker of one fidelity."""
    if isinstance(engine, Gpaw):
        return GpawStaticMaker(engine=engine, magnetism=magnetism, fidelity=fidelity)
    return SurrogateStaticMaker(checkpoint=getattr(engine, fidelity))


def processes(engine: Engine) -> int:
    """Cores that one calculation keeps busy."""
    return engine.processes if isinstance(engine, Gpaw) else 1
