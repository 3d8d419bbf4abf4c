"""Stock CHGNet and mfal, each doing the same work as it does it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from chgnet.graph import CrystalGraphConverter
from chgnet.trainer import Trainer
from pymatgen.core import Structure
from torch import Tensor, nn

from mfal.config import Training
from mfal.frames import FIDELITIES
from mfal.model import engine
from mfal.model.batch import PackedGraphs
from mfal.model.engine import Output
from mfal.model.graph import Graph
from mfal.model.multifidelity import MultiFidelityCHGNet, pretrained, silence
from mfal.training.examples import Example
from mfal.training.loss import Heads, Loss, weight_table
from mfal.training.packed import PackedExamples
from mfal.training.step import gradients

LEARNING_RATE = 1e-5  # so that no number of repeats leads the weights anywhere else


def labels(structures: Sequence[Structure]) -> dict[str, list[Tensor]]:
    """Made up, and complete, as stock CHGNet is fastest with."""
    draw = torch.Generator().manual_seed(0)
    sizes = [len(structure) for structure in structures]
    return {
        "e": [torch.tensor(-6.5) for _ in sizes],
        "f": [torch.randn(size, 3, generator=draw) / 2 for size in sizes],
        "s": [torch.randn(3, 3, generator=draw) for _ in sizes],
        "m": [torch.rand(size, generator=draw) for size in sizes],
    }


class Stock:
    """chgnet: graphs of its converter, steps of its Trainer."""

    def __init__(self, structures: Sequence[Structure], device: torch.device) -> None:
        self.model = pretrained("0.3.0").to(device)
        self.device = device
        converter = CrystalGraphConverter(atom_graph_cutoff=6, bond_graph_cutoff=3, algorithm="fast")
        self.graphs = [converter(structure) for structure in structures]
        targets = labels(structures)
        self.targets = {"e": torch.stack(targets["e"]), **{key: targets[key] for key in "fsm"}}
        self.trainer = Trainer(
            model=self.model,
            targets="efsm",
            criterion="Huber",
            optimizer="Adam",
            learning_rate=LEARNING_RATE,
            use_device=device.type,
        )

    def train(self) -> None:
        """One step of the Trainer, which prints as it goes."""
        with silence():
            self.trainer._train([(self.graphs, self.targets)], current_epoch=0)

    def derive(self) -> None:
        """What the Trainer does in a step, up to the gradients."""
        self.model.train()
        graphs = [graph.to(self.device) for graph in self.graphs]
        targets = {key: self.trainer.move_to(value, self.device) for key, value in self.targets.items()}
        value = self.trainer.criterion(targets, self.model(graphs, task="efsm"))
        value["loss"].item(), [value[f"{key}_MAE"].item() for key in "efsm"]
        self.model.zero_grad()
        value["loss"].backward()

    def predict(self) -> None:
        self.model.predict_graph(self.graphs, task="efsm", batch_size=len(self.graphs))


class Ours:
    """mfal: packed graphs and the step of its trainer. Every other label is of the other fidelity."""

    def __init__(self, structures: Sequence[Structure], device: torch.device, *, heads: int = 1) -> None:
        self.model = MultiFidelityCHGNet.from_pretrained(heads=heads).to(device)
        self.device = device
        self.graphs = [Graph.of(structure) for structure in structures]
        targets = labels(structures)
        self.examples = PackedExamples(
            [
                Example(
                    str(i),
                    FIDELITIES[i % 2],
                    graph,
                    float(targets["e"][i]),
                    forces=targets["f"][i],
                    stress=targets["s"][i],
                    magmoms=targets["m"][i],
                )
                for i, graph in enumerate(self.graphs)
            ],
            FIDELITIES,
            device=device,
        )
        self.picks = np.arange(len(self.graphs))
        self.fidelities = torch.arange(len(self.graphs), device=device) % 2
        self.weights = weight_table(Training(), FIDELITIES).to(device)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=LEARNING_RATE, fused=True)
        self.heads = None
        if heads > 1:
            ones = torch.ones(len(self.graphs), heads, device=device)
            self.heads = Heads(torch.empty_like(ones).exponential_(), torch.multinomial(ones, 1)[:, 0])
        #: Puts the gradients into the parameters; the compiled one is called alike.
        self.gradients = gradients

    def train(self) -> None:
        self.derive()
        nn.utils.clip_grad_norm_(self.parameters, 10.0)
        self.optimizer.step()

    def derive(self) -> Loss:
        """A step up to the gradients."""
        self.model.train()
        batch, targets = self.examples.batch(self.picks)
        return self.gradients(self.model, self.parameters, batch, targets, self.weights, kind="huber", heads=self.heads)

    def predict(self) -> Output:
        return self._on_host(engine.predict(self.model.eval(), self.batch()))

    def predict_heads(self) -> tuple[Tensor, ...]:
        """With forces and stress of every head."""
        output, *by_head = engine.forces_by_head(self.model.eval(), self.batch())
        return (*self._on_host(output), *(tensor.cpu() for tensor in by_head))

    def batch(self) -> engine.Batch:
        packed = PackedGraphs(self.graphs, device=self.device)
        return packed.batch(self.picks, self.fidelities)

    def _on_host(self, output: Output) -> Output:
        return Output(*(tensor.cpu() for tensor in output))
