"""One step of a training: from a batch to gradients in the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from mfal.model.batch import Batch
from mfal.model.engine import predict
from mfal.model.multifidelity import MultiFidelityCHGNet
from mfal.training.loss import Heads, Loss, loss
from mfal.training.packed import Targets


def gradients(
    model: MultiFidelityCHGNet,
    parameters: Sequence[nn.Parameter],
    batch: Batch,
    targets: Targets,
    weights: Tensor,
    *,
    kind: Literal["huber", "mse"],
    heads: Heads | None,
) -> Loss:
    """Put the gradient of the loss into the `grad` of the parameters."""
    for parameter in parameters:
        parameter.grad = None
    output = predict(model, batch, head=None if heads is None else heads.drawn, create_graph=True)
    value = loss(output, targets, batch, weights, kind=kind, heads=heads)
    # Only into the parameters: the bond vectors are leaves that take gradients, too.
    value.by_graph.sum().backward(inputs=list(parameters))
    return Loss(value.by_graph.detach(), value.errors, value.counts)
