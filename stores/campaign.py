"""The stores of a campaign: jobflow's outputs and blobs, and the five collections that people query."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jobflow import JobStore
from maggma.core import Store
from monty.json import MontyDecoder, jsanitize

from mfal.frames import Document, Frame, Label, Round, Score
from stores.sqlite import SQLiteStore

FILE = "campaign.sqlite"


@dataclass
class CampaignStores:
    """Open stores of one campaign. `jobs` is the memory of the flow; the collections are built from it."""

    jobs: JobStore
    frames: Store
    labels: Store
    scores: Store
    models: Store
    rounds: Store

    def all_rounds(self, campaign: str) -> list[Round]:
        return [_as(Round, doc) for doc in self.rounds.query({"campaign": campaign}, sort={"round": 1})]

    def all_frames(self, campaign: str, **criteria: Any) -> dict[str, Frame]:
        return {doc["frame_id"]: _as(Frame, doc) for doc in self.frames.query({"campaign": campaign, **criteria})}

    def every_frame(self) -> dict[str, Frame]:
        """Of all campaigns in the store."""
        return {doc["frame_id"]: _as(Frame, doc) for doc in self.frames.query({})}

    def all_labels(self, **criteria: Any) -> list[Label]:
        return [_as(Label, doc) for doc in self.labels.query(criteria, sort={"finished_at": 1})]

    def all_scores(self, campaign: str, **criteria: Any) -> list[Score]:
        found = self.scores.query({"campaign": campaign, **criteria}, sort={"round": 1})
        return [_as(Score, doc) for doc in found]

    def add_frames(self, campaign: str, frames: Iterable[Frame]) -> None:
        """Frames that no job put out: those that a person gave."""
        trace = {"campaign": campaign, "round": 0}
        if documents := [trace | jsanitize(frame.model_dump(), strict=True) for frame in frames]:
            self.frames.update(documents, key=["campaign", "frame_id"])

    def parity(self, campaign: str, round: int) -> list[dict[str, Any]]:
        """True and predicted numbers of a round's evaluation, from the blob store."""
        built = self.rounds.query_one({"campaign": campaign, "round": round})
        return self.output(built["job_uuid"]).parity if built else []

    def output(self, uuid: str) -> Any:
        """The output of a job as the object it was, blobs included."""
        document = self.jobs.query_one({"uuid": uuid}, sort={"index": -1}, load=True)
        return MontyDecoder().process_decoded(document["output"])

    def close(self) -> None:
        for store in (self.jobs, self.frames, self.labels, self.scores, self.models, self.rounds):
            store.close()


D = TypeVar("D", bound=Document)


def _as(model: type[D], stored: dict[str, Any]) -> D:
    """The document as its model knows it, without what the store and the builder add."""
    return model.model_validate({key: stored[key] for key in model.model_fields if key in stored})


def open_stores(directory: Path | str) -> CampaignStores:
    """The stores in a campaign's folder; the file is made when it is not there.

    Raises:
        ValueError: the file is there and is not a store of mfal.
    """
    path = str(Path(directory) / FILE)
    jobs = JobStore(
        SQLiteStore(path, "outputs"), additional_stores={"data": SQLiteStore(path, "blobs", key="blob_uuid")}
    )
    jobs.connect()
    collections = {
        "frames": SQLiteStore(path, "frames", key="frame_id"),
        "labels": SQLiteStore(path, "labels", key="frame_id"),
        "scores": SQLiteStore(path, "scores", key="frame_id"),
        "models": SQLiteStore(path, "models", key="job_uuid"),
        "rounds": SQLiteStore(path, "rounds", key="round"),
    }
    for store in collections.values():
        store.connect()
    return CampaignStores(jobs, **collections)
