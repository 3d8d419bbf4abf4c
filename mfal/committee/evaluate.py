"""How far the mean of a committee is from labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mfal.committee.predict import members
from mfal.frames import FIDELITIES, Errors, Fidelity
from mfal.model.delta import Model
from mfal.training.examples import Example
from mfal.training.loss import QUANTITIES, UNITS

#: Keys of predictions.
LETTERS = {"energy": "e", "forces": "f", "stress": "s", "magmoms": "m"}


def errors(models: Sequence[Model], examples: Sequence[Example]) -> dict[Fidelity, Errors]:
    """Mean absolute errors of the committee's mean, by fidelity.

    Energies are averaged over frames, forces and stress over components, moments over atoms: all atoms, of which those
    without a moment are easy.
    """
    rows = parity(models, examples)
    result = {}
    for fidelity in FIDELITIES:
        own = [row for row in rows if row["fidelity"] == fidelity]
        missed = {name: differences(own, name) for name in QUANTITIES}
        means = {name: float(np.abs(values).mean()) for name, values in missed.items() if len(values)}
        result[fidelity] = Errors(frames=len(own), **means)
    return result


def differences(rows: Sequence[dict[str, Any]], quantity: str) -> np.ndarray:
    """Predicted minus label of every number that is labelled, flat: meV/atom, meV/Å, GPa or µB."""
    pairs = [np.asarray(row[quantity]) for row in rows if row[quantity] is not None]
    return np.concatenate([(pair[1] - pair[0]).reshape(-1) for pair in pairs] or [np.zeros(0)]) * UNITS[quantity]


def parity(models: Sequence[Model], examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Labels beside the committee's mean, for plots: one dictionary for each example.

    `frame_id`, `fidelity`, and [true, predicted] of `energy` (eV/atom), and as flat lists of `forces` (eV/Å), `stress`
    (GPa) and `magmoms` (µB, absolute); None where there is no label.
    """
    rows = []
    for example, mean in _means(models, examples):
        row: dict[str, Any] = {"frame_id": example.frame_id, "fidelity": example.fidelity}
        for name, letter in LETTERS.items():
            label = getattr(example, name)
            row[name] = None if label is None else [_plain(label), _plain(mean[letter])]
        rows.append(row)
    return rows


def _plain(value: Any) -> float | list[float]:
    """A number, or a flat list of numbers."""
    array = np.asarray(value, dtype=float)
    return array.item() if array.ndim == 0 else array.reshape(-1).tolist()


def _means(models: Sequence[Model], examples: Sequence[Example]) -> Iterator[tuple[Example, dict[str, np.ndarray]]]:
    graphs = [example.graph for example in examples]
    fidelities = [example.fidelity for example in examples]
    for example, values in zip(examples, members(models, graphs, fidelities), strict=True):
        yield example, {key: value.mean(axis=0) for key, value in values.items()}
