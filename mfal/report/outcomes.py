"""What became of calculations: how they ended, why some gave no label to train on, and the core-hours of each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from mfal.frames import FIDELITIES, Fidelity, Label, Status
from mfal.report.material import Material

Ending = Literal["ok", "held_back", "unconverged", "other_state", "collapsed", "failed"]
#: As people read them. One is held back that converged, beyond the limits of sanity.
ENDINGS: dict[Ending, str] = {
    "ok": "good",
    "held_back": "held back",
    "unconverged": "unconverged",
    "other_state": "other state",
    "collapsed": "collapsed",
    "failed": "failed",
}
#: How each is drawn, wherever labels are drawn.
SYMBOLS: dict[Ending, str] = {
    "ok": "circle",
    "held_back": "circle-open",
    "unconverged": "triangle-up",
    "other_state": "diamond",
    "collapsed": "triangle-down",
    "failed": "x-thin-open",
}
#: Those whose magnetic state is not the one asked for.
WRONG: tuple[Ending, ...] = ("other_state", "collapsed")


def judged(material: Material) -> list[Label]:
    """The labels as the last round judged them: it says whom it held back, and a stored label has no flag.

    Every attempt is a label of its own with its own core-hours, so those of all add up and nothing counts twice.
    """
    held = dict(line.split(": ", 1) for line in material.last.flagged if ": " in line)
    last = {(label.frame_id, label.fidelity): label for label in sorted(material.labels, key=lambda x: x.attempt)}
    return [
        label.model_copy(update={"flag": flag})
        if label is last[label.frame_id, label.fidelity] and (flag := held.get(f"{label.frame_id} ({label.fidelity})"))
        else label
        for label in material.labels
    ]


def ending(label: Label) -> Ending:
    return "held_back" if label.status == "ok" and label.flag else label.status


def why(label: Label) -> str:
    """Why there is nothing to train on."""
    return label.flag if ending(label) == "held_back" else label.reason


class Total(NamedTuple):
    attempts: int
    core_hours: float


def totals(labels: Sequence[Label]) -> dict[tuple[Fidelity, Ending], Total]:
    """Of all attempts, by how they ended; only what occurs."""
    found: dict[tuple[Fidelity, Ending], Total] = {}
    for label in labels:
        key = label.fidelity, ending(label)
        attempts, core_hours = found.get(key, Total(0, 0.0))
        found[key] = Total(attempts + 1, core_hours + label.core_hours)
    return found


def tally(material: Material, labels: Sequence[Label]) -> dict[tuple[Fidelity, Ending], tuple[int, int]]:
    """Calculations that the rounds asked for, by how they ended in the end: in the last round, and in all of them."""
    asked = {score.frame_id for score in material.scored}
    found: dict[tuple[Fidelity, Ending], tuple[int, int]] = {}
    for fidelity in FIDELITIES:
        held = [label.frame_id for label in labels if label.fidelity == fidelity and ending(label) == "held_back"]
        kept = sum(frame_id in asked for frame_id in held), len(held)
        for status in get_args(Status):
            last, every = (
                sum(r.counts.get(fidelity, {}).get(status, 0) for r in rounds)
                for rounds in ([material.last], material.rounds)
            )
            found[fidelity, status] = last, every
        # the rounds count as good what they hold back
        last, every = found[fidelity, "ok"]
        found[fidelity, "ok"], found[fidelity, "held_back"] = (last - kept[0], every - kept[1]), kept
    return found


class Reason(NamedTuple):
    """Why labels are not used: one wording of it, whatever its numbers are."""

    fidelity: Fidelity
    ending: Ending
    example: Label
    attempts: int
    core_hours: float

    @property
    def words(self) -> str:
        return why(self.example) or "no reason is recorded"


def reasons(labels: Sequence[Label]) -> list[Reason]:
    """Of all attempts that gave no label to train on; first what cost most."""
    found: dict[tuple[Fidelity, Ending, str], list[Label]] = {}
    for label in labels:
        if not label.good:
            words = re.sub(r"[+-]?\d+(\.\d+)?", "#", why(label))
            found.setdefault((label.fidelity, ending(label), words), []).append(label)
    grouped = [
        Reason(fidelity, key, alike[0], len(alike), sum(label.core_hours for label in alike))
        for (fidelity, key, _), alike in found.items()
    ]
    return sorted(grouped, key=lambda reason: (-reason.core_hours, -reason.attempts))
