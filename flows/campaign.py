"""The campaign as one jobflow Flow; rounds and calculations are born at run time.

explore -> score -> label non-magnetic -> decide -> label magnetic -> train -> evaluate -> next round, or stop.

Score, decide and evaluate give birth to what follows from their output (`after_...`): pure functions that a restart
calls again. They pass references on, never the data behind them. In a queue they send each worker what is new, and
name what it was sent before (`flows.parcels`).
"""

from __future__ import annotations

from dataclasses import replace
from inspect import signature
from typing import TYPE_CHECKING

from jobflow import CURRENT_JOB, Flow, Job, OnMissing, OutputReference, Response

from flows import parcels
from flows.calculation import label_job
from flows.jobs import BornFlow, campaign_job, pinned
from flows.progress import Progress
from mfal.config import Campaign
from mfal.dft.engines import Table
from mfal.frames import Frame, Label, Score, TrainedCommittee

if TYPE_CHECKING:  # torch: neither the runner nor `mfal submit` needs it to know which job follows which
    from flows.steps import Evaluation
    from mfal.acquire.experience import Experience
    from mfal.explore.candidates import Exploration


def campaign_flow(campaign: Campaign, progress: Progress | None = None) -> Flow:
    """The whole campaign; only its first round's first jobs exist yet."""
    return Flow(_round(campaign, progress or Progress()), name=campaign.campaign)


def _round(campaign: Campaign, progress: Progress) -> list[Job]:
    table = campaign.engine.model_dump(mode="json") if isinstance(campaign.engine, Table) else None
    late = progress.labels_that_are("late")
    exploration = pinned(
        explore(
            campaign,
            progress,
            progress.committee_output(),
            {uuid: None if progress.remote else OutputReference(uuid).frames for uuid in progress.explorations},
            progress.explorations if progress.remote else [],
            {uuid: OutputReference(uuid) for uuid in late},
        ),
        campaign.campaign,
        campaign.seed,
        progress.round,
        [parent.model_dump(mode="json") for parent in campaign.parents],
        campaign.explore.model_dump(),
        campaign.committee.pretrained,
        progress.committee,
        progress.explorations,
        table,
        *([late] if late else []),
        kind="explore",
        campaign=campaign.campaign,
        round=progress.round,
        place=campaign.cluster.place("explore"),
        missing=OnMissing.NONE,  # what is late may never come; all else is there before this job is born
    )
    now = progress.model_copy(update={"explorations": [*progress.explorations, exploration.uuid]})
    scores = pinned(
        score(campaign, now, exploration.output.frames, now.committee_output(), now.experience()),
        exploration.uuid,
        progress.committee,
        progress.evaluation,
        campaign.seed,
        campaign.acquire.model_dump(),
        kind="score",
        campaign=campaign.campaign,
        round=progress.round,
        place=campaign.cluster.place("score"),
    )
    return [exploration, scores]


def after_score(
    scores: list[Score], own: str, campaign: Campaign, progress: Progress, frames: list[Frame]
) -> list[Job]:
    """Non-magnetic labels for the frames that are to have one; then the second decision."""
    by_id = {frame.frame_id: frame for frame in frames}
    labels = [
        label_job(
            campaign.engine,
            campaign.magnetism,
            by_id[score.frame_id],
            "nonmagnetic",
            campaign.campaign,
            progress.round,
            place=campaign.cluster.place("nonmagnetic"),
        )
        for score in scores
        if score.gets("nonmagnetic")
    ]
    now = progress.asking(labels)
    decisions = pinned(
        decide(
            campaign,
            now,
            OutputReference(progress.explorations[-1]).frames,
            OutputReference(own),
            [label.output for label in labels],
            now.committee_output(),
            now.experience(),
        ),
        own,
        [label.uuid for label in labels],
        kind="decide",
        campaign=campaign.campaign,
        round=progress.round,
        place=campaign.cluster.place("decide"),
    )
    return [*_new(labels, progress), decisions]


def after_decide(
    decisions: list[Score],
    own: str,
    campaign: Campaign,
    progress: Progress,
    frames: list[Frame],
    labels: list[Label | None],
) -> list[Job]:
    """Magnetic labels for the chosen frames of the round; then training and evaluation."""
    by_id = {frame.frame_id: frame for frame in frames}
    chosen = [decision for decision in decisions if decision.gets("magnetic")]
    hosts = {parent.name: parent.host(campaign.magnetism.moments) for parent in campaign.parents}
    asked = [
        label_job(
            campaign.engine,
            campaign.magnetism,
            (frame := by_id[decision.frame_id]),
            "magnetic",
            campaign.campaign,
            progress.round,
            host=hosts.get(frame.parent),
            predicted=decision.magmoms,
            place=campaign.cluster.place("magnetic"),
        )
        for decision in chosen
    ]
    missing = {
        uuid for uuid, label in zip(progress.labels_that_are("new"), labels, strict=True) if label is None
    }  # of the non-magnetic ones
    before = [
        label.model_copy(update={"state": "late"}) if label.uuid in missing else label for label in progress.labels
    ]
    now = (
        progress.model_copy(update={"labels": before})
        .asking(asked)
        .model_copy(update={"hold_out": progress.hold_out + [d.frame_id for d in chosen if d.arm == "hold_out"]})
    )
    data = now.frames(), now.label_outputs(), now.kept(), now.late_labels()
    trained = pinned(
        train(
            campaign,
            now,
            *data,
            OutputReference(own),
            previous=now.committee_output(),
            experience=now.experience(),
        ),
        campaign.campaign,
        campaign.seed,
        now.round,
        campaign.committee.model_dump(),
        campaign.training.model_dump(exclude={"device"}),
        [label.uuid for label in now.labels],
        now.hold_out,
        now.committee,
        now.evaluation,
        own,
        campaign.acquire.nonmagnetic,
        campaign.sanity.model_dump(),
        campaign.magnetism.model_dump(mode="json"),
        kind="train",
        campaign=campaign.campaign,
        round=now.round,
        place=campaign.cluster.place("train"),
    )
    following = now.model_copy(update={"committee": trained.uuid})
    explored = OutputReference(now.explorations[-1])
    evaluated = pinned(
        evaluate(
            campaign,
            following,
            explored.candidates,
            explored.dropped,
            *data,
            OutputReference(own),
            trained.output,
            now.committee_output(),
            now.experience(),
        ),
        trained.uuid,
        own,
        kind="evaluate",
        campaign=campaign.campaign,
        round=now.round,
        place=campaign.cluster.place("evaluate"),
    )
    return [*_new(asked, progress), trained, evaluated]


def after_evaluate(evaluation: Evaluation, own: str, campaign: Campaign, progress: Progress) -> list[Job]:
    """The next round, unless the campaign has had enough: by what its file says now, as it may have been given more."""
    if evaluation.reason_to_stop(campaign.stop):
        return []
    settled = set(evaluation.settled)
    seen = {label.uuid for label in progress.labels} if evaluation.seen is None else set(evaluation.seen)
    labels = [
        label.model_copy(
            update={"state": "settled" if label.uuid in settled else "seen" if label.uuid in seen else "late"}
        )
        for label in progress.labels
    ]
    return _round(
        campaign, progress.model_copy(update={"round": progress.round + 1, "labels": labels, "evaluation": own})
    )


# The jobs. Their first arguments say what the campaign is and how far it has come; the rest are references.


@campaign_job(data="frames")
def explore(
    campaign: Campaign,
    progress: Progress,
    committee: TrainedCommittee | None,
    frames: dict[str, list[Frame] | None],
    kept: list[str],
    late: dict[str, Label | None],
) -> Exploration | Response:
    try:
        known = parcels.unpacked(frames, kept, list[Frame])
    except parcels.NotKeptError:
        return _with_everything()
    from flows import steps

    found = steps.explore_round(campaign, progress.round, committee, [group for group in known.values() if group])
    if progress.remote:
        parcels.keep(known, list[Frame])
    return found.model_copy(update={"late": {uuid: label for uuid, label in late.items() if label}})


@campaign_job(then=after_score)
def score(
    campaign: Campaign,
    progress: Progress,
    frames: list[Frame],
    committee: TrainedCommittee | None,
    experience: Experience | None,
) -> list[Score]:
    from flows import steps

    return steps.score(campaign, progress.round, frames, committee, experience)


@campaign_job(then=after_decide)
def decide(
    campaign: Campaign,
    progress: Progress,
    frames: list[Frame],
    scores: list[Score],
    labels: list[Label | None],
    committee: TrainedCommittee | None,
    experience: Experience | None,
) -> list[Score]:
    from flows import steps

    return steps.decide(campaign, progress.round, frames, scores, labels, committee, experience)


@campaign_job(data="weights")
def train(
    campaign: Campaign,
    progress: Progress,
    frames: dict[str, list[Frame] | None],
    labels: dict[str, Label | None],
    kept: list[str],
    late: dict[str, Label] | None,
    scores: list[Score],
    previous: TrainedCommittee | None,
    experience: Experience | None,
) -> TrainedCommittee | Response:
    try:
        data = _data(progress, frames, labels, kept, late)
    except parcels.NotKeptError:
        return _with_everything()
    from flows import steps

    return steps.train(campaign, progress.round, *data, progress.hold_out, scores, previous, experience)


@campaign_job(then=after_evaluate, data="parity")
def evaluate(
    campaign: Campaign,
    progress: Progress,
    candidates: int,
    dropped: dict[str, int],
    frames: dict[str, list[Frame] | None],
    labels: dict[str, Label | None],
    kept: list[str],
    late: dict[str, Label] | None,
    scores: list[Score],
    committee: TrainedCommittee,
    previous: TrainedCommittee | None,
    experience: Experience | None,
) -> Evaluation | Response:
    try:
        data = _data(progress, frames, labels, kept, late)
    except parcels.NotKeptError:
        return _with_everything()
    from flows import steps

    return steps.evaluate(
        campaign,
        progress.round,
        candidates,
        dropped,
        *data,
        progress.labels_that_are("seen", "settled"),
        progress.hold_out,
        scores,
        committee,
        previous,
        experience,
    )


def _data(
    progress: Progress,
    frames: dict[str, list[Frame] | None],
    labels: dict[str, Label | None],
    kept: list[str],
    late: dict[str, Label] | None,
) -> tuple[list[list[Frame]], dict[str, Label | None]]:
    """The frames of each round and all labels by the uuids of their jobs, of which this worker was sent some before."""
    explored = parcels.unpacked(frames, kept, list[Frame])
    known = parcels.unpacked(labels, kept, Label) | (late or {})
    if progress.remote:
        parcels.keep(explored, list[Frame])
        parcels.keep({uuid: label for uuid, label in known.items() if label and label.status == "ok"}, Label)
    return [group or [] for group in explored.values()], known


def _with_everything() -> Response:
    """The job that runs now once more, with all the data in place of what its worker was thought to have."""
    now: Job = CURRENT_JOB.job
    arguments = signature(now.function).bind(*now.function_args, **now.function_kwargs).arguments
    late = set(arguments["progress"].labels_that_are("late"))
    arguments["frames"] = {uuid: OutputReference(uuid).frames for uuid in arguments["frames"]}
    if "labels" in arguments:
        arguments["labels"] = {uuid: None if uuid in late else OutputReference(uuid) for uuid in arguments["labels"]}
    again = type(now)(
        now.function,
        function_kwargs=dict(arguments) | {"kept": []},
        uuid=now.uuid,
        index=now.index + 1,
        name=now.name,
        metadata=now.metadata,
        config=replace(now.config, on_missing_references=OnMissing.NONE),
        **now._kwargs,
    )
    return Response(replace=BornFlow([again]))


def _new(labels: list[Job], progress: Progress) -> list[Job]:
    return [label for label in labels if label.uuid not in progress.known]
