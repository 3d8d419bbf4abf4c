"""A campaign in jobflow-remote's queue: how it is found, what is read of it, and what a person may do with it."""

from __future__ import annotations

import sys
import time
from collections import Counter
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import in_database, small_campaign
from jobflow_remote.jobs.runner import Runner
from pymongo.collection import Collection
from remote_project import (
    CAMPAIGN,
    PROJECT,
    label,
    made,
    parent,
    project_file,
    ran,
    replaced,
    run,
    set_up,
    submit,
    uid,
    work,
)

import flows.queue
from flows.queue import Queue
from mfal.config import Campaign
from mfal.config_file import ConfigError


@pytest.fixture
def controller(tmp_path, mongo_database, monkeypatch):
    controller = set_up(tmp_path, mongo_database, monkeypatch)
    yield controller
    controller.close()


@pytest.fixture
def queue(controller):
    return Queue(controller, CAMPAIGN)


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def campaign(folder: Path, **cluster: Any) -> Campaign:
    return Campaign.model_validate(small_campaign(folder) | {"cluster": cluster})


def put(queue: Queue, name: str, **fields: Any) -> None:
    assert queue.controller.jobs.update_one({"uuid": uid(name)}, {"$set": fields}).matched_count


def states(queue: Queue) -> dict[str, str]:
    return {job.name: job.state for job in queue.jobs()}


# How it is found


@pytest.mark.usefixtures("controller")
def test_a_project_is_named_by_the_command_or_the_file_or_jobflow_remote(tmp_path, mongo_database):
    other = project_file(tmp_path, mongo_database, name="other")
    other.rename(other.with_name("other.yaml"))
    project_file(tmp_path, mongo_database)
    for asked, given, expected in ((None, None, PROJECT), (None, "other", "other"), ("other", PROJECT, "other")):
        queue = Queue.of(campaign(tmp_path, project=given), asked)
        assert (queue.controller.project.name, queue.campaign) == (expected, "small")
        queue.controller.close()


@pytest.mark.usefixtures("controller")
def test_what_is_wrong_with_a_project_is_said(tmp_path, mongo, monkeypatch):
    with pytest.raises(ConfigError, match=r"cluster.project = 'none'.*does not exist.*jf project list --warn"):
        Queue.of(campaign(tmp_path, project="none"))

    project_file(tmp_path, in_database(mongo, "mfal-test-empty"))
    with pytest.raises(ConfigError, match=f"cluster.project = '{PROJECT}': its database is not set up: run 'jf admin"):
        Queue.of(campaign(tmp_path))

    monkeypatch.setattr(flows.queue, "PATIENCE", 0.2)
    project_file(tmp_path, "mongodb://user:secret@127.0.0.1:9/database")
    with pytest.raises(ConfigError, match=f"cluster.project = '{PROJECT}': its database does not answer") as error:
        Queue.of(campaign(tmp_path))
    assert "127.0.0.1" not in str(error.value)
    assert "secret" not in str(error.value)

    monkeypatch.setitem(sys.modules, "jobflow_remote", None)
    with pytest.raises(ConfigError, match=r"needs jobflow-remote.*pip install 'mfal\[remote\]'"):
        Queue.of(campaign(tmp_path))


# What is read


def test_jobs_are_what_the_queue_says_of_them(queue, log):
    submit(queue.controller, [made("decide", "p", parent(str(log), "p", labels=1), round=3)])
    run()
    first, one, *_ = queue.jobs()
    assert (first.name, first.kind, first.round, first.fidelity, first.born_of) == ("p", "decide", 3, None, None)
    assert (one.name, one.kind, one.fidelity, one.frame_id) == ("p-0", "label", "magnetic", "f-p-0")
    assert (one.uuid, one.index, one.db_id, one.worker, one.state) == (uid("p-0"), 1, "2", "local", "COMPLETED")
    assert one.born_of == first.uuid
    assert one.parents == (first.uuid,)
    assert one.created <= one.started <= one.ended <= one.updated
    assert one.created.utcoffset() == timedelta(0)
    assert (one.error, one.attempts, one.locked, one.previous) == (None, 0, None, None)
    assert [job.name for job in queue.jobs()] == ["p", "p-0", "p-train", "p-evaluate"]
    put(queue, "p", error=None, **{"remote.error": "no scheduler", "mfal.attempts": 2})
    assert (queue.jobs()[0].error, queue.jobs()[0].attempts) == ("no scheduler", 2)
    put(queue, "p", error="killed")
    assert queue.jobs()[0].error == "killed"


def test_only_this_campaign_is_read(queue, log):
    submit(queue.controller, [label("own", log)])
    queue.controller.flows.update_one({}, {"$set": {"metadata.mfal.campaign": "another"}})
    submit(queue.controller, [label("mine", log)])
    assert list(states(queue)) == ["mine"]
    assert len(queue.flows()) == 1
    assert queue.flows()[0]["created_on"].tzinfo


def test_what_jobs_compute_is_not_read(queue, log, monkeypatch):
    submit(queue.controller, [made("train", "t", work(str(log), "t", inputs=["large"] * 1000))])
    read: list[Any] = []
    find = Collection.find

    def noted(self: Collection, *args: Any, **kwargs: Any) -> Any:
        read.extend(found := list(find(self, *args, **kwargs)))
        return found

    monkeypatch.setattr(Collection, "find", noted)
    assert queue.live()
    assert sum(document["uuid"] == uid("t") for document in read) == 1
    assert "large" not in str(read)


def test_a_campaign_is_over_when_nothing_runs_or_waits(queue, log):
    assert (queue.live(), queue.newest(), queue.jobs()) == (None, None, [])
    labels = [label("a", log), label("b", log)]
    train = made("train", "t", work(str(log), "t", [one.output for one in labels]))
    submit(queue.controller, [*labels, train])

    def over(**changed: str) -> bool:
        for name, state in changed.items():
            put(queue, name, state=state)
        return queue.live() is None

    assert not over()
    assert not over(a="COMPLETED", b="FAILED")  # waits for a person, or for the tender
    assert not over(t="PAUSED")
    assert over(t="COMPLETED")  # went on without
    assert over(b="REMOTE_ERROR")
    assert not over(b="RUNNING")  # is only late
    assert over(b="USER_STOPPED")
    assert not over(t="FAILED")  # nobody waits for it, but for what it would give birth to
    submit(queue.controller, [label("later", log)])
    assert queue.live()["jobs"] == [uid("later")]
    assert over(later="COMPLETED")


def test_a_campaign_is_not_over_because_jobs_were_born_while_they_were_read(queue, log, monkeypatch):
    submit(queue.controller, [label("a", log)])
    find, births = Collection.find, ["b"]

    def late(self: Collection, *args: Any, **kwargs: Any) -> Any:
        if self.name == "jobs" and births:  # the flow has been read: now a birth, and the end of the parent
            name = births.pop()
            document = find(self, {"uuid": uid("a")}).next()
            self.insert_one({**document, "_id": 1, "uuid": uid(name), "db_id": "99"})
            self.database["flows"].update_one({}, {"$push": {"jobs": uid(name)}})
            put(queue, "a", state="COMPLETED")
        return find(self, *args, **kwargs)

    monkeypatch.setattr(Collection, "find", late)
    assert queue.live()


# What a person may do


def test_a_paused_campaign_starts_nothing(queue, log):
    train = made("train", "t", work(str(log), "t", (first := label("a", log)).output))
    submit(queue.controller, [first, train])
    assert queue.pause() == 2
    assert states(queue) == {"a": "PAUSED", "t": "PAUSED"}
    assert queue.flows()[0]["state"] == "PAUSED"
    assert queue.pause() == 0
    run()
    assert ran(log) == Counter()
    assert queue.resume() == 2
    assert states(queue) == {"a": "READY", "t": "WAITING"}
    assert queue.flows()[0]["state"] == "READY"
    run()
    assert ran(log) == Counter({"a": 1, "t": 1})
    assert (queue.pause(), queue.resume(), queue.cancel()) == (0, 0, 0)  # it is over
    assert queue.flows()[0]["metadata"]["mfal"].keys() == {"campaign", "resumed"}


def test_a_cancelled_campaign_stops_what_runs(queue, log):
    train = made("train", "t", work(str(log), "t", (long := label("long", log, seconds=600)).output))
    submit(queue.controller, [long, train, made("train", "free", work(str(log), "free"))])
    put(queue, "free", state="FAILED")
    runner = Runner()
    runner.checkout()
    runner.advance_state(["CHECKED_OUT", "UPLOADED"])
    assert states(queue)["long"] == "SUBMITTED"
    while not ran(log):
        time.sleep(0.05)
    assert queue.cancel() == 2
    assert states(queue) == {"long": "USER_STOPPED", "t": "STOPPED", "free": "FAILED"}
    assert queue.live() is None
    assert queue.flows()[0]["state"] in ("STOPPED", "FAILED")
    assert (queue.retry(), queue.resume()) == (0, 0)
    process = queue.controller.jobs.find_one({"uuid": uid("long")})["remote"]["process_id"]
    while (stat := Path(f"/proc/{process}/stat")).exists() and stat.read_text().split()[2] != "Z":
        time.sleep(0.05)


def test_what_a_runner_is_at_is_cancelled_the_next_time(queue, log):
    submit(queue.controller, [label("a", log), label("b", log)])
    put(queue, "a", state="CHECKED_OUT", lock_id="runner")
    assert queue.cancel() == 1
    assert states(queue) == {"a": "CHECKED_OUT", "b": "STOPPED"}
    assert queue.live()
    put(queue, "a", lock_id=None)
    assert queue.cancel() == 1
    assert queue.live() is None


@pytest.mark.parametrize(
    ("state", "previous", "attempts", "expected"),
    [
        ("FAILED", None, 0, "READY"),
        ("REMOTE_ERROR", "CHECKED_OUT", 0, "READY"),
        ("REMOTE_ERROR", "UPLOADED", 1, "READY"),
        ("REMOTE_ERROR", "RUNNING", 0, "RUNNING"),  # Slurm did not answer: it may run
        ("REMOTE_ERROR", "SUBMITTED", 2, "SUBMITTED"),
        ("REMOTE_ERROR", "DOWNLOADED", 0, "DOWNLOADED"),  # the database did not answer: it is done
        ("REMOTE_ERROR", "RUN_FINISHED", 1, "READY"),  # what it put out is not there, or cannot be read
        ("REMOTE_ERROR", "BATCH_RUNNING", 0, "READY"),
    ],
)
def test_a_job_runs_again_from_where_it_can(queue, log, state, previous, attempts, expected):
    submit(queue.controller, [label("a", log)])
    put(queue, "a", state=state, previous_state=previous, error="killed", **{"remote.step_attempts": 3})
    if attempts:
        put(queue, "a", **{"mfal.attempts": attempts})
    [job] = queue.jobs()
    assert queue.again(job, attempts + 1)
    [after] = queue.jobs()
    assert (after.state, after.attempts, after.error, after.previous) == (expected, attempts + 1, None, None)
    document = queue.controller.jobs.find_one()
    assert document["remote"]["step_attempts"] == 0
    assert not document["remote"]["prerun_cleanup"]  # its files stay


def test_a_failure_is_answered_once(queue, log):
    submit(queue.controller, [label("a", log)])
    put(queue, "a", state="FAILED", lock_id="runner")
    [job] = queue.jobs()
    assert not queue.again(job, 1)  # a runner is at it
    put(queue, "a", lock_id=None)
    assert queue.again(job, 1)
    assert not queue.again(job, 1)
    put(queue, "a", state="FAILED")
    assert not queue.again(job, 1)  # that was of the failure before
    [job] = queue.jobs()
    assert job.attempts == 1
    put(queue, "a", state="RUNNING")  # somebody has run it again by hand
    assert not queue.again(job, 2)


def test_lost_jobs_are_retried_from_the_first_attempt(queue, log):
    assert queue.retry() == 0
    submit(queue.controller, [label(name, log) for name in "abc"])
    put(queue, "a", state="FAILED", **{"mfal.attempts": 3})
    put(queue, "b", state="REMOTE_ERROR", previous_state="UPLOADED")
    assert queue.retry() == 2
    assert [(job.state, job.attempts) for job in queue.jobs()] == [("READY", 0)] * 3
    assert queue.retry() == 0
    [job, *_] = queue.jobs()
    put(queue, "a", state="FAILED")
    assert queue.again(job.__class__(**vars(job) | {"state": "FAILED"}), 1)


def test_a_job_that_replaced_itself_is_one_that_is_done(queue, log):
    train = made("train", "t", replaced(str(log), "t"))
    submit(queue.controller, [train, made("evaluate", "e", work(str(log), "e", train.output))])
    run()
    assert [(job.name, job.index, job.state) for job in queue.jobs()] == [
        ("t", 1, "COMPLETED"),
        ("e", 1, "COMPLETED"),
        ("t", 2, "COMPLETED"),
    ]
    assert queue.live() is None
    assert {job.created.tzinfo.utcoffset(None) for job in queue.jobs()} == {UTC.utcoffset(None)}
