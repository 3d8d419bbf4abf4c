"""What an engine is: settings for a fidelity, an atomate2 Maker, and how its task document becomes a result.

A new engine is a section in `mfal.dft.engines` (what a campaign file may say) and one file here with a subclass of
`Engine`, named in `flows.engines`. `validate` tells whether it keeps the contract; every engine's tests run it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from ase.units import GPa
from jobflow import JobStore, Maker
from maggma.stores import MemoryStore
from monty.os import cd
from pymatgen.core import Lattice, Structure

from mfal.dft import launch
from mfal.dft.engines import EngineSection, ProgramSection, Retry
from mfal.dft.fidelity import fingerprint, settings
from mfal.dft.label import CalculationError, Result
from mfal.dft.magnetism import Magnetism
from mfal.frames import FIDELITIES, Fidelity

S = TypeVar("S", bound=EngineSection)
P = TypeVar("P", bound=ProgramSection)


class Engine(ABC, Generic[S]):
    """Single points of one campaign. Knows neither frames nor labels, and no store but jobflow's."""

    def __init__(self, section: S, magnetism: Magnetism) -> None:
        self.section, self.magnetism = section, magnetism

    @abstractmethod
    def maker(self, structure: Structure, fidelity: Fidelity, retry: Retry | None = None) -> Maker:
        """`make(structure)` gives a job that calculates in the current folder and puts out a task document.

        Args:
            structure: has the initial moments as site property `magmom` at the magnetic fidelity, and none otherwise.
            retry: the rung of the ladder that this attempt is; the moments are scaled already.
        """

    @abstractmethod
    def result(self, document: Any, structure: Structure, fidelity: Fidelity) -> Result:
        """The numbers of a task document, sites in the order of `structure`.

        Raises:
            CalculationError: it did not converge, or there are none.
        """

    def failure(self, error: Exception) -> CalculationError | None:
        """What an exception of the job says of the calculation; None if it says nothing of it, but of the machine (no
        such program, a full disk): it then stays what it is, and the next run tries again."""
        return error if isinstance(error, CalculationError) else None

    def problems(self, elements: Iterable[str]) -> list[str]:  # noqa: ARG002
        """What keeps it from calculating these elements on this machine: a sentence each, with the mend."""
        return []

    def calculate(self, structure: Structure, fidelity: Fidelity, retry: Retry | None = None) -> Result:
        """One single point in the current folder, in this process: no job of its own, so no hop between queue jobs.

        Raises:
            CalculationError: it ran and gave no numbers.
        """
        memory = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
        memory.connect()
        try:
            document = self.maker(structure, fidelity, retry).make(structure).run(memory).output
            return self.result(document, structure, fidelity)
        except Exception as error:
            if failure := self.failure(error):
                raise failure from error
            raise


class LaunchedEngine(Engine[P]):
    """An engine whose program runs through `mfal.dft.launch`, whose book tells what a run cost and how it ended."""

    #: The program, as people write it.
    program: ClassVar[str]

    @abstractmethod
    def stopped(self, error: Exception, launches: list[dict[str, Any]], seconds: float) -> CalculationError | None:
        """As `failure`, of a program that was started, if `launches` has any, and ended by itself."""

    def failure(self, error: Exception) -> CalculationError | None:
        folder = Path.cwd()
        launches, spent = launch.launches(folder), launch.seconds(folder)
        if isinstance(error, CalculationError):
            error.wall_seconds = spent
            return error
        match launches[-1] if launches else {}:
            case {"end": "no program", "why": why}:
                raise RuntimeError(f"{self.program} was not started in {folder}: {why}") from error
            case {"end": "timeout"}:
                limit = f"engine.timeout = {self.section.timeout:g} minutes"
                return CalculationError("failed", f"{self.program} ran longer than {limit}", spent)
        return self.stopped(error, launches, spent)


#: Of a validation, on forces (eV/Å) and the pressure (GPa): engines differ in how exact they are, not in their signs.
FORCE_TOLERANCE, STRESS_TOLERANCE = 0.1, 6.0


def validate(engine: Engine[Any], structure: Structure, moments: list[float], folder: Path) -> list[str]:
    """Calculate a small crystal eight times and say what breaks the contract, a sentence each.

    Args:
        structure: two or more atoms, one of them magnetic, one off its place so that there is a force; sites grouped by
            element.
        moments: µB, the initial ones.
        folder: where the calculations go, each into a folder of its own.
    """
    broken = []
    promised = {fidelity: settings(engine.section, engine.magnetism, fidelity) for fidelity in FIDELITIES}
    if fingerprint(promised["nonmagnetic"]) == fingerprint(promised["magnetic"]):
        broken.append("the fidelities have one fingerprint")
    strain = 0.01
    cells = {
        "as it is": structure,
        "larger": _scaled(structure, 1 + strain),
        "smaller": _scaled(structure, 1 - strain),
        "other order": Structure.from_sites(list(reversed(structure))),
    }
    for fidelity in FIDELITIES:
        found = {}
        for name, cell in cells.items():
            magnetic = cell.copy()
            if fidelity == "magnetic":
                magnetic.add_site_property("magmom", moments[::-1] if name == "other order" else moments)
            place = folder / f"{fidelity}-{name.replace(' ', '-')}"
            place.mkdir(parents=True)
            with cd(place):
                found[name] = engine.calculate(magnetic, fidelity)
        broken += [f"{fidelity}: {problem}" for problem in _wrong(found, cells, fidelity, moments)]
    return broken


def _wrong(
    found: dict[str, Result], cells: dict[str, Structure], fidelity: Fidelity, moments: list[float]
) -> list[str]:
    middle, reversed_ = found["as it is"], found["other order"]
    atoms = len(cells["as it is"])
    forces, stress = np.array(middle.forces, dtype=float), np.array(middle.stress, dtype=float)
    if forces.shape != (atoms, 3) or stress.shape != (3, 3):
        return [f"forces have shape {forces.shape} and the stress {stress.shape}"]
    problems = []
    if not middle.code:
        problems.append("the result does not say which program gave it")
    if np.abs(forces.sum(axis=0)).max() > FORCE_TOLERANCE:
        problems.append(f"the forces do not add up to zero: {forces.sum(axis=0)}")
    if np.abs(forces - np.array(reversed_.forces)[::-1]).max() > FORCE_TOLERANCE:
        problems.append("the forces are not in the order of the sites")
    change = found["larger"].energy - found["smaller"].energy  # type: ignore[operator]
    slope = change / (cells["larger"].volume - cells["smaller"].volume) / GPa
    if abs(np.trace(stress) / 3 - slope) > STRESS_TOLERANCE:
        problems.append(f"the stress is {np.trace(stress) / 3:.1f} GPa and dE/dV {slope:.1f} GPa")
    if (middle.magmoms is not None) != (fidelity == "magnetic"):
        problems.append("moments are for the magnetic fidelity, and only for it")
    elif middle.magmoms is not None:
        others = list(reversed_.magmoms or [])[::-1]
        for at, (start, end, other) in enumerate(zip(moments, middle.magmoms, others, strict=True)):
            if abs(start) > 1 and (abs(end) < 1 or start * end < 0 or abs(end - other) > 0.2):
                problems.append(
                    f"site {at}: {start:g} µB became {end:g}, and {other:g} with the sites in another order"
                )
    return problems


def _scaled(structure: Structure, factor: float) -> Structure:
    return Structure(Lattice(structure.lattice.matrix * factor), structure.species, structure.frac_coords)
