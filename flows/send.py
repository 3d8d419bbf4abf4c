"""A campaign to the queue of a jobflow-remote project: the jobs of `mfal run` that are not done yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobflow import Flow, Job, JobStore

from flows import home, places
from flows.campaign import campaign_flow
from flows.jobs import ResumableJob, followers
from flows.progress import Progress
from mfal.config import Campaign
from mfal.config_file import ConfigError
from mfal.dft.fidelity import fingerprint, fingerprints
from stores.campaign import CampaignStores

if TYPE_CHECKING:
    from flows.queue import Queue


def send(campaign: Campaign, queue: Queue, stores: CampaignStores) -> list[Job]:
    """Submit what is left of a campaign; returns the jobs that could be sent now, none where it has ended.

    Raises:
        ConfigError: the project lacks a worker or resources, or another campaign there is about to do the same.
    """
    controller = queue.controller
    found = places.problems(campaign, controller.project)
    if queue.live():
        found.append(
            f"campaign = {campaign.campaign!r}: is in the queue already: 'mfal watch' shows it, 'mfal cancel'"
            " takes it out"
        )
    elif twin := _twin(campaign, queue):
        found.append(
            f"campaign = {campaign.campaign!r}: would calculate the same frames as {twin!r}, which is in the queue:"
            " wait for its end, and its labels are taken; or give another seed"
        )
    if found:
        raise ConfigError(found)
    home.bring(stores, controller.jobstore, home.outputs_of(campaign))
    jobs = left(campaign, stores.jobs)
    if not jobs:
        return []
    _send_outputs(jobs, stores.jobs, controller.jobstore)
    for flow in queue.flows():  # all have ended; what they put out is at home
        controller.delete_flow(flow_id=flow["uuid"])
    metadata = {"mfal": {"campaign": campaign.campaign, "explores": _explores(campaign)}}
    flow = Flow(jobs, name=campaign.campaign, metadata=metadata)
    place = campaign.cluster.place("default")
    worker = place.worker if place else next(iter(controller.project.workers))
    controller.add_flow(flow, worker=worker, allow_external_references=True)
    return jobs


def left(campaign: Campaign, store: JobStore) -> list[Job]:
    """The jobs of a campaign that can be known already and are not done, each as jobflow's own `Job`: a worker has no
    store to look things up in."""
    sent = campaign.model_copy(update={"store": None})  # a worker needs no address
    waiting: list[Any] = list(campaign_flow(sent, Progress(remote=True, known=_known(campaign, store))).jobs)
    found = []
    while waiting:
        job: ResumableJob = waiting.pop(0)
        if not job.is_kept(store):
            found.append(_plain(job))
        elif born := followers(job, store):
            waiting += born.jobs
    return found


def _known(campaign: Campaign, store: JobStore) -> list[str]:
    """Labels, also of other campaigns, that are not to be made again."""
    own = sorted(fingerprints(campaign.engine, campaign.magnetism))
    criteria = {"metadata.kind": "label", "output.fingerprint": {"$in": own}}
    found = store.query(criteria, ["uuid", "output.status", "metadata.limits"])
    limits = campaign.engine.limits()
    return sorted({d["uuid"] for d in found if d["output"]["status"] == "ok" or d["metadata"].get("limits") == limits})


def _send_outputs(jobs: list[Job], store: JobStore, project: JobStore) -> None:
    """What the jobs, or those that they give birth to, refer to and the project's store does not hold."""
    if store.docs_store == project.docs_store:
        return
    needed = {reference.uuid for job in jobs for reference in job.input_references} - {job.uuid for job in jobs}
    for job in jobs:
        progress = next((a for a in job.function_args if isinstance(a, Progress)), None)
        if progress:
            needed |= {*progress.explorations, *(label.uuid for label in progress.labels), *progress.known}
            needed |= {uuid for uuid in (progress.committee, progress.evaluation) if uuid}
    there = set(project.docs_store.distinct("uuid", {"uuid": {"$in": sorted(needed)}}))
    keys = [
        (d["uuid"], d["index"])
        for d in store.docs_store.query({"uuid": {"$in": sorted(needed - there)}}, ["uuid", "index"])
    ]
    home.copy(store, project, keys)


def _twin(campaign: Campaign, queue: Queue) -> str | None:
    """Another campaign in the queue that explores alike: the same calculation cannot be in a queue twice."""
    criteria = {"metadata.mfal.explores": _explores(campaign), "state": {"$nin": ["COMPLETED", "FAILED", "STOPPED"]}}
    found = queue.controller.flows.find_one(criteria, ["metadata"])
    return found["metadata"]["mfal"]["campaign"] if found else None


def _explores(campaign: Campaign) -> str:
    """What decides which frames come up in the first round."""
    parents = [parent.model_dump(mode="json") for parent in campaign.parents]
    explore, pretrained = campaign.explore.model_dump(), campaign.committee.pretrained
    return fingerprint({"seed": campaign.seed, "parents": parents, "explore": explore, "pretrained": pretrained})


def _plain(job: Job) -> Job:
    return Job(
        job.function,
        job.function_args,
        job.function_kwargs,
        output_schema=job.output_schema,
        uuid=job.uuid,
        index=job.index,
        name=job.name,
        metadata=job.metadata,
        config=job.config,
        **job._kwargs,
    )
