"""Training of one model: plain torch, one pass over the shuffled labels an epoch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch

from mfal.config import Training
from mfal.model.multifidelity import MultiFidelityCHGNet
from mfal.training.examples import Example
from mfal.training.loss import loss, residuals, task

#: Share of the steps in which the learning rate rises; the first steps from a pretrained model are the rough ones.
WARM_UP = 0.05
#: What is left of the learning rate at the end.
FLOOR = 0.01
#: On the deltas alone: where the labels say nothing, the fidelities go back to what they share.
DECAY = 1e-2
#: From eV/atom, eV/Å, GPa and µB to the units of the log.
UNITS = {"energy": 1e3, "forces": 1e3, "stress": 1.0, "magmoms": 1.0}

OnEpoch = Callable[[int, dict[str, float]], None]


def device(setting: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Where to train: `auto` is the GPU where there is one."""
    if setting == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(setting)


def train(
    model: MultiFidelityCHGNet,
    examples: Sequence[Example],
    settings: Training,
    *,
    seed: int,
    on_epoch: OnEpoch | None = None,
) -> list[dict[str, float]]:
    """Train a model in place; it stays on the device it was trained on, in evaluation mode.

    Every label counts alike, so a batch holds the fidelities in the proportion in which they are there. On a CPU the
    result is determined by the seed.

    Returns:
        One entry an epoch: `epoch`, `loss` and the mean absolute errors `energy` (meV/atom), `forces` (meV/Å),
        `stress` (GPa) and `magmoms` (µB) of the training set as the epoch went by; those without a label are left out.

    Raises:
        ValueError: no examples, or graphs with shorter cutoffs than the model's.
        FloatingPointError: a loss or gradient that is not finite; names the frames of the batch.
    """
    if not examples:
        raise ValueError("there is nothing to train on: no good labels")
    _check_cutoffs(model, examples)
    place = device(settings.device)
    model.to(place)
    examples = [replace(example, graph=example.graph.to(place)) for example in examples]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = _optimizer(model, settings.learning_rate)
    steps = settings.epochs * math.ceil(len(examples) / settings.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate(step, steps))
    generator = torch.Generator().manual_seed(seed)

    log = []
    model.train()
    for epoch in range(1, settings.epochs + 1):
        losses: list[float] = []
        errors: dict[str, list[torch.Tensor]] = defaultdict(list)
        for indices in torch.randperm(len(examples), generator=generator).split(settings.batch_size):
            batch = [examples[i] for i in indices.tolist()]
            prediction = model(
                [example.graph for example in batch],
                fidelity=[example.fidelity for example in batch],
                task=task(batch),
            )
            differences = residuals(prediction, batch)
            value = loss(differences, settings.weights)
            _check_finite("loss", value, batch)
            optimizer.zero_grad()
            # Only into the parameters: the positions of a graph are leaves that take gradients, too.
            value.backward(inputs=parameters)
            norm = torch.nn.utils.clip_grad_norm_(parameters, settings.gradient_clip)
            _check_finite("gradient", norm, batch)
            optimizer.step()
            schedule.step()
            losses.append(float(value.detach()))
            for name, difference in differences.items():
                errors[name].append(difference.detach().abs())
        entry = {"epoch": float(epoch), "loss": sum(losses) / len(losses)} | {
            name: float(torch.cat(difference).mean()) * UNITS[name] for name, difference in errors.items()
        }
        log.append(entry)
        if on_epoch is not None:
            on_epoch(epoch, entry)
    model.eval()
    return log


def _optimizer(model: MultiFidelityCHGNet, learning_rate: float) -> torch.optim.Optimizer:
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    deltas = [parameter for name, parameter in trained.items() if name.endswith(".delta")]
    shared = [parameter for name, parameter in trained.items() if not name.endswith(".delta")]
    groups = [{"params": shared, "weight_decay": 0.0}, {"params": deltas, "weight_decay": DECAY}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate)


def _learning_rate(step: int, steps: int) -> float:
    """The share of the learning rate at a step: a linear rise, then half a cosine down to the floor."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    progress = (step - warm_up) / max(1, steps - warm_up)
    return FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * progress)) / 2


def _check_cutoffs(model: MultiFidelityCHGNet, examples: Sequence[Example]) -> None:
    """A graph may reach further than the model, which gives the bonds beyond its cutoff no weight, but not less far."""
    converter = model.graph_converter
    for example in examples:
        graph = example.graph
        if (
            graph.atom_graph_cutoff < converter.atom_graph_cutoff
            or graph.bond_graph_cutoff < converter.bond_graph_cutoff
        ):
            raise ValueError(
                f"the graph of {example.frame_id} ends at {graph.atom_graph_cutoff} Å ({graph.bond_graph_cutoff} Å for"
                f" angles), before the model ({converter.atom_graph_cutoff} and {converter.bond_graph_cutoff} Å): make"
                " the examples with the model's graph_converter"
            )


def _check_finite(what: str, value: torch.Tensor, batch: Sequence[Example]) -> None:
    if not torch.isfinite(value):
        frames = ", ".join(f"{example.frame_id} ({example.fidelity})" for example in batch)
        raise FloatingPointError(f"the {what} is not finite in the batch of {frames}")
