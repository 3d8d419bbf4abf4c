"""What `benchmarks.overhead` has done: calculations that cost next to nothing, and a small campaign."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jobflow import Job
from pymatgen.core import Structure

from benchmarks.cells import olivines
from benchmarks.plain import calculated, plain
from flows.calculation import label_job
from mfal import dataset
from mfal.config import Campaign
from mfal.config_file import load
from mfal.dft.engines import Surrogate, Table
from mfal.dft.magnetism import Magnetism
from mfal.frames import Frame, Label

NAME, ROUNDS = "overhead", 4
CONFIGS = Path(__file__).parent.parent / "configs"
CELL = CONFIGS / "structures" / "rocksalt-4.cif"
MAGNETISM = Magnetism(hubbard_u={"Mn": 3.9, "Fe": 5.3}, moments={"Mn": 5.0, "Fe": 4.0})


@dataclass(frozen=True)
class Work:
    """Calculations that are to be done, each of a frame."""

    engine: Table | Surrogate
    frames: list[Frame]

    @classmethod
    def look_ups(cls, count: int, folder: Path) -> Work:
        """Of 28 atoms each; the labels are in a file, and their numbers made up."""
        frames = [Frame.of(structure, parent="olivine", source="rattle") for structure in olivines(count)]
        labels = [
            Label(
                frame_id=frame.frame_id,
                fidelity="nonmagnetic",
                fingerprint="made-up",
                status="ok",
                energy=-float(i),
                forces=frame.structure.frac_coords.tolist(),
                stress=frame.structure.lattice.matrix.tolist(),
                core_hours=1.0,
            )
            for i, frame in enumerate(frames)
        ]
        file = folder / f"finished-{count}.extxyz"
        dataset.write(file, frames, labels)
        return cls(Table(data=file), frames)

    @classmethod
    def predictions(cls, count: int) -> Work:
        """Of 4 atoms each."""
        cell = Structure.from_file(CELL)
        shifts = np.random.default_rng(0).normal(0, 0.01, (count, len(cell), 3))
        rattled = [Structure(cell.lattice, cell.species, cell.frac_coords + shift) for shift in shifts]
        return cls(Surrogate(), [Frame.of(one, parent="rock salt", source="rattle") for one in rattled])

    def labels(self) -> list[Job]:
        return [label_job(self.engine, MAGNETISM, frame, "nonmagnetic", NAME, 0) for frame in self.frames]

    def plain(self) -> list[Job]:
        return [plain(self.engine, frame) for frame in self.frames]

    def energies(self) -> list[float]:
        """What should come out."""
        return sorted(calculated(self.engine, frame)["energy"] for frame in self.frames)


def small_campaign(folder: Path, **changes: Any) -> Campaign:
    """Four rounds of the quickstart's cells on the surrogate; what is trained does not matter."""
    tree = load(CONFIGS / "quickstart.yaml").model_dump(mode="json")
    tree |= {"campaign": NAME, "directory": str(folder / "run"), "engine": {"kind": "surrogate"}}
    tree["training"] |= {"epochs": 1}
    tree["explore"] |= {"relax_steps": 1, "md": {"temperatures": [600], "steps": 2, "snapshots": 1}}
    tree |= {"stop": {"rounds": ROUNDS}}
    return Campaign.model_validate(tree | changes)
