"""Calculations that came to nothing, attempted once more in the queue."""

from __future__ import annotations

from flows.calculation import failures, forget
from flows.queue import Queue
from mfal.config import Campaign
from mfal.dft.fidelity import fingerprints
from mfal.frames import Status
from stores.campaign import CampaignStores


def retry_labels(campaign: Campaign, queue: Queue, stores: CampaignStores, status: Status) -> tuple[int, int]:
    """How many are attempted again at once, and how many the next `mfal submit` or `mfal run` will attempt again.

    A label in the store stays until there is another; the new attempt goes on with its number and its cost.
    """
    from jobflow_remote.jobs.data import get_reset_job_base_dict

    own = fingerprints(campaign.engine, campaign.magnetism)
    flow = queue.live()
    sent, later = 0, []
    for document in failures(stores.jobs, campaign.campaign, status):
        if document["output"]["fingerprint"] not in own:
            continue
        ended = {"uuid": document["uuid"], "index": document["index"], "state": "COMPLETED", "lock_id": None}
        change = get_reset_job_base_dict() | {
            "state": "READY",
            "job.function_kwargs.bad": document["output"],
            "job.function_kwargs.again": True,
        }
        if (
            flow
            and document["uuid"] in flow["jobs"]
            and queue.controller.jobs.update_one(ended, {"$set": change}).modified_count
        ):
            sent += 1
        else:
            later.append(document)
    if sent and flow:
        queue.settle(flow)
    forget(stores.jobs, later)
    return sent, len(later)
