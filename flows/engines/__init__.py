"""The engines: one file each, and the contract that they keep."""

from __future__ import annotations

from typing import Any

from flows.engines.contract import Engine
from mfal.dft.engines import EngineSection
from mfal.dft.magnetism import Magnetism


def engine(section: EngineSection, magnetism: Magnetism) -> Engine[Any]:
    """The engine of a campaign file's section. Its libraries are loaded only here: each takes a second or more."""
    kind = getattr(section, "kind", "")
    match kind:
        case "gpaw":
            from flows.engines.gpaw import GpawEngine

            return GpawEngine(section, magnetism)  # type: ignore[arg-type]
        case "vasp":
            from flows.engines.vasp import VaspEngine

            return VaspEngine(section, magnetism)  # type: ignore[arg-type]
        case "surrogate":
            from flows.engines.surrogate import SurrogateEngine

            return SurrogateEngine(section, magnetism)  # type: ignore[arg-type]
    raise ValueError(f"engine.kind = {kind!r}: calculates nothing")
