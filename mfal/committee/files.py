"""A committee on disk: a safetensors file for each model, in a folder of their own or one alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mfal import atomic
from mfal.model.delta import Model
from mfal.model.weights import from_bytes, to_bytes


def member_file(directory: Path, place: int) -> Path:
    return directory / f"member-{place}.safetensors"


def member_files(path: Path) -> list[Path]:
    """The models that a path stands for: a file is itself, a folder the members in it.

    Raises:
        ValueError: there is nothing, or a folder without members.
    """
    if path.is_dir():
        found = sorted(path.glob("member-*.safetensors"), key=lambda file: (len(file.name), file.name))
        if not found:
            raise ValueError(
                f"{path}: holds no member-0.safetensors: give a folder that 'mfal train' has finished, or a"
                " .safetensors file"
            )
        return found
    if not path.is_file():
        raise ValueError(f"{path}: is not there: give a file that 'mfal train' wrote, or its folder")
    return [path]


def load(path: Path | str) -> list[Model]:
    """The models of a file or a folder, on the CPU and in evaluation mode.

    Raises:
        ValueError: there is none, or one cannot be used; names the file.
    """
    models = []
    for file in member_files(Path(path)):
        try:
            models.append(from_bytes(file.read_bytes()))
        except OSError as error:
            raise ValueError(f"{file}: cannot be read ({error})") from error
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
    return models


def save(directory: Path, models: Sequence[Model]) -> None:
    """Write the members of a folder."""
    for place, model in enumerate(models):
        atomic.replace(member_file(directory, place), to_bytes(model))
