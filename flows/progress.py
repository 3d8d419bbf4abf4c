"""How far a campaign has come, as its jobs tell each other: where things are, never the things."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from jobflow import Job, OutputReference
from pydantic import Field

from mfal.frames import Document, Fidelity


class LabelJob(Document):
    """Where the label of a frame at a fidelity is, or will be."""

    frame_id: str
    fidelity: Fidelity
    uuid: str
    #: Asked for in this round; or an earlier round went on without it; or had it, so that it is counted; or had it, and
    #: it is a good one, which never changes.
    state: Literal["new", "late", "seen", "settled"] = "new"


class Progress(Document):
    """What must be known of the rounds before to go on: where things are, not the things."""

    round: int = 0
    explorations: list[str] = Field(default_factory=list)
    labels: list[LabelJob] = Field(default_factory=list)
    hold_out: list[str] = Field(default_factory=list)
    committee: str | None = None
    #: The last round's, with what it taught.
    evaluation: str | None = None
    #: Whether the jobs go to workers through a queue.
    remote: bool = False
    #: Labels that the queue's store held already when the campaign was submitted; their jobs are not born.
    known: list[str] = Field(default_factory=list)

    def kept(self) -> list[str]:
        """Outputs that workers were sent in earlier rounds."""
        return self.explorations[:-1] + self.labels_that_are("settled") if self.remote else []

    def frames(self) -> dict[str, OutputReference | None]:
        kept = self.kept()
        return {uuid: None if uuid in kept else OutputReference(uuid).frames for uuid in self.explorations}

    def label_outputs(self) -> dict[str, OutputReference | None]:
        """But for those kept; and those that are late come by `late_labels`."""
        absent = {*self.kept(), *self.labels_that_are("late")}
        return {label.uuid: None if label.uuid in absent else OutputReference(label.uuid) for label in self.labels}

    def late_labels(self) -> OutputReference | None:
        """Those that came in before this round began."""
        return OutputReference(self.explorations[-1]).late if self.labels_that_are("late") else None

    def labels_that_are(self, *states: str) -> list[str]:
        return [label.uuid for label in self.labels if label.state in states]

    def committee_output(self) -> OutputReference | None:
        return OutputReference(self.committee) if self.committee else None

    def experience(self) -> OutputReference | None:
        return OutputReference(self.evaluation).experience if self.evaluation else None

    def asking(self, labels: Iterable[Job]) -> Progress:
        """With the jobs of new labels."""
        new = [
            LabelJob(frame_id=label.metadata["frame_id"], fidelity=label.metadata["fidelity"], uuid=label.uuid)
            for label in labels
        ]
        return self.model_copy(update={"labels": self.labels + new})
