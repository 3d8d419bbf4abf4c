"""`mfal evaluate`: models against labels, as a table and a page of parity plots."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.device import Device, ready
from flows.refuse import refusing
from mfal.dataset_files import SPLITS, name_of
from mfal.frames import FIDELITIES, WORDS, Fidelity

if TYPE_CHECKING:
    from mfal.committee.accuracy import Accuracy
    from mfal.model.delta import Model
    from mfal.training.examples import Example

#: The heads of the columns, and the decimals in them.
QUANTITIES = {
    "energy": ("E\nmeV/atom", 1),
    "forces": ("F\nmeV/Å", 1),
    "stress": ("S\nGPa", 2),
    "magmoms": ("|M|\nµB", 3),
}
ABSENT = "–"


def evaluate(
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL...",
            help="A .safetensors file, or a folder of members, whose mean counts. Several are compared.",
            show_default=False,
        ),
    ],
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="The labels: all of an extended XYZ file; of a folder that 'mfal export' wrote those held out, if it"
            " holds out any.",
            show_default=False,
        ),
    ],
    plot: Annotated[
        Path | None,
        typer.Option(
            help="The page of parity plots to write: parity.html beside the model, or, of several, beside the dataset.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    device: Device = "auto",
) -> None:
    """Print how far models are from labels (MAE and RMSE), and write the parity plots.

    A dash is where a model does not know a fidelity, or a quantity has no label.
    """
    from mfal import atomic
    from mfal.committee.files import load
    from mfal.dataset import read_splits
    from mfal.report.parity import render
    from mfal.training.examples import examples

    with refusing():
        place = ready(device)
        committees = {str(path): [model.to(place) for model in load(path)] for path in models}
        parts = read_splits(dataset)
        held_out = bool(parts["hold_out"][1])
        labelled = examples(*parts["hold_out" if held_out else "train"])
        rows = {name: predictions(committee, labelled) for name, committee in committees.items()}
        page = plot or _folder(models, dataset) / "parity.html"
        name = f"{name_of(dataset)}, hold-out" if held_out else name_of(dataset)
        atomic.replace(page, render(name, rows).encode())
    found = {name: accuracies(of_model) for name, of_model in rows.items()}
    if as_json:
        split = "hold_out" if held_out else None
        print(json.dumps({"parity": str(page), "split": split, "errors": _plain(found)}, indent=2))
        return
    console = Console(highlight=False)
    if held_out:
        console.print(f"{escape(name_of(dataset))}: on its hold-out alone ({SPLITS})", soft_wrap=True)
    console.print(table(found))
    console.print(f"Parity plots:  {escape(str(page))}", soft_wrap=True)


def predictions(models: Sequence[Model], examples: Sequence[Example]) -> list[dict[str, Any]]:
    """`mfal.committee.evaluate.parity` of the examples whose fidelity all models know."""
    from mfal.committee.evaluate import parity

    known = set.intersection(*(set(model.fidelities) for model in models))
    return parity(models, [example for example in examples if example.fidelity in known])


def accuracies(rows: Sequence[dict[str, Any]]) -> dict[Fidelity, Accuracy]:
    from mfal.committee.accuracy import accuracy

    return {fidelity: accuracy(rows, fidelity) for fidelity in FIDELITIES}


def table(found: Mapping[str, Mapping[Fidelity, Accuracy]]) -> Table:
    """Below the name of each model a row for each fidelity: MAE and RMSE of each quantity."""
    heads = [head for head, _ in QUANTITIES.values()]
    out = Table("", "frames", *heads, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    out.caption, out.caption_justify = "MAE/RMSE", "left"
    out.columns[0].overflow = "fold"
    for column in out.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for model, of_model in found.items():
        out.add_row(f"[bold]{escape(model)}[/]")
        for fidelity, accuracy in of_model.items():
            cells = (_cell(accuracy, quantity) for quantity in QUANTITIES)
            out.add_row(f"  {WORDS[fidelity]}", str(accuracy.frames or ABSENT), *cells)
        out.add_section()
    return out


def _cell(accuracy: Accuracy, quantity: str) -> str:
    if quantity not in accuracy.mae:
        return ABSENT
    _, decimals = QUANTITIES[quantity]
    return f"{accuracy.mae[quantity]:.{decimals}f}/{accuracy.rmse[quantity]:.{decimals}f}"


def _plain(found: Mapping[str, Mapping[Fidelity, Accuracy]]) -> list[dict[str, Any]]:
    """The table for machines: null where there is nothing to measure."""
    return [
        {"model": model, "fidelity": fidelity, "frames": accuracy.frames}
        | {
            quantity: {"mae": accuracy.mae[quantity], "rmse": accuracy.rmse[quantity]}
            if quantity in accuracy.mae
            else None
            for quantity in QUANTITIES
        }
        for model, of_model in found.items()
        for fidelity, accuracy in of_model.items()
    ]


def _folder(models: Sequence[Path], dataset: Path) -> Path:
    """Where the page goes: to the model, or, of several, beside the dataset, and never into a published folder."""
    if len(models) > 1:
        folder = Path(os.path.abspath(dataset)).parent
        return folder.parent if (folder / SPLITS).exists() else folder
    return models[0] if models[0].is_dir() else models[0].parent
