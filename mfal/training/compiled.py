"""The training step as one compiled program, which `training.compile` asks for.

torch.compile derives a function once; a training step derives twice, the energy by the bonds and the loss by the
parameters. So the step is first traced with both derivatives in it and the sizes of the batch left open. What that
gives are plain operations with nothing left to derive, and these compile: once, for batches of every size.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal

import torch
import torch.fx.experimental._config as shapes
from torch import Tensor, nn
from torch._inductor import config as inductor
from torch.fx.experimental.proxy_tensor import make_fx

from mfal.model.batch import Batch
from mfal.model.engine import Output, predict
from mfal.model.multifidelity import MultiFidelityCHGNet
from mfal.training.loss import Heads, Loss
from mfal.training.packed import Targets
from mfal.training.step import gradients

#: What has a row for each graph, atom, bond, edge, short bond and angle, by the size that is traced with. Equal sizes
#: would be taken for one and the same, and so would a size and a width of the model: they are primes of their own.
AXES = {
    101: ("fidelity", "atoms", "lattice", "volume", "energy", "stress", "weights", "drawn"),
    211: ("graph", "elements", "positions", "forces", "magmoms"),
    307: ("bond_graph", "bond_from", "bond_to", "bond_shift"),
    401: ("edge_center", "edge_neighbor", "edge_bond"),
    503: ("short_bond",),
    601: ("angle_center", "angle_first", "angle_second", "angle_sign"),
}
SIZES = {name: size for size, names in AXES.items() for name in names}

Program = Callable[..., tuple[Tensor, ...]]


class CompiledGradients:
    """`mfal.training.step.gradients` of any model of one kind, such as those of two rounds. Its first call compiles,
    which takes minutes.

    torch keeps what it compiled on disk: another process, with the same kind of model, starts within a minute.
    """

    def __init__(self) -> None:
        self._program: Program | None = None

    def __call__(
        self,
        model: MultiFidelityCHGNet,
        parameters: Sequence[nn.Parameter],
        batch: Batch,
        targets: Targets,
        weights: Tensor,
        *,
        kind: Literal["huber", "mse"],
        heads: Heads | None,
    ) -> Loss:
        """Put the gradient of the loss into the `grad` of the parameters.

        Raises:
            ValueError: it cannot be compiled on this machine, or was for another kind of model.
        """
        rows = vars(batch) | targets._asdict() | ({} if heads is None else heads._asdict())
        if _special(rows):
            return gradients(model, parameters, batch, targets, weights, kind=kind, heads=heads)
        if self._program is None:
            # The program is about the parameters of this one, which are then those of whichever model is trained.
            self._model = own = copy.deepcopy(model)
            trained = [parameter for parameter in own.parameters() if parameter.requires_grad]

            def step(table: Tensor, *tensors: Tensor) -> tuple[Tensor | None, ...]:
                traced = dict(zip(rows, tensors, strict=True))
                value = gradients(
                    own,
                    trained,
                    replace(batch, **{name: traced[name] for name in vars(batch)}),
                    targets._replace(**{name: traced[name] for name in targets._fields}),
                    table,
                    kind=kind,
                    heads=heads and heads._replace(**{name: traced[name] for name in heads._fields}),
                )
                return *value, *(parameter.grad for parameter in trained)

            self._program = _compiled(step, rows, weights)
        _take_on(self._model, model)
        by_graph, errors, counts, *found = _run(self._program, weights, *rows.values())
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.grad = gradient
        return Loss(by_graph, errors, counts)


def shared_gradients(model: MultiFidelityCHGNet, kind: Literal["huber", "mse"]) -> CompiledGradients:
    """What all trainings of this kind in this process have in common, so that only the first of them compiles."""
    trained = "".join(str(int(parameter.requires_grad)) for parameter in model.parameters())
    weight, tf32 = model.site_wise.weight, torch.backends.cuda.matmul.allow_tf32
    return _shared(f"{model.model_args} {trained} {weight.dtype} {weight.device} {tf32} {kind}")


@lru_cache
def _shared(_of: str) -> CompiledGradients:
    return CompiledGradients()


class CompiledPredict:
    """`mfal.model.engine.predict` of any model of one kind, such as the members of a committee."""

    def __init__(self) -> None:
        self._program: Program | None = None

    def __call__(self, model: MultiFidelityCHGNet, batch: Batch) -> Output:
        """
        Raises:
            ValueError: it cannot be compiled on this machine, or was for another kind of model.
        """
        rows = vars(batch)
        if _special(rows):
            return predict(model, batch)
        if self._program is None:
            # The program is about the parameters of this one, which are then those of whichever model is asked.
            self._model = copy.deepcopy(model)

            def values(*tensors: Tensor) -> Output:
                return predict(self._model, Batch(**dict(zip(rows, tensors, strict=True))))

            self._program = _compiled(values, rows)
        _take_on(self._model, model)
        return Output(*_run(self._program, *rows.values()))


@torch.no_grad()
def _take_on(own: MultiFidelityCHGNet, other: MultiFidelityCHGNet) -> None:
    """The values of the other's parameters, where they are looked for."""
    if own.model_args != other.model_args:
        raise ValueError("this program was compiled for a model of other arguments: take a new one")
    for mine, value in zip(own.parameters(), other.parameters(), strict=True):
        mine.copy_(value)


def _special(rows: Mapping[str, Tensor]) -> bool:
    """Whether a size is 0 or 1 (no angle, one graph), where what was traced need not hold."""
    return min(tensor.shape[0] for tensor in rows.values()) < 2


def _compiled(
    function: Callable[..., tuple[Tensor | None, ...]], rows: Mapping[str, Tensor], *fixed: Tensor
) -> Program:
    """A function of tensors of fixed sizes, and then of rows of which there may be any number.

    It need not be derived again: what it derives is part of it.
    """
    if not any(name and shutil.which(name) for name in inductor.cpp.cxx):
        raise ValueError(
            "training.compile: true needs a C++ compiler, and there is none here: install one (apt-get install g++),"
            " or take training.compile: false"
        )
    examples = [tensor.new_zeros(SIZES[name], *tensor.shape[1:]) for name, tensor in rows.items()]
    # The parameters are not arguments, so that their sizes are known to the compiler.
    graph = make_fx(function, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*fixed, *examples)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    for example in examples:
        torch._dynamo.mark_dynamic(example, 0)
    program: Program = torch.compile(graph, fullgraph=True)
    try:
        # Oblivious, or it would be compiled for rows that are as few as these. One thread for all but the matrix
        # products, or sums over bonds and angles would be atomic: slower, and in an order of their own in every run.
        oblivious = shapes.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
        with oblivious, inductor.patch({"cpp.threads": 1}), torch.no_grad():
            program(*fixed, *examples)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"training.compile: true: the step cannot be compiled here ({reason}): install a C++ compiler and the"
            " headers of Python (apt-get install g++ python3-dev), or take training.compile: false"
        ) from error
    return program


def _run(program: Program, *tensors: Tensor) -> tuple[Tensor, ...]:
    # Should it not fit after all, what was traced runs as it is: nobody waits for another compilation.
    with torch.no_grad(), torch.compiler.set_stance("eager_on_recompile"):
        return program(*tensors)
