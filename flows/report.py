"""The report of a round, from the stores to a file."""

from __future__ import annotations

from pathlib import Path

from mfal import atomic
from mfal.config import Campaign
from mfal.dft.fidelity import fingerprints
from stores.campaign import CampaignStores


def report_path(campaign: Campaign, round: int) -> Path:
    return campaign.directory / "reports" / f"round-{round}.html"


def write_report(stores: CampaignStores, campaign: Campaign, round: int | None = None) -> Path:
    """Write the report of a finished round (the last one by default) and return its path.

    Raises:
        LookupError: there is no such finished round.
    """
    from mfal.report.page import render  # late: it takes seconds, with torch

    rounds = stores.all_rounds(campaign.campaign)
    finished = [summary.round for summary in rounds]
    if not finished or (round is not None and round not in finished):
        have = f"finished are {', '.join(map(str, finished))}" if finished else "none is finished yet"
        raise LookupError(f"there is no report of round {round if round is not None else 0}: {have}")
    last = finished[-1] if round is None else round
    own = fingerprints(campaign.engine, campaign.magnetism)
    page = render(
        campaign=campaign.campaign,
        rounds=[summary for summary in rounds if summary.round <= last],
        frames=stores.all_frames(campaign.campaign),
        labels=[label for label in stores.all_labels(campaign.campaign) if label.fingerprint in own],
        scores=stores.all_scores(campaign.campaign),
        parity=stores.parity(campaign.campaign, last),
    )
    path = report_path(campaign, last)
    atomic.replace(path, page.encode())  # several may be at it
    return path
