"""jobflow's JobStore, in which an output is never there without its blobs."""

from __future__ import annotations

from typing import Any

from jobflow import JobStore


class Outputs(JobStore):
    """Saves blobs before the document that points to them.

    jobflow does it the other way round. A process killed in between would leave an output that counts as finished and
    cannot be read, and a builder that looks in between would stumble over it.
    """

    def update(self, docs: list[dict] | dict, key: list | str | None = None, save: Any = None) -> None:
        held = _Held()
        shadow = object.__new__(JobStore)  # copy() would open everything anew
        vars(shadow).update(vars(self), docs_store=held)
        JobStore.update(shadow, docs, key, save)
        for documents, keys in held.back:
            self.docs_store.update(documents, key=keys)


class _Held:
    """What would have been written."""

    def __init__(self) -> None:
        self.back: list[tuple[list[dict], list | str]] = []

    def update(self, docs: list[dict], key: list | str) -> None:
        self.back.append((docs, key))
