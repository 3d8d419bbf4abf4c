"""CHGNet's gated multilayer perceptron, silu(core) * sigmoid(gate), from the sum of its first layer on."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from chgnet.model.functions import GatedMLP
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mfal.model.multifidelity import FidelityLinear
from mfal.model.normalize import EPSILON, normalize


class Gate(NamedTuple):
    """The weights of a gated MLP with core and gate side by side."""

    weight: Tensor  # [2 h, inputs]
    bias: Tensor  # [2 h]
    delta: Tensor | None  # [fidelities, 2 h]
    second: tuple[Tensor, Tensor] | None  # [2, out, h] and [2, 1, out], or there is no hidden layer
    norm: tuple[Tensor, Tensor] | None  # [2, out] each
    twice: bool  # whether the output will be derived more than once

    @classmethod
    def of(cls, gated: GatedMLP, *, twice: bool) -> Gate:
        core, gate = (
            [layer for layer in mlp.layers if isinstance(layer, nn.Linear)] for mlp in (gated.mlp_core, gated.mlp_gate)
        )
        first = (core[0], gate[0])
        deltas: list[Tensor] = [linear.delta for linear in first if isinstance(linear, FidelityLinear)]
        return cls(
            weight=torch.cat([linear.weight for linear in first]),
            bias=torch.cat([linear.bias for linear in first]),
            delta=torch.cat(deltas, dim=1) if deltas else None,
            second=(
                (torch.stack([core[1].weight, gate[1].weight]), torch.stack([core[1].bias, gate[1].bias])[:, None])
                if len(core) > 1
                else None
            ),
            norm=(
                (torch.stack([gated.bn1.weight, gated.bn2.weight]), torch.stack([gated.bn1.bias, gated.bn2.bias]))
                if gated.bn1 is not None
                else None
            ),
            twice=twice,
        )

    def shifted(self, atoms: Tensor, fidelity: Tensor) -> Tensor:
        """Part M: at the atom, since every row of a message belongs to one."""
        return atoms if self.delta is None else atoms + self.delta.index_select(0, fidelity)

    def finish(self, hidden: Tensor) -> Tensor:
        """From the sum of the first layer [rows, 2 h] to the gated output [rows, out]."""
        hidden = hidden.unflatten(1, (2, -1))
        if not self.twice and self.second is not None and self.norm is not None:
            return _Finish.apply(hidden, *self.second, *self.norm)
        halves = 1  # the dimension of core and gate; the layout that costs no copy
        if self.second is not None:
            weight, bias = self.second
            hidden = torch.baddbmm(bias, F.silu(hidden).transpose(0, 1), weight.transpose(1, 2))
            halves = 0
        if self.norm is not None:
            scale, offset = (part.unsqueeze(1 - halves) for part in self.norm)
            hidden = torch.addcmul(offset, normalize(hidden), scale)
        core, gate = hidden.unbind(halves)
        return F.silu(core) * torch.sigmoid(gate)


class _Finish(Function):
    """`Gate.finish` for one derivative by the rows: what multiplies a cotangent is worked out in the forward pass, once
    for however many heads are derived, and less is kept."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        active, slope = _silu(hidden)
        rows = torch.baddbmm(bias, active.transpose(0, 1), weight.transpose(1, 2))  # [2, rows, out]
        normal, mean, inverse = torch.native_layer_norm(rows, rows.shape[-1:], None, None, EPSILON)
        core, gate = torch.addcmul(offset[:, None], normal, scale[:, None]).unbind(0)
        core, by_core = _silu(core)
        gate = torch.sigmoid(gate)
        output = core * gate
        by_rows = torch.stack([by_core.mul_(gate), torch.addcmul(output, output, gate, value=-1)]).mul_(scale[:, None])
        ctx.save_for_backward(slope, weight, rows, mean, inverse, by_rows)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None, None, None]:
        slope, weight, rows, mean, inverse, by_rows = ctx.saved_tensors
        of_rows, _, _ = torch.ops.aten.native_layer_norm_backward(
            cotangent * by_rows, rows, rows.shape[-1:], mean, inverse, None, None, [True, False, False]
        )
        return torch.bmm(of_rows, weight).transpose(0, 1) * slope, None, None, None, None


def _silu(values: Tensor) -> tuple[Tensor, Tensor]:
    """The activation and its derivative s + silu (1 - s), with s the sigmoid."""
    sigmoid = torch.sigmoid(values)
    active = values * sigmoid
    return active, torch.addcmul(active, sigmoid, 1 - active)
