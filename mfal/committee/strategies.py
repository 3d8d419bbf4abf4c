"""Four ways to learn the high fidelity from labels of two: ours, and those that it is measured against."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from chgnet.model import CHGNet
from torch import nn

from mfal.committee.members import member_seed, perturb_readouts
from mfal.committee.predict import members
from mfal.config import Committee, Training
from mfal.frames import FIDELITIES
from mfal.model.delta import DeltaCHGNet, Model
from mfal.model.multifidelity import MultiFidelityCHGNet
from mfal.training.checkpoint import Entry
from mfal.training.examples import Example
from mfal.training.trainer import train

Strategy = Literal["multi-fidelity", "high-only", "transfer", "delta"]
#: The trainings that a model of each takes, in their order.
STAGES: dict[Strategy, tuple[str, ...]] = {
    "multi-fidelity": ("both",),
    "high-only": ("high",),
    "transfer": ("low", "high"),
    "delta": ("low", "difference"),
}
LOW, HIGH = FIDELITIES
#: Called after each epoch with the model's number, the stage, the epoch and the entry of the log.
OnStageEpoch = Callable[[int, str, int, Entry], None]


def train_strategy(
    strategy: Strategy,
    examples: Sequence[Example],
    committee: Committee,
    training: Training,
    *,
    seed: int,
    start: CHGNet | None = None,
    low: Training | None = None,
    hold_out: Sequence[Example] = (),
    directory: Path | None = None,
    on_epoch: OnStageEpoch | None = None,
) -> list[Model]:
    """A committee trained by one strategy (arXiv 2511.11361, Fig. 5 compares them), on the CPU in evaluation mode.

    - `multi-fidelity`: one model of both fidelities on all labels.
    - `high-only`: a plain CHGNet on the magnetic labels alone.
    - `transfer`: a plain CHGNet on the non-magnetic labels, then on the magnetic ones.
    - `delta`: a plain CHGNet on the non-magnetic labels, and another on what it misses of the magnetic ones. So a
      magnetic label needs no non-magnetic partner; where it has one, the first model was trained on it.

    All of them start from the same pretrained model, with the same noise on the readout, and take every stage for the
    same number of epochs.

    Args:
        start: in place of the committee's pretrained model; `CHGNet()` has random weights.
        low: in place of `training`, for the first of two stages.
        directory: for the checkpoints and logs: `member-0/both` and so on.

    Raises:
        ValueError: labels are missing that the strategy needs, or it cannot have heads.
    """
    needed = {"multi-fidelity": (), "high-only": (HIGH,), "transfer": (LOW, HIGH), "delta": (LOW, HIGH)}[strategy]
    for name in needed:
        if not _of(examples, name):
            raise ValueError(f"strategy {strategy!r} needs {name} labels, and there is none to train on")
    if strategy == "delta" and committee.heads > 1:
        raise ValueError("committee.kind = 'shallow': strategy 'delta' has no heads to share; take kind: deep")
    of_low, of_high = ((_of(examples, name), _of(hold_out, name)) for name in (LOW, HIGH))
    trained: list[Model] = []
    for place in range(committee.models):
        own_seed = member_seed(seed, place)
        learn = partial(
            _learn,
            seed=own_seed,
            directory=directory and directory / f"member-{place}",
            on_epoch=on_epoch and partial(on_epoch, place),
        )
        model = MultiFidelityCHGNet.from_pretrained(
            start or committee.pretrained,
            fidelities=FIDELITIES if strategy == "multi-fidelity" else [HIGH],
            parts=committee.parts if strategy == "multi-fidelity" else "",
            heads=committee.heads,
        )
        perturb_readouts(model, own_seed)
        if strategy == "multi-fidelity":
            trained.append(learn(model, "both", examples, hold_out, training))
        elif strategy == "high-only":
            trained.append(learn(model, "high", *of_high, training))
        else:
            first = learn(_renamed(model, LOW), "low", *of_low, low or training)
            if strategy == "transfer":
                trained.append(learn(_renamed(first, HIGH), "high", *of_high, training))
            else:
                missed, held = (_missed(first, part) for part in of_high)
                difference = learn(_zero(model), "difference", missed, held, training)
                trained.append(DeltaCHGNet(first, difference).eval())
    return trained


def _learn(
    model: MultiFidelityCHGNet,
    stage: str,
    examples: Sequence[Example],
    hold_out: Sequence[Example],
    training: Training,
    *,
    seed: int,
    directory: Path | None,
    on_epoch: Callable[[str, int, Entry], None] | None,
) -> MultiFidelityCHGNet:
    train(
        model,
        examples,
        training,
        seed=seed,
        hold_out=hold_out,
        directory=directory and directory / stage,
        on_epoch=on_epoch and partial(on_epoch, stage),
    )
    return model.cpu()


def _of(examples: Sequence[Example], fidelity: str) -> list[Example]:
    return [example for example in examples if example.fidelity == fidelity]


def _renamed(model: MultiFidelityCHGNet, fidelity: str) -> MultiFidelityCHGNet:
    """The same model of one fidelity under another name."""
    renamed = copy.deepcopy(model)
    renamed.fidelities = (fidelity,)
    renamed.model_args["fidelities"] = [fidelity]
    return renamed


@torch.no_grad()
def _zero(model: MultiFidelityCHGNet) -> MultiFidelityCHGNet:
    """A model that predicts no energy, and so no force and no stress, from features that know chemistry."""
    zero = copy.deepcopy(model)
    zero.composition_model.fc.weight.zero_()
    for head in zero.heads_of(zero.fidelities[0]):
        last = [layer for layer in head.layers if isinstance(layer, nn.Linear)][-1]
        last.weight.zero_()
        last.bias.zero_()
    return zero


def _missed(low: MultiFidelityCHGNet, examples: Sequence[Example]) -> list[Example]:
    """The labels minus what the low model predicts; moments, which it knows nothing of, as they are."""
    graphs = [example.graph for example in examples]
    predictions = members([low], graphs, [LOW] * len(graphs))
    return [
        replace(
            example,
            energy=None if example.energy is None else example.energy - float(predicted["e"][0]),
            forces=None if example.forces is None else example.forces - torch.as_tensor(predicted["f"][0]),
            stress=None if example.stress is None else example.stress - torch.as_tensor(predicted["s"][0]),
        )
        for example, predicted in zip(examples, predictions, strict=True)
    ]
