"""What every part of a campaign file is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationInfo
from pymatgen.core import Element

#: Fraction of a sublattice that is left empty.
VACANCY = "vacancy"


class Section(BaseModel):
    """A part of the campaign file: unknown keys are refused, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _element(symbol: str) -> str:
    if symbol != VACANCY and not Element.is_valid_symbol(symbol):
        raise ValueError(f"{symbol!r} is not an element: write a symbol such as Mn, or '{VACANCY}'")
    return symbol


def existing(value: Any, info: ValidationInfo) -> Path:
    """The file or folder that a campaign file names, relative to itself.

    Raises:
        ValueError: there is none.
    """
    path = Path((info.context or {}).get("folder", ".")) / str(value)
    if not path.exists():
        raise ValueError(f"there is no file {path}: paths are relative to the campaign file")
    return path


Symbol = Annotated[str, AfterValidator(_element)]
ExistingPath = Annotated[Path, BeforeValidator(lambda value, info: existing(value, info).resolve())]
