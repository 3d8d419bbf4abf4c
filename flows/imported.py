"""Imported labels in the JobStore: each is the output of the job that would have calculated it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from jobflow import job
from jobflow.core.schemas import JobStoreDocument
from monty.json import jsanitize

from flows.jobs import ResumableJob, pinned
from mfal.foreign import Image
from mfal.frames import WORDS, Label
from stores.builder import CampaignBuilder
from stores.campaign import CampaignStores

#: Labels that are looked up, or written, at a time.
CHUNK = 500


@job
def imported() -> None:
    """Stands where a calculation would; never run, as what it puts out is there."""


def label_job(image: Image, campaign: str) -> ResumableJob:
    """The job of a label, under the uuid that it has in `flows.calculation`."""
    label = image.label
    stand_in = imported()
    stand_in.name = f"{WORDS[label.fidelity]} {image.frame.structure.reduced_formula} {label.frame_id}"
    return pinned(
        stand_in,
        label.frame_id,
        label.fingerprint,
        kind="label",
        campaign=campaign,
        round=0,
        fidelity=label.fidelity,
        frame_id=label.frame_id,
        limits=None,  # those of no campaign: each attempts a bad label again
    )


def stored(stores: CampaignStores, jobs: Sequence[ResumableJob]) -> dict[str, Label]:
    """The labels that the JobStore holds already, by the uuid of their job."""
    found = {}
    for start in range(0, len(jobs), CHUNK):
        uuids = [job.uuid for job in jobs[start : start + CHUNK]]
        for document in stores.jobs.query({"uuid": {"$in": uuids}, "index": 1}, ["output"]):
            found[document["uuid"]] = stores.labels.typed(document["output"])
    return found


def write(
    stores: CampaignStores,
    campaign: str,
    images: Sequence[Image],
    jobs: Sequence[ResumableJob],
    new: dict[str, Label],
    advance: Callable[[int], None],
) -> None:
    """Frames, then outputs as jobflow saves them, then the collections.

    Args:
        new: what is to be written, by the uuid of its job. What was there is built again all the same: a process may
            have died between saving outputs and building from them.
    """
    known = set(stores.frames.store.distinct("frame_id", {"campaign": campaign}))
    now = datetime.now(UTC)
    for start in range(0, len(jobs), CHUNK):
        some = slice(start, start + CHUNK)
        frames = {image.frame.frame_id: image.frame for image in images[some]}
        stores.add_frames(campaign, [frame for name, frame in frames.items() if name not in known])
        known |= frames.keys()
        documents = [
            JobStoreDocument(
                uuid=job.uuid,
                index=job.index,
                output=jsanitize(_ended(new[job.uuid], now), strict=True, enum_values=True, allow_bson=True),
                completed_at=datetime.now().isoformat(),
                metadata=job.metadata,
                hosts=job.hosts,
                name=job.name,
            )
            for job in jobs[some]
            if job.uuid in new
        ]
        if documents:
            stores.jobs.update(documents)
        CampaignBuilder.of(stores, [job.uuid for job in jobs[some]]).build()
        advance(len(jobs[some]))


def _ended(label: Label, time: datetime) -> Label:
    return label.model_copy(update={"finished_at": time.isoformat(timespec="seconds")})
