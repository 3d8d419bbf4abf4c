"""The loss over what is labelled: an absent label neither pulls nor counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mfal.config import LossWeights
from mfal.training.examples import Example

#: Where the Huber loss turns from square to linear (eV/atom, eV/Å, GPa, µB), as CHGNet was trained.
HUBER = 0.1

_LABEL: dict[str, Callable[[Example], Any]] = {
    "energy": lambda example: example.energy,
    "forces": lambda example: example.forces,
    "stress": lambda example: example.stress,
    "magmoms": lambda example: example.magmoms,
}
#: The letters of CHGNet's tasks and keys of its predictions.
LETTER = {"energy": "e", "forces": "f", "stress": "s", "magmoms": "m"}


def task(examples: Sequence[Example]) -> str:
    """What has to be predicted for these examples: a stress that nobody labelled would cost a gradient."""
    return "".join(
        letter
        for name, letter in LETTER.items()
        if name == "energy" or any(_LABEL[name](example) is not None for example in examples)
    )


def residuals(prediction: Mapping[str, Any], examples: Sequence[Example]) -> dict[str, Tensor]:
    """Prediction minus label, flat, of every number that is labelled; quantities with none are not in it."""
    result = {}
    for name, letter in LETTER.items():
        labelled = [
            (prediction[letter][i], label)
            for i, example in enumerate(examples)
            if (label := _LABEL[name](example)) is not None
        ]
        if labelled:
            result[name] = torch.cat(
                [(value - torch.as_tensor(label).to(value)).reshape(-1) for value, label in labelled]
            )
    return result


def loss(differences: Mapping[str, Tensor], weights: LossWeights) -> Tensor:
    """The weighted sum of the mean Huber losses: energies by frame, forces and stress by component, |m| by atom."""
    terms = [
        getattr(weights, name) * torch.nn.functional.huber_loss(difference, torch.zeros_like(difference), delta=HUBER)
        for name, difference in differences.items()
    ]
    return torch.stack(terms).sum()
