"""What each member of a committee predicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from chgnet.graph import CrystalGraph
from pymatgen.core import Structure

from mfal.frames import FIDELITIES, Frame
from mfal.model.multifidelity import MultiFidelityCHGNet

#: In one forward pass: about 2 GB, whatever the size of the frames. More is no faster on a CPU.
MOST_ATOMS = 128


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
    models: Sequence[MultiFidelityCHGNet],
    frames: Sequence[Frame | Structure],
    fidelities: Sequence[str] = FIDELITIES,
    *,
    batch_size: int = 16,
) -> list[Prediction]:
    """Predictions of a committee, one for each frame. Every member is left in evaluation mode."""
    if not models:
        raise ValueError("a committee needs at least one model")
    converter = models[0].graph_converter
    predictions = []
    for start in range(0, len(frames), batch_size):
        graphs = [
            converter(frame.structure, graph_id=frame.frame_id) if isinstance(frame, Frame) else converter(frame)
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
    models: Sequence[MultiFidelityCHGNet],
    graphs: Sequence[CrystalGraph],
    fidelities: Sequence[str],
    *,
    batch_size: int = 16,
) -> Iterator[dict[str, np.ndarray]]:
    """For each graph, at its own fidelity, CHGNet's e, f, s and m of every member: arrays [K, ...]."""
    for model in models:
        model.eval()
    for batch in _batches(graphs, batch_size):
        outputs = [_output(model, graphs[batch], fidelities[batch]) for model in models]
        for of_graph in zip(*outputs, strict=True):
            yield {key: np.stack([output[key] for output in of_graph]) for key in "efsm"}


def _batches(graphs: Sequence[CrystalGraph], batch_size: int) -> Iterator[slice]:
    """Consecutive graphs, at most `batch_size` with at most MOST_ATOMS atoms; a larger graph goes alone."""
    start = atoms = 0
    for i, graph in enumerate(graphs):
        atoms += len(graph.atomic_number)
        if i > start and (i - start == batch_size or atoms > MOST_ATOMS):
            yield slice(start, i)
            start, atoms = i, len(graph.atomic_number)
    if start < len(graphs):
        yield slice(start, len(graphs))


def _output(
    model: MultiFidelityCHGNet, graphs: Sequence[CrystalGraph], fidelities: Sequence[str]
) -> list[dict[str, np.ndarray]]:
    device = model.site_wise.weight.device
    output = model([graph.to(device) for graph in graphs], fidelity=fidelities, task="efsm")
    # Detached at once: what hangs on a force is the graph of its derivatives, hundreds of MB.
    arrays = {key: [tensor.detach().cpu().numpy() for tensor in output[key]] for key in "efsm"}
    return [{key: arrays[key][i] for key in "efsm"} for i in range(len(graphs))]
