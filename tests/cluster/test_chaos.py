"""benchmarks/chaos.py in its short form; and that it sees what is lost and repeated."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jobflow import JobStore
from maggma.stores import MemoryStore

from benchmarks import ledger
from benchmarks.chaos import Verdict, torment
from benchmarks.chaos_cluster import KINDS
from benchmarks.chaos_seen import Kill, Observer

from .machine import lacking


def test_a_kill_of_each_kind(tmp_path: Path) -> None:
    if reason := lacking():
        (pytest.fail if os.environ.get("MFAL_CLUSTER") else pytest.skip)(reason)
    said: list[str] = []
    verdict = torment(tmp_path, len(KINDS), 3, seed=2, say=said.append, told=lambda kill: said.append(str(kill)))
    assert not verdict.is_bad, (verdict, said)
    kinds = {kill.kind for kill in verdict.kills}
    assert kinds == {*KINDS, "embedded"} - ({"database"} if os.environ.get("MONGO_URI") else set())
    assert verdict.seen.total() >= 11 * len(verdict.campaigns)
    assert verdict.ended.total() >= 11 * len(verdict.campaigns)
    assert all(wait is not None for wait in verdict.waits)
    assert not verdict.errors


@pytest.mark.parametrize(
    ("lines", "repeated", "doubled"),
    [
        (["begins a", "kept a", "begins b", "kept b"], 0, 0),
        (["begins a", "begins a", "kept a"], 0, 0),  # killed before its label was on the disk
        (["begins a", "kept a", "begins a", "kept a"], 1, 0),
        (["begins a", "kept a", "begins a", "begins a", "kept a"], 1, 0),  # the second was killed
        (["begins a", "kept a", "cut a", "begins a", "kept a"], 0, 0),  # the label was taken away
        (["begins a", "kept a", "cut a", "begins a", "kept a", "begins a"], 1, 0),
        (["begins a", "begins a", "kept a", "kept a"], 0, 1),
    ],
)
def test_calculations_are_counted(lines: list[str], repeated: int, doubled: int, tmp_path: Path) -> None:
    for line in lines:
        what, name = line.split()
        ledger.note(tmp_path / "ledger", what, tmp_path / name)
    found = ledger.count(ledger.read(tmp_path / "ledger"))
    assert (len(found.repeated), len(found.doubled)) == (repeated, doubled)
    assert {Path(folder).name for folder in found.ended} == {line.split()[1] for line in lines if "kept" in line}


@pytest.mark.parametrize("change", [None, {"energy": -1.1}, "removed"])
def test_a_label_that_was_seen_must_stay(change: dict | str | None, tmp_path: Path) -> None:
    store = JobStore(MemoryStore())
    store.connect()
    output = {"energy": -1.0, "forces": [[0.0, 0.0, 0.1]]}
    document = {
        "uuid": "u",
        "index": 1,
        "completed_at": "1",
        "metadata": {"kind": "label", "campaign": "c"},
        "output": output,
    }
    store.docs_store.update(document, key=["uuid", "index"])
    observer = Observer()
    observer._look("here", store)
    if change == "removed":
        store.docs_store.remove_docs({"uuid": "u"})
    elif change:
        store.docs_store.update(document | {"output": output | change}, key=["uuid", "index"])
    store.close = lambda: None  # a store in memory forgets
    observer.stores["here"] = lambda: store
    verdict = Verdict.of(tmp_path, [Kill("job", ("c",), 0.0)], [], observer)
    assert verdict.seen == {"c": 1}
    assert verdict.lost == ({"c": 1} if change else {})
    assert verdict.is_bad == bool(change)
