"""Files that a disk has lost the end of: what was in them is made again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import mno
from jobflow import JobStore
from maggma.stores import MemoryStore
from monty.os import cd
from remote_project import CAMPAIGN, made, ran, run, set_up, stored, submit, uid

from flows import home
from flows.calculation import MEMORY, LabelMaker
from flows.queue import Queue
from flows.tend import tend
from mfal.cluster import Cluster
from mfal.dft.engines import Surrogate
from mfal.dft.magnetism import Magnetism
from mfal.frames import Frame
from stores.campaign import open_stores

CLUSTER = Cluster(attempts=2)


@pytest.fixture
def queue(tmp_path, mongo_database, monkeypatch):
    controller = set_up(tmp_path, mongo_database, monkeypatch)
    yield Queue(controller, CAMPAIGN)
    controller.close()


def lose(queue: Queue, name: str) -> None:
    """The blobs of an output, as when the runner has read the file of them without its end."""
    blob = output(queue, name)["large"]["blob_uuid"]
    files = queue.controller.db["job_blobs.files"]
    assert files.delete_one({"metadata.blob_uuid": blob}).deleted_count


def output(queue: Queue, name: str) -> dict[str, Any]:
    return queue.controller.jobstore.docs_store.query_one({"uuid": uid(name)})["output"]


def states(queue: Queue) -> dict[str, str]:
    return {job.name: job.state for job in queue.jobs()}


def test_a_job_whose_blobs_are_lost_runs_again(queue, tmp_path):
    log = tmp_path / "log"
    first = made("explore", "first", stored(str(log), "first"))
    second = made("score", "second", stored(str(log), "second", first.output))
    submit(queue.controller, [first, second])
    run()
    assert tend(queue, CLUSTER) == []
    lose(queue, "first")
    with open_stores(tmp_path / "home", make=True) as stores:
        project = queue.controller.jobstore
        assert home.incomplete(project, [uid("first"), uid("second")]) == {(uid("first"), 1)}
        assert home.bring(stores, project, {}) == 1  # the other one all the same
        assert tend(queue, CLUSTER) == ["first of round 0 lost a part of its output and runs again (1 of 2)"]
        run()
        assert states(queue) == dict.fromkeys(["first", "second"], "COMPLETED")
        assert ran(log) == {"first": 2, "second": 1}
        assert home.bring(stores, project, {}) == 1
        assert stores.output(uid("first"))["large"] == ["first"] * 100
    lose(queue, "first")
    assert len(tend(queue, CLUSTER)) == 1
    run()
    lose(queue, "first")
    assert tend(queue, CLUSTER) == []  # it has had its attempts


@pytest.mark.parametrize("started", [False, True])
def test_what_it_gave_birth_to_is_there_once(queue, tmp_path, started):
    """Whether or not that has started when its parent runs again."""
    log = tmp_path / "log"
    submit(queue.controller, [made("evaluate", "parent", stored(str(log), "parent", children=2))])
    run()
    lose(queue, "parent")
    if not started:
        queue.controller.jobs.update_many({"uuid": {"$ne": uid("parent")}}, {"$set": {"state": "READY"}})
    tend(queue, CLUSTER)
    tend(queue, CLUSTER)  # where they are waiting, they are added again
    run()
    tend(queue, CLUSTER)
    assert states(queue) == dict.fromkeys(["parent", "parent-0", "parent-1"], "COMPLETED")
    assert ran(log)["parent"] == 2
    assert not home.incomplete(queue.controller.jobstore, [uid("parent")])
    [flow] = queue.controller.flows.find()
    assert len(flow["ids"]) == len(flow["jobs"]) == 3


def test_a_label_without_its_end_is_calculated_again(tmp_path):
    maker = LabelMaker(Surrogate(), Magnetism(hubbard_u={"Mn": 3.9}, moments={"Mn": 5.0}), "nonmagnetic")
    job = maker.make(Frame.of(mno(), parent="MnO", source="rattle"))

    def made_there() -> float:
        store = JobStore(MemoryStore())
        store.connect()
        with cd(tmp_path):
            return job.run(store).output.energy

    energy = made_there()
    [memory] = tmp_path.glob(f"*/{MEMORY}")
    whole = memory.read_bytes()
    for size in (0, len(whole) // 2, len(whole) - 1):
        memory.write_bytes(whole[:size])
        assert made_there() == energy
        assert json.loads(memory.read_bytes())["label"]["energy"] == energy
