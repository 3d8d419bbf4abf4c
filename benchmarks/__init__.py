"""Measurements against stock CHGNet: `python -m benchmarks.training`."""

import os
import warnings

# Before torch is imported; see flows/cli.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
warnings.filterwarnings("ignore")
