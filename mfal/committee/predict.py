"""What each member of a committee predicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
#: e, f, s and m of every member: [K, B], [K, N, 3], [K, B, 3, 3] and [K, N].
Values = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Prediction:
    """Of one frame, by K members at F fidelities."""

    fidelities: tuple[str, ...]
    energy: np.ndarray  # [K, F] eV/atom
    forces: np.ndarray  # [K, F, N, 3] eV/Å
    stress: np.ndarray  # [K, F, 3, 3] GPa, CHGNet's sign
    #: [K, F, N] µB, absolute; without labels of a fidelity that has moments it means what it did before training.
    magmoms: np.ndarray


def predict(
    models: Sequence[Model],
    frames: Sequence[Frame | Structure],
    fidelities: Sequence[str] = FIDELITIES,
    *,
    batch_size: int = 16,
) -> list[Prediction]:
    """Predictions of a committee, one for each frame; a model with several heads is as many members."""
    predictions = []
    for start in range(0, len(frames), batch_size):
        graphs = [
            Graph.of(frame.structure if isinstance(frame, Frame) else frame)
            for frame in frames[start : start + batch_size]
        ]
        # values[fidelity][frame][quantity][member, ...]
        values = [list(members(models, graphs, [name] * len(graphs), batch_size=batch_size)) for name in fidelities]
        for of_frame in zip(*values, strict=True):
            arrays = {key: np.stack([value[key] for value in of_frame], axis=1) for key in "efsm"}
            predictions.append(
                Prediction(
                    tuple(fidelities),
                    energy=arrays["e"],
                    forces=arrays["f"],
                    stress=arrays["s"],
                    magmoms=arrays["m"],
                )
            )
    return predictions


def members(
    models: Sequence[Model], graphs: Sequence[Graph], fidelities: Sequence[str], *, batch_size: int = 16
) -> Iterator[dict[str, np.ndarray]]:
    """For each graph, at its own fidelity, CHGNet's e, f, s and m of every member: arrays [K, ...].

    Raises:
        ValueError: no model, or a model does not know a fidelity.
    """
    if not models:
        raise ValueError("a committee needs at least one model")
    for rows in _batches(graphs, batch_size):
        chosen, names = graphs[rows], fidelities[rows]
        outputs = [_of_model(model, chosen, names) for model in models]
        values = {key: torch.cat([output[key] for output in outputs]).cpu().numpy() for key in "efsm"}
        ends = np.cumsum([graph.atoms for graph in chosen])
        for i, (graph, end) in enumerate(zip(chosen, ends, strict=True)):
            atoms = slice(end - graph.atoms, end)
            yield {
                "e": values["e"][:, i],
                "f": values["f"][:, atoms],
                "s": values["s"][:, i],
                "m": values["m"][:, atoms],
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
        return sums | {"m": torch.where(index[batch.graph] == 1, difference["m"], low["m"])}
    return _of_batch(model, packed.batch(range(len(graphs)), index))


def _of_batch(model: MultiFidelityCHGNet, batch: Batch) -> Values:
    if model.heads == 1:
        output = engine.predict(model, batch)
        return {"e": output.energy.T, "f": output.forces[None], "s": output.stress[None], "m": output.magmoms[None]}
    output, forces, stress = engine.forces_by_head(model, batch)
    return {
        "e": output.energy.T,
        "f": forces,
        "s": stress,
        "m": output.magmoms.expand(model.heads, -1),
    }
