"""CP2K: atomate2's own StaticMaker, at the gamma point of a cell repeated until that is dense enough.

CP2K has no +U with k-points (2023.1 stops). Gamma in an n-fold cell is the same as n gamma-centred k-points in the cell
itself, so a small cell is repeated and its result is folded back. Both fidelities do it, to be comparable.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase.units import Bohr, Hartree, bar, kB
from atomate2 import SETTINGS
from atomate2.cp2k.jobs.core import StaticMaker
from atomate2.cp2k.run import JobType
from atomate2.cp2k.schemas.calculation import CalculationInput
from atomate2.cp2k.sets.core import StaticSetGenerator
from jobflow import Maker
from monty.io import zopen
from monty.os.path import zpath
from pymatgen.core import Structure
from pymatgen.io.cp2k.inputs import Cp2kInput, DftPlusU
from pymatgen.io.cp2k.inputs import Section as InputSection

from flows.engines.contract import LaunchedEngine
from mfal.dft import launch
from mfal.dft.engines import Cp2k, Cp2kRetry, Retry
from mfal.dft.label import CalculationError, Result, order
from mfal.frames import Fidelity

# As atomate2 has it for VASP; its default for CP2K packs away the book of the launches, too.
SETTINGS.CP2K_ZIP_FILES = "atomate"
# atomate2 0.1.5: this validator calls `.upper()` on numbers in every spin-restricted calculation, which ends the job.
# What it is for, a mark on the others, nothing here reads.
CalculationInput.__pydantic_decorators__.field_validators.pop("cleanup_dft", None)
CalculationInput.model_rebuild(force=True)
#: eV/Å3 for the units that CP2K prints a stress in.
PRINTED = {"GPa": 1e4 * bar, "bar": bar}


@dataclass
class Cp2kStaticSet(StaticSetGenerator):
    """The stock static set, of a repeated cell, with +U and the multiplicity that the initial moments have."""

    hubbard_u: dict[str, float] = field(default_factory=dict)  # eV, U - J on d
    repeats: tuple[int, int, int] = (1, 1, 1)

    def get_input_updates(self, structure: Structure, *args: Any, **kwargs: Any) -> dict[str, Any]:
        updates = super().get_input_updates(structure, *args, **kwargs)
        total = round(sum(structure.site_properties.get("magmom", [0.0])))
        # Only where the search starts: with smearing the total moment is free. Cores are closed shells.
        odd = (int(sum(site.specie.Z for site in structure)) - total) % 2
        return updates | {"multiplicity": abs(total) - odd + 1 if abs(total) >= odd else 2}

    def _get_structure(self, structure: Structure) -> Structure:
        repeated = super()._get_structure(structure).make_supercell(self.repeats, in_place=False)
        if "magmom" in repeated.site_properties:
            moments = np.array(repeated.site_properties["magmom"], dtype=float) * _up(repeated)
            repeated.add_site_property("magmom", moments.tolist())
        return repeated

    def _get_input(self, *args: Any, **kwargs: Any) -> Cp2kInput:
        written = super()._get_input(*args, **kwargs)
        for kind in written["FORCE_EVAL"]["SUBSYS"].subsections.values():
            if kind.name == "KIND" and (u := self.hubbard_u.get(kind.specie)):
                kind.insert(DftPlusU(l=2, u_minus_j=u / Hartree))
        return written


class Cp2kEngine(LaunchedEngine[Cp2k]):
    program = "CP2K"

    def maker(self, structure: Structure, fidelity: Fidelity, retry: Retry | None = None) -> Maker:
        section, magnetic = self.section, fidelity == "magnetic"
        tuned = retry if isinstance(retry, Cp2kRetry) else Cp2kRetry(after=["failed"])
        elements = [element.symbol for element in structure.elements]
        kinds = {el: {"basis": section.basis, "potential": f"GTH-{section.functional}"} for el in elements}
        files = {"basis_filenames": ["BASIS_MOLOPT"], "potential_filename": "GTH_POTENTIALS"}
        scf = {
            "MAX_SCF": tuned.max_iterations or section.max_iterations,
            # never from what an earlier attempt left in the folder
            "SCF_GUESS": "ATOMIC",
            "PRINT": {"RESTART": InputSection("RESTART", section_parameters=["OFF"])},
        }
        # Of the shapes, atomic densities give moments like those in PAW spheres, and depend least on the basis.
        prints = {"HIRSHFELD": {"SHAPE_FUNCTION": "DENSITY"}}
        # Spin densities of 3d ions on the plain grid leave forces that add up to 0.25 eV/Å in 8 atoms.
        grid = {"XC_GRID": {"USE_FINER_GRID": True}}
        settings: dict[str, Any] = {
            "spin_polarized": magnetic,
            "xc_functionals": section.functional,
            "basis_and_potential": kinds | files,
            **{key: getattr(section, key) for key in ("cutoff", "rel_cutoff", "eps_default", "eps_scf")},
            # Orbital transformation needs a gap, which a non-magnetic oxide often lacks.
            "ot": False,
            "smearing": True,
            "elec_temp": section.smearing / kB,
            "alpha": tuned.mixing or section.mixing,
            "beta": 1.5,
            "nbuffer": 8,
            "n_simple_mix": 0,  # pymatgen's simple steps at first double the number of all
            **dict.fromkeys((f"print_{what}" for what in ("dos", "pdos", "mo_cubes", "v_hartree", "e_density")), False),
            "override_default_params": {"FORCE_EVAL": {"DFT": {"SCF": scf, "PRINT": prints, "XC": grid}}},
        }
        program = launch.command(section.timeout, f"{section.command} -i cp2k.inp")
        return StaticMaker(
            name=f"CP2K {fidelity}",
            input_set_generator=Cp2kStaticSet(
                user_input_settings=settings,
                user_kpoints_settings=None,  # gamma
                sort_structure=False,
                config_dict={"cp2k_input": {}},  # no defaults but ours: the fingerprint knows no others
                hubbard_u=dict(self.magnetism.hubbard_u) if magnetic else {},
                repeats=self._repeats(structure),
            ),
            write_input_set_kwargs={"optional_files": False},  # basis sets and potentials are CP2K's own
            # Without custodian: it ends a stuck CP2K by `killall`, everybody's, and changes settings unasked.
            run_cp2k_kwargs={
                "job_type": JobType.DIRECT,
                "cp2k_cmd": f"OMP_NUM_THREADS=${{OMP_NUM_THREADS:-1}} {program} > cp2k.out 2> std_err.txt",
            },
            stop_children_kwargs={"handle_unsuccessful": False},
        )

    def calculate(self, structure: Structure, fidelity: Fidelity, retry: Retry | None = None) -> Result:
        """As the contract says; what still runs in the folder is waited for, as two would write one output."""
        launch.finish_of_others(Path.cwd())
        for left in Path.cwd().glob("cp2k.*"):  # a crash must not find an older output and take it for its own
            left.unlink()
        return super().calculate(structure, fidelity, retry)

    def result(self, document: Any, structure: Structure, fidelity: Fidelity) -> Result:
        text = _output(Path.cwd())
        if "SCF run NOT converged" in text:
            raise CalculationError("unconverged", "no self-consistency: CP2K's SCF run did not converge")
        set_ = Cp2kStaticSet(sort_structure=False, repeats=self._repeats(structure))
        repeated = set_._get_structure(structure)
        places, n = order(repeated, document.output.structure), len(repeated) // len(structure)

        def folded(values: Any) -> Any:  # the images of a site are next to each other; its share is their mean
            return np.array(values, dtype=float)[places].reshape(len(structure), n, -1).mean(axis=1)

        unit, table = re.findall(r"STRESS\| Analytical stress tensor \[(\w+)\]\n.*\n((?:.*\n){3})", text)[-1]
        stress = np.array([line.split()[2:5] for line in table.splitlines()], dtype=float)
        # CP2K's total is the free energy; half of the entropy's share is the extrapolation to zero smearing.
        entropic = re.findall(r"Electronic entropic energy:\s+(\S+)", text)[-1:]
        smearing = float(entropic[0]) * Hartree if entropic else 0.0
        magmoms = None
        if fidelity == "magnetic":
            last = text.split("Hirshfeld Charges")[-1]
            rows = re.findall(r"^ +\d+ +\w+ +\d+ +\d+\.\d+ +\S+ +\S+ +(\S+) +\S+$", last, re.M)
            magmoms = (folded(rows)[:, 0] * _up(repeated)).tolist()
        return Result(
            code=f"CP2K {document.calcs_reversed[0].cp2k_version}",
            energy=(document.output.energy - smearing / 2) / n,
            forces=(folded(document.output.forces) * Hartree / Bohr).tolist(),
            # printed is the pressure tensor
            stress=(-stress * PRINTED[unit] / PRINTED["GPa"]).tolist(),
            magmoms=magmoms,
            wall_seconds=launch.seconds(Path.cwd()),
        )

    def stopped(self, error: Exception, launches: list[dict[str, Any]], seconds: float) -> CalculationError | None:
        last = launches[-1] if launches else {}
        if "end" not in last:  # never started, or killed with its launcher: the next run tries again
            return None
        text = _output(Path.cwd())
        if "SCF run NOT converged" in text:  # from 2024 on it stops there
            return CalculationError("unconverged", "no self-consistency: CP2K's SCF run did not converge", seconds)
        words = re.findall(r"^ \*.{9}[^*\n]{2,}(?=\*$)", text, re.M) if "[ABORT]" in text else [str(error)]
        why = " ".join(" ".join(words).replace("|", " ").split())[:300]
        return CalculationError("failed", f"CP2K stopped with exit code {last.get('code')}: {why}", seconds)

    def problems(self, elements: Iterable[str]) -> list[str]:  # noqa: ARG002
        words = shlex.split(os.path.expandvars(self.section.command))
        if words and shutil.which(words[0]):
            return []
        return [
            f"engine.command = {self.section.command!r}: there is no such program: install CP2K (apt-get install cp2k"
            " cp2k-data), or write the whole path"
        ]

    def _repeats(self, structure: Structure) -> tuple[int, int, int]:
        """Along each vector, until lattice planes are `length` apart."""
        spacings = 1 / np.array(structure.lattice.reciprocal_lattice_crystallographic.abc)
        a, b, c = (max(1, int(np.ceil(self.section.length / spacing - 1e-6))) for spacing in spacings)
        return a, b, c


def _up(structure: Structure) -> int:
    """-1 where the moments add up to less than nothing: CP2K's majority spin is always up, so all are turned over."""
    return -1 if sum(structure.site_properties.get("magmom", [0.0])) < 0 else 1


def _output(folder: Path) -> str:
    with zopen(zpath(str(folder / "cp2k.out")), "rt", encoding="utf-8") as file:
        return str(file.read())
