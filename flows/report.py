"""`mfal report`: from the stores to a page, its figures as files, and its numbers."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.opened import opened
from flows.refuse import refuse, refusing
from mfal import atomic
from mfal.config import Campaign
from mfal.config_file import load
from mfal.dft.engines import Surrogate, Table
from mfal.dft.fidelity import fingerprints
from stores.campaign import CampaignStores

if TYPE_CHECKING:
    from mfal.report.material import Material
    from mfal.report.page import Report


@contextmanager
def uncollected() -> Iterator[None]:
    """Around the making of a report: not looking for garbage. Among millions of new objects, all of them in use, that
    would take a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(frozen=True)
class Written:
    """A page, and why its figures were not drawn, if they were asked for and were not."""

    page: Path
    trouble: str = ""


@uncollected()
def report(
    configs: Annotated[
        list[Path],
        typer.Argument(metavar="CAMPAIGN...", help="Campaign files; several are compared.", show_default=False),
    ],
    round: Annotated[int | None, typer.Option(help="The round; the last finished one by default.", min=0)] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Where to write it; by default to reports/ in the directory of the campaign, of several the first.",
            show_default=False,
        ),
    ] = None,
    figures: Annotated[
        bool, typer.Option(help="Also the figures, as SVG and PNG, in a folder beside the page; needs Chromium.")
    ] = True,
) -> None:
    """Write the report of a round, or the comparison of campaigns, from the stores, and print where it is.

    One HTML file that needs no network, beside it the numbers as JSON and the figures as SVG and PNG. 'mfal run' and
    'mfal watch' write it after each round.
    """
    if out and out.suffix != ".html":
        refuse(f"--out {out}: must end in .html")
    if round is not None and len(configs) > 1:
        refuse("--round: is of one campaign; several are compared after their last rounds")
    with refusing():
        campaigns = [load(config) for config in configs]
    materials = []
    for campaign in campaigns:
        with opened(campaign) as stores:
            try:
                materials.append(gathered(stores, campaign, round))
            except LookupError as error:
                refuse(f"{campaign.campaign}: {error.args[0]}")
    if len(materials) == 1:
        from mfal.report.page import render

        made, path = render(materials[0]), report_path(campaigns[0], materials[0].last.round)
    else:
        from mfal.report.comparison import render as compare

        others = "-".join(dict.fromkeys(campaign.campaign for campaign in campaigns[1:]))[:80]
        made, path = compare(materials), campaigns[0].directory / "reports" / f"against-{others}.html"
    with refusing():
        written = write(made, out or path, figures=figures)
    print(written.page)
    if written.trouble:
        typer.echo(written.trouble, err=True)


def report_path(campaign: Campaign, round: int) -> Path:
    return campaign.directory / "reports" / f"round-{round}.html"


@uncollected()
def write_report(stores: CampaignStores, campaign: Campaign, round: int | None = None) -> Written:
    """Write the report of a finished round, the last one by default. Figures of a campaign without DFT, whose rounds
    take seconds, are drawn by `mfal report` only.

    Raises:
        LookupError: there is no such finished round.
    """
    from mfal.report.page import render  # late: it takes seconds, with torch

    material = gathered(stores, campaign, round)
    path = report_path(campaign, material.last.round)
    return write(render(material), path, figures=not isinstance(campaign.engine, Table | Surrogate))


def write(report: Report, path: Path, *, figures: bool) -> Written:
    """Write a page and what belongs to it. The page comes last: where it is, the rest is."""
    from mfal.report import pictures

    trouble = ""
    text = json.dumps(report.numbers, indent=1, ensure_ascii=False, allow_nan=False)
    atomic.replace(path.with_suffix(".json"), f"{text}\n".encode())  # several may be at it
    if figures and report.plots:
        try:
            pictures.write(report.plots, path.with_suffix(""))
        except pictures.CannotDrawError as error:
            trouble = str(error)
    atomic.replace(path, report.html.encode())
    return Written(path, trouble)


def gathered(stores: CampaignStores, campaign: Campaign, round: int | None = None) -> Material:
    """What the report on a finished round (the last one by default) is made of.

    Raises:
        LookupError: there is no such finished round.
    """
    from mfal.acquire.experience import Experience  # late, as above
    from mfal.report.material import Material

    name = campaign.campaign
    rounds = stores.all_rounds(name)
    finished = [summary.round for summary in rounds]
    if not finished or (round is not None and round not in finished):
        have = f"finished are {', '.join(map(str, finished))}" if finished else "none is finished yet"
        raise LookupError(f"there is no report of round {round if round is not None else 0}: {have}")
    last = finished[-1] if round is None else round
    # By settings first and then by frame: to ask for the labels of all frames of a campaign takes much longer.
    wanted = {
        "fingerprint": {"$in": sorted(fingerprints(campaign.engine, campaign.magnetism))},
        "$or": [{"campaign": {"$ne": name}}, {"round": {"$lte": last}}],
    }
    found = stores.labels.store.query(wanted, sort={"finished_at": 1})
    labels = [stores.labels.typed(document) for document in found]
    frames = stores.all_frames(name, round=last)
    others = {label.frame_id for label in labels} - frames.keys()
    frames |= stores.all_frames(name, frame_id={"$in": sorted(others)})
    evaluation = stores.evaluation(name, last)
    return Material(
        campaign=name,
        rounds=[summary for summary in rounds if summary.round <= last],
        frames=frames,
        labels=[label for label in labels if label.frame_id in frames],
        scores=stores.all_scores(name, round=last),
        parity=evaluation["parity"],
        experience=Experience.model_validate(evaluation["experience"]),
        acquire=campaign.acquire,
        stop=campaign.stop,
    )
