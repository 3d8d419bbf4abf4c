"""CHGNet with more than one fidelity, its weights as bytes and its reference energies."""
