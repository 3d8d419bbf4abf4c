"""Where a campaign is at this moment, as far as its store knows: a few counts, cheap enough to ask every second."""

from __future__ import annotations

from collections import Counter

from flows.status import has_ended
from mfal.frames import FIDELITIES, Document, Fidelity, Status
from stores.campaign import CampaignStores

#: Labels that came in last.
NEWEST = 6


class Calculations(Document):
    """Of a round, at one fidelity."""

    #: Frames that were decided on; of the magnetic ones None until then.
    asked: int | None
    #: Frames by what their last attempt came to.
    by_status: dict[Status, int]
    core_hours: float


class News(Document):
    """A label that came in."""

    frame_id: str
    fidelity: Fidelity
    status: Status
    reason: str
    core_hours: float
    finished_at: str


class Standing(Document):
    """The round under way; of a campaign that has ended, the last one."""

    #: Last finished round.
    finished: int | None
    ended: bool
    next_step: str
    round: int
    frames: int
    scored: bool
    trained: bool
    calculations: dict[Fidelity, Calculations]
    newest: list[News]


def standing(stores: CampaignStores, campaign: str, plans: dict[str, int]) -> Standing:
    """Where it is now.

    Args:
        plans: how many non-magnetic calculations first decisions have asked for, by the uuid of their job. It grows as
            that is learned: such an output is large, and never changes.
    """
    rounds = stores.all_rounds(campaign)
    ended = has_ended(stores, campaign, rounds)
    now = len(rounds) - ended
    of_round = {"campaign": campaign, "round": now}
    asked: dict[Fidelity, int | None] = {"nonmagnetic": 0, "magnetic": None}
    steps = {f"metadata.{key}": value for key, value in of_round.items()}
    scored = stores.jobs.query_one(steps | {"metadata.kind": "score"}, ["uuid"])
    if stores.jobs.count(steps | {"metadata.kind": "decide"}):
        asked = {f: stores.scores.count(of_round | {"decision": {"$in": [f, "both"]}}) for f in FIDELITIES}
    elif scored:
        uuid = scored["uuid"]
        if uuid not in plans:
            plans[uuid] = sum(score.gets("nonmagnetic") for score in stores.output(uuid))
        asked["nonmagnetic"] = plans[uuid]
    rows = stores.labels.rows(of_round, ["fidelity", "frame_id", "status", "core_hours"], sort="attempt")
    last = {(fidelity, frame_id): status for fidelity, frame_id, status, _ in rows}
    newest = stores.labels.rows(of_round, list(News.model_fields), sort="-finished_at", limit=NEWEST)
    return Standing(
        finished=rounds[-1].round if rounds else None,
        ended=ended,
        next_step=rounds[-1].next_step if rounds else "",
        round=now,
        frames=stores.frames.count(of_round),
        scored=scored is not None,
        trained=stores.models.count(of_round) > 0,
        calculations={
            fidelity: Calculations(
                asked=asked[fidelity],
                by_status=Counter(status for (f, _), status in last.items() if f == fidelity),
                core_hours=sum(hours for f, _, _, hours in rows if f == fidelity),
            )
            for fidelity in FIDELITIES
        },
        newest=[News(**dict(zip(News.model_fields, row, strict=True))) for row in newest],
    )
