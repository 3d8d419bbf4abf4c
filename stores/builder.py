"""From jobflow's outputs to the collections that people query.

Upserts only, so it may run at any time, any number of times, and while the campaign runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from maggma.core import Builder, Store

from stores.campaign import CampaignStores

#: What makes a document of a collection the same document.
KEYS = {
    "frames": ["campaign", "frame_id"],
    "labels": ["frame_id", "fingerprint", "attempt"],
    "scores": ["campaign", "round", "frame_id"],
    "models": ["campaign", "round", "member"],
    "rounds": ["campaign", "round"],
}
#: The job kinds whose outputs hold documents, and the collection that they go to.
COLLECTIONS = {"explore": "frames", "label": "labels", "decide": "scores", "train": "models", "evaluate": "rounds"}


class CampaignBuilder(Builder):
    """Builds the five collections from the outputs of finished jobs.

    Args:
        uuids: only the outputs of these jobs; None builds from all of them.
    """

    def __init__(self, stores: CampaignStores, uuids: list[str] | None = None) -> None:
        self.stores, self.uuids = stores, uuids
        self.collections: dict[str, Store] = {name: getattr(stores, name) for name in KEYS}
        super().__init__(sources=[stores.jobs], targets=list(self.collections.values()), chunk_size=100)

    def get_items(self) -> Iterator[dict[str, Any]]:
        criteria: dict[str, Any] = {"metadata.kind": {"$in": list(COLLECTIONS)}}
        if self.uuids is not None:
            criteria["uuid"] = {"$in": self.uuids}
        # Weights and parity data stay in the blob store; a document points there. Frames are small enough to copy.
        yield from self.stores.jobs.query(criteria, sort={"completed_at": 1}, load={"data": ["frames"]})

    def process_item(self, item: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
        """One job's output as (collection, documents)."""
        collection, output = COLLECTIONS[item["metadata"]["kind"]], item["output"]
        trace = {key: item["metadata"][key] for key in ("campaign", "round")} | {"job_uuid": item["uuid"]}
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
        for collection, documents in items:
            if documents:
                self.collections[collection].update(documents, key=KEYS[collection])

    def build(self) -> None:
        """`run()` without its progress bar: for a few outputs at a time."""
        self.update_targets([self.process_item(item) for item in self.get_items()])
