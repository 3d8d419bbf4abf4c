"""What each member of a committee predicts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from pymatgen.core import Structure

from mfal.frames import FIDELITIES, Frame
from mfal.model import engine
from mfal.model.batch import Batch, PackedGraphs
from mfal.model.delta import DeltaCHGNet, Model
from mfal.model.graph import Graph
from mfal.model.multifidelity import MultiFidelityCHGNet

#: In one forward pass: about 0.5 GB, whatever the size of the frames. More is no faster on a CPU.
MOST_ATOMS = 128
#: e, f, s and m of every member: [K, B], [K, N, 3], [K, B, 3, 3] and [K, N]; x of every model: [models, N, 64].
Values = dict[str, torch.Tensor]
T = TypeVar("T")


@dataclass(frozen=True)
class Prediction:
    """Of one frame, by K members at F fidelities."""

    fidelities: tuple[str, ...]
    energy: np.ndarray  # [K, F] eV/atom
    forces: np.ndarray  # [K, F, N, 3] eV/Å
    stress: np.ndarray  # [K, F, 3, 3] GPa, CHGNet's sign
    #: [K, F, N] µB, absolute; without labels of a fidelity that has moments it means what it did before training.
    magmoms: np.ndarray
    #: [D] what the models see in the frame at the last fidelity: mean and standard deviation over the atoms of the
    #: features that the readout takes, of every model, scaled to unit length.
    features: np.ndarray


def predict(
    models: Sequence[Model],
    frames: Sequence[Frame | Structure],
    fidelities: Sequence[str] = FIDELITIES,
    *,
    batch_size: int = 16,
) -> list[Prediction]:
    """Predictions of a committee, one for each frame; a model with several heads is as many members."""
    return list(predict_each(models, frames, fidelities, batch_size=batch_size))


def predict_each(
    models: Sequence[Model],
    frames: Iterable[Frame | Structure],
    fidelities: Sequence[str] = FIDELITIES,
    *,
    batch_size: int = 16,
) -> Iterator[Prediction]:
    """As `predict`, of frames that are read as they are needed: memory does not grow with their number."""
    for chunk in batched(frames, batch_size):
        graphs = [Graph.of(frame.structure if isinstance(frame, Frame) else frame) for frame in chunk]
        # All fidelities of a frame stand side by side in one pass.
        every = [graph for graph in graphs for _ in fidelities]
        values = members(models, every, [*fidelities] * len(graphs), batch_size=batch_size * len(fidelities))
        for of_frame in batched(values, len(fidelities)):
            arrays = {key: np.stack([value[key] for value in of_frame], axis=1) for key in "efsm"}
            yield Prediction(
                tuple(fidelities),
                energy=arrays["e"],
                forces=arrays["f"],
                stress=arrays["s"],
                magmoms=arrays["m"],
                features=_features(of_frame[-1]["x"]),
            )


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Consecutive items, `size` at a time."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _features(atoms: np.ndarray) -> np.ndarray:
    """Of a frame, from those of its atoms [models, N, 64]."""
    row = np.concatenate([atoms.mean(axis=1), atoms.std(axis=1)], axis=1).reshape(-1).astype(float)
    return row / np.linalg.norm(row)


def members(
    models: Sequence[Model], graphs: Sequence[Graph], fidelities: Sequence[str], *, batch_size: int = 16
) -> Iterator[dict[str, np.ndarray]]:
    """For each graph, at its own fidelity, CHGNet's e, f, s and m of every member, arrays [K, ...].

    Also, as x, the features of its atoms that every model gives to its readout [models, N, 64].

    Raises:
        ValueError: no model, or a model does not know a fidelity.
    """
    if not models:
        raise ValueError("a committee needs at least one model")
    for rows in _batches(graphs, batch_size):
        chosen, names = graphs[rows], fidelities[rows]
        outputs = [_of_model(model, chosen, names) for model in models]
        values = {key: torch.cat([output[key] for output in outputs]).cpu().numpy() for key in "efsmx"}
        ends = np.cumsum([graph.atoms for graph in chosen])
        for i, (graph, end) in enumerate(zip(chosen, ends, strict=True)):
            atoms = slice(end - graph.atoms, end)
            yield {
                "e": values["e"][:, i],
                "f": values["f"][:, atoms],
                "s": values["s"][:, i],
                "m": values["m"][:, atoms],
                "x": values["x"][:, atoms],
            }


def _batches(graphs: Sequence[Graph], batch_size: int) -> Iterator[slice]:
    """Consecutive graphs, at most `batch_size` with at most MOST_ATOMS atoms; a larger graph goes alone."""
    start = atoms = 0
    for i, graph in enumerate(graphs):
        atoms += graph.atoms
        if i > start and (i - start == batch_size or atoms > MOST_ATOMS):
            yield slice(start, i)
            start, atoms = i, graph.atoms
    if start < len(graphs):
        yield slice(start, len(graphs))


def _of_model(model: Model, graphs: Sequence[Graph], fidelities: Sequence[str]) -> Values:
    weight = next(model.parameters())
    index = torch.tensor([model.index(name) for name in fidelities], device=weight.device)
    packed = PackedGraphs(graphs, device=weight.device, dtype=weight.dtype)
    if isinstance(model, DeltaCHGNet):
        batch = packed.batch(range(len(graphs)), torch.zeros_like(index))
        low, difference = _of_batch(model.low, batch), _of_batch(model.difference, batch)
        high = {"e": index, "f": index[batch.graph][:, None], "s": index[:, None, None]}
        sums = {key: low[key] + is_high * difference[key] for key, is_high in high.items()}
        return sums | {
            "m": torch.where(index[batch.graph] == 1, difference["m"], low["m"]),
            "x": torch.cat([low["x"], difference["x"]]),
        }
    return _of_batch(model, packed.batch(range(len(graphs)), index))


def _of_batch(model: MultiFidelityCHGNet, batch: Batch) -> Values:
    if model.heads == 1:
        output = engine.predict(model, batch)
        return {
            "e": output.energy.T,
            "f": output.forces[None],
            "s": output.stress[None],
            "m": output.magmoms[None],
            "x": output.features[None],
        }
    output, forces, stress = engine.forces_by_head(model, batch)
    return {
        "e": output.energy.T,
        "f": forces,
        "s": stress,
        "m": output.magmoms.expand(model.heads, -1),
        "x": output.features[None],
    }
