"""The report of a round, from the stores to a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mfal import atomic
from mfal.config import Campaign
from mfal.dft.fidelity import fingerprints
from stores.campaign import CampaignStores

if TYPE_CHECKING:
    from mfal.report.material import Material


def report_path(campaign: Campaign, round: int) -> Path:
    return campaign.directory / "reports" / f"round-{round}.html"


def write_report(stores: CampaignStores, campaign: Campaign, round: int | None = None) -> Path:
    """Write the report of a finished round (the last one by default) and return its path.

    Raises:
        LookupError: there is no such finished round.
    """
    from mfal.report.page import render  # late: it takes seconds, with torch

    material = gathered(stores, campaign, round)
    path = report_path(campaign, material.last.round)
    atomic.replace(path, render(material).html.encode())  # several may be at it
    return path


def gathered(stores: CampaignStores, campaign: Campaign, round: int | None = None) -> Material:
    """What the report on a finished round (the last one by default) is made of.

    Raises:
        LookupError: there is no such finished round.
    """
    from mfal.report.material import Material  # late, as above

    name = campaign.campaign
    rounds = stores.all_rounds(name)
    finished = [summary.round for summary in rounds]
    if not finished or (round is not None and round not in finished):
        have = f"finished are {', '.join(map(str, finished))}" if finished else "none is finished yet"
        raise LookupError(f"there is no report of round {round if round is not None else 0}: {have}")
    last = finished[-1] if round is None else round
    own = fingerprints(campaign.engine, campaign.magnetism)
    labels = [label for label in stores.all_labels(name) if label.fingerprint in own]
    scores = stores.all_scores(name, round={"$lte": last})
    shown = {score.frame_id for score in scores if score.round == last} | {label.frame_id for label in labels}
    evaluation = stores.evaluation(name, last)
    return Material(
        campaign=name,
        rounds=[summary for summary in rounds if summary.round <= last],
        frames=stores.all_frames(name, frame_id={"$in": sorted(shown)}),
        labels=labels,
        scores=scores,
        parity=evaluation.parity,
        experience=evaluation.experience,
    )
