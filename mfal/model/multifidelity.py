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
OWN_ARGUMENTS = ("fidelities", "parts", "heads")


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


class Readouts(nn.ModuleList):
    """R, and the heads of a shallow committee: copies of the readout, by fidelity and then by head."""

    def __init__(self, stock: MLP, fidelities: int, heads: int, context: Context) -> None:
        super().__init__(copy.deepcopy(stock) for _ in range(fidelities * heads))
        self.heads, self.context = heads, context

    def forward(self, features: Tensor) -> Tensor:
        """The mean of the heads."""
        # All copies for all rows, then one fidelity of them for each: the readout is small beside the messages.
        energies = torch.stack([readout(features) for readout in self], dim=1)
        means = energies.unflatten(1, (-1, self.heads)).mean(dim=2)
        if means.shape[1] == 1:
            return means[:, 0]
        return means[torch.arange(len(features), device=features.device), self.context["atom"]]


class MultiFidelityCHGNet(CHGNet):
    """CHGNet at several fidelities; `fidelities` are in the order of their cost, `parts` is a subset of `CEMR`.

    With `heads` > 1 it is a shallow committee: that many readouts on one trunk, whose mean is the prediction.
    """

    composition_model: AtomRef
    mlp: MLP | Readouts

    def __init__(
        self, *, fidelities: Sequence[str] = FIDELITIES, parts: str = PARTS, heads: int = 1, **arguments: Any
    ) -> None:
        if len(set(fidelities)) != len(fidelities) or not fidelities:
            raise ValueError(f"fidelities = {tuple(fidelities)} must be distinct names, at least one")
        if set(parts) - set(PARTS) or len(set(parts)) != len(parts):
            raise ValueError(f"parts = {parts!r} must be distinct letters of {PARTS}")
        if heads < 1:
            raise ValueError(f"heads = {heads} must be at least 1")
        with silence():
            super().__init__(**arguments)
        _check_layout(self)
        self.model_args |= {"fidelities": list(fidelities), "parts": parts, "heads": heads}
        self.fidelities, self.parts, self.heads = tuple(fidelities), parts, heads
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
                *(("angle", layer.twoBody_bond) for layer in self.bond_conv_layers),
                *(("angle", layer.twoBody_bond) for layer in list(self.angle_layers)[:-1]),
            ]
            for rows, gated in layers:
                for mlp in (gated.mlp_core, gated.mlp_gate):
                    _extend_first_linear(mlp, count, self.context, rows)
        if self.readouts > 1:
            self.mlp = Readouts(self.mlp, self.readouts // self.heads, self.heads, self.context)

    @property
    def readouts(self) -> int:
        """Copies of the readout: one for each head, of each fidelity if part R is there."""
        return self.heads * (len(self.fidelities) if "R" in self.parts else 1)

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
        cls,
        model: CHGNet | str = "0.3.0",
        *,
        fidelities: Sequence[str] = FIDELITIES,
        parts: str = PARTS,
        heads: int = 1,
    ) -> MultiFidelityCHGNet:
        """A model that at every fidelity, and with every head, predicts what the stock one does.

        Args:
            model: a stock CHGNet (`CHGNet()` has random weights), or the name of a pretrained one.
        """
        if isinstance(model, str):
            model = pretrained(model)
        own = cls(fidelities=fidelities, parts=parts, heads=heads, **model.model_args)
        state = own.state_dict()  # for the deltas, which are zero
        for name, tensor in model.state_dict().items():
            for own_name in own._names(name):
                state[own_name] = tensor
        own.load_state_dict(state)
        return own.to(model.site_wise.weight)

    def _names(self, stock_name: str) -> list[str]:
        """What a tensor of a stock CHGNet is called here: its own name, but once for each copy of the readout."""
        if self.readouts > 1 and stock_name.startswith("mlp."):
            return [stock_name.replace("mlp.", f"mlp.{i}.", 1) for i in range(self.readouts)]
        return [stock_name]

    def fidelity_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that differ from fidelity to fidelity, by name."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if name.endswith(".delta") or ("R" in self.parts and name.startswith("mlp."))
        }

    def heads_of(self, fidelity: str) -> list[MLP]:
        """The readouts of one fidelity, by head."""
        first = self.index(fidelity) * self.heads if "R" in self.parts else 0
        return self.copies()[first : first + self.heads]

    def copies(self) -> list[MLP]:
        """All readouts, by fidelity (with part R) and then by head."""
        return list(self.mlp) if isinstance(self.mlp, Readouts) else [self.mlp]

    @torch.no_grad()
    def fold(self, fidelity: str) -> CHGNet:
        """The stock CHGNet that predicts what this model does at one fidelity: with several heads, their mean."""
        index, heads = self.index(fidelity), self.heads_of(fidelity)
        arguments = {name: value for name, value in self.model_args.items() if name not in OWN_ARGUMENTS}
        # The mean of several readouts is one whose hidden layers stand side by side.
        arguments["mlp_hidden_dims"] = [len(heads) * width for width in _hidden_widths(heads[0])]
        # What CHGNet prints when it loads the file: not the pretrained model that this one began as.
        arguments["version"] = f"{self.version}, {fidelity}"
        with silence():
            stock = CHGNet(**arguments)
        own_state = self.state_dict()
        state = {name: own_state[name].clone() for name in stock.state_dict() if not name.startswith("mlp.")}
        state |= {f"mlp.{name}": tensor for name, tensor in _mean_readout(heads).items()}
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


def _hidden_widths(readout: MLP) -> list[int]:
    return [layer.out_features for layer in readout.layers if isinstance(layer, nn.Linear)][:-1]


def _mean_readout(heads: Sequence[MLP]) -> dict[str, Tensor]:
    """The state of the readout that gives the mean of several: block-diagonal, all reading the same, then averaged."""
    state: dict[str, Tensor] = {}
    linear = [i for i, layer in enumerate(heads[0].layers) if isinstance(layer, nn.Linear)]
    for i in linear:
        weights, biases = ([getattr(head.layers[i], name) for head in heads] for name in ("weight", "bias"))
        if i == linear[0]:
            weight, bias = torch.cat(weights), torch.cat(biases)
        elif i == linear[-1]:
            weight, bias = torch.cat(weights, dim=1) / len(heads), torch.stack(biases).mean(dim=0)
        else:
            weight, bias = torch.block_diag(*weights), torch.cat(biases)
        state |= {f"layers.{i}.weight": weight, f"layers.{i}.bias": bias}
    return state


def _check_layout(model: CHGNet) -> None:
    """Refuse what the pretrained CHGNets are not."""
    arguments = model.model_args
    wanted = {
        "is_intensive": True,
        "mlp_first": True,
        "update_bond": True,
        "update_angle": True,
        "non_linearity": "silu",
        "conv_norm": None,
        "final_mlp": "MLP",
        "conv_dropout": 0,
        "mlp_dropout": 0,
    }
    for name, value in wanted.items():
        if arguments.get(name, value) != value:
            raise ValueError(f"{name} = {arguments[name]!r}: a CHGNet can be extended only with {name} = {value!r}")
    if arguments["gMLP_norm"] not in (None, "layer"):
        raise ValueError(f"gMLP_norm = {arguments['gMLP_norm']!r} must be 'layer' or None")
    for name in ("atom_conv_hidden_dim", "bond_conv_hidden_dim", "angle_layer_hidden_dim"):
        if not isinstance(arguments[name], int):
            raise ValueError(f"{name} = {arguments[name]!r} must be one number")
    if not isinstance(model.composition_model, AtomRef):
        raise ValueError("a CHGNet can be extended only with reference energies (composition_model: an AtomRef)")


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
