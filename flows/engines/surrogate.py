"""Pretrained CHGNets in place of DFT, for rehearsals and tests."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from ase.calculators.calculator import Calculator
from atomate2.ase.jobs import AseRelaxMaker
from chgnet.model.dynamics import CHGNetCalculator
from jobflow import Maker
from pymatgen.core import Structure

from flows.engines.contract import Engine
from mfal.dft.engines import Retry, Surrogate
from mfal.dft.label import Result, from_ase
from mfal.frames import Fidelity
from mfal.model.multifidelity import pretrained, silence


@dataclass
class SurrogateStaticMaker(AseRelaxMaker):
    """A pretrained CHGNet's single point."""

    name: str = "surrogate static"
    checkpoint: str = "0.3.0"
    relax_cell: bool = False
    steps: int = 1  # a single point, in atomate2's words

    def _get_calculator(self) -> Calculator:
        with silence():
            return CHGNetCalculator(pretrained(self.checkpoint), use_device="cpu", on_isolated_atoms="ignore")


class SurrogateEngine(Engine[Surrogate]):
    def maker(self, structure: Structure, fidelity: Fidelity, retry: Retry | None = None) -> Maker:  # noqa: ARG002
        return SurrogateStaticMaker(checkpoint=getattr(self.section, fidelity))

    def result(self, document: Any, structure: Structure, fidelity: Fidelity) -> Result:
        """CHGNet has |moment|; the sign is that of the initial moment, as it would stay in a calculation."""
        signs = np.sign(structure.site_properties.get("magmom", [1.0] * len(structure)))
        return from_ase(document, fidelity, f"CHGNet {version('chgnet')}", np.where(signs < 0, -1.0, 1.0))
