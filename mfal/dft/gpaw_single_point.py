"""`python -m mfal.dft.gpaw_single_point JOB RESULT ERROR`: one GPAW single point, serial or on every rank of mpirun.

Energies in eV (extrapolated to zero smearing), forces eV/Å, stress eV/Å3 in ASE's sign and Voigt order, moments µB.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Hartree


def main(job_file: str, result_file: str, error_file: str) -> None:
    try:
        single_point(job_file, result_file)
    except Exception as error:  # of whichever rank; MPI then ends the others in the middle of what they say
        Path(error_file).write_text(f"{type(error).__name__}: {error}")
        raise


def single_point(job_file: str, result_file: str) -> None:
    from gpaw import GPAW, PW, FermiDirac, KohnShamConvergenceError
    from gpaw.mpi import world

    if world.size != int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")):
        raise RuntimeError(
            "GPAW was built without MPI: install openmpi-bin and libopenmpi-dev, then"
            " pip install --force-reinstall --no-cache-dir --no-deps gpaw; or set engine.processes: 1"
        )
    job = json.loads(Path(job_file).read_text())
    atoms = Atoms(
        job["symbols"], cell=job["cell"], positions=job["positions"], pbc=True, magmoms=job["initial_moments"]
    )
    atoms.calc = GPAW(
        mode=PW(job["cutoff"]),
        xc=job["functional"],
        spinpol=job["magnetic"],
        setups=job["setups"],
        kpts={"density": job["kpoint_density"]} | ({"gamma": True} if job["gamma_centred"] else {}),
        occupations=FermiDirac(job["smearing"]),
        maxiter=job["max_iterations"],
        convergence=job["convergence"],
        txt="gpaw.txt",
        **otherwise(job),
    )
    start = time.perf_counter()
    result: dict[str, Any]
    try:
        # Every rank must make every call: they are collective.
        result = {
            "status": "converged",
            "energy": float(atoms.get_potential_energy()),
            "free_energy": float(atoms.get_potential_energy(force_consistent=True)),
            "forces": atoms.get_forces().tolist(),
            "stress": (atoms.get_stress() + pulay_correction(atoms.calc, job["cutoff"])).tolist(),
            "magmoms": atoms.get_magnetic_moments().tolist() if job["magnetic"] else None,
        }
    except KohnShamConvergenceError:
        result = {"status": "unconverged", "reason": f"no self-consistency in {job['max_iterations']} iterations"}
    result["wall_seconds"] = time.perf_counter() - start
    if world.rank == 0:
        # In one step: a killed process must not leave half a result that looks like a whole one.
        part = Path(f"{result_file}.part")
        part.write_text(json.dumps(result))
        os.replace(part, result_file)


def otherwise(job: dict[str, Any]) -> dict[str, Any]:
    """What a retry does in another way than GPAW by itself."""
    settings: dict[str, Any] = {}
    if job["mixer"]:
        settings["mixer"] = job["mixer"]
    if job["davidson"]:
        settings["eigensolver"] = {"name": "davidson", "niter": job["davidson"]}
    if job["bands"]:
        settings["nbands"] = f"{100 * job['bands']:.0f}%"
    return settings


def pulay_correction(calculator: Any, cutoff: float) -> np.ndarray:
    """What the finite cutoff takes from the stress, eV/Å3 in Voigt order: 2/3 Ecut dE/dEcut / V, isotropic.

    GPAW's stress is that of a fixed number of plane waves, but straining a cell at a fixed cutoff changes the number.
    dE/dEcut is GPAW's estimate from the kinetic energies of the atoms' partial waves. The stress of MnO is 123, 49 and
    34 GPa at 340, 500 and 700 eV without the correction and 43, 38 and 34 GPa with it: without it, it is no label.
    """
    slope = calculator.dft.setups.estimate_dedecut(cutoff / Hartree)  # Hartree/Hartree
    return np.array([1, 1, 1, 0, 0, 0]) * 2 / 3 * cutoff * slope / calculator.atoms.get_volume()


if __name__ == "__main__":
    main(*sys.argv[1:])
