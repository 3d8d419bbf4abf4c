"""`mfal query`: what is in the collections of a store, by criteria, as a table or a file."""

from __future__ import annotations

import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import typer
from pymatgen.core import Structure
from rich.console import Console
from rich.markup import escape

from flows.opened import HELP, opened
from flows.refuse import errors, refuse, refusing
from flows.rows import WIDE, csv_text, plain, table_text
from mfal import atomic
from mfal.dft.sanity import Sanity, flagged
from stores.campaign import CampaignStores
from stores.collection import COLUMNS, pick
from stores.where import FIELDS, annotation, criteria

#: Rows of a table that asks for no other number.
LIMIT = 50


def query(
    collection: Annotated[
        Literal["frames", "labels", "scores", "models", "rounds"],
        typer.Argument(metavar="COLLECTION", help="frames, labels, scores, models or rounds.", show_default=False),
    ],
    place: Annotated[str, typer.Argument(metavar="STORE", help=HELP, show_default=False)],
    where: Annotated[
        str,
        typer.Option(
            help="Terms that must all hold, such as \"status!=ok round>=1 reason~'time ?out' gain !case\", or MongoDB"
            " criteria as JSON.",
            show_default=False,
        ),
    ] = "",
    columns: Annotated[
        str | None, typer.Option(help="Fields, such as frame_id,status; 'all' in csv and json.", show_default=False)
    ] = None,
    sort: Annotated[
        str | None, typer.Option(metavar="FIELD|-FIELD", help="Upwards by a field, or downwards.", show_default=False)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help=f"At most so many; 0 is all. A table shows {LIMIT}.", min=0, show_default=False)
    ] = None,
    format: Annotated[Literal["table", "csv", "json", "extxyz"], typer.Option(help="Of what is printed.")] = "table",
    out: Annotated[Path | None, typer.Option(help="Write to this file.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it is there.")] = False,
) -> None:
    """Print the documents of a collection that match, as a table, CSV, JSON or extended XYZ.

    Terms compare with = != < <= > >=; field~pattern is a regular expression, a field alone is there and not null,
    !field is not. Values may be quoted; a list with commas means any of it; dots lead into nested fields.
    """
    if out and (out.is_dir() or (out.exists() and not force)):
        refuse(f"{out}: is there already: give another --out, or --force to overwrite a file")
    with refusing():
        shown = _columns(collection, columns, format)
        order = {sort.removeprefix("-"): -1 if sort.startswith("-") else 1} if sort else None
        for field in order or ():
            annotation(collection, field, f"--sort {field}")
        wanted = criteria(where, collection)
    most = (LIMIT if format == "table" else 0) if limit is None else limit
    with opened(place) as stores:
        wanted = stores.collections[collection].criteria(wanted)
        store = stores.collections[collection].store
        # whole fields: a projection finds nothing by a position in a list
        fields = list(dict.fromkeys(column.split(".")[0] for column in shown)) or None
        found = list(store.query(wanted, properties=fields, sort=order, limit=most))
        if not found:
            errors.print(f"None of the {store.count()} {collection} in {escape(stores.address)} matches")
        rows = [[plain(pick(document, column.split("."))) for column in shown] for document in found]
        text, count = "", len(found)
        if format == "json":
            documents = [dict(zip(shown, row, strict=True)) for row in rows]
            text = f"{json.dumps(documents, indent=2, ensure_ascii=False, allow_nan=False)}\n"
        elif format == "csv":
            text = csv_text(shown, rows)
        elif format == "table" and found:
            total = store.count(wanted) if count == most else count
            text = table_text(shown, rows, total, WIDE if out else None)
        elif format == "extxyz" and found and collection == "frames":
            text, count = _frames(found)
        elif format == "extxyz" and found:
            text, count = _labels(found, stores, stores.campaign.sanity if stores.campaign else Sanity())
        if not out:
            print(text, end="")
        elif text:
            atomic.replace(out, text.encode())
            Console(highlight=False).print(f"{escape(str(out))}: {count} {collection}", soft_wrap=True)


def _columns(collection: str, columns: str | None, format: str) -> list[str]:
    if format == "extxyz":
        if collection not in ("frames", "labels"):
            raise ValueError(f"--format extxyz: {collection} have no atoms: query frames or labels, or take json")
        if columns:
            raise ValueError(f"--columns {columns}: is not for --format extxyz, which holds what a label has")
        return []
    if columns == "all":
        if format == "table":
            raise ValueError("--columns all: is too wide for a table: take --format json or csv")
        return list(FIELDS[collection])
    names = [name.strip() for name in columns.split(",")] if columns else COLUMNS[collection].split()
    for name in names:
        annotation(collection, name, f"--columns {name}")
    return list(dict.fromkeys(names))


def _frames(documents: list[dict[str, Any]]) -> tuple[str, int]:
    """Extended XYZ of the structures, with their frame_id, and how many there are."""
    import ase.io

    from mfal.dataset import bare_image

    # once, although several campaigns may have one
    frames = {document["frame_id"]: Structure.from_dict(document["structure"]) for document in documents}
    text = io.StringIO()
    images = [bare_image(structure, frame_id) for frame_id, structure in frames.items()]
    ase.io.write(text, images, format="extxyz")
    return text.getvalue(), len(frames)


def _labels(documents: list[dict[str, Any]], stores: CampaignStores, limits: Sanity) -> tuple[str, int]:
    """Extended XYZ of the good labels, and how many there are.

    Raises:
        ValueError: none is good, or a frame has two at the same fidelity.
    """
    from mfal.dataset import write

    frames = stores.all_frames()
    # judged beside all there are: the limits of sanity look at the others
    every = flagged(frames, stores.all_labels(), limits)
    judged = {(label.frame_id, label.fingerprint, label.attempt): label for label in every}
    labels = [judged[document["frame_id"], document["fingerprint"], document["attempt"]] for document in documents]
    good = sum(label.good for label in labels)
    if bad := len(labels) - good:
        errors.print(f"Left out: {bad} labels that are not good ('mfal check' says why)")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "labels.extxyz"
        try:
            write(path, frames.values(), labels)
        except ValueError as error:
            raise ValueError(str(error).removeprefix(f"{path}: ")) from error
        return path.read_text(), good
