"""The engines: one file each, and the contract that they keep."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from flows.engines.contract import Engine
from mfal.dft.engines import EngineSection
from mfal.dft.magnetism import Magnetism

#: By the `kind` of their section. They are loaded when they are needed: each takes a second or more.
ENGINES = {"gpaw": "GpawEngine", "vasp": "VaspEngine", "cp2k": "Cp2kEngine", "surrogate": "SurrogateEngine"}


def engine(section: EngineSection, magnetism: Magnetism) -> Engine[Any]:
    """The engine of a campaign file's section.

    Raises:
        ValueError: it calculates nothing, as a table does not.
    """
    kind = getattr(section, "kind", "")
    if kind not in ENGINES:
        raise ValueError(f"engine.kind = {kind!r}: calculates nothing; take one of {', '.join(ENGINES)}")
    found: Engine[Any] = getattr(import_module(f"flows.engines.{kind}"), ENGINES[kind])(section, magnetism)
    return found
