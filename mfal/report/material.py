"""What a report is made of: the documents of a campaign up to a round, and what the chapters of the page give back."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mfal.acquire.experience import Experience
from mfal.config import Acquire, Stop
from mfal.frames import Frame, Label, Round, Score
from mfal.report.standalone import Plot


@dataclass(frozen=True)
class Material:
    """A campaign as its stores have it, up to and including the round that the report is on."""

    campaign: str
    #: Every finished round in their order; at least one.
    rounds: list[Round]
    #: By frame id: those of the last round, and of all labels.
    frames: dict[str, Frame]
    #: Of the present settings, good or not, in the order in which they ended.
    labels: list[Label]
    scores: list[Score]
    #: One item a label that was predicted (`mfal.committee.evaluate.parity`), with its `set`: `train` or `hold_out`.
    parity: list[dict[str, Any]]
    #: By the end of the last round.
    experience: Experience
    #: As the campaign file has them: what decides in the next round, and what ends the campaign.
    acquire: Acquire = field(default_factory=Acquire)
    stop: Stop = field(default_factory=Stop)

    def __post_init__(self) -> None:
        if not self.rounds:
            raise ValueError(f"campaign {self.campaign!r} has no finished round to report on: run `mfal run` first")

    @property
    def last(self) -> Round:
        return self.rounds[-1]

    @cached_property
    def scored(self) -> list[Score]:
        """Of the last round."""
        return [score for score in self.scores if score.round == self.last.round]

    @cached_property
    def attempts(self) -> dict[str, list[Label]]:
        """Labels by frame id, in the order of their attempts."""
        found: dict[str, list[Label]] = defaultdict(list)
        for label in sorted(self.labels, key=lambda label: label.attempt):
            found[label.frame_id].append(label)
        return found


@dataclass(frozen=True)
class Chapter:
    """A part of the page. Its template `NAME.html.j2` finds `content` in `chapters.NAME`, and all plots in `plots`."""

    #: Those that there is something to draw in.
    plots: list[Plot] = field(default_factory=list)
    content: dict[str, Any] = field(default_factory=dict)
    #: What the page says, for the JSON file beside it: plain types only, units in the names of the keys.
    numbers: dict[str, Any] = field(default_factory=dict)
