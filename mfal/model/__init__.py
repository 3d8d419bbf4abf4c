"""CHGNet with more than one fidelity, its weights as bytes and its reference energies."""

import torch

# The second derivative of a saturated gate is full of numbers below 1e-38, for each of which an Intel processor takes a
# hundred times as long as for another: half of a training. They become zeros, here and in the threads that torch starts
# from now on.
torch.set_flush_denormal(True)
