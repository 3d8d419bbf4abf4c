"""Examples in flat tensors on the device that they are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mfal.model.batch import Batch, PackedGraphs
from mfal.training.examples import Example


class Targets(NamedTuple):
    """The labels of a batch. What is absent is NaN, and the loss masks it."""

    energy: Tensor  # [B] eV/atom
    forces: Tensor  # [N, 3] eV/Å
    stress: Tensor  # [B, 3, 3] GPa
    magmoms: Tensor  # [N] µB


class PackedExamples:
    """Examples of the fidelities of a model, from which batches are cut.

    Args:
        fidelities: of the model; an example of another one is refused.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        fidelities: Sequence[str],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        foreign = sorted({example.fidelity for example in examples} - set(fidelities))
        if foreign:
            raise ValueError(f"examples of fidelity {', '.join(foreign)}: the model knows {', '.join(fidelities)}")
        self.examples, self.device = list(examples), torch.device(device)
        self._graphs = PackedGraphs([example.graph for example in examples], device=device, dtype=dtype)
        self._fidelity = torch.tensor([fidelities.index(example.fidelity) for example in examples], device=device)

        def packed(labels: list[Tensor]) -> Tensor:
            return torch.cat(labels).to(device=device, dtype=dtype)

        def label(value: Tensor | None, *shape: int) -> Tensor:
            return torch.full(shape, torch.nan) if value is None else value

        energies = [torch.nan if example.energy is None else example.energy for example in examples]
        self._targets = Targets(
            energy=torch.tensor(energies, device=device, dtype=dtype),
            forces=packed([label(example.forces, example.graph.atoms, 3) for example in examples]),
            stress=packed([label(example.stress, 3, 3)[None] for example in examples]),
            magmoms=packed([label(example.magmoms, example.graph.atoms) for example in examples]),
        )

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, picks: np.ndarray) -> tuple[Batch, Targets]:
        """The batch of some examples, by their numbers."""
        chosen = torch.as_tensor(picks).to(self._fidelity.device, non_blocking=True)
        atoms = self._graphs.rows("atom", picks, chosen).rows
        targets = Targets(
            energy=self._targets.energy[chosen],
            forces=self._targets.forces.index_select(0, atoms),
            stress=self._targets.stress[chosen],
            magmoms=self._targets.magmoms.index_select(0, atoms),
        )
        return self._graphs.batch(picks, self._fidelity[chosen]), targets
