"""How far the mean of a committee is from labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from mfal.committee.predict import members
from mfal.frames import FIDELITIES, Errors, Fidelity
from mfal.model.multifidelity import MultiFidelityCHGNet
from mfal.training.examples import Example
from mfal.training.loss import LETTER, residuals
from mfal.training.trainer import UNITS


def errors(models: Sequence[MultiFidelityCHGNet], examples: Sequence[Example]) -> dict[Fidelity, Errors]:
    """Mean absolute errors of the committee's mean, by fidelity.

    Energies are averaged over frames, forces and stress over components, moments over atoms: all atoms, of which those
    without a moment are easy.
    """
    differences: dict[Fidelity, dict[str, list[torch.Tensor]]] = {name: {} for name in FIDELITIES}
    frames = dict.fromkeys(FIDELITIES, 0)
    for example, mean in _means(models, examples):
        frames[example.fidelity] += 1
        for name, difference in residuals({key: [value] for key, value in mean.items()}, [example]).items():
            differences[example.fidelity].setdefault(name, []).append(difference.abs())
    return {
        fidelity: Errors(
            frames=frames[fidelity],
            **{name: float(torch.cat(parts).mean()) * UNITS[name] for name, parts in differences[fidelity].items()},
        )
        for fidelity in FIDELITIES
    }


def parity(models: Sequence[MultiFidelityCHGNet], examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Labels beside the committee's mean, for plots: one dictionary for each example.

    `frame_id`, `fidelity`, and [true, predicted] of `energy` (eV/atom), `forces` (eV/Å, flat lists) and `magmoms`
    (µB, absolute); None where there is no label.
    """
    rows = []
    for example, mean in _means(models, examples):
        row: dict[str, Any] = {"frame_id": example.frame_id, "fidelity": example.fidelity}
        for name, label in (("energy", example.energy), ("forces", example.forces), ("magmoms", example.magmoms)):
            row[name] = None if label is None else [_plain(label), _plain(mean[LETTER[name]])]
        rows.append(row)
    return rows


def _plain(value: Any) -> float | list[float]:
    """A number, or a flat list of numbers."""
    array = np.asarray(value, dtype=float)
    return array.item() if array.ndim == 0 else array.reshape(-1).tolist()


def _means(
    models: Sequence[MultiFidelityCHGNet], examples: Sequence[Example]
) -> Iterator[tuple[Example, dict[str, torch.Tensor]]]:
    graphs = [example.graph for example in examples]
    fidelities = [example.fidelity for example in examples]
    for example, values in zip(examples, members(models, graphs, fidelities), strict=True):
        yield example, {key: torch.as_tensor(value.mean(axis=0)) for key, value in values.items()}
