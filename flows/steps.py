"""The steps between calculations: explore, score, decide, train, evaluate. `flows.campaign` makes a job of each.

They take everything as arguments and open no database, so they run on any worker.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
from pydantic import Field

from flows.jobs import advance
from mfal.acquire.candidate import candidate, thresholds
from mfal.acquire.cost import CostModel
from mfal.acquire.experience import Experience, cheap_pays, learn, verdict
from mfal.acquire.route import first_round, reconsider, route
from mfal.acquire.stop import reason_to_stop
from mfal.committee.evaluate import errors, parity
from mfal.committee.members import train_committee
from mfal.committee.predict import predict, predict_each
from mfal.config import Campaign, Stop
from mfal.dft.engines import Table
from mfal.dft.label import gated
from mfal.dft.sanity import flagged
from mfal.explore.candidates import Exploration, explore
from mfal.explore.pool import draw
from mfal.frames import FIDELITIES, Document, Fidelity, Frame, Label, Member, Round, Score, Status, TrainedCommittee
from mfal.model.multifidelity import MultiFidelityCHGNet, pretrained
from mfal.model.weights import from_bytes, to_bytes
from mfal.training.examples import examples
from mfal.training.trainer import device


class Evaluation(Document):
    """A round's summary, the predictions behind it, and what the next round can learn from it."""

    round: Round
    parity: list[dict[str, Any]]
    experience: Experience
    #: Frames that the round explored, and core-hours that the campaign has spent.
    explored: int = 1
    spent: float = 0.0
    #: The label jobs whose labels were there; None, from before there was a queue: all.
    seen: list[str] | None = None
    #: Those of them that came to a good end, so that they will never change.
    settled: list[str] = Field(default_factory=list)

    def reason_to_stop(self, settings: Stop) -> str | None:
        """What ends the campaign after this round, if anything does."""
        return reason_to_stop(
            settings,
            rounds_done=self.round.round + 1,
            frames=self.explored,
            core_hours=self.spent,
            hold_out=self.round.errors.get("hold_out", {}).get("magnetic"),
        )


def members_of(committee: TrainedCommittee | None, campaign: Campaign) -> list[MultiFidelityCHGNet]:
    """The models of a committee document on the campaign's device; none before the first training."""
    members = committee.members if committee else []
    place = device(campaign.training.device)
    return [cast(MultiFidelityCHGNet, from_bytes(base64.b64decode(member.weights))).to(place) for member in members]


def explore_round(
    campaign: Campaign, round: int, committee: TrainedCommittee | None, known: Sequence[list[Frame]]
) -> Exploration:
    """Candidates of a round, driven by the magnetic fidelity of the committee's first member; from a table, drawn."""
    seed = [campaign.seed, round, 0]
    if isinstance(campaign.engine, Table):
        seen = {frame.frame_id for group in known for frame in group}
        return draw(campaign.engine, campaign.explore.frames, known=seen, seed=seed)
    stock = pretrained(campaign.committee.pretrained)
    models = members_of(committee, campaign)
    found = explore(
        campaign.parents,
        campaign.explore,
        force_field=models[0].fold("magnetic") if models else stock,
        pretrained=stock,
        known=[frame.structure for frames in known for frame in frames],
        seed=seed,
    )
    if not found.frames and not known:
        raise ValueError(
            f"explore found no frame among {found.candidates} candidates (dropped: {found.dropped}): check the parents'"
            " structures, explore.closest and explore.volume_per_atom"
        )
    return found


def score(
    campaign: Campaign,
    round: int,
    frames: list[Frame],
    committee: TrainedCommittee | None,
    experience: Experience | None,
) -> list[Score]:
    """What the committee says of every frame, and the first decision: who gets a non-magnetic calculation, and who may
    get a magnetic one."""
    seed = [campaign.seed, round, 1]
    names = [frame.frame_id for frame in frames]
    if committee is None:
        return first_round(names, campaign.acquire, campaign=campaign.campaign, seed=seed)
    if not frames:
        return []
    known = experience or Experience()
    costs = CostModel.fit(known.calculations)
    candidates = []
    for frame, prediction in zip(frames, predict_each(members_of(committee, campaign), frames), strict=True):
        cost = {fidelity: costs.per_label(fidelity, frame.structure) for fidelity in FIDELITIES}
        candidates.append(candidate(frame.frame_id, prediction, known.calibration, cost, campaign.acquire.reduce))
        advance(len(candidates), len(frames))
    return route(
        candidates,
        thresholds(campaign.acquire, candidates, known.calibration),
        campaign.acquire,
        campaign=campaign.campaign,
        round=round,
        seed=seed,
        cheap=cheap_pays(campaign.acquire, experience),
        tolerance=campaign.explore.duplicate,
    )


def decide(
    campaign: Campaign,
    round: int,
    frames: list[Frame],
    scores: list[Score],
    labels: list[Label | None],
    committee: TrainedCommittee | None,
    experience: Experience | None,
) -> list[Score]:
    """Who gets a magnetic calculation, now that the round's non-magnetic ones are done. A job of its own, so that a
    decision stands once it is made, whatever becomes of a label later.

    Args:
        scores: the first decision.
        labels: non-magnetic ones of the frames that were to get one, in the order of the scores; None where the
            calculation was lost.
    """
    asked = [score.frame_id for score in scores if score.gets("nonmagnetic")]
    found = dict(zip(asked, _judged(campaign, frames, labels), strict=True))
    unusable = {
        i: (label.flag or label.status) if label else "lost" for i, label in found.items() if not (label and label.good)
    }
    # Later it may be a single one, and a campaign that has got so far goes on.
    if committee is None and asked and len(unusable) == len(asked):
        raise ValueError(
            f"all {len(asked)} non-magnetic calculations came to nothing: 'mfal status' lists the reasons;"
            " mend the cause or raise engine.max_iterations or engine.timeout, or say --retry-failed"
        )
    if committee is None:
        seed = [campaign.seed, round, 1]
        names = [frame.frame_id for frame in frames]
        return first_round(names, campaign.acquire, campaign=campaign.campaign, seed=seed, unusable=unusable)
    known = experience or Experience()
    forces = {i: np.array(label.forces) for i, label in found.items() if label and label.good}
    expected = {score.frame_id: score.core_hours for score in scores}
    waiting = {score.frame_id for score in scores if score.gets("magnetic")}
    again = [frame for frame in frames if frame.frame_id in waiting]
    predictions = predict(members_of(committee, campaign), again) if again else []
    candidates = {
        frame.frame_id: candidate(
            frame.frame_id,
            prediction,
            known.calibration,
            expected[frame.frame_id],
            campaign.acquire.reduce,
            label=forces.get(frame.frame_id),
        )
        for frame, prediction in zip(again, predictions, strict=True)
    }
    decided = reconsider(scores, candidates, campaign.acquire, unusable=unusable, tolerance=campaign.explore.duplicate)
    moments = {
        frame.frame_id: prediction.magmoms[:, FIDELITIES.index("magnetic")].mean(axis=0).round(3).tolist()
        for frame, prediction in zip(again, predictions, strict=True)
    }
    return [
        score.model_copy(update={"magmoms": moments.get(score.frame_id)}) if score.gets("magnetic") else score
        for score in decided
    ]


def train(
    campaign: Campaign,
    round: int,
    frames: Iterable[list[Frame]],
    labels: Mapping[str, Label | None],
    hold_out: list[str],
    scores: list[Score],
    previous: TrainedCommittee | None,
    experience: Experience | None,
) -> TrainedCommittee:
    """The committee retrained on all good labels so far but the hold-out's, from the last round's weights.

    Where the experience says that non-magnetic labels do not pay, they are not trained on, either, and a committee that
    was begins anew. In the first round the experience is that of the pretrained model with the random frames.

    Checkpoints and logs go to the folder `training/` where the job runs; killed and run there again, it goes on.

    Args:
        labels: by the uuid of their job; None where the calculation was lost or is late.
        scores: the round's decisions.
    """
    start = time.perf_counter()
    everything = _flat(frames)
    judged = _judged(campaign, everything, list(labels.values()))
    usable = _usable(campaign, judged, excluded=hold_out)
    if experience is None and campaign.acquire.nonmagnetic == "auto":
        experience = learn(
            None,
            {frame.frame_id: frame for frame in everything},
            [label for label in judged if label is not None],
            scores,
            old=[_untrained(campaign)],
            new=[],
            hold_out=[],
            reduce=campaign.acquire.reduce,
        )
    if not cheap_pays(campaign.acquire, experience):
        usable = [label for label in usable if label.fidelity == "magnetic"]
        previous = previous if previous and not previous.trained_on["nonmagnetic"] else None
    if not usable:
        raise ValueError("no good label to train on but the hold-out's: 'mfal status' lists the reasons")
    keys = sorted((label.frame_id, label.fingerprint, label.attempt) for label in usable)
    settings = [campaign.committee.model_dump(), campaign.training.model_dump(exclude={"device"}), campaign.seed]
    identity = _hash([keys, sorted(hold_out), settings, previous and previous.data_fingerprint])
    members = train_committee(
        members_of(previous, campaign) or None,
        examples(everything, usable, other_states=campaign.magnetism.train_on_other_state),
        campaign.committee,
        campaign.training,
        seed=campaign.seed + round,
        hold_out=examples(everything, [label for label in judged if label and label.frame_id in hold_out]),
        directory=Path("training").absolute() / f"round-{round}-{identity}",
        on_epoch=lambda member, epoch, _: advance(
            member * campaign.training.epochs + epoch, campaign.committee.models * campaign.training.epochs
        ),
    )
    return TrainedCommittee(
        campaign=campaign.campaign,
        round=round,
        members=[
            Member(member=k, seed=seed, weights=base64.b64encode(to_bytes(model)).decode(), log=log)
            for k, (model, log, seed) in enumerate(members)
        ],
        data_fingerprint=_hash(keys),
        trained_on=_by_fidelity(usable),
        seen=[uuid for uuid, label in labels.items() if label is not None],
        device=str(device(campaign.training.device)),
        seconds=time.perf_counter() - start,
    )


def evaluate(
    campaign: Campaign,
    round: int,
    candidates: int,
    dropped: dict[str, int],
    frames: Sequence[list[Frame]],
    labels: Mapping[str, Label | None],
    earlier: Collection[str],
    hold_out: list[str],
    scores: list[Score],
    committee: TrainedCommittee,
    previous: TrainedCommittee | None,
    experience: Experience | None,
) -> Evaluation:
    """Errors of the new committee on the hold-out, and of the old one on what it had not seen; what the round taught.

    Args:
        candidates: of the round's exploration; `dropped` of them for these reasons.
        frames: those of each round, the last are the round's own.
        labels: all of the campaign, by the uuid of their job; None is a lost or late calculation.
        earlier: whose labels earlier rounds have counted; the rest are the round's own.
        scores: the round's decisions.
    """
    everything = _flat(frames)
    if committee.seen is not None:  # what came in since it was trained is for the next round
        labels = {uuid: label if uuid in committee.seen else None for uuid, label in labels.items()}
    judged = dict(zip(labels, _judged(campaign, everything, list(labels.values())), strict=True))
    present = [label for label in judged.values() if label is not None]
    this_round = [label for uuid, label in judged.items() if label is not None and uuid not in earlier]
    models, old = members_of(committee, campaign), members_of(previous, campaign)
    # Before the first training the committee is the pretrained model: its energies refer to another functional's
    # atoms, so only its forces, stress and moments tell something.
    before = old or [_untrained(campaign)]
    control = {score.frame_id for score in scores if score.arm == "control"}
    held_labels = [label for label in present if label.good and label.frame_id in hold_out]
    held = examples(everything, held_labels)
    drawn = examples(everything, [label for label in this_round if label.good and label.frame_id in control])
    usable = _usable(campaign, present, excluded=hold_out)
    trained = [label for label in usable if label.good and committee.trained_on[label.fidelity]]
    counts: dict[Fidelity, dict[Status, int]] = {f: dict(Counter(_statuses(this_round, f))) for f in FIDELITIES}
    core_hours: dict[Fidelity, float] = defaultdict(float)
    for label in this_round:
        core_hours[label.fidelity] += label.core_hours + label.earlier_core_hours
    hold_out_errors = errors(models, held)
    grown = learn(
        experience,
        {frame.frame_id: frame for frame in everything},
        this_round,
        scores,
        old=before,
        new=models,
        hold_out=held_labels,
        reduce=campaign.acquire.reduce,
    )
    limits = next((score.thresholds for score in scores if score.thresholds), {})
    evaluation = Evaluation(
        round=Round(
            campaign=campaign.campaign,
            round=round,
            candidates=candidates,
            dropped=dropped,
            counts=counts,
            core_hours=dict(core_hours),
            errors={
                "hold_out": hold_out_errors,
                "hold_out_before": errors(before, held),
                "control_before": errors(before, drawn),
            },
            flagged=[f"{label.frame_id} ({label.fidelity}): {label.flag}" for label in present if label.flag],
            trained_on=committee.trained_on,
            thresholds=limits,
            cheap=cheap_pays(campaign.acquire, experience),
            decisions=dict(Counter(score.decision for score in scores)),
            calibration={kind: found.model_dump() for kind, found in grown.calibration.items()},
            probe=verdict(campaign.acquire, grown),
            saving=grown.saving.message if grown.saving else "",
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
        parity=[point | {"set": "hold_out"} for point in parity(models, held)]
        + [point | {"set": "train"} for point in parity(models, examples(everything, trained))],
        experience=grown,
        explored=len(frames[-1]),
        spent=sum(label.core_hours + label.earlier_core_hours for label in present),
        seen=[uuid for uuid, label in labels.items() if label is not None],
        settled=[uuid for uuid, label in labels.items() if label is not None and label.status == "ok"],
    )
    stop = evaluation.reason_to_stop(campaign.stop)
    summary = evaluation.round.model_copy(update={"stop": stop is not None, "next_step": stop or f"round {round + 1}"})
    return evaluation.model_copy(update={"round": summary})


def _untrained(campaign: Campaign) -> MultiFidelityCHGNet:
    return MultiFidelityCHGNet.from_pretrained(campaign.committee.pretrained, parts=campaign.committee.parts)


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def _flat(frames: Iterable[Iterable[Frame]]) -> list[Frame]:
    return [frame for group in frames for frame in group]


def _judged(campaign: Campaign, frames: Iterable[Frame], labels: Sequence[Label | None]) -> list[Label | None]:
    """The labels as the campaign file judges them now: the gate, and flags by its limits and by each other; a lost one
    stays None. A table's labels are taken at their word."""
    known = {frame.frame_id: frame for frame in frames}
    present = [label for label in labels if label is not None]
    if not isinstance(campaign.engine, Table):
        gate = campaign.engine.gate(campaign.magnetism)
        present = [gated(label, known[label.frame_id].structure, gate) for label in present]
    judged = iter(flagged(known, present, campaign.sanity))
    return [label and next(judged) for label in labels]


def _usable(campaign: Campaign, labels: Iterable[Label | None], *, excluded: Sequence[str]) -> list[Label]:
    others = campaign.magnetism.train_on_other_state
    return [label for label in labels if label and label.trainable(others) and label.frame_id not in excluded]


def _by_fidelity(labels: Iterable[Label]) -> dict[Fidelity, int]:
    counts = Counter(label.fidelity for label in labels)
    return {fidelity: counts[fidelity] for fidelity in FIDELITIES}


def _statuses(labels: Iterable[Label], fidelity: Fidelity) -> list[Status]:
    return [label.status for label in labels if label.fidelity == fidelity]
