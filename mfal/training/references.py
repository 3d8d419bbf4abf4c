"""The reference energies of each fidelity, from its labels.

A DFT code's raw energies differ from those that CHGNet was trained on by some constant for each element: several
eV/atom, which gradient descent would spend its time and the forces on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mfal.model.engine import predict_energies
from mfal.model.multifidelity import MultiFidelityCHGNet
from mfal.training.examples import Example
from mfal.training.packed import PackedExamples

BATCH = 16


@torch.no_grad()
def fit_reference_energies(model: MultiFidelityCHGNet, examples: Sequence[Example]) -> None:
    """Shift the reference energies of each fidelity to its labels; a fidelity without one keeps its own.

    Least squares of (E_DFT - E_model) per atom on the composition, of which the smallest solution is taken: the
    compositions of one campaign seldom determine every element (Li, P and O of a phosphate come in fixed proportions),
    and the smallest shift leaves alone what nothing is known of.

    A model without part C has one set of reference energies, and gets one fit to the labels of all fidelities: their
    common shift. What differs between fidelities is then for its other parts to learn.
    """
    labelled = [example for example in examples if example.energy is not None]
    if "C" not in model.parts:
        model.composition_model.fc.weight += _shift(model, labelled)
        return
    for index, fidelity in enumerate(model.fidelities):
        own = [example for example in labelled if example.fidelity == fidelity]
        model.composition_model.delta[index] += _shift(model, own)


def _shift(model: MultiFidelityCHGNet, examples: Sequence[Example]) -> torch.Tensor:
    """The smallest shift of each element's reference energy that brings the model to the labels."""
    weight = model.composition_model.fc.weight
    if not examples:
        return torch.zeros_like(weight[0])
    packed = PackedExamples(examples, model.fidelities, device=weight.device, dtype=weight.dtype)
    predicted = [
        predict_energies(model, packed.batch(picks)[0]).mean(dim=1).double().cpu()
        for picks in np.split(np.arange(len(examples)), range(BATCH, len(examples), BATCH))
    ]
    difference = np.array([example.energy for example in examples]) - torch.cat(predicted).numpy()
    composition = np.stack([_composition(example, weight.shape[1]) for example in examples])
    # Elements that no label has get exactly nothing: over all of them, round-off would give some of them 1e-32 eV.
    present = composition.any(axis=0)
    shift = np.zeros(weight.shape[1])
    shift[present], *_ = np.linalg.lstsq(composition[:, present], difference, rcond=1e-6)
    return torch.as_tensor(shift, dtype=weight.dtype, device=weight.device)


def _composition(example: Example, elements: int) -> np.ndarray:
    return np.bincount(example.graph.elements, minlength=elements) / example.graph.atoms
