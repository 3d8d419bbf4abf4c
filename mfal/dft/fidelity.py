"""What a fidelity promises, and its fingerprint: labels are comparable if and only if their fingerprints agree."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from mfal.dft.engines import Engine, Table
from mfal.dft.magnetism import Magnetism
from mfal.frames import FIDELITIES, Fidelity


def settings(engine: Engine, magnetism: Magnetism, fidelity: Fidelity) -> dict[str, Any]:
    """Code, functional, pseudopotentials, cutoff, k-points, spin, U and ordering policy of one fidelity.

    The size of the initial moments is not among them: it says where the search for the state begins that the policy and
    the gate name.
    """
    promised = engine.promised(fidelity)
    if isinstance(engine, Table):
        return promised
    promised["spin"] = "collinear" if fidelity == "magnetic" else "restricted"
    if fidelity == "magnetic":
        promised |= {"hubbard_u": dict(sorted(magnetism.hubbard_u.items())), "ordering": magnetism.ordering}
    return promised


def fingerprint(promised: dict[str, Any]) -> str:
    """The hash of a fidelity's settings: 12 hexadecimal digits."""
    return hashlib.sha256(json.dumps(promised, sort_keys=True).encode()).hexdigest()[:12]


def fingerprints(engine: Engine, magnetism: Magnetism) -> set[str]:
    """Of the labels that a campaign with these settings takes."""
    return {fingerprint(settings(engine, magnetism, fidelity)) for fidelity in FIDELITIES}
