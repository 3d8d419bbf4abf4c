"""The loss over what is labelled: an absent label neither pulls nor counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from mfal.config import Training
from mfal.model.batch import Batch
from mfal.model.engine import Output
from mfal.training.packed import Targets

#: Where the Huber loss turns from square to linear (eV/atom, eV/Å, GPa, µB), as CHGNet was trained.
HUBER = 0.1
QUANTITIES = ("energy", "forces", "stress", "magmoms")
#: From eV/atom, eV/Å, GPa and µB to the units that people read: meV/atom, meV/Å, GPa, µB.
UNITS = {"energy": 1e3, "forces": 1e3, "stress": 1.0, "magmoms": 1.0}


class Loss(NamedTuple):
    """Of one batch. The loss is the sum of `by_graph`, so a number that is not finite can be traced to its frame."""

    by_graph: Tensor  # [B]
    errors: Tensor  # [4] sum of the absolute errors of each quantity, in the order of QUANTITIES
    counts: Tensor  # [4] numbers labelled


class Heads(NamedTuple):
    """How the heads of a shallow committee share a batch."""

    weights: Tensor  # [B, H] what an example weighs for each head
    drawn: Tensor  # [B] the head that the forces and the stress are of


def weight_table(training: Training, fidelities: Sequence[str]) -> Tensor:
    """[F, 4] weights of the quantities, by fidelity."""
    table = [[getattr(training.weights_of(fidelity), quantity) for quantity in QUANTITIES] for fidelity in fidelities]
    return torch.tensor(table)


def loss(
    output: Output,
    targets: Targets,
    batch: Batch,
    weights: Tensor,
    *,
    kind: Literal["huber", "mse"] = "huber",
    heads: Heads | None = None,
) -> Loss:
    """The weighted sum of the mean losses: energies by frame, forces and stress by component, |m| by atom.

    Args:
        weights: [F, 4], see `weight_table`.
        heads: without it the energy is the mean of the heads'.
    """
    of_graph = weights.index_select(0, batch.fidelity)  # [B, 4]
    of_forces = of_graph if heads is None else of_graph * heads.weights.gather(1, heads.drawn[:, None])
    energy = output.energy.mean(dim=1, keepdim=True) if heads is None else output.energy
    energy_weights = of_graph[:, :1] if heads is None else of_graph[:, :1] * heads.weights
    atoms = batch.graph
    parts = [
        _part(energy, targets.energy[:, None].expand_as(energy), energy_weights, None, kind),
        _part(output.forces, targets.forces, of_forces[:, 1].index_select(0, atoms)[:, None], batch, kind),
        _part(output.stress.flatten(1), targets.stress.flatten(1), of_forces[:, 2:3], None, kind),
        _part(
            output.magmoms[:, None],
            targets.magmoms[:, None],
            of_graph[:, 3].index_select(0, atoms)[:, None],
            batch,
            kind,
        ),
    ]
    by_graph, errors, counts = (torch.stack(column) for column in zip(*parts, strict=True))
    return Loss(by_graph.sum(dim=0), errors, counts)


def _part(
    predicted: Tensor, target: Tensor, weights: Tensor, by_atom: Batch | None, kind: Literal["huber", "mse"]
) -> tuple[Tensor, Tensor, Tensor]:
    """What one quantity adds to the loss of each graph, the sum of its absolute errors, and how many it has.

    Args:
        predicted: [rows, columns]; a row is a graph, or an atom of the batch `by_atom`.
        weights: broadcast to that shape.
    """
    labelled = ~target.isnan()
    difference = torch.where(labelled, predicted - target, 0.0)
    zero = torch.zeros_like(difference)
    if kind == "huber":
        values = F.huber_loss(difference, zero, delta=HUBER, reduction="none")
    else:
        values = F.mse_loss(difference, zero, reduction="none")
    count = labelled.sum()
    by_row = (values * weights).sum(dim=1) / count.clamp(min=1)
    if by_atom is not None:
        by_row = torch.zeros_like(by_atom.volume).index_add(0, by_atom.graph, by_row)
    return by_row, difference.detach().abs().sum(), count.to(by_row.dtype)
