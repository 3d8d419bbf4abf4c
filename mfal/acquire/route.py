"""The decision that the loop exists for: which frame gets no calculation, a cheap one, a magnetic one, or both.

It is made twice in a round. First, from what the committee says of every candidate:

| sigma_nonmagnetic | sigma_delta | |
|---|---|---|
| low | low | nothing |
| high | low | a non-magnetic label is enough |
| low | high | a magnetic label: a non-magnetic one would teach nothing that is not known |
| high | high | a non-magnetic label first |

Then, once the round's non-magnetic labels are there, for what is left of the magnetic uncertainty. Each time the batch
is filled by expected error drop per core-hour. A control arm is drawn at random before the committee is asked, and gets
both labels whatever it says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np

from mfal.acquire.batch import Action, choose
from mfal.acquire.candidate import Candidate, Thresholds, case
from mfal.config import Acquire
from mfal.frames import Arm, Case, Decision, Score

#: Of the frames that wait for their magnetic label, so many times the round's number go into the second decision.
SHORTLIST = 10


def first_round(
    frame_ids: Sequence[str],
    settings: Acquire,
    *,
    campaign: str,
    seed: Sequence[int],
    unusable: Mapping[str, str] | None = None,
) -> list[Score]:
    """Without a committee: hold-out and control arm at random, the rest non-magnetic alone, as far as the count goes.

    Args:
        unusable: once the non-magnetic calculations are done, those that gave no good label, and why: others are drawn
            in their place.
    """
    lost = unusable or {}
    cheap = settings.nonmagnetic != "never"
    drawn = [str(i) for i in np.random.default_rng(list(seed)).permutation(list(frame_ids))]
    most = settings.nonmagnetic_per_round if cheap else 0
    labelled = set(drawn if most is None else drawn[: max(most, settings.hold_out + settings.magnetic_per_round)])
    if cheap:  # otherwise those in their place would have no non-magnetic label
        drawn = [i for i in drawn if i in labelled and i not in lost]
    held, control = drawn[: settings.hold_out], drawn[settings.hold_out :][: settings.magnetic_per_round]
    decisions: dict[str, dict] = {i: _drawn("hold_out", "hold-out: drawn at random, both labels") for i in held}
    decisions |= {
        i: _drawn("control", "first round: drawn at random, as there is no committee yet; both labels") for i in control
    }
    if cheap:
        why = "first round: a non-magnetic label, as there is no committee yet"
        decisions = {i: {"decision": "nonmagnetic", "reason": why} for i in labelled} | decisions
    limit = "acquire.nonmagnetic_per_round" if cheap else "acquire.nonmagnetic: never"
    rest: dict = {"decision": "skip", "reason": f"first round: not drawn ({limit})"}
    scores = [Score(campaign=campaign, round=0, frame_id=i, **decisions.get(i, rest)) for i in frame_ids]
    return [_lost(score, lost[score.frame_id]) if score.frame_id in lost else score for score in scores]


def route(
    candidates: Sequence[Candidate],
    limits: Thresholds,
    settings: Acquire,
    *,
    campaign: str,
    round: int,
    seed: Sequence[int],
    cheap: bool,
    tolerance: float,
) -> list[Score]:
    """The first decision of a round, in the order of the candidates. A magnetic label is only a prospect for now, which
    `reconsider` grants or not; the control arm's is certain.

    Args:
        cheap: whether non-magnetic labels are worth having; without, every frame with a large sigma_magnetic waits for
            a magnetic label.
        tolerance: frames whose features differ by no more are near-duplicates.
    """
    wild = {c.frame_id for c in candidates if c.magnetic > settings.wild}
    usable = [c for c in candidates if c.frame_id not in wild]
    by_id = {c.frame_id: c for c in candidates}
    drawn = [str(i) for i in np.random.default_rng(list(seed)).permutation([c.frame_id for c in usable])]
    control = _control([by_id[i] for i in drawn], settings)
    drawn_ids = {c.frame_id for c in control}
    taken = _both_labels(control)
    cases = {c.frame_id: case(c, limits) for c in candidates}
    offers = [c for c in usable if c.frame_id not in drawn_ids]
    actions = [a for c in offers if (a := _first_action(c, cases[c.frame_id], limits, cheap))]
    cheapest = settings.nonmagnetic_per_round
    batch = choose(
        actions,
        most={
            "nonmagnetic": None if cheapest is None else cheapest - len(control),
            "magnetic": SHORTLIST * (settings.magnetic_per_round - len(control)),
        },
        tolerance=tolerance,
        core_hours=_left(settings, taken),
        taken=taken,
    )
    # What is decided now is the non-magnetic labels, in competition with the magnetic ones: all of those may wait, as
    # some of what is set apart for them here will turn out not to be needed.
    near = {actions[i].frame_id for i in batch.duplicates}
    waiting = sorted(
        (a for a in actions if a.fidelity == "magnetic" and a.frame_id not in near), key=lambda a: a.value, reverse=True
    )[: SHORTLIST * settings.magnetic_per_round]
    chosen = {a.frame_id: a for a in [*(actions[i] for i in batch.chosen), *waiting]}
    offered = {action.frame_id: action for action in actions}
    scores = []
    for c in candidates:
        found = cases[c.frame_id]
        gain: float | None = None
        arm: Arm | None = None
        decision: Decision = "skip"
        if c.frame_id in wild:
            decision = "wild"
            reason = f"set aside: sigma_magnetic {c.magnetic:.2f} is above {settings.wild:g} eV/Å (acquire.wild)"
        elif c.frame_id in drawn_ids:
            arm, decision = "control", "both"
            reason = "control arm: drawn at random whatever the committee says; both labels"
        elif c.frame_id in chosen:
            action = chosen[c.frame_id]
            gain = action.gain
            decision, reason = _wanted(c, found, limits, action, cheap)
        elif c.frame_id in near:
            reason = f"{_why(c, found, limits, cheap)}, but the round has a near-duplicate of it"
        elif c.frame_id in offered:
            gain = offered[c.frame_id].gain
            reason = f"{_why(c, found, limits, cheap)}, but {_outdone(offered[c.frame_id])}"
        else:
            reason = _why(c, found, limits, cheap)
        scores.append(
            Score(
                campaign=campaign,
                round=round,
                frame_id=c.frame_id,
                **_numbers(c, limits),
                case=found,
                arm=arm,
                decision=decision,
                gain=gain,
                reason=reason,
            )
        )
    return scores


def reconsider(
    scores: Sequence[Score],
    candidates: Mapping[str, Candidate],
    settings: Acquire,
    *,
    unusable: Mapping[str, str],
    tolerance: float,
) -> list[Score]:
    """The second decision: which of the frames that wait for a magnetic label get it.

    Args:
        scores: of the first decision.
        candidates: of the frames that wait, with the conditional sigma of their non-magnetic label where they have one.
        unusable: frames whose non-magnetic calculation gave no good label, and why.
    """
    scores = [_lost(score, unusable[score.frame_id]) if score.frame_id in unusable else score for score in scores]
    waiting = {s.frame_id: s for s in scores if s.gets("magnetic") and s.arm is None}
    control = [s for s in scores if s.arm == "control" and s.gets("magnetic")]
    taken = _both_labels([candidates[s.frame_id] for s in control if s.frame_id in candidates])
    cheap = sum(s.core_hours.get("nonmagnetic", 0.0) for s in scores if s.gets("nonmagnetic") and s.arm is None)
    actions = []
    for score in waiting.values():
        seen = candidates[score.frame_id]
        if not score.gets("nonmagnetic"):
            actions.append(seen.action("magnetic", seen.magnetic))
        elif seen.conditional > score.thresholds["conditional"]:
            actions.append(seen.action("magnetic", seen.conditional))
    left = _left(settings, taken)
    batch = choose(
        actions,
        most={"magnetic": settings.magnetic_per_round - len(control)},
        tolerance=tolerance,
        core_hours=None if left is None else left - cheap,
        taken=[action for action in taken if action.fidelity == "magnetic"],
    )
    chosen = {actions[i].frame_id: actions[i] for i in batch.chosen}
    near = {actions[i].frame_id for i in batch.duplicates}
    offered = {action.frame_id: action for action in actions}
    final = []
    for score in scores:
        if score.frame_id not in waiting:
            final.append(score)
            continue
        seen = candidates[score.frame_id]
        labelled = score.gets("nonmagnetic")
        without: Decision = "nonmagnetic" if labelled else "skip"
        changes: dict = {"sigma_conditional": seen.conditional}
        taught = f"with its non-magnetic label {seen.conditional:.3f} eV/Å is left unknown of the magnetic forces"
        subject = f"{score.reason}; {taught}" if labelled else score.reason
        if score.frame_id in chosen:
            action = chosen[score.frame_id]
            changes |= {
                "arm": "committee",
                "gain": action.gain,
                "reason": f"{subject}: {action.value:.3g} eV/Å per core-hour, among the round's best",
            }
        elif score.frame_id in near:
            changes |= {"decision": without, "reason": f"{subject}, but the round has a near-duplicate of it"}
        elif score.frame_id in offered:
            changes |= {
                "decision": without,
                "reason": f"{subject}, but {_outdone(offered[score.frame_id])}",
            }
        else:
            limit = score.thresholds["conditional"]
            changes |= {"decision": without, "reason": f"{subject}, below the threshold of {limit:.3f}"}
        final.append(score.model_copy(update=changes))
    return final


def _first_action(c: Candidate, found: Case, limits: Thresholds, cheap: bool) -> Action | None:
    """What could be run for a frame now, with what it is expected to take off the error of the magnetic forces."""
    if not cheap:
        return c.action("magnetic", c.magnetic) if c.magnetic > limits.magnetic else None
    if found == "both":
        # The first of two labels that will leave nothing: what both cost is set apart.
        return replace(c.action("nonmagnetic", c.magnetic), core_hours=sum(c.core_hours.values()))
    if found == "nonmagnetic":
        return c.action("nonmagnetic", c.magnetic * c.explained)
    return c.action("magnetic", c.magnetic) if found == "delta" else None


def _wanted(c: Candidate, found: Case, limits: Thresholds, action: Action, cheap: bool) -> tuple[Decision, str]:
    why = _why(c, found, limits, cheap)
    if not cheap:
        return "magnetic", why
    decisions: dict[Case, Decision] = {"nonmagnetic": "nonmagnetic", "delta": "magnetic", "both": "both"}
    if found == "nonmagnetic":
        why += f": a non-magnetic label is enough, {action.value:.3g} eV/Å per core-hour"
    return decisions[found], why


def _why(c: Candidate, found: Case, limits: Thresholds, cheap: bool) -> str:
    """The frame's case in words."""
    if not cheap:
        side = "above" if c.magnetic > limits.magnetic else "not above"
        return f"sigma_magnetic {c.magnetic:.3f} is {side} {limits.magnetic:.3f} eV/Å"
    sides = ["above" if found in high else "not above" for high in (("nonmagnetic", "both"), ("delta", "both"))]
    return (
        f"sigma_nonmagnetic {c.nonmagnetic:.3f} is {sides[0]} {limits.nonmagnetic:.3f} and"
        f" sigma_delta {c.delta:.3f} is {sides[1]} {limits.delta:.3f} eV/Å"
    )


def _outdone(action: Action) -> str:
    if action.value <= 0:
        return "a non-magnetic label is not expected to teach anything of its magnetic forces"
    return (
        f"the round's calculations went to frames that promise more than its {action.value:.3g} eV/Å per core-hour, or"
        " are less like those taken"
    )


def _control(drawn: Sequence[Candidate], settings: Acquire) -> list[Candidate]:
    """As many of the frames, which are in a random order, as are the control arm's share of the counts and of the
    core-hours; one at least."""
    share = int(np.floor(settings.control_share * settings.magnetic_per_round + 0.5))
    most = min(settings.magnetic_per_round, max(1, share))
    if settings.core_hours_per_round is not None:
        spent = np.cumsum([sum(c.core_hours.values()) for c in drawn[:most]])
        most = max(1, int((spent <= settings.control_share * settings.core_hours_per_round).sum()))
    return list(drawn[:most])


def _drawn(arm: str, reason: str) -> dict:
    return {"decision": "both", "arm": arm, "reason": reason}


def _both_labels(candidates: Sequence[Candidate]) -> list[Action]:
    return [c.action(fidelity, 0.0) for c in candidates for fidelity in c.core_hours]


def _left(settings: Acquire, taken: Sequence[Action]) -> float | None:
    if settings.core_hours_per_round is None:
        return None
    return settings.core_hours_per_round - sum(action.core_hours for action in taken)


def _numbers(c: Candidate, limits: Thresholds) -> dict:
    return {
        "sigma_nonmagnetic": c.nonmagnetic,
        "sigma_delta": c.delta,
        "sigma_magnetic": c.magnetic,
        "sigma_conditional": c.conditional,
        "sigma_atoms": dict(c.atoms),
        "thresholds": asdict(limits),
        "core_hours": dict(c.core_hours),
    }


def _lost(score: Score, why: str) -> Score:
    """A magnetic calculation is not spent where the non-magnetic one came to nothing. What was drawn at random stays in
    its arm: that it came to nothing is part of what random frames cost."""
    reason = f"no magnetic label: its non-magnetic calculation is no good ({why})"
    return score.model_copy(update={"decision": "nonmagnetic", "reason": reason})
