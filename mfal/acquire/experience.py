"""What a campaign's own labels have taught by the end of a round, for the decisions of the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field

from mfal.acquire.cost import Calculation, CostModel
from mfal.acquire.probe import Probe, probe
from mfal.acquire.saving import Saving, saving
from mfal.committee.calibrate import Calibration, Evidence, Kind, calibrate, evidence
from mfal.committee.decompose import Reduce, both
from mfal.committee.predict import Prediction, predict
from mfal.config import Acquire
from mfal.frames import FIDELITIES, Document, Fidelity, Frame, Label, Score
from mfal.model.delta import Model

Vectors = list[list[float]]


class Experience(Document):
    """Grows from round to round. Random frames speak of the committee that had not been trained on them."""

    #: What finished calculations cost, and whether they came to something.
    calculations: list[Calculation] = Field(default_factory=list)
    #: Of the control arm; a frame speaks once, of the committee that it was new to.
    evidence: list[Evidence] = Field(default_factory=list)
    #: Of the control arm and the hold-out, when they were new: force residuals (eV/Å) at the non-magnetic and the
    #: magnetic fidelity.
    pairs: list[tuple[Vectors, Vectors]] = Field(default_factory=list)
    #: Worst magnetic force error (eV/Å) found on a frame and the core-hours it took, for frames chosen and drawn.
    chosen: list[tuple[float, float]] = Field(default_factory=list)
    drawn: list[tuple[float, float]] = Field(default_factory=list)
    #: Of each frame drawn the core-hours of its magnetic calculation alone; None where there was none.
    drawn_magnetic: list[float | None] = Field(default_factory=list)
    #: Of the committee that the round ends with, from all of the above and the hold-out.
    calibration: dict[Kind, Calibration] = Field(default_factory=dict)
    probe: Probe | None = None
    #: Of choosing at two fidelities, over frames drawn at random: as they were labelled, and with the magnetic
    #: calculation alone.
    saving: Saving | None = None
    saving_all_magnetic: Saving | None = None


def cheap_pays(settings: Acquire, experience: Experience | None) -> bool:
    """Whether the next round runs non-magnetic calculations beside those of the random frames, and trains on them."""
    if settings.nonmagnetic != "auto":
        return settings.nonmagnetic == "always"
    return experience is None or experience.probe is None or experience.probe.worth is not False


def verdict(settings: Acquire, experience: Experience) -> str:
    """What the random frames say of the cheap labels, and what the campaign makes of it."""
    if experience.probe is None:
        return ""
    magnetic_only = "magnetic labels only, still drawing the control arm at both"
    goes_on = f"the loop goes on with {'both fidelities' if cheap_pays(settings, experience) else magnetic_only}"
    if settings.nonmagnetic == "auto":
        return f"{experience.probe.message}, so {goes_on}"
    return f"{experience.probe.message}; {goes_on} (acquire.nonmagnetic: {settings.nonmagnetic})"


def learn(
    before: Experience | None,
    frames: Mapping[str, Frame],
    labels: Sequence[Label],
    scores: Sequence[Score],
    *,
    old: Sequence[Model],
    new: Sequence[Model],
    hold_out: Sequence[Label],
    reduce: Reduce,
) -> Experience:
    """The experience after a round.

    Args:
        frames: at least those of the labels, by frame id.
        labels: all that the round asked for, good or not.
        scores: the round's decisions.
        old: the committee that was not trained on the round's frames: the one that decided it, or, in the first round,
            the pretrained model, whose one member says nothing of sigmas, but has residuals.
        new: the committee that the round has trained.
        hold_out: its labels; no committee was ever trained on them.
    """
    known = before or Experience()
    calculations = known.calculations + [Calculation.of(label, frames[label.frame_id]) for label in labels]
    proofs, pairs = list(known.evidence), list(known.pairs)
    chosen, drawn, drawn_magnetic = list(known.chosen), list(known.drawn), list(known.drawn_magnetic)
    # Of what was chosen, also the frames that got a non-magnetic label alone: nothing is found on them, but they cost.
    calculated = {label.frame_id for label in labels}
    arms = {score.frame_id: score.arm for score in scores if score.frame_id in calculated}
    asked = [frames[i] for i in arms]
    for frame, prediction in zip(asked, predict(old, asked) if asked else [], strict=True):
        name, arm = frame.frame_id, arms[frame.frame_id]
        own = [label for label in labels if label.frame_id == name]
        if arm in ("control", "hold_out"):
            pairs += _pair(prediction, own)
        if len(prediction.energy) < 2:
            continue
        cost = sum(label.core_hours + label.earlier_core_hours for label in own)
        (drawn if arm == "control" else chosen).append((_worst_error(prediction, own), cost))
        if arm == "control":
            drawn_magnetic.append(_magnetic_cost(own))
            proofs += _evidence(prediction, name, own)
    held = sorted({label.frame_id for label in hold_out})
    now = list(proofs)
    for name, prediction in zip(held, predict(new, [frames[i] for i in held]) if held else [], strict=True):
        now += _evidence(prediction, name, [label for label in hold_out if label.frame_id == name])
    costs = CostModel.fit(calculations)
    typical = [frames[i].structure for i in {label.frame_id for label in labels} | set(held) or frames]
    low, high = (np.mean([costs.per_label(fidelity, structure) for structure in typical]) for fidelity in FIDELITIES)
    return Experience(
        calculations=calculations,
        chosen=chosen,
        drawn=drawn,
        drawn_magnetic=drawn_magnetic,
        evidence=proofs,
        pairs=pairs,
        calibration=calibrate(now, reduce),
        probe=probe([(np.array(a), np.array(b)) for a, b in pairs], float(high / low)),
        saving=saving(chosen, drawn),
        saving_all_magnetic=saving(
            chosen, _all_magnetic(drawn, drawn_magnetic), against="a random frame with the magnetic calculation alone"
        ),
    )


def _magnetic_cost(labels: Sequence[Label]) -> float | None:
    costs = [label.core_hours + label.earlier_core_hours for label in labels if label.fidelity == "magnetic"]
    return sum(costs) if costs else None


def _all_magnetic(
    drawn: Sequence[tuple[float, float]], drawn_magnetic: Sequence[float | None]
) -> list[tuple[float, float]]:
    """The frames drawn as a campaign without the cheap fidelity would have booked them.

    Without those whose magnetic calculation did not run, as the non-magnetic one came to nothing, or is late: what it
    would have found, and for how much, nobody knows. Empty for a campaign that an mfal without these numbers began: its
    later frames would be compared with what was chosen earlier, when errors were larger.
    """
    if len(drawn_magnetic) < len(drawn):
        return []
    pairs = zip(drawn, drawn_magnetic, strict=True)
    return [(error, hours) for (error, _), hours in pairs if hours is not None]


def _forces(labels: Sequence[Label]) -> dict[Fidelity, np.ndarray]:
    return {label.fidelity: np.array(label.forces) for label in labels if label.good and label.forces is not None}


def _evidence(prediction: Prediction, name: str, labels: Sequence[Label]) -> list[Evidence]:
    forces = _forces(labels)
    return evidence(name, prediction, forces.get("nonmagnetic"), forces.get("magnetic"))


def _pair(prediction: Prediction, labels: Sequence[Label]) -> list[tuple[Vectors, Vectors]]:
    """The residuals of a frame, if it has both labels."""
    forces = _forces(labels)
    if len(forces) < len(FIDELITIES):
        return []
    low, high = (forces[f] - p.mean(axis=0) for f, p in zip(FIDELITIES, both(prediction, "forces"), strict=True))
    return [(low.tolist(), high.tolist())]


def _worst_error(prediction: Prediction, labels: Sequence[Label]) -> float:
    """eV/Å, of the magnetic forces; 0 where the calculation came to nothing."""
    for label in labels:
        if label.good and label.fidelity == "magnetic" and label.forces is not None:
            missed = np.array(label.forces) - both(prediction, "forces")[1].mean(axis=0)
            return float(np.linalg.norm(missed, axis=1).max())
    return 0.0
