"""From jobflow's outputs to the collections that people query.

Upserts only, so it may run at any time, any number of times, and while the campaign runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from jobflow import JobStore
from maggma.core import Builder, Store

from stores.campaign import CampaignStores
from stores.connect import KEYS

#: The job kinds whose outputs hold documents, and the collection that they go to.
COLLECTIONS = {"explore": "frames", "label": "labels", "decide": "scores", "train": "models", "evaluate": "rounds"}
#: Outputs that are read at a time.
CHUNK = 100


class CampaignBuilder(Builder):
    """Builds the five collections from the outputs of finished jobs.

    Args:
        jobs: the store of the outputs.
        collections: by their names, the stores that are built.
        uuids: only the outputs of these jobs; None builds from all that came or changed since the last time.
    """

    def __init__(self, jobs: JobStore, collections: dict[str, Store], uuids: list[str] | None = None) -> None:
        self.jobs, self.collections, self.uuids = jobs, collections, uuids
        super().__init__(sources=[jobs], targets=list(collections.values()), chunk_size=CHUNK)

    @classmethod
    def of(cls, stores: CampaignStores, uuids: list[str] | None = None) -> CampaignBuilder:
        return cls(stores.jobs, {name: collection.store for name, collection in stores.collections.items()}, uuids)

    def get_items(self) -> Iterator[dict[str, Any]]:
        uuids = self._outdated() if self.uuids is None else self.uuids
        for start in range(0, len(uuids), CHUNK):
            criteria = self._criteria() | {"uuid": {"$in": uuids[start : start + CHUNK]}}
            # Weights and parity data stay in the blob store; a document points there. Frames are small enough to copy.
            yield from self.jobs.query(criteria, sort={"completed_at": 1}, load={"data": ["frames"]})

    def process_item(self, item: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
        """One job's output as (collection, documents)."""
        collection, output = COLLECTIONS[item["metadata"]["kind"]], item["output"]
        trace = {key: item["metadata"][key] for key in ("campaign", "round")}
        trace |= {"job_uuid": item["uuid"], "last_updated": _time(item), "ran": item["metadata"].get("ran")}
        if output is None:  # the job replaced itself by another
            return collection, []
        match collection:
            case "frames":
                documents = output["frames"]
            case "models":
                whole = {key: output[key] for key in ("data_fingerprint", "trained_on", "device", "seconds")}
                documents = [whole | member for member in output["members"]]
            case "rounds":
                documents = [output["round"]]
            case "labels":
                # each attempt is a document
                documents = [*output.get("earlier", []), output | {"earlier": []}]
            case _:
                documents = output if isinstance(output, list) else [output]
        return collection, [trace | document for document in documents]

    def update_targets(self, items: list[tuple[str, list[dict[str, Any]]]]) -> None:
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for collection, documents in items:
            found[collection] += documents
        for collection, documents in found.items():
            if documents:  # at once: one by one, each would wait for the disk
                self.collections[collection].update(documents, key=KEYS[collection])

    def build(self) -> None:
        """`run()` without its progress bar: for a few outputs at a time."""
        self.update_targets([self.process_item(item) for item in self.get_items()])

    def _criteria(self) -> dict[str, Any]:
        """The store may be that of other programs, too."""
        return {"metadata.kind": {"$in": list(COLLECTIONS)}, "metadata.campaign": {"$exists": True}}

    def _outdated(self) -> list[str]:
        """Jobs that put out something since it was last built from, the oldest first.

        By what the collections hold, not by the latest time in them: outputs of several machines come in any order.
        """
        built = {
            (document["job_uuid"], document.get("last_updated"))
            for store in self.collections.values()
            for document in store.query({"job_uuid": {"$exists": True}}, properties=["job_uuid", "last_updated"])
        }
        found = self.jobs.query(self._criteria(), properties=["uuid", "completed_at"], sort={"completed_at": 1})
        return [output["uuid"] for output in found if (output["uuid"], _time(output)) not in built]


def _time(output: dict[str, Any]) -> datetime:
    """When the job ended, to the millisecond that MongoDB keeps."""
    time = datetime.fromisoformat(output["completed_at"])
    return time.replace(microsecond=time.microsecond // 1000 * 1000)
