"""GPAW as an ASE calculator that runs in processes of its own, and that never runs the same calculation twice.

The calculation's folder is its memory. The result is written there in one step, and a lock on the folder is held by
every process of the calculation: whoever finds a result takes it, whoever finds the lock taken waits for it. So a
calculation that outlives its parent (SIGKILL of `mfal run`) is adopted, not repeated.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from mfal.dft.engines import Gpaw, GpawRetry
from mfal.dft.label import CalculationError
from mfal.dft.magnetism import Magnetism
from mfal.frames import Fidelity

JOB, RESULT, LAST_WORDS = "gpaw-job.json", "gpaw-result.json", "gpaw-error.txt"
LOCK, LOG = "gpaw.lock", "gpaw.log"


class GpawProcess(Calculator):
    """Single points of one fidelity in the current folder.

    After a calculation `wall_seconds` is the time it took, also when it was found finished.

    Raises (on calculation):
        CalculationError: no self-consistency within `max_iterations`, a time-out, or GPAW stopped for another reason;
            the message ends with its last words.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress", "magmoms"]

    def __init__(self, engine: Gpaw, magnetism: Magnetism, fidelity: Fidelity, retry: GpawRetry | None = None) -> None:
        super().__init__()
        self.engine, self.magnetism, self.fidelity, self.retry = engine, magnetism, fidelity, retry
        self.wall_seconds = 0.0

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        result = self._result(json.dumps(self._job()))
        self.wall_seconds = result["wall_seconds"]
        if result["status"] == "unconverged":
            raise CalculationError("unconverged", result["reason"], self.wall_seconds)
        self.results = {
            "energy": result["energy"],
            "free_energy": result["free_energy"],
            "forces": np.array(result["forces"]),
            "stress": np.array(result["stress"]),
        }
        if self.fidelity == "magnetic":
            self.results["magmoms"] = np.array(result["magmoms"])

    def _job(self) -> dict[str, Any]:
        magnetic = self.fidelity == "magnetic"
        symbols = self.atoms.get_chemical_symbols()
        retry = self.retry or GpawRetry(after=["failed"])
        u = {el: u for el, u in self.magnetism.hubbard_u.items() if magnetic and u and el in symbols}
        return {
            "symbols": symbols,
            "cell": self.atoms.cell.tolist(),
            "positions": self.atoms.positions.tolist(),
            # GPAW refuses moments in a spin-restricted calculation
            "initial_moments": self.atoms.get_initial_magnetic_moments().tolist() if magnetic else None,
            "magnetic": magnetic,
            "functional": self.engine.functional,
            "cutoff": self.engine.cutoff,
            "kpoint_density": self.engine.kpoint_density,
            "gamma_centred": self.engine.gamma_centred,
            "smearing": self.engine.smearing,
            "max_iterations": retry.max_iterations or self.engine.max_iterations,
            "mixer": retry.mixer and retry.mixer.model_dump(),
            "davidson": retry.davidson,
            "bands": retry.bands,
            "convergence": {
                "energy": self.engine.energy_convergence,
                "density": self.engine.density_convergence,
                "eigenstates": self.engine.eigenstates_convergence,
            },
            # Dudarev's U - J on the d shell; ",0" leaves out the rescaling by the occupation inside the sphere
            "setups": {element: f":d,{value},0" for element, value in u.items()},
        }

    def _result(self, job: str) -> dict[str, Any]:
        with open(LOCK, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (Path(RESULT).is_file() and Path(JOB).is_file() and Path(JOB).read_text() == job):
                for stale in (RESULT, LAST_WORDS):
                    Path(stale).unlink(missing_ok=True)
                Path(JOB).write_text(job)
                self._run(lock.fileno())
            return json.loads(Path(RESULT).read_text())

    def _run(self, lock: int) -> None:
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",  # more threads make plane waves several times slower
            "GPAW_MPI_BACKEND": "cgpaw",  # without it a GPAW from pip runs serial copies under mpirun
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        }
        command = [sys.executable, "-m", "mfal.dft.gpaw_single_point", JOB, RESULT, LAST_WORDS]
        if self.engine.processes > 1:
            command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(self.engine.processes), *command]
        else:
            del environment["GPAW_MPI_BACKEND"]
        start = time.perf_counter()
        with open(LOG, "a") as log:
            print(f"$ {shlex.join(command)}", file=log, flush=True)
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, pass_fds=[lock])
            try:
                process.wait(timeout=60 * self.engine.timeout)
            except BaseException as error:
                process.terminate()  # mpirun passes it on to its ranks, which a kill would orphan
                process.wait()
                if isinstance(error, subprocess.TimeoutExpired):
                    reason = f"GPAW ran longer than engine.timeout = {self.engine.timeout:g} minutes"
                    raise CalculationError("failed", reason, time.perf_counter() - start) from None
                raise
        if not Path(RESULT).is_file():
            # The calculation writes its own last words; what the system killed had none.
            words = Path(LAST_WORDS).read_text() if Path(LAST_WORDS).is_file() else "its log is gpaw.log"
            reason = f"GPAW stopped with exit code {process.returncode}: {words}"
            raise CalculationError("failed", reason, time.perf_counter() - start)


def version() -> str:
    """Name and version, without loading it."""
    return f"GPAW {metadata.version('gpaw')}"


def problems(engine: Gpaw, elements: Iterable[str]) -> list[str]:
    """What keeps GPAW from calculating these elements on this machine: one sentence each, with the mend."""
    if importlib.util.find_spec("gpaw") is None:
        return ["engine.kind = 'gpaw': GPAW is not installed: 'make install' does it, or pip install 'mfal[gpaw]'"]
    found = []
    if engine.processes > 1 and shutil.which("mpirun") is None:
        found.append(
            f"engine.processes = {engine.processes}: there is no mpirun: install Open MPI (apt-get install"
            " openmpi-bin libopenmpi-dev, then reinstall gpaw), or set engine.processes: 1"
        )
    from gpaw import setup_paths

    for element in sorted(elements):
        if not any(list(Path(folder).glob(f"{element}.{engine.functional}*")) for folder in setup_paths):
            found.append(
                f"element {element}: GPAW has no {engine.functional} setup for it: pip install gpaw-data, or leave"
                f" {element} out of the parents"
            )
    return found
