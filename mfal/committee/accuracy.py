"""Two numbers for a parity plot: the mean absolute error, and the root of the mean square, which sees outliers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mfal.committee.evaluate import differences
from mfal.frames import Fidelity
from mfal.training.loss import QUANTITIES


@dataclass(frozen=True)
class Accuracy:
    """At one fidelity, of the quantities that are labelled: meV/atom, meV/Å, GPa and µB."""

    frames: int
    mae: dict[str, float]
    rmse: dict[str, float]


def accuracy(rows: Sequence[dict[str, Any]], fidelity: Fidelity) -> Accuracy:
    """The accuracy of the predictions of `mfal.committee.evaluate.parity` at one fidelity."""
    own = [row for row in rows if row["fidelity"] == fidelity]
    found = {name: values for name in QUANTITIES if len(values := differences(own, name))}
    return Accuracy(
        frames=len(own),
        mae={name: float(np.abs(values).mean()) for name, values in found.items()},
        rmse={name: float(np.sqrt((values**2).mean())) for name, values in found.items()},
    )
