"""What a fidelity promises, and its fingerprint: labels are comparable if and only if their fingerprints agree."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from mfal.config import Engine, Gpaw, Magnetism, Table
from mfal.dft.table import digest
from mfal.frames import Fidelity

#: Settings of an engine that say how long a calculation may take, and so whether something comes out, but not what.
LIMITS = {"timeout", "max_iterations"}
#: Settings of an engine that say how a calculation runs, not what comes out.
OPERATIONAL = LIMITS | {"processes"}


def settings(engine: Engine, magnetism: Magnetism, fidelity: Fidelity) -> dict[str, Any]:
    """Code, functional, pseudopotentials, cutoff, k-points, spin, U and ordering policy of one fidelity."""
    if isinstance(engine, Gpaw):
        promised = engine.model_dump(exclude=OPERATIONAL) | {"setups": "gpaw-data PAW", "stress": "Pulay-corrected"}
    elif isinstance(engine, Table):
        return {"kind": engine.kind, "data": digest(engine), "fidelity": fidelity}
    else:
        promised = {"kind": engine.kind, "checkpoint": getattr(engine, fidelity)}
    promised["spin"] = "collinear" if fidelity == "magnetic" else "restricted"
    if fidelity == "magnetic":
        promised |= {
            "hubbard_u": dict(sorted(magnetism.hubbard_u.items())),
            "moments": dict(sorted(magnetism.moments.items())),
            "ordering": magnetism.ordering,
        }
    return promised


def limits(engine: Engine) -> dict[str, Any]:
    """What a calculation that came to nothing may have run into: with other limits it is worth another attempt."""
    return engine.model_dump(include=LIMITS)


def fingerprint(promised: dict[str, Any]) -> str:
    """The hash of a fidelity's settings: 12 hexadecimal digits."""
    return hashlib.sha256(json.dumps(promised, sort_keys=True).encode()).hexdigest()[:12]
