"""One calculation, one job, one label: a calculation that goes wrong is a label with a status.

Only a failure of the calculation itself is: a full disk or a missing program says nothing about the frame, so it stays
an error, and the next run tries again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jobflow import JobStore, Maker, Response, job
from maggma.stores import MemoryStore
from monty.os import cd

from flows.engines import processes, static_maker
from flows.jobs import CampaignJob, ResumableJob
from mfal.config import Engine, Magnetism, Table
from mfal.dft.gpaw import CalculationError
from mfal.dft.label import blank, from_ase_task
from mfal.dft.moments import initial_moments
from mfal.dft.table import look_up
from mfal.frames import Fidelity, Frame, Label


class CalculationJob(ResumableJob):
    """The job of a label: a bad label is attempted again when the limits are not those that it came to nothing under.

    The bad label stays in the collection of labels; its cost is carried on.
    """

    def run(self, store: JobStore, job_dir: Path | None = None) -> Response:
        found = store.query_one({"uuid": self.uuid, "index": self.index}, ["output", "metadata.limits"])
        if found and found["output"]["status"] != "ok" and found["metadata"]["limits"] != self.metadata["limits"]:
            bad = found["output"]
            self.function_kwargs = {
                "attempt": bad["attempt"] + 1,
                "earlier_core_hours": bad["earlier_core_hours"] + bad["core_hours"],
            }
            return CampaignJob.run(self, store, job_dir)
        return super().run(store, job_dir)


def forget_failures(store: JobStore) -> int:
    """Let every failed or unconverged calculation be attempted once more; how many there are."""
    criteria = {"metadata.kind": "label", "output.status": {"$in": ["failed", "unconverged"]}}
    documents = list(store.query(criteria))
    for document in documents:
        document["metadata"]["limits"] = None
    store.update(documents)
    return len(documents)


@dataclass
class LabelMaker(Maker):
    """Runs an engine's static job in this process and turns what comes out into a label.

    The calculation has a folder of its own below the current one, named by frame, fidelity and fingerprint: a rerun
    comes back to it, and a person finds it.
    """

    engine: Engine
    magnetism: Magnetism
    fidelity: Fidelity
    name: str = "label"

    @job
    def make(self, frame: Frame, attempt: int = 1, earlier_core_hours: float = 0.0) -> Label:
        label = blank(frame, self.engine, self.magnetism, self.fidelity)
        label = label.model_copy(update={"attempt": attempt, "earlier_core_hours": earlier_core_hours})
        if isinstance(self.engine, Table):
            found = look_up(self.engine, frame.frame_id, self.fidelity)
            return found.model_copy(update={"fingerprint": label.fingerprint, "settings": label.settings})
        folder = Path(f"{frame.frame_id}-{self.fidelity}-{label.fingerprint}").resolve()
        folder.mkdir(exist_ok=True)
        structure = frame.structure.copy()
        if self.fidelity == "magnetic":
            structure.add_site_property("magmom", initial_moments(structure, self.magnetism))
        static = static_maker(self.engine, self.magnetism, self.fidelity).make(structure)
        memory = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
        memory.connect()
        started = datetime.now(UTC)
        try:
            with cd(folder):
                document = static.run(memory).output
            seconds = document.output.elapsed_time
            label = from_ase_task(label, document, frame, self.magnetism)
        except CalculationError as error:
            seconds = error.wall_seconds
            label = label.model_copy(update={"status": error.status, "reason": str(error)})
        return label.model_copy(
            update={
                "core_hours": seconds * processes(self.engine) / 3600,
                "directory": str(folder),
                "started_at": started.isoformat(timespec="seconds"),
                "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )
