"""One frame at one fidelity, one job, one label: a calculation that goes wrong is a label with a status.

Only a failure of the calculation itself is: a full disk or a missing program says nothing about the frame, so it stays
an error, and the next run tries again.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobflow import Job, JobStore, Maker
from monty.json import MontyDecoder
from monty.os import cd

from flows.engines import engine
from flows.jobs import ResumableJob, campaign_job, pinned
from mfal import atomic
from mfal.cluster import Place
from mfal.dft.engines import Engine, Retry, Table
from mfal.dft.fidelity import fingerprint, settings
from mfal.dft.label import CalculationError, blank, judged
from mfal.dft.magnetism import Magnetism
from mfal.dft.moments import initial_moments
from mfal.dft.ordering import Host
from mfal.dft.table import look_up
from mfal.frames import WORDS, Fidelity, Frame, Label, Status

#: In a calculation's folder: the label of the attempt that was made there.
MEMORY = "label.json"


class CalculationJob(ResumableJob):
    """The job of a label: a bad label is attempted again when the limits are not those that it came to nothing under.

    The bad label stays in the collection of labels; its cost is carried on.
    """

    def is_kept(self, store: JobStore) -> bool:
        newest = {"index": -1}
        found = store.query_one({"uuid": self.uuid}, ["output", "metadata.limits"], sort=newest)
        if found and found["output"]["status"] != "ok" and found["metadata"]["limits"] != self.metadata["limits"]:
            self.function_kwargs["bad"] = MontyDecoder().process_decoded(found["output"])
            self.function_kwargs["again"] = found["metadata"]["limits"] is None
            return False
        return found is not None


def failures(store: JobStore, campaign: str, *statuses: Status) -> list[dict[str, Any]]:
    """The outputs of calculations of a campaign that came to nothing."""
    own = {"metadata.kind": "label", "metadata.campaign": campaign}
    return list(store.query(own | {"output.status": {"$in": statuses}}))


def forget(store: JobStore, outputs: list[dict[str, Any]]) -> None:
    """Let calculations be attempted once more by the next run."""
    for document in outputs:
        document["metadata"]["limits"] = None
    store.update(outputs)


@dataclass
class LabelMaker(Maker):
    """Runs an engine's static job in this process and turns what comes out into a label; where it is bad, goes up the
    engine's retry ladder.

    Each attempt has a folder of its own below the current one, named by frame, fidelity, fingerprint and rung. What
    came of it is remembered there, so that a rerun of the job repeats no attempt that ended.
    """

    engine: Engine
    magnetism: Magnetism
    fidelity: Fidelity
    name: str = "label"

    @campaign_job()
    def make(
        self, frame: Frame, asked: list[float] | None = None, bad: Label | None = None, again: bool = False
    ) -> Label:
        """`label`, as a job."""
        return self.label(frame, asked, bad, again)

    def label(
        self, frame: Frame, asked: list[float] | None = None, bad: Label | None = None, again: bool = False
    ) -> Label:
        """The label of a frame.

        Args:
            asked: µB, the initial moments; None at the non-magnetic fidelity.
            bad: what an earlier job came to, under other limits; its attempts are not made again.
            again: make them again all the same.
        """
        label = blank(frame, self.engine, self.magnetism, self.fidelity)
        if isinstance(self.engine, Table):
            found = look_up(self.engine, frame.frame_id, self.fidelity)
            return found.model_copy(update={"fingerprint": label.fingerprint, "settings": label.settings})
        first = bad.attempt + 1 if bad else 1
        made: list[Label] = []
        status = None
        for rung in (None, *self.engine.ladder):
            if rung and status not in rung.after:
                continue
            limits = self._limits(rung)
            # Of earlier jobs, too, unless it is to be made again; those are booked, and only say which rung is next.
            folders = {n: self._folder(label, rung, n) for n in range(first if again else 1, first + 1)}
            remembered = {n: _remembered(folder, limits) for n, folder in folders.items()}
            known = {n: label for n, label in remembered.items() if label}
            if not known:
                attempt = label.model_copy(update={"attempt": first + len(made), "asked": _scaled(asked, rung)})
                known[first] = self._attempted(attempt, frame, rung, folders[first])
                _remember(folders[first], limits, known[first])
            status = known[max(known)].status
            if first in known:
                made.append(known[first])
        if not made and bad:
            return bad
        before = bad.earlier_core_hours + bad.core_hours if bad else 0.0
        return made[-1].model_copy(
            update={
                "earlier": made[:-1],
                "earlier_core_hours": before + sum(attempt.core_hours for attempt in made[:-1]),
            }
        )

    def _attempted(self, label: Label, frame: Frame, rung: Retry | None, folder: Path) -> Label:
        folder.mkdir(exist_ok=True)
        structure = frame.structure.copy()
        if label.asked is not None:
            structure.add_site_property("magmom", label.asked)
        started, clock = datetime.now(UTC), time.perf_counter()
        try:
            with cd(folder):
                result = engine(self.engine, self.magnetism).calculate(structure, self.fidelity, rung)
            seconds = result.wall_seconds
            label = judged(label, result, frame, self.engine.gate(self.magnetism))
        except CalculationError as error:
            seconds = error.wall_seconds
            label = label.model_copy(update={"status": error.status, "reason": str(error)})
        if seconds is None:
            seconds = time.perf_counter() - clock
        return label.model_copy(
            update={
                "core_hours": seconds * self.engine.cores / 3600,
                "directory": str(folder),
                "started_at": started.isoformat(timespec="seconds"),
                "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )

    def _folder(self, label: Label, rung: Retry | None, first: int) -> Path:
        """Where an attempt is made, by a job whose first attempt has the number `first`."""
        suffix = f"-{fingerprint(rung.model_dump(mode='json'))[:6]}" if rung else ""
        later = f"-from-{first}" if first > 1 else ""
        return Path(f"{label.frame_id}-{label.fidelity}-{label.fingerprint}{suffix}{later}").resolve()

    def _limits(self, rung: Retry | None) -> dict[str, Any]:
        """What the attempt's outcome depends on beside frame, fingerprint and initial moments."""
        limits = self.engine.limits()
        limits.pop("retries", None)
        return limits | {"rung": rung and rung.model_dump(mode="json")}


def label_job(
    engine: Engine,
    magnetism: Magnetism,
    frame: Frame,
    fidelity: Fidelity,
    campaign: str,
    round: int,
    *,
    host: Host | None = None,
    predicted: list[float] | None = None,
    place: Place | None = None,
) -> Job:
    """One calculation. Its uuid knows neither campaign nor round: what is calculated once is never calculated again.

    Args:
        host: of the frame's parent, for the signs of the initial moments.
        predicted: |moment| of each site by the committee, for their sizes.
        place: where it runs in a queue.
    """
    name = f"{WORDS[fidelity]} {frame.structure.reduced_formula} {frame.frame_id}"
    asked = initial_moments(frame, magnetism, host=host, predicted=predicted) if fidelity == "magnetic" else None
    return pinned(
        LabelMaker(engine, magnetism, fidelity, name=name).make(frame, asked),
        frame.frame_id,
        fingerprint(settings(engine, magnetism, fidelity)),
        kind="label",
        campaign=campaign,
        round=round,
        cls=CalculationJob,
        place=place,
        fidelity=fidelity,
        frame_id=frame.frame_id,
        limits=engine.limits(),
    )


def _remember(folder: Path, limits: dict[str, Any], label: Label) -> None:
    content = {"limits": limits, "label": label.model_dump(mode="json")}
    atomic.replace(folder / MEMORY, json.dumps(content).encode())


def _remembered(folder: Path, limits: dict[str, Any]) -> Label | None:
    """The label of an attempt that ended in this folder under these limits."""
    try:
        content = json.loads((folder / MEMORY).read_bytes())
        return Label.model_validate(content["label"]) if content["limits"] == limits else None
    except (FileNotFoundError, ValueError):  # a disk may lose the end of a file: no reason to fail for ever
        return None


def _scaled(asked: list[float] | None, rung: Retry | None) -> list[float] | None:
    return [moment * rung.moments for moment in asked] if asked is not None and rung else asked
