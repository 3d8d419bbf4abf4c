"""CHGNet with more than one fidelity, its weights as bytes and its reference energies."""

import torch

from mfal.model.subnormal import subnormal_is_zero

# A thread keeps what is set where it starts. So torch's other threads start here, with work enough for all of them;
# this one has it only while it trains.
with subnormal_is_zero():
    torch.zeros(1 << 22).add_(1)
