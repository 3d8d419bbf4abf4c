"""`mfal rehearse`: the campaign of a file, with the labels of a finished data set in place of DFT."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml

from flows.play import play
from flows.refuse import refusing
from mfal import atomic
from mfal.config import Campaign
from mfal.config_file import load
from mfal.dataset_files import files
from mfal.dft.engines import Table

FILE = "rehearsal.yaml"


def rehearse(
    config: Annotated[Path, typer.Argument(help="The campaign file.", show_default=False)],
    data: Annotated[
        Path,
        typer.Option(
            metavar="DATASET",
            help="Frames with labels at both fidelities, and what they cost: an extended XYZ file, or a folder that"
            " 'mfal export' wrote.",
            show_default=False,
        ),
    ],
    seed: Annotated[
        int | None, typer.Option(help="In place of the campaign's seed.", min=0, show_default=False)
    ] = None,
    core_hours: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="NONMAGNETIC MAGNETIC",
            help="Of one calculation, where the data set has no core_hours.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Play a campaign without DFT: labels are looked up, and cost what they cost when they were calculated.

    The same flow as of 'mfal run', with the same settings; only the candidates of a round are drawn from the data set
    in place of being explored. It is written beside the campaign, to DIRECTORY-rehearsal.
    """
    with refusing():
        campaign = rehearsal(load(config), data, seed, core_hours)
        campaign.directory.mkdir(parents=True, exist_ok=True)
        own = campaign.directory / FILE
        content = yaml.safe_dump(campaign.model_dump(mode="json"), sort_keys=False)
        atomic.replace(own, f"# A rehearsal of {config} with {data}\n{content}".encode())
    play(campaign, own)


def rehearsal_directory(campaign: Campaign) -> Path:
    return campaign.directory.with_name(f"{campaign.directory.name}-rehearsal")


def rehearsal(
    campaign: Campaign, data: Path, seed: int | None = None, core_hours: tuple[float, float] | None = None
) -> Campaign:
    """The campaign with a table as its engine and a directory of its own.

    Raises:
        ValueError: there is no such file, a folder has none, or a cost is not positive.
    """
    if not data.exists():
        raise ValueError(f"--data {data}: there is no such file; 'mfal export' writes one")
    files(data)
    if core_hours is not None and min(core_hours) <= 0:
        raise ValueError(f"--core-hours {core_hours[0]:g} {core_hours[1]:g}: must both be above 0")
    costs = {} if core_hours is None else {"nonmagnetic": core_hours[0], "magnetic": core_hours[1]}
    return campaign.model_copy(
        update={
            "campaign": f"{campaign.campaign[:53]}-rehearsal",
            "directory": rehearsal_directory(campaign),
            "store": None,  # not among what was calculated
            "engine": Table(data=data.absolute(), core_hours=costs),
            "seed": campaign.seed if seed is None else seed,
        }
    )
