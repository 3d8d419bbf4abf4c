"""What a campaign publishes and what it leaves out: labels, judged as its training judges them, and their splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mfal.config import Campaign
from mfal.dataset_files import Split
from mfal.dft.engines import Table
from mfal.dft.fidelity import fingerprint, fingerprints, settings
from mfal.dft.label import gated
from mfal.dft.sanity import flagged
from mfal.frames import FIDELITIES, Fidelity, Frame, Label, Score


@dataclass(frozen=True)
class DataSet:
    """The labels of a campaign's present settings, and beside them what is only counted."""

    campaign: Campaign
    #: All that the campaign looked at, by their ids.
    frames: Mapping[str, Frame]
    #: Of the present settings, the last attempt at each; good or not.
    labels: Sequence[Label]
    #: The attempts before those.
    earlier: Sequence[Label]
    #: Of other settings.
    others: Sequence[Label]
    scores: Sequence[Score]

    @classmethod
    def of(
        cls, campaign: Campaign, frames: Mapping[str, Frame], labels: Iterable[Label], scores: Sequence[Score]
    ) -> DataSet:
        """
        Args:
            labels: every attempt, as stored. The last ones are judged again, by the gate and the limits of sanity as
                the campaign file has them now; a table's are taken at their word.
        """
        wanted = fingerprints(campaign.engine, campaign.magnetism)
        same: list[Label] = []
        others: list[Label] = []
        for label in labels:
            (same if label.fingerprint in wanted else others).append(label)
        last: dict[tuple[str, str], int] = {}
        for label in same:
            key = label.frame_id, label.fingerprint
            last[key] = max(label.attempt, last.get(key, 0))
        final = [label for label in same if label.attempt == last[label.frame_id, label.fingerprint]]
        earlier = [label for label in same if label.attempt < last[label.frame_id, label.fingerprint]]
        if not isinstance(campaign.engine, Table):
            gate = campaign.engine.gate(campaign.magnetism)
            final = [gated(label, frames[label.frame_id].structure, gate) for label in final]
        return cls(campaign, frames, flagged(frames, final, campaign.sanity), earlier, others, scores)

    @cached_property
    def attempts(self) -> list[Label]:
        """All that was calculated with the present settings."""
        return [*self.labels, *self.earlier]

    @cached_property
    def good(self) -> list[Label]:
        return [label for label in self.labels if label.good]

    @cached_property
    def flagged(self) -> list[Label]:
        """Converged in the right state, and beyond the limits of sanity."""
        return [label for label in self.labels if label.status == "ok" and label.flag]

    @cached_property
    def bad(self) -> list[Label]:
        return [label for label in self.labels if label.status != "ok"]

    @cached_property
    def brought(self) -> list[Label]:
        """The good ones that were made elsewhere: a calculation of mfal's says when it began."""
        return [label for label in self.good if not label.started_at]

    @cached_property
    def published(self) -> dict[str, Frame]:
        """The frames with a good label."""
        with_label = {label.frame_id for label in self.good}
        return {name: frame for name, frame in self.frames.items() if name in with_label}

    @cached_property
    def splits(self) -> dict[str, Split]:
        """Of each published frame. One that no score knows (made without a campaign, brought from elsewhere) is of the
        training set, and one held out in any round is never of it."""
        held = {score.frame_id for score in self.scores if score.arm == "hold_out"}
        return {name: "hold_out" if name in held else "train" for name in self.published}

    @cached_property
    def control(self) -> list[str]:
        """The frames of the training set that were drawn at random."""
        drawn = {score.frame_id for score in self.scores if score.arm == "control"}
        return [name for name in self.split("train") if name in drawn]

    def split(self, split: Split) -> list[str]:
        return sorted(name for name, of in self.splits.items() if of == split)

    def of_fidelity(self, fidelity: Fidelity) -> list[Label]:
        """The good ones."""
        return [label for label in self.good if label.fidelity == fidelity]

    @cached_property
    def pairs(self) -> list[tuple[Label, Label]]:
        """The good labels of the frames that have both, the non-magnetic one first."""
        low, high = ({label.frame_id: label for label in self.of_fidelity(fidelity)} for fidelity in FIDELITIES)
        return [(low[name], high[name]) for name in sorted(low.keys() & high.keys())]

    def split_lists(self) -> dict[str, list[str]]:
        """As `splits.json` has them. `control` is a part of `train`."""
        return {"train": self.split("train"), "hold_out": self.split("hold_out"), "control": self.control}

    @cached_property
    def present(self) -> list[Fidelity]:
        """The fidelities that have a good label."""
        return [fidelity for fidelity in FIDELITIES if self.of_fidelity(fidelity)]

    def promised(self, fidelity: Fidelity) -> dict[str, Any]:
        """The settings of a fidelity, whose hash is in its labels as their fingerprint."""
        return settings(self.campaign.engine, self.campaign.magnetism, fidelity)

    def codes(self, fidelity: Fidelity) -> list[str]:
        """Names and versions of the programs that made the good labels."""
        return sorted({label.code for label in self.of_fidelity(fidelity) if label.code})

    def settings_by_fingerprint(self) -> dict[str, dict[str, Any]]:
        """As `settings.json` has them: nothing of where or how a calculation ran."""
        return {
            fingerprint(self.promised(fidelity)): {
                "fidelity": fidelity,
                "code": self.codes(fidelity),
                "settings": self.promised(fidelity),
            }
            for fidelity in self.present
        }
