"""The members of a committee: how they start, and their training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from mfal.config import Committee, Training
from mfal.model.multifidelity import MultiFidelityCHGNet
from mfal.training.examples import Example
from mfal.training.references import fit_reference_energies
from mfal.training.trainer import train

#: Of the standard deviation of each weight tensor: enough for members to differ, while 20% gives 75 eV/atom.
NOISE = 0.02

#: Called after each epoch with the member, the epoch and the entry of the log.
OnMemberEpoch = Callable[[int, int, dict[str, float]], None]


class TrainedMember(NamedTuple):
    model: MultiFidelityCHGNet
    log: list[dict[str, float]]
    seed: int


@torch.no_grad()
def perturb_readouts(model: MultiFidelityCHGNet, seed: int) -> None:
    """Add noise to the readout: to that of every fidelity, each its own.

    Members that start alike differ by the order of their batches only and agree on their mistakes. A readout left as
    it was would hide the spread of its fidelity, and the same noise in all would cancel in their difference.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.mlp.parameters():
        if parameter.numel() > 1:
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(NOISE * parameter.std() * noise.to(parameter.device))


def start_committee(committee: Committee, *, seed: int) -> list[MultiFidelityCHGNet]:
    """The members before they saw any label."""
    models = []
    for member in range(committee.members):
        model = MultiFidelityCHGNet.from_pretrained(committee.pretrained, parts=committee.parts)
        perturb_readouts(model, member_seed(seed, member))
        models.append(model.eval())
    return models


def train_committee(
    previous: Sequence[MultiFidelityCHGNet] | None,
    examples: Sequence[Example],
    committee: Committee,
    training: Training,
    *,
    seed: int,
    on_epoch: OnMemberEpoch | None = None,
) -> list[TrainedMember]:
    """Train every member on all examples, each in its own order; from the previous round's members if there are any.

    The reference energies are fitted before the first step, in every round: new labels determine more of them, and
    gradient descent leaves them alone. The previous models are not changed.

    Raises:
        ValueError: the previous committee is not the one that the settings describe.
    """
    if previous is None:
        models = start_committee(committee, seed=seed)
    else:
        found = [model.parts for model in previous]
        if found != [committee.parts] * committee.members:
            raise ValueError(
                f"the previous committee has members with parts {found}; the settings want {committee.members} with"
                f" {committee.parts!r}: start a new campaign to change them"
            )
        models = [copy.deepcopy(model) for model in previous]
    trained = []
    for member, model in enumerate(models):
        own_seed = member_seed(seed, member)
        fit_reference_energies(model, examples)
        log = train(model, examples, training, seed=own_seed, on_epoch=_for_member(on_epoch, member))
        trained.append(TrainedMember(model, log, own_seed))
    return trained


def member_seed(seed: int, member: int) -> int:
    """A member's own seed, which no neighbouring seed of a campaign or round shares."""
    return int(np.random.SeedSequence([seed, member]).generate_state(1)[0])


def _for_member(on_epoch: OnMemberEpoch | None, member: int) -> Callable[[int, dict[str, float]], None] | None:
    if on_epoch is None:
        return None
    return lambda epoch, entry: on_epoch(member, epoch, entry)
