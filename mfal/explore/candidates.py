"""One round of exploration: from parents and the current model to a few diverse, new, physical frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import cycle, islice

import numpy as np
import torch
from ase.calculators.calculator import Calculator
from chgnet.model.model import CHGNet
from pydantic import Field
from pymatgen.core import Structure

from mfal.committee.calculator import MfalCalculator
from mfal.config import Explore, Parent
from mfal.explore.diverse import features, novel
from mfal.explore.dynamics import relax, snapshots
from mfal.explore.orderings import orderings
from mfal.explore.perturb import perturb
from mfal.explore.physical import unphysical
from mfal.frames import Document, Frame, Label
from mfal.model.multifidelity import MultiFidelityCHGNet


class Exploration(Document):
    """The frames of one round and what was left out."""

    frames: list[Frame]
    candidates: int
    dropped: dict[str, int] = Field(default_factory=dict)
    #: Labels that earlier rounds went on without and that have come in since, by the uuid of their job.
    late: dict[str, Label] = Field(default_factory=dict)


def explore(
    parents: Sequence[Parent],
    settings: Explore,
    *,
    force_field: CHGNet,
    pretrained: CHGNet,
    known: Sequence[Structure] = (),
    seed: Sequence[int],
) -> Exploration:
    """Candidates of a round: strained and rattled copies of relaxed orderings, snapshots of molecular dynamics.

    Deterministic from `seed` on one machine (torch's threads change the last digits of a trajectory elsewhere).

    Args:
        force_field: drives relaxation and dynamics; the current committee's first member, folded.
        pretrained: describes frames for the comparison with each other and with `known`.
        known: structures of earlier rounds; their near-duplicates are dropped.
    """
    rng = np.random.default_rng(list(seed))
    torch.manual_seed(int(rng.integers(2**31)))
    # The same numbers as CHGNet's own calculator in a third of the time.
    calculator = MfalCalculator(MultiFidelityCHGNet.from_pretrained(force_field, fidelities=["magnetic"], parts=""))
    pool = [
        Frame.of(structure, parent=parent, source=source)
        for parent, source, structure in _pool(parents, settings, calculator, rng)
        if np.isfinite(structure.cart_coords).all()
    ]
    dropped: Counter[str] = Counter()
    physical: dict[str, Frame] = {}
    for frame in pool:
        if reason := unphysical(frame.structure, settings):
            dropped[reason] += 1
        else:
            physical[frame.frame_id] = frame
    frames = list(physical.values())
    chosen = novel(
        features([frame.structure for frame in frames], pretrained),
        features(list(known), pretrained),
        count=settings.frames,
        tolerance=settings.duplicate,
    )
    if len(chosen) < settings.frames:
        dropped["near-duplicate"] = len(pool) - sum(dropped.values()) - len(chosen)
    else:
        dropped["less diverse"] = len(pool) - sum(dropped.values()) - len(chosen)
    return Exploration(
        frames=[frames[i] for i in chosen], candidates=len(pool), dropped={k: n for k, n in dropped.items() if n}
    )


def _pool(
    parents: Sequence[Parent], settings: Explore, calculator: Calculator, rng: np.random.Generator
) -> list[tuple[str, str, Structure]]:
    """Every candidate of the round as (parent, source, structure)."""
    generators = {parent.name: orderings(parent, rng) for parent in parents}
    pool: list[tuple[str, str, Structure]] = []
    starts: list[tuple[str, Structure]] = []
    for name in islice(cycle(generators), settings.orderings):
        ordering = next(generators[name], None)
        if ordering is None:
            continue
        if settings.relax_steps:
            ordering = relax(ordering, calculator, steps=settings.relax_steps)
        starts.append((name, ordering))
        if not settings.perturbations:
            pool.append((name, "ordering", ordering))
        # An ordering on its ideal sites has no forces by symmetry, so its perturbed copies stand for it.
        for _ in range(settings.perturbations):
            perturbed = perturb(ordering, strain=settings.strain, rattle=settings.rattle, rng=rng)
            pool.append((name, "strain and rattle", perturbed))
    if settings.md and starts:
        for temperature in settings.md.temperatures:
            name, start = starts[rng.integers(len(starts))]
            run = snapshots(start, calculator, temperature=temperature, settings=settings.md, rng=rng)
            pool += [(name, f"md {temperature:g} K", snapshot) for snapshot in run]
    return pool
