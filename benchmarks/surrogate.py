"""Labels of a surrogate in place of DFT, so that anyone can try the benchmark of the rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, cycle, islice
from pathlib import Path

import numpy as np
from pymatgen.core import Structure

from mfal.config_file import load
from mfal.dataset import write
from mfal.dft.engines import Surrogate
from mfal.explore.orderings import orderings
from mfal.explore.perturb import perturb
from mfal.frames import FIDELITIES, Fidelity, Frame, Label
from mfal.model.multifidelity import pretrained

#: Its parents are disordered rock salt in cells of 4 and 8 atoms.
CAMPAIGN = Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"
STRAIN = 0.02
#: Å; a pool of one temperature would leave a rule little to choose.
RATTLES = (0.03, 0.06, 0.1, 0.15)
#: Core-hours of an atom squared, with a scatter of the logarithm.
COSTS: dict[Fidelity, float] = {"nonmagnetic": 1e-3, "magnetic": 3e-3}
SCATTER = 0.2


def build(path: Path, count: int, *, seed: int = 0) -> None:
    """Write rattled rock salt with labels of two pretrained CHGNets, and costs as plane-wave DFT has them."""
    rng = np.random.default_rng(seed)
    frames = [
        Frame.of(perturb(cell, strain=STRAIN, rattle=float(rng.choice(RATTLES)), rng=rng), parent=name, source="rattle")
        for name, cell in islice(_cells(rng), count)
    ]
    write(path, frames, [label for fidelity in FIDELITIES for label in _labels(frames, fidelity, rng)])


def _cells(rng: np.random.Generator) -> Iterator[tuple[str, Structure]]:
    """The orderings of all parents in turns, without end."""
    found = [[(parent.name, cell) for cell in orderings(parent, rng)] for parent in load(CAMPAIGN).parents]
    return chain.from_iterable(zip(*(cycle(cells) for cells in found), strict=True))


def _labels(frames: list[Frame], fidelity: Fidelity, rng: np.random.Generator) -> Iterator[Label]:
    name = getattr(Surrogate(), fidelity)
    for frame, found in zip(frames, pretrained(name).predict_structure([f.structure for f in frames]), strict=True):
        yield label(frame, fidelity, found, rng)


def label(frame: Frame, fidelity: Fidelity, found: Mapping[str, np.ndarray], rng: np.random.Generator) -> Label:
    """From what the fidelity's CHGNet predicts (`e` eV/atom, `f`, `s`, `m`), at a cost as plane-wave DFT has it."""
    atoms = len(frame.structure)
    return Label(
        frame_id=frame.frame_id,
        fidelity=fidelity,
        fingerprint=f"chgnet-{getattr(Surrogate(), fidelity)}",
        status="ok",
        energy=float(found["e"]) * atoms,
        forces=found["f"].tolist(),
        stress=found["s"].tolist(),
        magmoms=found["m"].tolist() if fidelity == "magnetic" else None,
        core_hours=COSTS[fidelity] * atoms**2 * float(np.exp(rng.normal(0.0, SCATTER))),
    )
