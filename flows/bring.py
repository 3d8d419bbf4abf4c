"""`mfal import`: labels that were made elsewhere, into a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from flows import imported
from flows.opened import opened
from flows.refuse import refusing
from mfal.config import Campaign
from mfal.config_file import load
from mfal.dft.fidelity import fingerprint, settings
from mfal.dft.magnetism import Magnetism
from mfal.dft.sanity import Sanity, flagged
from mfal.foreign import Image, Origin, drifts, images, judged, merged, origin, unique
from mfal.frames import FIDELITIES, WORDS, Fidelity, Label
from mfal.storage import is_address
from stores.campaign import CAMPAIGN_FILES

#: What becomes of labels, by what is known of their settings.
USES = {
    "campaign": "those of {campaign}, which takes these labels where it would calculate the same",
    "file": "named by the file: a campaign of these settings in this store takes the labels where it would calculate"
    " the same",
    "other": "named by the file, and not those of {campaign}, which does not use these labels",
    "unknown": "not known, so named after the content of the file: no campaign uses these labels (--same-settings says"
    " that they are of a campaign's settings); 'mfal query labels --format extxyz' writes them for 'mfal train'",
}


def bring(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="An extended XYZ file, or a folder of such files, as of 'mfal train' and 'mfal export'.",
            show_default=False,
        ),
    ],
    place: Annotated[
        str,
        typer.Argument(
            metavar="STORE",
            help="A campaign file; a folder, new or not; or an address such as mongodb://host/database.",
            show_default=False,
        ),
    ],
    fidelity: Annotated[
        Literal["nonmagnetic", "magnetic"] | None,
        typer.Option(help="Of the images that name none.", show_default=False),
    ] = None,
    same_settings: Annotated[
        bool,
        typer.Option("--same-settings", help="The labels were calculated with the settings of the campaign file."),
    ] = False,
    campaign: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The campaign to put the frames to; by default that of the campaign file, or the folder's name.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Bring labels that were made elsewhere into a store: each once, and judged as those of mfal are.

    A label with the settings (fingerprint) of a campaign stands for its own calculation, which is not made any more. A
    bad one is kept with the reason, and calculated all the same. Where the file contradicts itself or the store,
    nothing is written. A campaign may run meanwhile: it keeps what it is calculating just then.
    """
    with refusing():
        config = load(place) if place.endswith(CAMPAIGN_FILES) and not is_address(place) else None
        if same_settings and not config:
            raise ValueError("--same-settings: are those of a campaign file: name it as the STORE")
        if is_address(place) and not campaign:
            raise ValueError("--campaign: is missing: say by what name the frames are to be found at an address")
    name = campaign or (config.campaign if config else Path(place).resolve().name)
    console = Console(highlight=False, soft_wrap=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with refusing(), Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(f"reading {escape(data.name)}", total=None)
        # All that the file alone can be refused for comes first: then no store is made.
        found = list(images(data, fidelity))
        different = unique(found)
        origins = _origins(data, different, config, same_settings)
        progress.update(bar, description="judging", total=len(different))
        gate = _gate(different, config)
        ready = []
        for image in different:
            ready.append(judged(image, origins[image.label.fidelity], gate))
            progress.advance(bar)
        suspect = _suspect(ready, config)
        jobs = [imported.label_job(image, name) for image in ready]
        with opened(config or place, make=True) as stores:
            progress.reset(bar, description=f"writing to {escape(stores.address)}")
            there = imported.stored(stores, jobs)
            merges = {job.uuid: merged(image, there.get(job.uuid)) for image, job in zip(ready, jobs, strict=True)}
            new = {uuid: label for uuid, label in merges.items() if label}
            imported.write(stores, name, ready, jobs, new, lambda count: progress.advance(bar, count))
    console.print(_counts([image.label for image in ready], len(new), len(found) - len(ready), place))
    for line in [*suspect, *_settings(origins, config)]:
        console.print(escape(line))


def _origins(
    data: Path, found: Sequence[Image], config: Campaign | None, same_settings: bool
) -> dict[Fidelity, Origin]:
    """By fidelity; a file with several settings at one is refused when it is read."""
    written = {image.label.fidelity: image.label.fingerprint for image in found}
    own = {name: settings(config.engine, config.magnetism, name) if config else None for name in FIDELITIES}
    origins = {
        name: origin(data, name, written[name], own[name], same_settings=same_settings)
        for name in FIDELITIES
        if name in written
    }
    # A label is found by frame and fingerprint alone.
    of = {fingerprint(promised): name for name, promised in own.items() if promised}
    for name, known in origins.items():
        if of.setdefault(known.fingerprint, name) != name:
            raise ValueError(
                f"{data}: fingerprint = {known.fingerprint}: is of both fidelities, whose settings cannot be the same:"
                f" take it out of the images with fidelity={name}"
            )
    return origins


def _gate(found: Sequence[Image], config: Campaign | None) -> Magnetism:
    """Of the campaign, or as 'mfal check' has it for the elements of a file."""
    if config:
        return config.engine.gate(config.magnetism)
    return Magnetism.of({element.symbol for image in found for element in image.frame.structure.elements})


def _suspect(found: Sequence[Image], config: Campaign | None) -> list[str]:
    """What else is odd about the labels; it is judged where they are used."""
    frames = {image.frame.frame_id: image.frame for image in found}
    beyond = sum(bool(x.flag) for x in flagged(frames, [i.label for i in found], config.sanity if config else Sanity()))
    drifting = [image.label.frame_id for image in found if drifts(image.label)]
    free = sum(not image.label.core_hours for image in found)
    lines = [f"{beyond} beyond the limits of sanity, and not trained on ('mfal check' says which)"] if beyond else []
    if drifting:
        lines.append(f"{len(drifting)} with forces that do not add up to zero, such as that of {drifting[0]}")
    if free and config:
        lines.append(f"{free} without core_hours: where {config.campaign} takes one, it learns that they cost nothing")
    return lines


def _counts(labels: Sequence[Label], new: int, twice: int, place: str) -> str:
    kinds = Counter(label.fidelity for label in labels)
    what = " and ".join(f"{kinds[fidelity]} {WORDS[fidelity]}" for fidelity in FIDELITIES)
    bad = sum(not label.good for label in labels)
    why = f" ('mfal check {escape(place)}' says why)" if bad else ""
    repeated = f", {twice} twice in the file" if twice else ""
    frames = len({label.frame_id for label in labels})
    return (
        f"{frames} frames, {what} labels: {new} new, {len(labels) - new} there already{repeated}, {bad} not good{why}"
    )


def _settings(origins: dict[Fidelity, Origin], config: Campaign | None) -> list[str]:
    lines = []
    for of in dict.fromkeys(known.of for known in origins.values()):
        same = (f"{known.fingerprint} ({WORDS[name]})" for name, known in origins.items() if known.of == of)
        use = USES["other" if of == "file" and config else of]
        lines.append(f"Settings {' and '.join(same)} are {use.format(campaign=config and config.campaign)}.")
    return [*lines, "Labels of different settings are never trained on together."]
