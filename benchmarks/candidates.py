"""Very many olivine frames with labels of a surrogate in place of DFT: what a report of ten thousand is tried on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from pymatgen.core import Structure
from rich.progress import track

from benchmarks.surrogate import STRAIN, label
from mfal.committee.calculator import MfalCalculator
from mfal.committee.predict import predict_each
from mfal.config_file import load
from mfal.dataset import write
from mfal.dft.engines import Surrogate
from mfal.explore.dynamics import snapshots
from mfal.explore.orderings import orderings
from mfal.explore.perturb import perturb
from mfal.frames import FIDELITIES, Fidelity, Frame, Label
from mfal.model.multifidelity import MultiFidelityCHGNet

CAMPAIGN = Path(__file__).resolve().parents[1] / "configs" / "lmfp-gpaw.yaml"
#: Å
RATTLES = (0.03, 0.06, 0.1, 0.15)
#: Runs of molecular dynamics at each temperature of the campaign, and frames taken of each; the rest are rattled.
RUNS, SNAPSHOTS, STEPS = 4, 100, 300


def build(path: Path, count: int, *, seed: int = 0) -> None:
    """Write frames of all orderings of the LMFP campaign, with what two pretrained CHGNets say of them, and costs."""
    frames = list(islice(_frames(np.random.default_rng(seed)), count))
    rng = np.random.default_rng([seed, 1])
    write(path, frames, [label for fidelity in FIDELITIES for label in _labels(frames, fidelity, rng)])


def _frames(rng: np.random.Generator) -> Iterator[Frame]:
    campaign = load(CAMPAIGN)
    settings = campaign.explore.md
    assert settings is not None
    settings = settings.model_copy(update={"steps": STEPS, "snapshots": SNAPSHOTS})
    (parent,) = campaign.parents
    cells = list(islice(orderings(parent, rng), 400))
    calculator = MfalCalculator(MultiFidelityCHGNet.from_pretrained("0.3.0"))

    def start() -> Structure:
        return cells[rng.integers(len(cells))]

    for temperature in track(settings.temperatures * RUNS, "molecular dynamics"):
        run = snapshots(start(), calculator, temperature=temperature, settings=settings, rng=rng)
        for structure in run:
            yield Frame.of(structure, parent=parent.name, source=f"md {temperature:g} K")
    while True:
        structure = perturb(start(), strain=STRAIN, rattle=float(rng.choice(RATTLES)), rng=rng)
        yield Frame.of(structure, parent=parent.name, source="strain and rattle")


def _labels(frames: list[Frame], fidelity: Fidelity, rng: np.random.Generator) -> Iterator[Label]:
    name = getattr(Surrogate(), fidelity)
    found = predict_each([MultiFidelityCHGNet.from_pretrained(name)], frames, [fidelity])
    for frame, seen in track(zip(frames, found, strict=True), f"{fidelity} labels", total=len(frames)):
        parts = {"e": seen.energy, "f": seen.forces, "s": seen.stress, "m": seen.magmoms}
        yield label(frame, fidelity, {key: part[0, 0] for key, part in parts.items()}, rng)
