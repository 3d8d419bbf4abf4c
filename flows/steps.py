"""The steps between calculations, one job each: explore, score, decide, train, evaluate.

They take everything as arguments (references that jobflow resolves) and open no database, so they run on any worker.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, cast

from jobflow import job

from flows.jobs import advance
from mfal.acquire.route import route
from mfal.acquire.stop import reason_to_stop
from mfal.committee.decompose import Sigma, decompose
from mfal.committee.evaluate import errors, parity
from mfal.committee.members import train_committee
from mfal.committee.predict import predict
from mfal.config import Campaign
from mfal.explore.candidates import Exploration, explore
from mfal.frames import FIDELITIES, Document, Fidelity, Frame, Label, Member, Round, Score, Status, TrainedCommittee
from mfal.model.multifidelity import MultiFidelityCHGNet, pretrained
from mfal.model.weights import from_bytes, to_bytes
from mfal.training.examples import examples
from mfal.training.trainer import device


class Evaluation(Document):
    """A round's summary and the predictions behind it."""

    round: Round
    parity: list[dict[str, Any]]


def members_of(committee: TrainedCommittee | None, campaign: Campaign) -> list[MultiFidelityCHGNet]:
    """The models of a committee document on the campaign's device; none before the first training."""
    members = committee.members if committee else []
    place = device(campaign.training.device)
    return [cast(MultiFidelityCHGNet, from_bytes(base64.b64decode(member.weights))).to(place) for member in members]


@job(data="frames")
def explore_round(
    campaign: Campaign, round: int, committee: TrainedCommittee | None, known: list[list[Frame]]
) -> Exploration:
    """Candidates of a round, driven by the magnetic fidelity of the committee's first member."""
    stock = pretrained(campaign.committee.pretrained)
    models = members_of(committee, campaign)
    found = explore(
        campaign.parents,
        campaign.explore,
        force_field=models[0].fold("magnetic") if models else stock,
        pretrained=stock,
        known=[frame.structure for frames in known for frame in frames],
        seed=[campaign.seed, round, 0],
    )
    if not found.frames and not known:
        raise ValueError(
            f"explore found no frame among {found.candidates} candidates (dropped: {found.dropped}): check the parents'"
            " structures, explore.closest and explore.volume_per_atom"
        )
    return found


@job
def score(campaign: Campaign, frames: list[Frame], committee: TrainedCommittee) -> dict[str, dict[str, float]]:
    """The fields of `Sigma` for every frame: paired uncertainties of both fidelities."""
    predictions = predict(members_of(committee, campaign), [frame.structure for frame in frames])
    return {frame.frame_id: asdict(decompose(p)) for frame, p in zip(frames, predictions, strict=True)}


@job
def decide(
    campaign: Campaign,
    round: int,
    frames: list[Frame],
    sigmas: dict[str, dict[str, float]] | None,
    statuses: list[Status | None],
) -> list[Score]:
    """Who gets a magnetic calculation. A job of its own, so that a decision stands once it is made, whatever becomes
    of a non-magnetic label later.

    Args:
        statuses: of the frames' non-magnetic labels; None where the calculation was lost.
    """
    unusable = {
        frame.frame_id: status or "lost" for frame, status in zip(frames, statuses, strict=True) if status != "ok"
    }
    if frames and len(unusable) == len(frames):
        raise ValueError(
            f"all {len(frames)} non-magnetic calculations came to nothing: 'mfal status' lists the reasons;"
            " mend the cause or raise engine.max_iterations or engine.timeout, or say --retry-failed"
        )
    return route(
        [frame.frame_id for frame in frames],
        {frame_id: Sigma(**sigma) for frame_id, sigma in (sigmas or {}).items()},
        campaign.acquire,
        campaign=campaign.campaign,
        round=round,
        unusable=unusable,
        seed=[campaign.seed, round, 1],
    )


@job(data="weights")
def train(
    campaign: Campaign,
    round: int,
    frames: list[list[Frame]],
    labels: list[Label | None],
    hold_out: list[str],
    previous: TrainedCommittee | None,
) -> TrainedCommittee:
    """The committee retrained on all good labels so far but the hold-out's, from the last round's weights.

    Checkpoints and logs go to the campaign's folder `training/`; killed, the job goes on from there.
    """
    start = time.perf_counter()
    usable = _usable(labels, excluded=hold_out)
    if not usable:
        raise ValueError("no good label to train on but the hold-out's: 'mfal status' lists the reasons")
    everything = _flat(frames)
    keys = sorted((label.frame_id, label.fingerprint, label.attempt) for label in usable)
    settings = [campaign.committee.model_dump(), campaign.training.model_dump(exclude={"device"}), campaign.seed]
    identity = _hash([keys, sorted(hold_out), settings, previous and previous.data_fingerprint])
    members = train_committee(
        members_of(previous, campaign) or None,
        examples(everything, usable),
        campaign.committee,
        campaign.training,
        seed=campaign.seed + round,
        hold_out=examples(everything, [label for label in labels if label and label.frame_id in hold_out]),
        directory=campaign.directory / "training" / f"round-{round}-{identity}",
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
        device=str(device(campaign.training.device)),
        seconds=time.perf_counter() - start,
    )


@job(data="parity")
def evaluate(
    campaign: Campaign,
    round: int,
    exploration: Exploration,
    frames: list[list[Frame]],
    labels: list[Label | None],
    earlier: int,
    hold_out: list[str],
    control: list[str],
    committee: TrainedCommittee,
    previous: TrainedCommittee | None,
) -> Evaluation:
    """Errors of the new committee on the hold-out, and of the old one on what it had not seen.

    Args:
        labels: all labels of the campaign; None is a lost calculation.
        earlier: how many of them stand there from earlier rounds; the rest are the round's own.
        control: frames of the round that were drawn at random.
    """
    present = [label for label in labels if label is not None]
    this_round = [label for label in labels[earlier:] if label is not None]
    models = members_of(committee, campaign)
    # Before the first training the committee is the pretrained model: its energies refer to another functional's
    # atoms, so only its forces, stress and moments tell something.
    before = members_of(previous, campaign) or [
        MultiFidelityCHGNet.from_pretrained(campaign.committee.pretrained, parts=campaign.committee.parts)
    ]
    everything = _flat(frames)
    held = examples(everything, [label for label in present if label.good and label.frame_id in hold_out])
    drawn = examples(everything, [label for label in this_round if label.good and label.frame_id in control])
    trained = examples(everything, _usable(present, excluded=hold_out))
    counts: dict[Fidelity, dict[Status, int]] = {f: dict(Counter(_statuses(this_round, f))) for f in FIDELITIES}
    core_hours: dict[Fidelity, float] = defaultdict(float)
    for label in this_round:
        core_hours[label.fidelity] += label.core_hours + label.earlier_core_hours
    hold_out_errors = errors(models, held)
    stop = reason_to_stop(
        campaign.stop,
        rounds_done=round + 1,
        core_hours=sum(label.core_hours + label.earlier_core_hours for label in present),
        hold_out=hold_out_errors.get("magnetic"),
    )
    return Evaluation(
        round=Round(
            campaign=campaign.campaign,
            round=round,
            candidates=exploration.candidates,
            dropped=exploration.dropped,
            counts=counts,
            core_hours=dict(core_hours),
            errors={
                "hold_out": hold_out_errors,
                "hold_out_before": errors(before, held),
                "control_before": errors(before, drawn),
            },
            trained_on=committee.trained_on,
            threshold=campaign.acquire.threshold,
            stop=stop is not None,
            next_step=stop or f"round {round + 1}",
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
        parity=[point | {"set": "hold_out"} for point in parity(models, held)]
        + [point | {"set": "train"} for point in parity(models, trained)],
    )


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def _flat(frames: Iterable[Iterable[Frame]]) -> list[Frame]:
    return [frame for group in frames for frame in group]


def _usable(labels: Iterable[Label | None], *, excluded: Sequence[str]) -> list[Label]:
    return [label for label in labels if label is not None and label.good and label.frame_id not in excluded]


def _by_fidelity(labels: Iterable[Label]) -> dict[Fidelity, int]:
    counts = Counter(label.fidelity for label in labels)
    return {fidelity: counts[fidelity] for fidelity in FIDELITIES}


def _statuses(labels: Iterable[Label], fidelity: Fidelity) -> list[Status]:
    return [label.status for label in labels if label.fidelity == fidelity]
