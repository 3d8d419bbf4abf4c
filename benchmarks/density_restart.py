"""Does the non-magnetic density help a magnetic GPAW calculation to start? Iterations and seconds, both ways.

The magnetic calculation begins once from GPAW's own start (a superposition of atoms with the initial moments), and once
with the total density of the converged non-magnetic calculation, the magnetisation still that of the atoms.

    python benchmarks/density_restart.py            # three cells, about two minutes on one core
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Hartree
from gpaw import PW, FermiDirac, KohnShamConvergenceError
from gpaw.dft import DFT
from pymatgen.core import Structure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mfal.dataset import read

U = {"Mn": ":d,3.9,0", "Fe": ":d,5.3,0"}
MOMENTS = {"Mn": 5.0, "Fe": 4.0}
CUTOFF, DENSITY = 340.0, 1.5  # eV; k-points per 1/Å
MOST = 60  # iterations
LABELS = "data/rocksalt-gpaw/labels.extxyz"


@dataclass
class Run:
    iterations: int
    seconds: float
    energy: float  # eV/atom
    moment: float  # µB, of the cell
    converged: bool

    def __str__(self) -> str:
        end = "" if self.converged else " (not converged)"
        return f"{self.iterations} / {self.seconds:.1f} s{end}, {self.energy:.4f} eV/atom, {self.moment:.2f} µB"


def calculation(structure: Structure, *, magnetic: bool) -> Any:
    """A GPAW calculation that has not begun to converge."""
    symbols = [site.specie.symbol for site in structure]
    moments = [MOMENTS.get(symbol, 0.0) for symbol in symbols] if magnetic else None
    atoms = Atoms(symbols, structure.cart_coords, cell=structure.lattice.matrix, pbc=True, magmoms=moments)
    return DFT(
        atoms,
        mode=PW(CUTOFF),
        xc="PBE",
        spinpol=magnetic,
        setups={element: u for element, u in U.items() if magnetic and element in symbols},
        kpts={"density": DENSITY, "gamma": True},
        occupations=FermiDirac(0.1),
        maxiter=MOST,
        convergence={"energy": 5e-4, "density": 1e-4, "eigenstates": 1e-6},
        txt=None,
        converge=False,
    ), atoms


def take_total(start: Any, atoms: Atoms, nonmagnetic: Any) -> None:
    """Put the non-magnetic total density below the magnetisation that `start` has from its atoms."""

    def mixed(spins: np.ndarray, total: np.ndarray) -> None:
        magnetisation = spins[0] - spins[1]
        spins[0], spins[1] = (total + magnetisation) / 2, (total - magnetisation) / 2

    mixed(start.density.nt_sR.data, nonmagnetic.density.nt_sR.data[0])
    for a, matrices in start.density.D_asii.items():
        mixed(matrices, nonmagnetic.density.D_asii[a][0])
    builder = start.params.dft_component_builder(atoms, log=start.log, comm=start.comm)
    communicator = builder.communicators["D"]
    start.potential, start.energies, _ = start.pot_calc.calculate_without_orbitals(
        start.density, kpt_band_comm=communicator
    )
    # the wave functions of the atomic start belong to the old potential
    start.ibzwfs = builder.create_ibz_wave_functions(builder.create_basis_set(), start.potential)
    electrons = start.density.nvalence - start.density.charge + start.pot_calc.charge
    start.ibzwfs.calculate_occs(start.scf_loop.occ_calc, electrons)


def converge(calculation: Any, atoms: int, started: float) -> Run:
    try:
        calculation.converge()
        converged = True
    except KohnShamConvergenceError:
        converged = False
    moment = 0.0
    if calculation.density.ncomponents > 1:
        moment = float(calculation.density.calculate_magnetic_moments()[0][2])
    energy = float(calculation.energies.total_extrapolated) * Hartree / atoms
    return Run(calculation.scf_loop.niter, time.perf_counter() - started, energy, moment, converged)


def main() -> None:
    frames = read(LABELS)[0]
    cells = {f.structure.composition.formula: f.structure for f in reversed(frames) if len(f.structure) == 4}
    out = Table("cell", "non-magnetic", "magnetic", "magnetic, from the non-magnetic density", box=SIMPLE_HEAD)
    for name, structure in cells.items():
        started = time.perf_counter()
        cheap, _ = calculation(structure, magnetic=False)
        runs = [converge(cheap, len(structure), started)]
        for restart in (False, True):
            started = time.perf_counter()
            start, atoms = calculation(structure, magnetic=True)
            if restart:
                take_total(start, atoms, cheap)
            runs.append(converge(start, len(structure), started))
        out.add_row(name, *map(str, runs))
    Console(width=200).print("iterations / seconds, one core", out)


if __name__ == "__main__":
    main()
