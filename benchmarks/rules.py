"""Rules that say what is labelled next: ours, and those that it is measured against.

A rule looks at the state of a play and buys labels, in the order of its preference, until the next one does not fit the
core-hours that are left. It knows the cost of a label only once it has paid it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Literal

import numpy as np

from mfal.acquire.candidate import candidate, thresholds
from mfal.acquire.cost import CostModel
from mfal.acquire.experience import Experience, cheap_pays
from mfal.acquire.route import reconsider, route
from mfal.committee.decompose import by_atom, decompose
from mfal.committee.predict import Prediction
from mfal.config import Acquire, Explore
from mfal.explore.diverse import novel
from mfal.frames import FIDELITIES, Fidelity, Frame, Label, Score

#: Labels of a frame, bought together or not at all: None, and nothing paid, where they do not fit.
Buy = Callable[[str, Sequence[Fidelity]], list[Label] | None]
MAGNETIC: tuple[Fidelity, ...] = ("magnetic",)
#: Quantiles of the first round's force deviations that DP-GEN's window lies between. Its users read the trust levels
#: off such a distribution and keep them: below, a frame counts as known, above, as unphysical.
WINDOW = (0.5, 0.95)
#: Near-duplicates, as the loop has it.
TOLERANCE = Explore.model_fields["duplicate"].default


@dataclass(frozen=True)
class State:
    """What is known at the beginning of a round."""

    seed: int
    round: int  # from 1; the start set is round 0
    #: Frames without any label, and what the committee says of them.
    pool: Sequence[Frame]
    predictions: Sequence[Prediction]
    #: [L, D] the committee's features of the labelled frames.
    labelled: np.ndarray
    #: eV/Å, force deviations of the pool in the first round.
    first_deviations: Sequence[float]
    #: That may be spent.
    core_hours: float
    #: What the rule's own labels have taught.
    experience: Experience

    def shuffled(self) -> list[Frame]:
        """The pool in an order that seed and round alone determine."""
        order = np.random.default_rng([self.seed, self.round]).permutation(len(self.pool))
        return [self.pool[i] for i in order]


#: Gives the decisions, where it makes any that `learn` can learn from.
Select = Callable[[State, Buy], list[Score]]


@dataclass(frozen=True)
class Rule:
    select: Select
    #: Of the start set.
    fidelities: Sequence[Fidelity]
    #: As the loop's.
    nonmagnetic: Literal["auto", "always"] = "always"

    def trains_on(self, label: Label, experience: Experience) -> bool:
        return label.fidelity == "magnetic" or cheap_pays(Acquire(nonmagnetic=self.nonmagnetic), experience)


def fidelity_aware(state: State, buy: Buy, *, nonmagnetic: Literal["auto", "always"] = "auto") -> list[Score]:
    """The loop's own: `flows.steps.score` and `decide`, with labels that are there at once."""
    known = state.experience
    costs = CostModel.fit(known.calculations)
    expected = {
        frame.frame_id: {fidelity: costs.per_label(fidelity, frame.structure) for fidelity in FIDELITIES}
        for frame in state.pool
    }
    settings = acquire(state.core_hours, [hours["magnetic"] for hours in expected.values()])
    predictions = {frame.frame_id: found for frame, found in zip(state.pool, state.predictions, strict=True)}
    candidates = [
        candidate(name, prediction, known.calibration, expected[name], settings.reduce)
        for name, prediction in predictions.items()
    ]
    scores = route(
        candidates,
        thresholds(settings, candidates, known.calibration),
        settings,
        campaign="benchmark",
        round=state.round,
        seed=[state.seed, state.round],
        cheap=cheap_pays(Acquire(nonmagnetic=nonmagnetic), known),
        tolerance=TOLERANCE,
    )
    bought: dict[str, list[Label]] = {}
    for score in scores:
        if score.arm == "control":
            bought[score.frame_id] = buy(score.frame_id, FIDELITIES) or []
    for score in _by_value(scores, "nonmagnetic"):
        bought[score.frame_id] = buy(score.frame_id, ["nonmagnetic"]) or []
    lost = {name: "it did not fit the budget" for name, labels in bought.items() if not labels}
    forces = {name: np.array(labels[0].forces) for name, labels in bought.items() if labels}
    waiting = {
        score.frame_id: candidate(
            score.frame_id,
            predictions[score.frame_id],
            known.calibration,
            score.core_hours,
            settings.reduce,
            label=forces.get(score.frame_id),
        )
        for score in scores
        if score.gets("magnetic")
    }
    scores = reconsider(scores, waiting, settings, unusable=lost, tolerance=TOLERANCE)
    for score in _by_value(scores, "magnetic"):
        bought[score.frame_id] = [*bought.get(score.frame_id, []), *(buy(score.frame_id, MAGNETIC) or [])]
    return [_as_done(score, bought.get(score.frame_id, [])) for score in scores]


def acquire(core_hours: float, magnetic: Sequence[float]) -> Acquire:
    """The loop's settings with a budget that binds, and numbers of calculations that do not.

    Args:
        magnetic: expected core-hours of a magnetic label of each frame. The control arm is the default share of as many
            labels as the budget buys on average.
    """
    cheapest = min(magnetic)
    return Acquire(
        magnetic_per_round=ceil(core_hours / cheapest),
        core_hours_per_round=core_hours,
        control_share=Acquire.model_fields["control_share"].default * cheapest / float(np.mean(magnetic)),
    )


def sigma_magnetic(state: State, buy: Buy) -> list[Score]:
    """The largest spread of the magnetic forces, whatever it comes from and costs."""
    sigmas = [decompose(prediction).magnetic for prediction in state.predictions]
    return _magnetic_only((state.pool[i] for i in np.argsort(sigmas)[::-1]), buy)


def dp_gen(state: State, buy: Buy) -> list[Score]:
    """At random among the frames whose force deviation is within the window (Zhang et al., Comput. Phys. Commun. 253,
    107206 (2020)); it may find too few to spend the budget on."""
    low, high = np.quantile(state.first_deviations, WINDOW)
    deviation = {f.frame_id: force_deviation(p) for f, p in zip(state.pool, state.predictions, strict=True)}
    return _magnetic_only((frame for frame in state.shuffled() if low <= deviation[frame.frame_id] < high), buy)


def force_deviation(prediction: Prediction) -> float:
    """DP-GEN's, eV/Å: of the worst atom the length of the standard deviation over the members, which divides by K."""
    members = len(prediction.forces)
    return float(np.sqrt(by_atom(prediction).magnetic.max() * (members - 1) / members))


def farthest_point(state: State, buy: Buy) -> list[Score]:
    """The farthest from all that is labelled, in the committee's features."""
    features = np.stack([prediction.features for prediction in state.predictions])
    order = novel(features, state.labelled, count=len(features), tolerance=0.0)
    return _magnetic_only((state.pool[i] for i in order), buy)


def random(state: State, buy: Buy) -> list[Score]:
    return _magnetic_only(state.shuffled(), buy)


def random_two(state: State, buy: Buy) -> list[Score]:
    """At random, both labels of each frame."""
    for frame in state.shuffled():
        if buy(frame.frame_id, FIDELITIES) is None:
            break
    return []


RULES: dict[str, Rule] = {
    "fidelity-aware": Rule(fidelity_aware, FIDELITIES, "auto"),
    "fidelity-aware, always": Rule(partial(fidelity_aware, nonmagnetic="always"), FIDELITIES),
    "sigma-mag": Rule(sigma_magnetic, MAGNETIC),
    "dp-gen": Rule(dp_gen, MAGNETIC),
    "farthest-point": Rule(farthest_point, MAGNETIC),
    "random": Rule(random, MAGNETIC),
    "random-two": Rule(random_two, FIDELITIES),
}


def _magnetic_only(frames: Iterable[Frame], buy: Buy) -> list[Score]:
    for frame in frames:
        if buy(frame.frame_id, MAGNETIC) is None:
            break
    return []


def _by_value(scores: Sequence[Score], fidelity: Fidelity) -> list[Score]:
    """Those to be calculated beside the control arm, best first: should the costs be larger than expected, the last
    ones are those that do not fit."""

    def value(score: Score) -> float:
        return (score.gain or 0.0) / score.core_hours[fidelity]

    return sorted((s for s in scores if s.gets(fidelity) and s.arm != "control"), key=value, reverse=True)


def _as_done(score: Score, labels: Sequence[Label]) -> Score:
    """The decision as it was carried out: what did not fit was not calculated, and teaches nothing."""
    done = {label.fidelity for label in labels}
    wanted = {fidelity for fidelity in FIDELITIES if score.gets(fidelity)}
    if wanted == done:
        return score
    decision = "nonmagnetic" if done else "skip"
    return score.model_copy(update={"decision": decision, "arm": None, "reason": f"{score.reason}; it did not fit"})
