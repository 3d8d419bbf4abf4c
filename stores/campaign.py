"""The stores of a campaign: jobflow's outputs and blobs, and the five collections that people query."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from jobflow import JobStore
from maggma.core import Store
from monty.json import MontyDecoder, jsanitize

from mfal.config import Campaign
from mfal.config_file import load
from mfal.frames import Frame, Label, Member, Round, Score, TrainedCommittee
from mfal.storage import Storage, checked
from stores.collection import Collection
from stores.connect import KEYS, address, connect, sqlite_file
from stores.where import MODELS

if TYPE_CHECKING:
    from pymatgen.entries.computed_entries import ComputedStructureEntry

CAMPAIGN_FILES = (".yaml", ".yml")


@dataclass(frozen=True)
class CampaignStores:
    """Open stores. `jobs` is the memory of the flow; the collections are built from it (`stores.builder`)."""

    jobs: JobStore
    frames: Collection[Frame]
    labels: Collection[Label]
    scores: Collection[Score]
    models: Collection[Member]
    rounds: Collection[Round]
    #: For people; holds nothing secret.
    address: str = ""
    #: That of the file they were opened with.
    campaign: Campaign | None = None

    @property
    def collections(self) -> dict[str, Collection[Any]]:
        return {name: getattr(self, name) for name in KEYS}

    def campaigns(self) -> list[str]:
        """The names of all that the store holds."""
        return sorted(self.frames.store.distinct("campaign"))

    def all_rounds(self, campaign: str) -> list[Round]:
        return self.rounds.query({"campaign": campaign}, sort="round")

    def all_frames(self, campaign: str | None = None, **criteria: Any) -> dict[str, Frame]:
        """Of a campaign, or of all in the store."""
        own = {} if campaign is None else {"campaign": campaign}
        return {frame.frame_id: frame for frame in self.frames.query(own | criteria)}

    def all_labels(self, campaign: str | None = None, **criteria: Any) -> list[Label]:
        """Of the frames of a campaign, or of all in the store; in the order in which they ended."""
        scoped = self.campaign is not None and self.campaign.campaign == campaign  # then the collection sees to it
        own = {} if campaign is None or scoped else self.own_labels(campaign)
        return self.labels.query(own | criteria, sort="finished_at")

    def all_scores(self, campaign: str, **criteria: Any) -> list[Score]:
        return self.scores.query({"campaign": campaign, **criteria}, sort="round")

    def own_labels(self, campaign: str) -> dict[str, Any]:
        """The criterion for the labels of a campaign: those of its frames, whichever campaign calculated them."""
        return _own(self.frames.store, "labels", campaign)

    def entries(self, where: str | dict[str, Any] = "") -> list[ComputedStructureEntry]:
        """Labels with their structures, as pymatgen knows them: energy in eV, `magmom` (µB) and `forces` (eV/Å) as
        properties of the sites, the rest (`fidelity`, `stress` in GPa, ...) in `data`. Those without an energy are left
        out.

        Raises:
            ValueError: the question cannot be read.
        """
        from pymatgen.entries.computed_entries import ComputedStructureEntry

        labels = self.labels.query(where)
        frames = self.all_frames(frame_id={"$in": sorted({label.frame_id for label in labels})})
        entries = []
        for label in labels:
            if label.energy is None:
                continue
            structure = frames[label.frame_id].structure.copy()
            for name, values in (("magmom", label.magmoms), ("forces", label.forces)):
                if values is not None:
                    structure.add_site_property(name, values)
            kept = ("frame_id", "fidelity", "fingerprint", "status", "stress", "core_hours", "code")
            data = {name: getattr(label, name) for name in kept}
            name = f"{label.frame_id}-{label.fidelity}-{label.fingerprint}-{label.attempt}"
            entries.append(ComputedStructureEntry(structure, label.energy, data=data, entry_id=name))
        return entries

    def committee(self, campaign: str, round: int) -> TrainedCommittee:
        """The committee after a round, weights included.

        Raises:
            LookupError: there is none.
        """
        built = self.models.store.query_one({"campaign": campaign, "round": round}, ["job_uuid"])
        if not built:
            raise LookupError(f"there is no committee of round {round} of {campaign} in {self.address}")
        return self.output(built["job_uuid"])

    def add_frames(self, campaign: str, frames: Iterable[Frame]) -> None:
        """Frames that no job put out: those that a person gave."""
        trace = {"campaign": campaign, "round": 0}
        if documents := [trace | jsanitize(frame.model_dump(), strict=True) for frame in frames]:
            self.frames.store.update(documents, key=KEYS["frames"])

    def evaluation(self, campaign: str, round: int) -> dict[str, Any]:
        """A round's evaluation as JSON has it (of `flows.steps.Evaluation`, slow to import). With its `parity`
        and its `experience` (`mfal.acquire.experience.Experience`).

        Raises:
            LookupError: the round is not finished.
        """
        built = self.rounds.store.query_one({"campaign": campaign, "round": round}, ["job_uuid"])
        if not built:
            raise LookupError(f"round {round} of {campaign} is not finished in {self.address}")
        return self._output(built["job_uuid"])

    def output(self, uuid: str) -> Any:
        """The output of a job as the object it was, blobs included."""
        return MontyDecoder().process_decoded(self._output(uuid))

    def _output(self, uuid: str) -> Any:
        return self.jobs.query_one({"uuid": uuid}, sort={"index": -1}, load=True)["output"]

    def close(self) -> None:
        self.jobs.close()
        for collection in self.collections.values():
            collection.store.close()

    def __enter__(self) -> CampaignStores:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


def open_stores(where: Campaign | Path | str, *, make: bool = False) -> CampaignStores:
    """The stores of a campaign, of a campaign file, in a folder, or at an address (`sqlite:///...`, `mongodb://...`).

    Args:
        make: the SQLite file where it is not there; MongoDB makes its collections in any case.

    Raises:
        ValueError: nothing has run there, or the store cannot be used; names the place and the mend.
    """
    campaign, storage, directory = _place(where)
    if campaign is None and directory and directory.is_file():
        raise ValueError(f"{where}: is a file: name the folder of a store, its address or the campaign file")
    file = sqlite_file(storage, directory)
    if file and not make and not file.is_file():
        if campaign:
            raise ValueError(f"{file}: is not there: 'mfal run' of the campaign file makes it")
        raise ValueError(
            f"{where}: has no {file.name}: 'mfal run' and 'mfal label' make one; name its folder, its address or the"
            " campaign file"
        )
    jobs, stores = connect(storage, directory)
    collections: dict[str, Collection[Any]] = {
        name: Collection(name, MODELS[name], stores[name], scope)
        for name in KEYS
        for scope in [partial(_own, stores["frames"], name, campaign.campaign) if campaign else dict]
    }
    return CampaignStores(jobs, **collections, address=address(storage, directory), campaign=campaign)


def _own(frames: Store, collection: str, campaign: str) -> dict[str, Any]:
    if collection != "labels":
        return {"campaign": campaign}
    return {"frame_id": {"$in": frames.distinct("frame_id", {"campaign": campaign})}}


def _place(where: Campaign | Path | str) -> tuple[Campaign | None, Storage, Path | None]:
    if isinstance(where, str) and "://" in where:
        return None, checked(where), None
    if not isinstance(where, Campaign) and Path(where).suffix in CAMPAIGN_FILES:
        where = load(where)
    if isinstance(where, Campaign):
        return where, where.store, where.directory
    return None, None, Path(where)
