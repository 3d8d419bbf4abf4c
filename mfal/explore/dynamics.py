"""Relaxation and molecular dynamics on a CHGNet, through ASE."""

from __future__ import annotations

import numpy as np
from ase import units
from ase.calculators.calculator import Calculator
from ase.filters import FrechetCellFilter
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import FIRE
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from mfal.config import MolecularDynamics

FORCE_TOLERANCE = 0.05  # eV/Å


def relax(structure: Structure, calculator: Calculator, *, steps: int) -> Structure:
    """At most `steps` FIRE steps of positions and cell: enough for a sensible volume, not for a minimum."""
    atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
    atoms.calc = calculator
    FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=FORCE_TOLERANCE, steps=steps)
    return AseAtomsAdaptor.get_structure(atoms)


def snapshots(
    structure: Structure,
    calculator: Calculator,
    *,
    temperature: float,
    settings: MolecularDynamics,
    rng: np.random.Generator,
) -> list[Structure]:
    """Langevin dynamics at a temperature (K); evenly spaced snapshots of the run, the last one included.

    A run that the force field blows up ends early: its frames so far are kept, and what is unphysical in them is
    refused later, with its reason counted.
    """
    atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
    atoms.calc = calculator
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
    dynamics = Langevin(
        atoms,
        timestep=settings.timestep * units.fs,
        temperature_K=temperature,
        friction=0.02 / units.fs,
        rng=rng,
    )
    marks = set(np.linspace(0, settings.steps, settings.snapshots + 1, dtype=int)[1:].tolist())
    taken: list[Structure] = []
    for step in range(1, settings.steps + 1):
        try:
            dynamics.run(1)
        except ValueError:  # a graph with isolated atoms is refused: the cell has flown apart
            break
        if not np.isfinite(atoms.positions).all():
            break
        if step in marks:
            taken.append(AseAtomsAdaptor.get_structure(atoms))
    return taken
