"""Reading campaign and training files: checked whole before anything runs, every error names the field and the mend."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mfal.config import Campaign, TrainingFile
from mfal.dft.engines import KINDS
from mfal.section import Section

T = TypeVar("T", bound=Section)


class ConfigError(ValueError):
    """Something in the file cannot be used. `lines` holds one sentence for each thing that is wrong."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def load(path: Path | str) -> Campaign:
    """Read a campaign file.

    Raises:
        ConfigError: the file is missing, is not YAML, or a field cannot be used.
    """
    return _checked(Campaign, Path(path), _tree(Path(path)))


def load_training(path: Path | str) -> TrainingFile:
    """Read the settings of a training: a file with nothing else, or a campaign file, which has a `campaign:`.

    Raises:
        ConfigError: as `load`.
    """
    tree = _tree(Path(path))
    return _checked(Campaign if "campaign" in tree else TrainingFile, Path(path), tree)


def _tree(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read ({error})"]) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}: is not YAML: {' '.join(str(error).split())}"]) from error
    if not isinstance(tree, dict):
        raise ConfigError([f"{path}: must be a YAML mapping; the files in configs/ show some"])
    return tree


def _checked(model: type[T], path: Path, tree: dict[str, Any]) -> T:
    try:
        return model.model_validate(tree, context={"folder": path.parent})
    except ValidationError as error:
        raise ConfigError([f"{path}: {_sentence(model, detail)}" for detail in error.errors()]) from error


def _sentence(model: type[Section], detail: ErrorDetails) -> str:
    """One validation error as `field = value: what is wrong: the mend`."""
    # Pydantic puts the tag of a union and a mark for keys into the location; a person does not write them.
    location = [str(part) for part in detail["loc"] if part not in (*KINDS, "[key]")]
    field = ".".join(location) or "the file"
    match detail["type"]:
        case "extra_forbidden":
            names = _names(model, location[:-1])
            close = difflib.get_close_matches(location[-1], names, n=1)
            mend = f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(names)}"
            return f"{field}: unknown key; {mend}"
        case "missing":
            return f"{field}: is missing; add it"
        case "value_error":
            return f"{field}: {detail['ctx']['error']}" if location else str(detail["ctx"]["error"])
        case _:
            return f"{field} = {detail['input']!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _names(model: type[Section], location: list[str]) -> list[str]:
    """The keys that are known at a place of the tree."""
    section = model
    for part in location:
        if part not in section.model_fields:  # a number in a list, or a key that people choose
            continue
        found = _sections(section.model_fields[part].annotation)
        if not found:
            return []
        section = found[0]
    return sorted(section.model_fields)


def _sections(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [s for argument in getattr(annotation, "__args__", ()) for s in _sections(argument)]
