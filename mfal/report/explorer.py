"""The chapter on the frames of the round: every one with its numbers, its decision and why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mfal.frames import WORDS, Fidelity, Frame, Label, Score
from mfal.report import routing
from mfal.report.material import Chapter, Material
from mfal.report.text import formula


def chapter(material: Material) -> Chapter:
    by_id = {score.frame_id: score for score in material.scored}
    # without scores, all that are known
    rows = [Row(i, material.frames.get(i), by_id.get(i), material.attempts[i]) for i in by_id or material.frames]
    return Chapter(content={"rows": rows, "last": material.last, "fidelities": WORDS})


@dataclass(frozen=True)
class Row:
    """One frame of the round in the table."""

    frame_id: str
    frame: Frame | None
    score: Score | None
    attempts: list[Label]  # every label of the frame, in the order of the attempts

    @property
    def labels(self) -> dict[Fidelity, Label]:
        """The last attempt at each fidelity."""
        return {label.fidelity: label for label in self.attempts}

    @property
    def core_hours(self) -> float:
        return sum(label.core_hours for label in self.attempts)

    @property
    def formula(self) -> str:
        return formula(self.frame)

    @property
    def expected(self) -> float | None:
        """Core-hours that the calculations decided on were expected to cost; None where there are none."""
        score = self.score
        costs = [cost for f, cost in score.core_hours.items() if score.gets(f)] if score else []
        return sum(costs) if costs else None

    @property
    def route(self) -> routing.Route | None:
        return None if self.score is None else routing.ROUTES[routing.route(self.score)]

    def energy(self, fidelity: Fidelity) -> float | None:
        label = self.labels.get(fidelity)
        if label is None or label.energy is None or self.frame is None:
            return None
        return label.energy / len(self.frame.structure)

    def largest_force(self, fidelity: Fidelity) -> float | None:
        label = self.labels.get(fidelity)
        return None if label is None or not label.forces else float(np.linalg.norm(label.forces, axis=1).max())
