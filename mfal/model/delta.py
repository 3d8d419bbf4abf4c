"""Delta-learning, the peer of the multi-fidelity model: a low-fidelity model plus one of the difference."""

from __future__ import annotations

from torch import nn

from mfal.model.multifidelity import MultiFidelityCHGNet


class DeltaCHGNet(nn.Module):
    """At the low fidelity `low`; at the high fidelity `low` plus `difference`, and the moments of `difference`.

    Two models of one fidelity each. There is no stock CHGNet with the same predictions: it cannot be folded.
    """

    heads = 1

    def __init__(self, low: MultiFidelityCHGNet, difference: MultiFidelityCHGNet) -> None:
        super().__init__()
        if len(low.fidelities) != 1 or len(difference.fidelities) != 1 or low.heads != 1 or difference.heads != 1:
            raise ValueError("delta-learning takes two models of one fidelity and one head each")
        self.low, self.difference = low, difference

    @property
    def fidelities(self) -> tuple[str, ...]:
        return self.low.fidelities + self.difference.fidelities

    def index(self, fidelity: str) -> int:
        if fidelity not in self.fidelities:
            raise ValueError(f"fidelity {fidelity!r} is not one of this model's: {', '.join(self.fidelities)}")
        return self.fidelities.index(fidelity)


#: Whatever `mfal train` makes.
Model = MultiFidelityCHGNet | DeltaCHGNet
