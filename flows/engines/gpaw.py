"""GPAW as an `atomate2.ase` Maker; the calculation itself is `mfal.dft.gpaw`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ase.calculators.calculator import Calculator
from atomate2.ase.jobs import AseRelaxMaker
from atomate2.ase.schemas import AseResult
from jobflow import Maker
from pymatgen.core import Structure

from flows.engines.contract import Engine
from mfal.dft import gpaw
from mfal.dft.engines import Gpaw, GpawRetry, Retry
from mfal.dft.label import Result, from_ase
from mfal.dft.magnetism import Magnetism
from mfal.frames import Fidelity


@dataclass
class GpawStaticMaker(AseRelaxMaker):
    """A GPAW single point. Initial moments are the structure's site property `magmom`, as in VASP's makers."""

    name: str = "GPAW static"
    engine: Gpaw = field(default_factory=Gpaw)
    magnetism: Magnetism = field(default_factory=lambda: Magnetism(hubbard_u={}, moments={}))
    fidelity: Fidelity = "nonmagnetic"
    retry: GpawRetry | None = None
    relax_cell: bool = False
    steps: int = 1  # a single point, in atomate2's words

    def _get_calculator(self) -> Calculator:
        return gpaw.GpawProcess(self.engine, self.magnetism, self.fidelity, self.retry)

    def run_ase(self, mol_or_struct: Structure, prev_dir: str | None = None) -> AseResult:
        result = super().run_ase(mol_or_struct, prev_dir)
        # An adopted calculation took its time in another process.
        result.elapsed_time = self.calculator.wall_seconds
        return result


class GpawEngine(Engine[Gpaw]):
    def maker(self, structure: Structure, fidelity: Fidelity, retry: Retry | None = None) -> Maker:  # noqa: ARG002
        return GpawStaticMaker(
            engine=self.section,
            magnetism=self.magnetism,
            fidelity=fidelity,
            retry=retry if isinstance(retry, GpawRetry) else None,
        )

    def result(self, document: Any, structure: Structure, fidelity: Fidelity) -> Result:  # noqa: ARG002
        return from_ase(document, fidelity, gpaw.version())

    def problems(self, elements: Iterable[str]) -> list[str]:
        return gpaw.problems(self.section, elements)
