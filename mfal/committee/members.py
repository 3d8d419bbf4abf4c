"""The members of a committee: how they start, and their training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mfal.config import Committee, Training
from mfal.model.multifidelity import MultiFidelityCHGNet
from mfal.training.examples import Example
from mfal.training.trainer import train

#: Of the standard deviation of each weight tensor: enough for members to differ, while 20% gives 75 eV/atom.
NOISE = 0.02

#: Called after each epoch with the model's number, the epoch and the entry of the log.
OnMemberEpoch = Callable[[int, int, dict[str, float]], None]


class TrainedMember(NamedTuple):
    model: MultiFidelityCHGNet
    log: list[dict[str, float]]
    seed: int


@torch.no_grad()
def perturb_readouts(model: MultiFidelityCHGNet, seed: int) -> None:
    """Add noise to the readout: to that of every fidelity and head, each its own.

    Members that start alike differ by the order of their batches only and agree on their mistakes. A readout left as
    it was would hide the spread of its fidelity, and the same noise in all would cancel in their difference.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.mlp.parameters():
        if parameter.numel() > 1:
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(NOISE * parameter.std() * noise.to(parameter.device))


def start_committee(committee: Committee, *, seed: int) -> list[MultiFidelityCHGNet]:
    """The models of a committee before they saw any label: one for each member, or one with a head for each."""
    models = []
    for place in range(committee.models):
        model = MultiFidelityCHGNet.from_pretrained(committee.pretrained, parts=committee.parts, heads=committee.heads)
        perturb_readouts(model, member_seed(seed, place))
        models.append(model.eval())
    return models


def train_committee(
    previous: Sequence[MultiFidelityCHGNet] | None,
    examples: Sequence[Example],
    committee: Committee,
    training: Training,
    *,
    seed: int,
    hold_out: Sequence[Example] = (),
    directory: Path | None = None,
    on_epoch: OnMemberEpoch | None = None,
) -> list[TrainedMember]:
    """Train every model on all examples, each in its own order; from the previous round's models if there are any.

    The previous models are not changed.

    Args:
        directory: for the checkpoints and logs, a folder for each model; see `mfal.training.trainer.train`.

    Raises:
        ValueError: the previous committee is not the one that the settings describe.
    """
    if previous is None:
        models = start_committee(committee, seed=seed)
    else:
        found = [(model.parts, model.heads) for model in previous]
        if found != [(committee.parts, committee.heads)] * committee.models:
            raise ValueError(
                f"the previous committee has models with (parts, heads) {found}; the settings want {committee.models}"
                f" with {(committee.parts, committee.heads)}: start a new campaign to change them"
            )
        models = [copy.deepcopy(model) for model in previous]
    trained = []
    for place, model in enumerate(models):
        own_seed = member_seed(seed, place)
        log = train(
            model,
            examples,
            training,
            seed=own_seed,
            hold_out=hold_out,
            directory=directory and directory / f"member-{place}",
            on_epoch=on_epoch and partial(on_epoch, place),
        )
        trained.append(TrainedMember(model, log, own_seed))
    return trained


def member_seed(seed: int, member: int) -> int:
    """A member's own seed, which no neighbouring seed of a campaign or round shares."""
    return int(np.random.SeedSequence([seed, member]).generate_state(1)[0])
