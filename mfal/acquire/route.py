"""The decision that the loop exists for: which frames of a round get a magnetic calculation, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mfal.committee.decompose import Sigma
from mfal.config import Acquire
from mfal.frames import Score


def route(
    frame_ids: Sequence[str],
    sigmas: Mapping[str, Sigma],
    settings: Acquire,
    *,
    campaign: str,
    round: int,
    unusable: Mapping[str, str],
    seed: Sequence[int],
) -> list[Score]:
    """One decision with its reason for every frame of a round, in the order given.

    The first round has no committee, so `sigmas` is empty: a hold-out and a control arm are drawn at random. Later the
    control arm is drawn first, uniformly from all usable frames, so that it stays a fair sample whatever the committee
    wants; the committee then takes the largest sigma_delta above the threshold. Only sigma_delta counts: a frame that
    is uncertain at the non-magnetic fidelity alone is served by its non-magnetic label.

    Args:
        sigmas: per frame, eV/Å, the worst atom.
        unusable: frames whose non-magnetic calculation gave no good label, and why.
    """
    rng = np.random.default_rng(list(seed))
    drawn = [str(i) for i in rng.permutation([i for i in frame_ids if i not in unusable])]
    decisions: dict[str, dict] = {
        i: {"decision": "skip", "reason": f"skipped: its non-magnetic calculation is no good ({why})"}
        for i, why in unusable.items()
    }
    budget = settings.magnetic_per_round
    if not sigmas:
        for i in drawn[: settings.hold_out]:
            decisions[i] = {"decision": "magnetic", "arm": "hold_out", "reason": "hold-out: drawn at random"}
        for i in drawn[settings.hold_out :][:budget]:
            decisions[i] = {
                "decision": "magnetic",
                "arm": "control",
                "reason": "first round: drawn at random, there is no committee yet",
            }
        spare = "first round: not drawn"
    else:
        control = min(budget, max(1, int(np.floor(settings.control_share * budget + 0.5))))
        for i in drawn[:control]:
            decisions[i] = {
                "decision": "magnetic",
                "arm": "control",
                "reason": "control arm: drawn at random whatever the committee says",
            }
        uncertain = sorted(
            (i for i in drawn[control:] if sigmas[i].delta >= settings.threshold),
            key=lambda i: -sigmas[i].delta,
        )
        for i in uncertain[: budget - control]:
            decisions[i] = {
                "decision": "magnetic",
                "arm": "committee",
                "reason": f"sigma_delta {sigmas[i].delta:.3f} is above the threshold of {settings.threshold:.3f} eV/Å",
            }
        for i in uncertain[budget - control :]:
            decisions[i] = {
                "decision": "skip",
                "reason": f"sigma_delta {sigmas[i].delta:.3f} is above the threshold, but the round's"
                f" {budget} magnetic calculations went to larger ones",
            }
        spare = None
    scores = []
    for i in frame_ids:
        decision = decisions.get(i) or {
            "decision": "skip",
            "reason": spare
            or f"sigma_delta {sigmas[i].delta:.3f} is below the threshold of {settings.threshold:.3f} eV/Å",
        }
        sigma = sigmas.get(i)
        scores.append(
            Score(
                campaign=campaign,
                round=round,
                frame_id=i,
                sigma_nonmagnetic=sigma.nonmagnetic if sigma else None,
                sigma_delta=sigma.delta if sigma else None,
                sigma_magnetic=sigma.magnetic if sigma else None,
                **decision,
            )
        )
    return scores
