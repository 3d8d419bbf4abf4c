"""A committee as an ASE calculator: its mean drives relaxations and molecular dynamics, its spread says how far to
trust them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from ase.units import GPa
from pymatgen.core import Lattice, Structure

from mfal.committee.files import load
from mfal.committee.predict import members
from mfal.model.delta import Model
from mfal.model.graph import Graph
from mfal.training.trainer import device as place


class MfalCalculator(Calculator):
    """Energy (eV), forces (eV/Å), stress (eV/Å3, Voigt) and magnetic moments (µB, absolute): the mean of a committee.

    With more than one member `results` also holds their standard deviations: `energy_std` (eV) and `forces_std` [N, 3]
    (eV/Å). Periodic in all directions, whatever the atoms say: CHGNet knows crystals only.

    Args:
        models: one model or several; a model with several heads is as many members.
        fidelity: by default the last, most expensive one of the first model.

    Raises:
        ValueError: no model, or one does not know the fidelity.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress", "magmoms"]  # noqa: RUF012 (as ASE has it)

    def __init__(self, models: Model | Sequence[Model], *, fidelity: str | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.models = list(models) if isinstance(models, Sequence) else [models]
        if not self.models:
            raise ValueError("a committee needs at least one model")
        self.fidelity = self.models[0].fidelities[-1] if fidelity is None else fidelity
        for model in self.models:
            model.index(self.fidelity)

    @classmethod
    def from_files(
        cls,
        paths: Path | str | Sequence[Path | str],
        *,
        fidelity: str | None = None,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        **arguments: Any,
    ) -> MfalCalculator:
        """The calculator of safetensors files, or of folders of members that `mfal train` wrote.

        Raises:
            ValueError: a file cannot be used, or a model does not know the fidelity.
        """
        listed = [paths] if isinstance(paths, Path | str) else paths
        models = [model.to(place(device)) for path in listed for model in load(path)]
        return cls(models, fidelity=fidelity, **arguments)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Everything at once: the forces and the stress come from one gradient.

        Raises:
            ValueError: the cell is not three-dimensional, or an atom has no neighbour.
        """
        super().calculate(atoms, properties, system_changes)
        (values,) = members(self.models, [Graph.of(_structure(self.atoms))], [self.fidelity])
        # float64: what float32 leaves of a difference of energies is noise
        energies = values["e"].astype(float) * len(self.atoms)
        forces = values["f"].astype(float)
        self.results = {
            "energy": float(energies.mean()),
            "free_energy": float(energies.mean()),
            "forces": forces.mean(axis=0),
            "stress": full_3x3_to_voigt_6_stress(values["s"].astype(float).mean(axis=0)) * GPa,
            "magmoms": values["m"].astype(float).mean(axis=0),
        }
        if len(energies) > 1:
            self.results["energy_std"] = float(energies.std(ddof=1))
            self.results["forces_std"] = forces.std(axis=0, ddof=1)


def _structure(atoms: Atoms) -> Structure:
    if atoms.cell.rank < 3:
        raise ValueError(f"cell = {atoms.cell.array.tolist()}: CHGNet knows crystals only: set three cell vectors")
    return Structure(
        Lattice(atoms.cell.array), atoms.get_chemical_symbols(), atoms.positions, coords_are_cartesian=True
    )
