"""VASP: atomate2's own StaticMaker, custodian on, one input set for both fidelities.

Between the Maker and VASP stands `mfal.dft.launch`: it checks the written input files against what the fidelity
promises, books every launch, and keeps a killed run from being calculated twice.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import shlex
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from atomate2.vasp import powerups
from atomate2.vasp.jobs.base import get_vasp_task_document
from atomate2.vasp.jobs.core import StaticMaker
from atomate2.vasp.run import DEFAULT_HANDLERS
from atomate2.vasp.sets.core import StaticSetGenerator
from custodian.custodian import ErrorHandler
from custodian.vasp import handlers
from jobflow import Maker
from pymatgen.core import SETTINGS, Structure
from pymatgen.io.vasp import Vasprun

from flows.engines.contract import LaunchedEngine
from mfal.dft import launch
from mfal.dft.engines import NUMERICS, Retry, Vasp, VaspRetry
from mfal.dft.label import GPA_PER_KBAR, CalculationError, Result, order
from mfal.frames import Fidelity

#: What both fidelities share, beside the section's settings.
BASE: dict[str, Any] = {
    "ALGO": "Normal",
    "EDIFF": 1e-6,
    "GGA": "PE",
    "ISMEAR": 0,
    "SIGMA": 0.05,
    "PREC": "Accurate",
    "LREAL": False,
    "LASPH": True,
    "LORBIT": 11,
    "LMAXMIX": 4,
    "ISYM": 0,
    "NSW": 0,
    "IBRION": -1,
    "ISIF": 2,
    **dict.fromkeys(("LWAVE", "LCHARG", "LAECHG", "LVTOT", "LELF"), False),
}
#: Seconds between looks at whether VASP has ended, and at whether its output shows an error.
POLL, MONITOR = 0.2, 60.0
#: What a campaign file can name.
HANDLERS = {
    name: handler
    for name, handler in vars(handlers).items()
    if isinstance(handler, type) and issubclass(handler, ErrorHandler) and handler is not ErrorHandler
}
POWERUPS = {
    name: powerup
    for name, powerup in vars(powerups).items()
    if inspect.isfunction(powerup) and powerup.__module__ == powerups.__name__
}
LDAU = ("LDAUU", "LDAUJ", "LDAUL")
#: Set by atomate2 for other functionals than ours.
UNUSED = ("LMIXTAU", "LDAUPRINT", "EDIFFG")


class VaspEngine(LaunchedEngine[Vasp]):
    program = "VASP"

    def maker(self, structure: Structure, fidelity: Fidelity, retry: Retry | None = None) -> Maker:
        section = self.section
        run: dict[str, Any] = {
            "vasp_cmd": launch.command(section.timeout, section.command),
            "vasp_gamma_cmd": launch.command(section.timeout, section.gamma_command),
            "max_errors": section.max_errors,
            # Handlers count their errors: each calculation gets its own.
            "handlers": deepcopy(DEFAULT_HANDLERS)
            if section.handlers is None
            else [HANDLERS[name]() for name in section.handlers],
            # Custodian looks every 10 s whether VASP has ended: too seldom for small cells.
            "custodian_kwargs": {"polling_time_step": POLL, "monitor_freq": round(MONITOR / POLL)},
        }
        maker = StaticMaker(
            name=f"VASP {fidelity}",
            input_set_generator=StaticSetGenerator(
                user_incar_settings=self._incar(structure, fidelity, retry),
                user_kpoints_settings=section.kpoints,
                user_potcar_settings=section.potcars,
                user_potcar_functional=section.potcar_functional,
                # the sites stay in the order of the frame
                sort_structure=False,
                auto_metal_kpoints=False,
            ),
            write_input_set_kwargs={"potcar_spec": section.potcar_spec},
            run_vasp_kwargs=run,
            # An unconverged calculation is not an error of the job: it is a label with that status.
            stop_children_kwargs={"handle_unsuccessful": False},
        )
        for powerup in section.powerups:
            for name, arguments in powerup.items():
                maker = POWERUPS[name](maker, **arguments)
        maker.write_additional_data[launch.PROMISE.replace(".", ":")] = self._promise(structure, fidelity, maker)
        return maker

    def calculate(self, structure: Structure, fidelity: Fidelity, retry: Retry | None = None) -> Result:
        """As the contract says; a run that outlived whoever started it is waited for and taken."""
        folder = Path.cwd()
        launch.finish_of_others(folder)
        if adopted := self._adopted(folder, structure, fidelity, retry):
            return adopted
        for left in folder.iterdir():  # of a killed run; a crash must not find its output and take it for its own
            if left.name not in (launch.BOOK, launch.LOCK):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        with _logging_to(folder / "custodian.log"):
            return super().calculate(structure, fidelity, retry)

    def result(self, document: Any, structure: Structure, fidelity: Fidelity) -> Result:
        folder = Path.cwd()
        calculation = document.calcs_reversed[0]
        steps = calculation.output.ionic_steps[-1].electronic_steps
        most = int(calculation.input.parameters["NELM"])
        if len(steps) >= most:
            raise CalculationError("unconverged", f"no self-consistency in {most} electronic steps")
        places = order(structure, document.output.structure)
        # A POSCAR has right-handed axes only: pymatgen writes the inverted crystal of a left-handed one.
        hand = 1.0 if np.linalg.det(structure.lattice.matrix) > 0 else -1.0
        moments = None
        if fidelity == "magnetic":
            # OUTCAR may print them twice; pymatgen has the last ones
            printed = (calculation.output.outcar or {}).get("magnetization") or []
            moments = [float(printed[i]["tot"]) for i in places] if len(printed) == len(places) else None
        return Result(
            code=f"VASP {document.vasp_version or calculation.vasp_version}",
            # pymatgen's: the last electronic step's sigma -> 0 correction on the ionic step's free energy. The ionic
            # step's own e_0_energy is an entropy in VASP 5, and the electronic step lacks a dispersion correction.
            energy=float(document.output.energy),
            forces=[[hand * component for component in document.output.forces[i]] for i in places],
            stress=[[GPA_PER_KBAR * component for component in row] for row in document.output.stress],
            magmoms=moments,
            wall_seconds=launch.seconds(folder),
        )

    def stopped(self, error: Exception, launches: list[dict[str, Any]], seconds: float) -> CalculationError | None:
        if not launches:
            return None
        folder, last = Path.cwd(), launches[-1]
        if last.get("end") == "broken promise":
            if len(launches) == 1:  # VASP never ran: the settings are at fault, for every frame
                raise RuntimeError(f"VASP was not started in {folder}: {last['why']}") from error
            return CalculationError("failed", f"custodian changed what is calculated: {last['why']}", seconds)
        if isinstance(error, OSError):
            return None
        if _unconverged(folder):
            return CalculationError(
                "unconverged", f"no self-consistency with custodian's corrections: {_words(error)}", seconds
            )
        code = f"exit code {last['code']}" if last.get("code") else "its output cannot be used"
        return CalculationError("failed", f"VASP stopped with {code}: {_words(error)}", seconds)

    def problems(self, elements: Iterable[str]) -> list[str]:
        section = self.section
        found = []
        for key in ("command", "gamma_command"):
            words = [word for word in shlex.split(os.path.expandvars(getattr(section, key))) if word]
            if not words or shutil.which(words[0]) is None:
                found.append(
                    f"engine.{key} = {getattr(section, key)!r}: there is no such program: load VASP's module, or write"
                    " the whole path"
                )
        powerups_used = [name for powerup in section.powerups for name in powerup]
        for key, used, known in (("handlers", section.handlers or [], HANDLERS), ("powerups", powerups_used, POWERUPS)):
            for name in set(used) - known.keys():
                found.append(f"engine.{key}: there is no {name}; known are {', '.join(known)}")
        if not section.potcar_spec and not found:
            found += _missing_potcars(section, elements)
        return found

    def _incar(self, structure: Structure, fidelity: Fidelity, retry: Retry | None) -> dict[str, Any]:
        """User settings for the input set, in pymatgen's form: U by element; None takes a key out."""
        incar = BASE | dict.fromkeys(UNUSED) | {"ENCUT": self.section.cutoff, "NELM": self.section.max_iterations}
        incar |= self.section.incar
        if isinstance(retry, VaspRetry):
            incar |= retry.incar
        return incar | self._magnetic(structure, fidelity)

    def _magnetic(self, structure: Structure, fidelity: Fidelity) -> dict[str, Any]:
        u = {site.specie.symbol: self.magnetism.hubbard_u.get(site.specie.symbol, 0.0) for site in structure}
        if fidelity == "nonmagnetic":
            return {"ISPIN": 1, "MAGMOM": None, "LDAU": False} | dict.fromkeys(LDAU)
        if not any(u.values()):
            return {"ISPIN": 2, "LDAU": False} | dict.fromkeys(LDAU)
        # Dudarev's: only U - J counts
        entries = {
            "LDAUU": u,
            "LDAUJ": dict.fromkeys(u, 0.0),
            "LDAUL": {element: 2 if value else -1 for element, value in u.items()},
        }
        return {"ISPIN": 2, "LDAU": True, "LDAUTYPE": 2} | entries

    def _promise(self, structure: Structure, fidelity: Fidelity, maker: StaticMaker) -> dict[str, Any]:
        """What the input files must say (`mfal.dft.promise`). The fidelity's own keys do not pass through the Maker."""
        magnetic = self._magnetic(structure, fidelity)
        magnetic.pop("MAGMOM", None)
        generator = maker.input_set_generator
        incar = {key: value for key, value in generator.user_incar_settings.items() if key not in NUMERICS}
        incar |= {key: value for key, value in magnetic.items() if key not in LDAU}
        by_element = {key: magnetic[key] for key in LDAU if magnetic.get(key) is not None}
        incar |= {key: None for key in LDAU if key not in by_element}
        for key in (*by_element, "MAGMOM"):
            incar.pop(key, None)
        kpoints = generator.get_input_set(structure, potcar_spec=True).kpoints
        moments = structure.site_properties.get("magmom") if fidelity == "magnetic" else None
        return {
            "incar": incar,
            "by_element": by_element,
            "sites": [[site.specie.symbol for site in structure], moments],
            "kpoints": kpoints and [kpoints.style.name[:1], *(int(k) for k in kpoints.kpts[0])],
        }

    def _adopted(self, folder: Path, structure: Structure, fidelity: Fidelity, retry: Retry | None) -> Result | None:
        """The result of a run that VASP ended in this folder, of just these input files, while nobody was there."""
        ends = launch.launches(folder)
        promise = folder / launch.PROMISE
        if not ends or ends[-1].get("code") != 0 or not promise.is_file():
            return None
        maker = self.maker(structure, fidelity, retry)
        wanted = maker.write_additional_data[launch.PROMISE.replace(".", ":")]
        if json.loads(promise.read_text()) != json.loads(json.dumps(wanted)):
            return None
        try:
            return self.result(get_vasp_task_document(folder), structure, fidelity)
        except Exception:  # half an output: it is calculated again
            return None


def _unconverged(folder: Path) -> bool:
    """Whether the last output is whole but for its convergence."""
    for name in ("vasprun.xml", "vasprun.xml.gz"):
        try:
            return not Vasprun(
                folder / name, parse_dos=False, parse_eigen=False, parse_potcar_file=False
            ).converged_electronic
        except Exception:
            continue
    return False


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """What custodian says goes to a file beside VASP's, and not over a person's screen."""
    root, file = logging.getLogger(), logging.FileHandler(path)
    before, root.handlers = root.handlers, [file]
    try:
        yield
    finally:
        root.handlers = before
        file.close()


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _missing_potcars(section: Vasp, elements: Iterable[str]) -> list[str]:
    if not SETTINGS.get("PMG_VASP_PSP_DIR"):
        return ["engine: no POTCARs: set PMG_VASP_PSP_DIR in ~/.config/.pmgrc.yaml ('pmg config' does it)"]
    from pymatgen.io.vasp import PotcarSingle

    found = []
    chosen = StaticSetGenerator().config_dict["POTCAR"] | section.potcars
    for element in sorted(elements):
        try:
            PotcarSingle.from_symbol_and_functional(chosen[element], section.potcar_functional)
        except Exception as error:
            found.append(f"element {element}: no POTCAR {chosen.get(element, element)} ({error}): set engine.potcars")
    return found
