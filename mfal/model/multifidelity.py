"""CHGNet whose composition model (C), atom embedding (E), message passing (M) and readout (R) depend on the fidelity.

Follows arXiv 2511.11361. CHGNet's own forward runs unchanged: each place where the fidelity enters is a sub-module that
is replaced by a small subclass of it, which owns what the fidelity adds and looks up whose turn it is in a context that
all of them share. What is added starts at zero, so a new model predicts what the pretrained one does at every fidelity;
and all of it is a table look-up, so that one fidelity folds back into a stock CHGNet.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from chgnet.graph import CrystalGraph
from chgnet.model import CHGNet
from chgnet.model.composition_model import AtomRef
from chgnet.model.functions import MLP, GatedMLP
from torch import Tensor, nn

from mfal.frames import FIDELITIES

PARTS = "CEMR"
Rows = Literal["graph", "atom", "edge", "angle"]
#: Arguments that stock CHGNet does not know.
OWN_ARGUMENTS = ("fidelities", "parts")


class Context:
    """The fidelity of every row of the batch in hand. One object for all sub-modules of a model.

    A plain attribute and not a closure: `copy.deepcopy` of the model then copies it once, for all of them.
    """

    def __init__(self) -> None:
        self.rows: dict[Rows, Tensor] | None = None

    def __getitem__(self, rows: Rows) -> Tensor:
        if self.rows is None:
            raise RuntimeError("the fidelity is known only inside MultiFidelityCHGNet.forward: call the whole model")
        return self.rows[rows]


class FidelityAtomRef(AtomRef):
    """C: reference energies with a shift for each fidelity, fitted (`mfal.training.references`) and not trained."""

    def __init__(self, stock: AtomRef, fidelities: int, context: Context) -> None:
        super().__init__(is_intensive=stock.is_intensive, max_num_elements=stock.max_num_elements)
        self.fc, self.fitted, self.context = stock.fc, stock.fitted, context
        self.delta = nn.Parameter(torch.zeros(fidelities, stock.max_num_elements), requires_grad=False)

    def _get_energy(self, composition_feas: Tensor) -> Tensor:
        # CHGNet makes the composition float32 whatever the model is.
        composition = composition_feas.to(self.delta.dtype)
        return super()._get_energy(composition) + (composition * self.delta[self.context["graph"]]).sum(dim=1)

    def get_site_energies(self, graphs: list[CrystalGraph]) -> list[Tensor]:
        references = (self.fc.weight + self.delta[self.context["graph"]]).detach()
        return [reference[graph.atomic_number - 1] for reference, graph in zip(references, graphs, strict=True)]


class FidelityEmbedding(nn.Embedding):
    """E: the feature vector that an element starts with, shifted for each fidelity."""

    def __init__(self, stock: nn.Embedding, fidelities: int, context: Context) -> None:
        super().__init__(stock.num_embeddings, stock.embedding_dim, _weight=stock.weight)
        self.context = context
        self.delta = nn.Parameter(torch.zeros(fidelities, *stock.weight.shape))

    def forward(self, index: Tensor) -> Tensor:
        return super().forward(index) + self.delta[self.context["atom"], index]


class FidelityLinear(nn.Linear):
    """M: a bias for each fidelity in the first layer, the same as a one-hot fidelity concatenated to the message."""

    def __init__(self, stock: nn.Linear, fidelities: int, context: Context, rows: Rows) -> None:
        super().__init__(stock.in_features, stock.out_features)
        self.weight, self.bias, self.context, self.rows = stock.weight, stock.bias, context, rows
        self.delta = nn.Parameter(torch.zeros(fidelities, stock.out_features))

    def forward(self, message: Tensor) -> Tensor:
        return super().forward(message) + self.delta.index_select(0, self.context[self.rows])


class FidelityReadout(nn.ModuleList):
    """R: a copy of the readout for each fidelity."""

    def __init__(self, stock: nn.Module, fidelities: int, context: Context, rows: Rows) -> None:
        super().__init__(copy.deepcopy(stock) for _ in range(fidelities))
        self.context, self.rows = context, rows

    def forward(self, features: Tensor) -> Tensor:
        # All copies for all rows, then one of them for each: the readout is small beside the messages.
        energies = torch.stack([readout(features) for readout in self], dim=1)
        return energies[torch.arange(len(features), device=features.device), self.context[self.rows]]


class MultiFidelityCHGNet(CHGNet):
    """CHGNet at several fidelities; `fidelities` are in the order of their cost, `parts` is a subset of `CEMR`."""

    composition_model: AtomRef
    mlp: nn.Module

    def __init__(self, *, fidelities: Sequence[str] = FIDELITIES, parts: str = PARTS, **arguments: Any) -> None:
        if len(set(fidelities)) != len(fidelities) or not fidelities:
            raise ValueError(f"fidelities = {tuple(fidelities)} must be distinct names, at least one")
        if set(parts) - set(PARTS) or len(set(parts)) != len(parts):
            raise ValueError(f"parts = {parts!r} must be distinct letters of {PARTS}")
        with silence():
            super().__init__(**arguments)
        if not self.is_intensive or not isinstance(self.composition_model, AtomRef):
            raise ValueError("only a CHGNet of energies per atom with reference energies (AtomRef) can be extended")
        self.model_args |= {"fidelities": list(fidelities), "parts": parts}
        self.fidelities, self.parts = tuple(fidelities), parts
        self.context = Context()
        self._extend()

    def _extend(self) -> None:
        """Replace the sub-modules that a fidelity enters."""
        count = len(self.fidelities)
        if "C" in self.parts:
            self.composition_model = FidelityAtomRef(self.composition_model, count, self.context)
        if "E" in self.parts:
            self.atom_embedding.embedding = FidelityEmbedding(self.atom_embedding.embedding, count, self.context)
        if "M" in self.parts:
            # Before the gate and the smooth weight of a bond: a bias behind them makes the energy jump when an atom
            # crosses the cutoff (chgnet issue 79). Nothing reads what the last angle layer gives.
            layers: list[tuple[Rows, GatedMLP]] = [
                *(("edge", layer.twoBody_atom) for layer in self.atom_conv_layers),
                *(("angle", layer.twoBody_bond) for layer in self.bond_conv_layers if layer is not None),
                *(("angle", layer.twoBody_bond) for layer in list(self.angle_layers)[:-1] if layer is not None),
            ]
            for rows, gated in layers:
                for mlp in (gated.mlp_core, gated.mlp_gate):
                    _extend_first_linear(mlp, count, self.context, rows)
        if "R" in self.parts:
            self.mlp = FidelityReadout(self.mlp, count, self.context, "atom" if self.mlp_first else "graph")

    def forward(
        self,
        graphs: Sequence[CrystalGraph],
        *,
        fidelity: str | Sequence[str] | None = None,
        **arguments: Any,
    ) -> dict[str, Tensor]:
        """CHGNet's forward (`task="efsm"` and so on) at one fidelity, or at one for each graph.

        None is the last and most expensive fidelity, so that whatever drives a stock CHGNet gets the best there is.
        """
        index = self._indices(fidelity, len(graphs))

        def spread(rows: list[int]) -> Tensor:
            return index.repeat_interleave(torch.tensor(rows, device=index.device))

        self.context.rows = {
            "graph": index,
            "atom": spread([len(graph.atomic_number) for graph in graphs]),
            "edge": spread([len(graph.atom_graph) for graph in graphs]),
            "angle": spread([len(graph.bond_graph) for graph in graphs]),
        }
        try:
            return super().forward(graphs, **arguments)
        finally:
            self.context.rows = None

    def _indices(self, fidelity: str | Sequence[str] | None, graphs: int) -> Tensor:
        if fidelity is None:
            fidelity = self.fidelities[-1]
        names = [fidelity] * graphs if isinstance(fidelity, str) else list(fidelity)
        if len(names) != graphs:
            raise ValueError(f"{len(names)} fidelities for {graphs} graphs: give one name, or one for each graph")
        return torch.tensor([self.index(name) for name in names], device=self.site_wise.weight.device)

    def index(self, fidelity: str) -> int:
        if fidelity not in self.fidelities:
            raise ValueError(f"fidelity {fidelity!r} is not one of this model's: {', '.join(self.fidelities)}")
        return self.fidelities.index(fidelity)

    @classmethod
    def from_pretrained(
        cls, model: CHGNet | str = "0.3.0", *, fidelities: Sequence[str] = FIDELITIES, parts: str = PARTS
    ) -> MultiFidelityCHGNet:
        """A model that at every fidelity predicts what the stock one does."""
        if isinstance(model, str):
            model = pretrained(model)
        own = cls(fidelities=fidelities, parts=parts, **model.model_args)
        state = own.state_dict()  # for the deltas, which are zero
        for name, tensor in model.state_dict().items():
            for own_name in own._names(name):
                state[own_name] = tensor
        own.load_state_dict(state)
        return own.to(model.site_wise.weight)

    def _names(self, stock_name: str) -> list[str]:
        """What a tensor of a stock CHGNet is called here: its own name, but once for each copy of the readout."""
        if "R" in self.parts and stock_name.startswith("mlp."):
            return [stock_name.replace("mlp.", f"mlp.{i}.", 1) for i in range(len(self.fidelities))]
        return [stock_name]

    def fidelity_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that differ from fidelity to fidelity, by name."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if name.endswith(".delta") or ("R" in self.parts and name.startswith("mlp."))
        }

    @torch.no_grad()
    def fold(self, fidelity: str) -> CHGNet:
        """The stock CHGNet that predicts what this model does at one fidelity."""
        index = self.index(fidelity)
        with silence():
            stock = CHGNet(**{name: value for name, value in self.model_args.items() if name not in OWN_ARGUMENTS})
        own_state = self.state_dict()
        state = {}
        for name in stock.state_dict():
            names = self._names(name)
            state[name] = own_state[names[index] if len(names) > 1 else names[0]].clone()
        for name, module in self.named_modules():
            match module:
                case FidelityAtomRef():
                    state[f"{name}.fc.weight"] += module.delta[index]
                case FidelityEmbedding():
                    state[f"{name}.weight"] += module.delta[index]
                case FidelityLinear():
                    state[f"{name}.bias"] += module.delta[index]
        stock.load_state_dict(state)
        return stock.to(self.site_wise.weight).eval()


def _extend_first_linear(mlp: MLP, fidelities: int, context: Context, rows: Rows) -> None:
    place = next(i for i, layer in enumerate(mlp.layers) if isinstance(layer, nn.Linear))
    mlp.layers[place] = FidelityLinear(mlp.layers[place], fidelities, context, rows)


def pretrained(name: str) -> CHGNet:
    """A stock CHGNet as it is shipped (`0.3.0`, `0.2.0`, `r2scan`), on the CPU."""
    with silence():
        return CHGNet.load(model_name=name, use_device="cpu", verbose=False)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """CHGNet prints whenever one is made."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
