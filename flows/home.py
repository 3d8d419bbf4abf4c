"""Outputs between the campaign's own store, its memory, and the job store of the project that it was sent to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jobflow import JobStore
from jobflow.utils import find_key
from pydash import get

from mfal.config import Campaign
from mfal.dft.fidelity import fingerprints
from stores.builder import CampaignBuilder
from stores.campaign import CampaignStores

#: Outputs that are copied at a time.
CHUNK = 50


def outputs_of(campaign: Campaign) -> dict[str, Any]:
    """The criterion for outputs that a campaign can use: its own, and labels of its settings by whichever campaign."""
    labels = {
        "metadata.kind": "label",
        "output.fingerprint": {"$in": sorted(fingerprints(campaign.engine, campaign.magnetism))},
    }
    return {"$or": [{"metadata.campaign": campaign.campaign}, labels]}


def bring(stores: CampaignStores, project: JobStore, criteria: dict[str, Any], uuids: list[str] | None = None) -> int:
    """Copy what is new in a project's job store, and build the collections; how many outputs are new.

    Safe at any time and in several processes at once: an output is written after its blobs, and only over an older one.
    One whose blobs were lost stays where it is: whoever tends the campaign has its job run again.

    Args:
        uuids: only what these jobs put out; to look through all takes a while.
    """
    copied = 0
    if uuids is not None:
        criteria = {"$and": [criteria, {"uuid": {"$in": uuids}}]}
    if project.docs_store != stores.jobs.docs_store:
        for some in _chunks(_newer(project, stores.jobs, criteria)):
            broken = incomplete(project, [uuid for uuid, _ in some])
            whole = [key for key in some if key not in broken]
            copy(project, stores.jobs, whole)
            copied += len(whole)
    CampaignBuilder.of(stores, uuids).build()
    return copied


def copy(source: JobStore, target: JobStore, keys: list[tuple[str, int]]) -> None:
    """Outputs by (uuid, index), as they are: blobs first, then the documents that point to them."""
    there = source.docs_store.query({"uuid": {"$in": sorted({uuid for uuid, _ in keys})}})
    documents = [
        {key: value for key, value in document.items() if key != "_id"}
        for document in there
        if (document["uuid"], document["index"]) in keys
    ]
    blobs: dict[str, list[str]] = {}
    for document in documents:
        for name, blob in _pointers(document):
            blobs.setdefault(name, []).append(blob)
    for name, uuids in blobs.items():
        found = source.additional_stores[name].query({"blob_uuid": {"$in": uuids}})
        contents = [{key: value for key, value in blob.items() if key != "_id"} for blob in found]
        if missing := set(uuids) - {blob["blob_uuid"] for blob in contents}:
            raise ValueError(f"the job store has lost {len(missing)} of its blobs, {missing.pop()} for one")
        target.additional_stores[name].update(contents, key="blob_uuid")
    target.docs_store.update(documents, key=["uuid", "index"])


def incomplete(store: JobStore, uuids: list[str]) -> set[tuple[str, int]]:
    """Of what these jobs put out, by (uuid, index), what points to a blob that is not there.

    A runner takes a file of blobs that was cut off for one without any, and completes the job.
    """
    pointing: dict[str, dict[str, tuple[str, int]]] = {}
    for document in store.docs_store.query({"uuid": {"$in": uuids}}):
        for name, blob in _pointers(document):
            pointing.setdefault(name, {})[blob] = (document["uuid"], document["index"])
    found = set()
    for name, blobs in pointing.items():
        there = store.additional_stores[name].distinct("blob_uuid", {"blob_uuid": {"$in": list(blobs)}})
        found |= {blobs[blob] for blob in set(blobs) - set(there)}
    return found


def _pointers(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The blobs of an output: in which store, and under which uuid."""
    for path in find_key(document, "blob_uuid"):
        pointer = get(document, list(path))
        yield pointer["store"], pointer["blob_uuid"]


def _newer(source: JobStore, target: JobStore, criteria: dict[str, Any]) -> list[tuple[str, int]]:
    fields = ["uuid", "index", "completed_at"]
    there = {(d["uuid"], d["index"]): d["completed_at"] for d in source.docs_store.query(criteria, fields)}
    here: dict[tuple[str, int], str] = {}
    uuids = sorted({uuid for uuid, _ in there})
    for some in _chunks(uuids):
        for d in target.docs_store.query({"uuid": {"$in": some}}, fields):
            here[d["uuid"], d["index"]] = d["completed_at"]
    return sorted((key for key, time in there.items() if time > here.get(key, "")), key=lambda key: (there[key], key))


def _chunks(items: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]
