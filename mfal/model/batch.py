"""Many graphs in flat tensors, and batches cut out of them.

A batch is gathered by index arithmetic: the number of operations does not depend on how many graphs are in it, none
waits for the device, and graphs that are packed on a GPU never travel again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mfal.model.graph import Graph

Axis = Literal["atom", "bond", "edge", "short", "angle"]

#: The fields of a graph, by what they have a row for.
_FIELDS: dict[Axis, tuple[str, ...]] = {
    "atom": ("elements", "positions"),
    "bond": ("bond_from", "bond_to", "bond_shift"),
    "edge": ("edge_center", "edge_neighbor", "edge_bond"),
    "short": ("short_bond",),
    "angle": ("angle_center", "angle_first", "angle_second", "angle_sign"),
}
#: Fields that number rows of another axis; in a batch they are shifted by where their graph's rows begin.
_POINTS_TO: dict[str, Axis] = {
    "bond_from": "atom",
    "bond_to": "atom",
    "edge_center": "atom",
    "edge_neighbor": "atom",
    "edge_bond": "bond",
    "short_bond": "bond",
    "angle_center": "atom",
    "angle_first": "short",
    "angle_second": "short",
}


@dataclass(frozen=True)
class Batch:
    """B graphs as one; the fields of `Graph`, with indices into the batch."""

    fidelity: Tensor  # [B] the model's index
    atoms: Tensor  # [B] atoms in each graph, of the floating type
    graph: Tensor  # [N] the graph that an atom is in
    bond_graph: Tensor  # [U] the graph that a bond is in
    lattice: Tensor  # [B, 3, 3]
    volume: Tensor  # [B] Å3
    elements: Tensor
    positions: Tensor
    bond_from: Tensor
    bond_to: Tensor
    bond_shift: Tensor
    edge_center: Tensor
    edge_neighbor: Tensor
    edge_bond: Tensor
    short_bond: Tensor
    angle_center: Tensor
    angle_first: Tensor
    angle_second: Tensor
    angle_sign: Tensor

    @property
    def graphs(self) -> int:
        # Not len(), which would make a number of what a compiler leaves open.
        return self.fidelity.shape[0]


class Rows(NamedTuple):
    """The rows of one axis that a batch takes."""

    rows: Tensor  # in the packed tensor
    graph: Tensor  # the graph of the batch that each belongs to
    offsets: Tensor  # [B] where each graph begins in the batch


class PackedGraphs:
    """Graphs in flat tensors on one device."""

    def __init__(
        self, graphs: Sequence[Graph], *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        if not graphs:
            raise ValueError("there are no graphs to pack")
        self.device, self.dtype = torch.device(device), dtype
        self._fields: dict[str, Tensor] = {}
        self._counts: dict[Axis, Tensor] = {}
        self._starts: dict[Axis, Tensor] = {}
        #: Counts on the host: how long a batch gets is known without asking the device.
        self._host: dict[Axis, np.ndarray] = {}
        for axis, fields in _FIELDS.items():
            counts = np.array([len(getattr(graph, fields[0])) for graph in graphs])
            self._host[axis] = counts
            self._counts[axis] = torch.as_tensor(counts, device=device)
            self._starts[axis] = torch.as_tensor(np.cumsum(counts) - counts, device=device)
            for field in fields:
                self._fields[field] = self._tensor(np.concatenate([getattr(graph, field) for graph in graphs]))
        lattices = np.stack([graph.lattice for graph in graphs])
        self._lattice = self._tensor(lattices)
        self._volume = self._tensor(np.abs(np.linalg.det(lattices)))

    def _tensor(self, array: np.ndarray) -> Tensor:
        # Half the memory: a batch makes int64 of the indices when it shifts them.
        dtype = torch.int32 if np.issubdtype(array.dtype, np.integer) else self.dtype
        return torch.as_tensor(np.ascontiguousarray(array), dtype=dtype, device=self.device)

    def __len__(self) -> int:
        return len(self._volume)

    def atoms(self, picks: np.ndarray) -> int:
        """Of these graphs together."""
        return int(self._host["atom"][picks].sum())

    def rows(self, axis: Axis, picks: np.ndarray, on_device: Tensor) -> Rows:
        """The rows of the picked graphs along an axis.

        Args:
            picks: [B] numbers of graphs.
            on_device: the same, as a tensor.
        """
        total = int(self._host[axis][picks].sum())
        counts = self._counts[axis][on_device]
        offsets = counts.cumsum(0) - counts
        graph = torch.repeat_interleave(counts, output_size=total)
        shift = self._starts[axis][on_device] - offsets
        return Rows(torch.arange(total, device=self.device) + shift.index_select(0, graph), graph, offsets)

    def batch(self, picks: Sequence[int] | np.ndarray, fidelities: Tensor) -> Batch:
        """The batch of some graphs, in that order; a graph may be picked more than once.

        Args:
            picks: [B] numbers of graphs.
            fidelities: [B] the model's index of the fidelity of each, on the device of the graphs.
        """
        chosen = np.asarray(picks, dtype=np.int64)
        on_device = torch.as_tensor(chosen).to(self.device, non_blocking=True)
        rows = {axis: self.rows(axis, chosen, on_device) for axis in _FIELDS}
        fields = {}
        for axis, names in _FIELDS.items():
            for name in names:
                values = self._fields[name].index_select(0, rows[axis].rows)
                if name in _POINTS_TO:
                    values = values + rows[_POINTS_TO[name]].offsets.index_select(0, rows[axis].graph)
                fields[name] = values
        return Batch(
            fidelity=fidelities,
            atoms=self._counts["atom"][on_device].to(self.dtype),
            graph=rows["atom"].graph,
            bond_graph=rows["bond"].graph,
            lattice=self._lattice[on_device],
            volume=self._volume[on_device],
            **fields,
        )
