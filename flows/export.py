"""The good labels of a campaign, from the stores to a file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from mfal import dataset
from mfal.config import Campaign
from mfal.dft.fidelity import fingerprint, settings
from mfal.dft.sanity import flagged
from mfal.frames import FIDELITIES, Fidelity
from stores.campaign import CampaignStores


def export(stores: CampaignStores, campaign: Campaign, path: Path) -> tuple[dict[Fidelity, int], int, int]:
    """Write the good labels of the campaign's present settings as extended XYZ.

    Returns:
        How many there are, by fidelity; how many good ones of other settings were left out, because the file may hold
        only labels that compare; and how many that the campaign's sanity limits flag.

    Raises:
        ValueError: there is no good label.
    """
    good = [label for label in stores.all_labels(campaign.campaign) if label.good]
    wanted = {fingerprint(settings(campaign.engine, campaign.magnetism, fidelity)) for fidelity in FIDELITIES}
    frames = stores.all_frames(campaign.campaign)
    same = [label for label in good if label.fingerprint in wanted]
    labels = [label for label in flagged(frames, same, campaign.sanity) if label.good]
    dataset.write(path, frames.values(), labels)
    counts = Counter(label.fidelity for label in labels)
    return {fidelity: counts[fidelity] for fidelity in FIDELITIES}, len(good) - len(same), len(same) - len(labels)
