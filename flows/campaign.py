"""The campaign as one jobflow Flow; rounds and calculations are born at run time.

explore -> score -> label non-magnetic -> decide -> label magnetic -> train -> evaluate -> next round, or stop.

The planners (`label_cheap`, `label_magnetic`, `next_round`) are cheap and pure: they only look at what is there and
replace themselves by the jobs that follow. They are run again on a restart and make the same jobs again; the expensive
jobs in between are kept (see `flows.jobs`). Planners pass references on, never the data behind them.
"""

from __future__ import annotations

from jobflow import Flow, Job, OutputReference, Response, job
from pydantic import Field

from flows.calculation import CalculationJob, LabelMaker
from flows.jobs import CampaignJob, pinned
from flows.steps import Evaluation, decide, evaluate, explore_round, score, train
from mfal.config import Campaign
from mfal.dft.engines import Engine, Table
from mfal.dft.fidelity import fingerprint, settings
from mfal.dft.magnetism import Magnetism
from mfal.dft.moments import initial_moments
from mfal.dft.ordering import Host
from mfal.frames import WORDS, Document, Fidelity, Frame, Score


class LabelJob(Document):
    """Where the label of a frame at a fidelity is, or will be."""

    frame_id: str
    fidelity: Fidelity
    uuid: str


class Progress(Document):
    """What a planner must know of the rounds before: where things are, not the things."""

    round: int = 0
    explorations: list[str] = Field(default_factory=list)
    labels: list[LabelJob] = Field(default_factory=list)
    #: How many of `labels` stand there from earlier rounds.
    earlier: int = 0
    hold_out: list[str] = Field(default_factory=list)
    committee: str | None = None
    #: The last round's, with what it taught.
    evaluation: str | None = None

    def frames(self) -> list[OutputReference]:
        return [OutputReference(uuid).frames for uuid in self.explorations]

    def label_outputs(self) -> list[OutputReference]:
        return [OutputReference(label.uuid) for label in self.labels]

    def committee_output(self) -> OutputReference | None:
        return OutputReference(self.committee) if self.committee else None

    def experience(self) -> OutputReference | None:
        return OutputReference(self.evaluation).experience if self.evaluation else None


def campaign_flow(campaign: Campaign) -> Flow:
    """The whole campaign; only its first round's first jobs exist yet."""
    return Flow(_round(campaign, Progress()), name=campaign.campaign)


def _round(campaign: Campaign, progress: Progress) -> list[Job]:
    table = campaign.engine.model_dump(mode="json") if isinstance(campaign.engine, Table) else None
    exploration = pinned(
        explore_round(campaign, progress.round, progress.committee_output(), progress.frames()),
        campaign.campaign,
        campaign.seed,
        progress.round,
        [parent.model_dump(mode="json") for parent in campaign.parents],
        campaign.explore.model_dump(),
        campaign.committee.pretrained,
        progress.committee,
        progress.explorations,
        table,
        kind="explore",
        campaign=campaign.campaign,
        round=progress.round,
    )
    now = progress.model_copy(update={"explorations": [*progress.explorations, exploration.uuid]})
    frames = exploration.output.frames
    scores = pinned(
        score(campaign, progress.round, frames, now.committee_output(), now.experience()),
        exploration.uuid,
        progress.committee,
        progress.evaluation,
        campaign.seed,
        campaign.acquire.model_dump(),
        kind="score",
        campaign=campaign.campaign,
        round=progress.round,
    )
    plan = label_cheap(campaign, now, frames, scores.output, scores.uuid)
    return [exploration, scores, _planner(plan, campaign, now)]


@job
def label_cheap(
    campaign: Campaign, progress: Progress, frames: list[Frame], scores: list[Score], scored_by: str
) -> Response:
    """Non-magnetic labels for the frames that are to have one; then the second decision."""
    by_id = {frame.frame_id: frame for frame in frames}
    where = campaign.campaign, progress.round
    labels = [
        label_job(campaign.engine, campaign.magnetism, by_id[score.frame_id], "nonmagnetic", *where)
        for score in scores
        if score.gets("nonmagnetic")
    ]
    now = _with(progress, labels)
    explored = OutputReference(progress.explorations[-1]).frames
    decisions = pinned(
        decide(
            campaign,
            progress.round,
            explored,
            OutputReference(scored_by),
            [label.output for label in labels],
            now.committee_output(),
            now.experience(),
        ),
        scored_by,
        [label.uuid for label in labels],
        kind="decide",
        campaign=campaign.campaign,
        round=progress.round,
    )
    plan = _planner(label_magnetic(campaign, now, explored, decisions.output, decisions.uuid), campaign, now)
    return Response(output=[label.uuid for label in labels], replace=Flow([*labels, decisions, plan]))


@job
def label_magnetic(
    campaign: Campaign, progress: Progress, frames: list[Frame], decisions: list[Score], decided_by: str
) -> Response:
    """Magnetic labels for the chosen frames of the round; then training and evaluation."""
    by_id = {frame.frame_id: frame for frame in frames}
    chosen = [decision for decision in decisions if decision.gets("magnetic")]
    hosts = {parent.name: parent.host(campaign.magnetism.moments) for parent in campaign.parents}
    labels = [
        label_job(
            campaign.engine,
            campaign.magnetism,
            (frame := by_id[decision.frame_id]),
            "magnetic",
            campaign.campaign,
            progress.round,
            host=hosts.get(frame.parent),
            predicted=decision.magmoms,
        )
        for decision in chosen
    ]
    now = _with(progress, labels).model_copy(
        update={"hold_out": progress.hold_out + [d.frame_id for d in chosen if d.arm == "hold_out"]}
    )
    uuids = [label.uuid for label in now.labels]
    trained = pinned(
        train(
            campaign,
            now.round,
            now.frames(),
            now.label_outputs(),
            now.hold_out,
            OutputReference(decided_by),
            previous=now.committee_output(),
            experience=now.experience(),
        ),
        campaign.campaign,
        campaign.seed,
        now.round,
        campaign.committee.model_dump(),
        campaign.training.model_dump(exclude={"device"}),
        uuids,
        now.hold_out,
        now.committee,
        now.evaluation,
        decided_by,
        campaign.acquire.nonmagnetic,
        campaign.sanity.model_dump(),
        campaign.magnetism.model_dump(mode="json"),
        kind="train",
        campaign=campaign.campaign,
        round=now.round,
    )
    evaluated = pinned(
        evaluate(
            campaign,
            now.round,
            OutputReference(now.explorations[-1]),
            now.frames(),
            now.label_outputs(),
            now.earlier,
            now.hold_out,
            OutputReference(decided_by),
            trained.output,
            now.committee_output(),
            now.experience(),
        ),
        trained.uuid,
        decided_by,
        campaign.stop.model_dump(),
        kind="evaluate",
        campaign=campaign.campaign,
        round=now.round,
    )
    following = now.model_copy(
        update={
            "round": now.round + 1,
            "earlier": len(now.labels),
            "committee": trained.uuid,
            "evaluation": evaluated.uuid,
        }
    )
    plan = _planner(next_round(campaign, following, evaluated.output), campaign, following)
    return Response(output=[label.uuid for label in labels], replace=Flow([*labels, trained, evaluated, plan]))


@job
def next_round(campaign: Campaign, progress: Progress, evaluation: Evaluation) -> Response:
    """The next round, unless the evaluation says that the campaign has had enough."""
    if evaluation.round.stop:
        return Response(output=evaluation.round.next_step)
    return Response(output=evaluation.round.next_step, replace=Flow(_round(campaign, progress)))


def _planner(plan: Job, campaign: Campaign, progress: Progress) -> Job:
    """A planner under a uuid of its own for this campaign file and what came before."""
    return pinned(
        plan,
        plan.name,
        campaign.model_dump(mode="json"),
        progress.model_dump(),
        kind="plan",
        campaign=campaign.campaign,
        round=progress.round,
        cls=CampaignJob,
    )


def label_job(
    engine: Engine,
    magnetism: Magnetism,
    frame: Frame,
    fidelity: Fidelity,
    campaign: str,
    round: int,
    *,
    host: Host | None = None,
    predicted: list[float] | None = None,
) -> Job:
    """One calculation. Its uuid knows neither campaign nor round: what is calculated once is never calculated again.

    Args:
        host: of the frame's parent, for the signs of the initial moments.
        predicted: |moment| of each site by the committee, for their sizes.
    """
    name = f"{WORDS[fidelity]} {frame.structure.reduced_formula} {frame.frame_id}"
    asked = initial_moments(frame, magnetism, host=host, predicted=predicted) if fidelity == "magnetic" else None
    return pinned(
        LabelMaker(engine, magnetism, fidelity, name=name).make(frame, asked),
        frame.frame_id,
        fingerprint(settings(engine, magnetism, fidelity)),
        kind="label",
        campaign=campaign,
        round=round,
        cls=CalculationJob,
        fidelity=fidelity,
        frame_id=frame.frame_id,
        limits=engine.limits(),
    )


def _with(progress: Progress, labels: list[Job]) -> Progress:
    new = [
        LabelJob(frame_id=label.metadata["frame_id"], fidelity=label.metadata["fidelity"], uuid=label.uuid)
        for label in labels
    ]
    return progress.model_copy(update={"labels": progress.labels + new})
