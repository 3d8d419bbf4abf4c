"""Labels as the tensors that a model is trained on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mfal.frames import Fidelity, Frame, Label
from mfal.model.graph import Graph


@dataclass(frozen=True)
class Example:
    """One label. What the calculation did not give is None: never zero, and never NaN.

    Raises:
        ValueError: a number is not finite.
    """

    frame_id: str
    fidelity: Fidelity
    graph: Graph
    energy: float | None = None  # eV/atom
    forces: Tensor | None = None  # [N, 3] eV/Å
    stress: Tensor | None = None  # [3, 3] GPa, CHGNet's sign
    magmoms: Tensor | None = None  # [N] µB, absolute

    def __post_init__(self) -> None:
        for field in ("energy", "forces", "stress", "magmoms"):
            value = getattr(self, field)
            if value is not None and not torch.isfinite(torch.as_tensor(value)).all():
                raise ValueError(f"{field} of {self.frame_id} ({self.fidelity}): is not finite")


def examples(frames: Iterable[Frame], labels: Iterable[Label], *, other_states: bool = False) -> list[Example]:
    """The good labels, in their order; the labels of one frame share its graph.

    Args:
        frames: at least those of the good labels.
        labels: those that are not good are left out.
        other_states: keep those that converged in another magnetic state than asked for.

    Raises:
        ValueError: a label has a number that is not finite, a wrong shape, no number at all, or no frame; or labels of
            one fidelity are of different settings, which do not compare. Nothing is dropped or replaced in silence
            (chgnet's own dataset takes another item at random).
    """
    prints: dict[Fidelity, str] = {}
    by_id = {frame.frame_id: frame for frame in frames}
    graphs: dict[str, Graph] = {}
    result = []
    for label in labels:
        if not label.trainable(other_states):
            continue
        if prints.setdefault(label.fidelity, label.fingerprint) != label.fingerprint:
            raise ValueError(
                f"label of {label.frame_id} ({label.fidelity}): is of other settings ({label.fingerprint!r}) than those"
                f" before it ({prints[label.fidelity]!r}), which do not compare: keep the labels of one fingerprint"
            )
        if label.frame_id not in by_id:
            raise ValueError(f"label of {label.frame_id} ({label.fidelity}): there is no such frame")
        if label.frame_id not in graphs:
            graphs[label.frame_id] = Graph.of(by_id[label.frame_id].structure)
        result.append(_example(label, graphs[label.frame_id]))
    return result


def _example(label: Label, graph: Graph) -> Example:
    atoms = graph.atoms
    energy = _checked(label, "energy", label.energy, ())
    forces = _checked(label, "forces", label.forces, (atoms, 3))
    stress = _checked(label, "stress", label.stress, (3, 3))
    magmoms = _checked(label, "magmoms", label.magmoms, (atoms,))
    if energy is None and forces is None and stress is None and magmoms is None:
        raise ValueError(f"label of {label.frame_id} ({label.fidelity}): is good but has no numbers")
    return Example(
        frame_id=label.frame_id,
        fidelity=label.fidelity,
        graph=graph,
        energy=None if energy is None else float(energy) / atoms,
        forces=_tensor(forces),
        stress=_tensor(stress),
        # CHGNet gives the size of a moment, not its sign.
        magmoms=_tensor(None if magmoms is None else np.abs(magmoms)),
    )


def _checked(label: Label, field: str, value: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    if value is None:
        return None
    name = f"{field} of {label.frame_id} ({label.fidelity})"
    try:
        array = np.asarray(value, dtype=float)
    except ValueError as error:
        raise ValueError(f"{name}: is not an array of shape {shape}") from error
    if array.shape != shape:
        raise ValueError(f"{name}: has shape {array.shape}, not {shape}")
    return array


def _tensor(array: np.ndarray | None) -> Tensor | None:
    return None if array is None else torch.as_tensor(array, dtype=torch.float32)
