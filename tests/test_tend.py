"""The tender: runners killed for real, lost calculations, late ones, two tenders at once, and tenders killed."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from jobflow import Flow
from jobflow_remote.jobs.data import DynamicResponseType
from jobflow_remote.jobs.runner import Runner
from monty.json import MontyEncoder
from pymongo.collection import Collection
from remote_project import (
    CAMPAIGN,
    label,
    made,
    parent,
    ran,
    replaced,
    run,
    run_until_killed,
    set_up,
    submit,
    uid,
    work,
)

from flows.queue import Queue
from flows.tend import PAUSE, tend
from mfal.cluster import Cluster

CLUSTER = Cluster(share=0.6, wait=60, attempts=2, stale=15)
NOW = datetime.now(UTC).replace(microsecond=0)
LONG_AGO = NOW - timedelta(days=1)


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


@pytest.fixture
def queue(tmp_path, mongo_database, monkeypatch):
    controller = set_up(tmp_path, mongo_database, monkeypatch)
    yield Queue(controller, CAMPAIGN)
    controller.close()


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def put(queue: Queue, name: str, state: str, **fields: Any) -> None:
    """The job, in this state for a day unless something else is said."""
    change = {"state": state, "updated_on": LONG_AGO} | fields
    assert queue.controller.jobs.update_one({"uuid": uid(name)}, {"$set": change}).matched_count


def states(queue: Queue) -> dict[str, str]:
    return {job.name: job.state for job in queue.jobs()}


def flow_document(queue: Queue) -> dict[str, Any]:
    return queue.controller.flows.find_one()


def missing(queue: Queue, name: str) -> str:
    return queue.controller.jobs.find_one({"uuid": uid(name)})["job"]["config"]["on_missing_references"]


def checked(queue: Queue) -> None:
    """That the flow's document says of its jobs what their own say, and that nobody is left out or locked out."""
    flow, documents = flow_document(queue), list(queue.controller.jobs.find())
    assert sorted(map(tuple, flow["ids"])) == sorted((d["db_id"], d["uuid"], d["index"]) for d in documents)
    assert sorted(flow["jobs"]) == sorted({d["uuid"] for d in documents})
    said = {
        (uuid, int(index)): sorted(p) for uuid, by_index in flow["parents"].items() for index, p in by_index.items()
    }
    assert said == {(d["uuid"], d["index"]): sorted(d["parents"]) for d in documents}
    assert not [d for d in [flow, *documents] if d["lock_id"] or d["lock_time"]]


# Births that a runner died in


@pytest.mark.parametrize("moment", ["noted", "partly", "born", "completed", "released"])
def test_a_campaign_survives_a_runner_killed_in_a_birth(queue, log, moment):
    submit(queue.controller, [made("decide", "p", parent(str(log), "p", labels=1))])
    run_until_killed(moment)
    assert flow_document(queue)["lock_id"]
    assert tend(queue, CLUSTER) == []  # it might still be alive
    assert flow_document(queue)["lock_id"]

    news = tend(queue, CLUSTER, datetime.now(UTC) + minutes(16))
    assert "a runner died and left 1 job locked: unlocked" in news
    assert any("p of round 0: a runner died when it added" in line for line in news) == (moment in ("partly", "born"))
    checked(queue)
    assert states(queue)["p"] == ("COMPLETED" if moment in ("completed", "released") else "DOWNLOADED")
    assert states(queue).get("p-0") == ("READY" if moment in ("completed", "released") else None)
    run()
    assert ran(log) == Counter({"p": 1, "p-0": 1, "p-train": 1, "p-evaluate": 1})
    assert set(states(queue).values()) == {"COMPLETED"}
    assert tend(queue, CLUSTER) == []
    checked(queue)
    assert queue.live() is None
    assert flow_document(queue)["state"] == "COMPLETED"


@pytest.mark.parametrize("first", ["tender", "runner"])
def test_a_campaign_survives_a_runner_killed_in_a_replacement(queue, log, first):
    train = made("train", "t", replaced(str(log), "t"))
    submit(queue.controller, [train, made("evaluate", "e", work(str(log), "e", train.output))])
    run_until_killed("born")
    assert [(job.index, job.state) for job in queue.jobs()] == [(1, "DOWNLOADED"), (1, "WAITING"), (2, "READY")]
    if first == "runner":
        for start in (Runner().checkout, partial(Runner().advance_state, ["CHECKED_OUT", "UPLOADED"])):
            start()
    tend(queue, CLUSTER, datetime.now(UTC) + minutes(16))
    assert [job.state for job in queue.jobs()][:2] == ["COMPLETED", "WAITING"]
    checked(queue)
    run()
    assert ran(log) == Counter({"t-1": 1, "t-2": 1, "e": 1})
    assert [job.state for job in queue.jobs()] == ["COMPLETED"] * 3
    assert queue.controller.get_job_output(job_id=uid("e"))["inputs"] == "t"


def test_a_birth_is_mended_after_others_broke_the_locks(queue, log):
    submit(queue.controller, [made("decide", "p", parent(str(log), "p", labels=1))])
    run_until_killed("born")
    queue.controller.unlock_jobs()
    queue.controller.unlock_flows()
    with pytest.warns(UserWarning, match="E11000"):
        Runner().advance_state(["DOWNLOADED"])  # in vain
    assert len(flow_document(queue)["ids"]) == 7
    assert [line for line in tend(queue, CLUSTER) if "it added 3 jobs" in line]
    assert states(queue) == {"p": "DOWNLOADED"}
    checked(queue)


def test_what_has_started_was_not_born_by_halves(queue, log):
    """Somebody has forced a parent to run again."""
    submit(queue.controller, born(log))
    put(queue, "p", "READY")
    put(queue, "p-0", "RUNNING")
    tend(queue, CLUSTER, NOW)
    assert len(states(queue)) == 5


# Locks


def test_only_locks_of_dead_runners_are_broken(queue, log):
    submit(queue.controller, [label("old", log), label("new", log)])
    for name, age in (("old", 15.1), ("new", 14.9)):
        put(queue, name, "CHECKED_OUT", lock_id="runner", lock_time=NOW - minutes(age))
    assert tend(queue, CLUSTER, NOW) == ["a runner died and left 1 job locked: unlocked"]
    assert {job.name: bool(job.locked) for job in queue.jobs()} == {"old": False, "new": True}
    assert tend(queue, CLUSTER, NOW) == []


def test_a_runner_that_was_started_later_did_not_lock_it(queue, log):
    submit(queue.controller, [label("before", log), label("after", log)])
    for name, age in (("before", 7), ("after", 6)):  # the start is written down a little later
        put(queue, name, "CHECKED_OUT", lock_id="runner", lock_time=NOW - minutes(age))
    started = {"start_time": NOW - minutes(5.5)}
    queue.controller.auxiliary.update_one({"running_runner": None}, {"$set": {"running_runner": started}})
    tend(queue, CLUSTER, NOW)
    assert {job.name: bool(job.locked) for job in queue.jobs()} == {"before": False, "after": True}


def test_nothing_is_mended_under_the_lock_of_a_runner_that_lives(queue, log):
    submit(queue.controller, born(log))
    put(queue, "p", "DOWNLOADED", lock_id="runner", lock_time=NOW - minutes(16))
    queue.controller.flows.update_one({}, {"$set": {"lock_id": "other", "lock_time": NOW - minutes(1)}})
    tend(queue, CLUSTER, NOW)
    assert len(states(queue)) == 5
    assert flow_document(queue)["lock_id"] == "other"


# What was lost


def test_a_killed_job_runs_again_in_its_folder(queue, log):
    submit(queue.controller, [made("decide", "p", parent(str(log), "p", labels=1, deaths=1))])
    run()
    assert states(queue) == {"p": "COMPLETED", "p-0": "FAILED", "p-train": "WAITING", "p-evaluate": "WAITING"}
    [before] = [job for job in queue.jobs() if job.name == "p-0"]
    assert "killed" in before.error
    assert tend(queue, CLUSTER, before.updated + PAUSE - timedelta(seconds=1)) == []
    [news] = tend(queue, CLUSTER, before.updated + PAUSE)
    assert news.startswith("p-0 of round 0 was lost and runs again (1 of 2): The output file")
    assert flow_document(queue)["state"] == "RUNNING"
    run()
    assert ran(log) == Counter({"p": 1, "p-0": 2, "p-train": 1, "p-evaluate": 1})
    stored = queue.controller.get_job_output(job_id=uid("p-0"))
    assert stored["try"] == 2  # its file of the first time was there
    assert {job.name: job.attempts for job in queue.jobs()} == {"p": 0, "p-0": 1, "p-train": 0, "p-evaluate": 0}


def test_pauses_grow_and_attempts_end(queue, log):
    submit(queue.controller, [made("train", "t", work(str(log), "t"))])
    done, time = [], NOW
    put(queue, "t", "FAILED", updated_on=NOW, error="Traceback\nMemoryError: no more")
    for _ in range(200):
        time += minutes(1)
        for line in tend(queue, CLUSTER, time):
            done.append(((time - NOW).total_seconds() / 60, line))
        if states(queue)["t"] == "READY":
            put(queue, "t", "FAILED", updated_on=time, error="MemoryError: no more")
    assert [at for at, _ in done[:2]] == [10, 30]
    assert [line for _, line in done[:2]] == [
        "t of round 0 was lost and runs again (1 of 2): MemoryError: no more",
        "t of round 0 was lost and runs again (2 of 2): MemoryError: no more",
    ]
    lost = "t of round 0 is lost and the campaign waits for it: MemoryError: no more: 'mfal retry' runs it again"
    assert {line for _, line in done[2:]} == {lost}
    assert len(done) == 2 + 170  # said as long as it is so
    assert queue.retry() == 1
    assert (states(queue)["t"], queue.jobs()[0].attempts) == ("READY", 0)


def test_attempts_outlast_an_hour_without_a_scheduler():
    assert sum((PAUSE * 2**attempt for attempt in range(Cluster().attempts)), timedelta()) > timedelta(hours=1)


# Rounds that go on


def round_of(queue: Queue, log: Any, came: int, others: list[str], **fields: Any) -> None:
    """Magnetic calculations, the last ones in these states; what waits for them, and one of the other fidelity."""
    labels = [label(f"m{i}", log) for i in range(came + len(others))]
    inputs = [one.output for one in labels]
    train = made("train", "train", work(str(log), "train", inputs))
    evaluate = made("evaluate", "evaluate", work(str(log), "evaluate", [*inputs, train.output]))
    submit(queue.controller, [*labels, label("n0", log, fidelity="nonmagnetic"), train, evaluate])
    put(queue, "n0", "RUNNING")
    for i in range(came):
        put(queue, f"m{i}", "COMPLETED")
    for i, state in enumerate(others, came):
        put(queue, f"m{i}", state, **({"mfal.attempts": 2} if state in ("FAILED", "REMOTE_ERROR") else {}) | fields)


SOON, LATE = NOW - minutes(59), NOW - minutes(60)


@pytest.mark.parametrize(
    ("came", "others", "last", "goes"),
    [
        (3, ["RUNNING", "READY"], LATE, True),  # 3 of 5 is 0.6: enough, and nothing came for an hour
        (3, ["RUNNING", "READY"], SOON, False),  # the last came just now
        (3, ["FAILED", "REMOTE_ERROR"], SOON, True),  # the others will not come
        (3, ["FAILED", "USER_STOPPED"], SOON, True),
        (3, ["FAILED", "RUNNING"], SOON, False),  # one may
        (2, ["RUNNING", "READY", "FAILED"], LATE, False),  # too few
        (2, ["FAILED", "FAILED", "FAILED"], LATE, False),
        (0, ["FAILED"], LATE, False),
        (5, [], SOON, True),
    ],
)
def test_a_round_goes_on_without_the_rest(queue, log, monkeypatch, came, others, last, goes):
    round_of(queue, log, came, others)
    if came:
        put(queue, "m0", "COMPLETED", updated_on=last)
    news = [line for line in tend(queue, CLUSTER, NOW) if "goes on" in line]
    assert states(queue)["train"] == ("READY" if goes else "WAITING")
    assert states(queue)["evaluate"] == "WAITING"
    expected = f"round 0 goes on without {len(others)} of {came + len(others)} magnetic calculations"
    assert news == ([f"{expected}; what comes late joins the next round"] if goes and others else [])
    assert missing(queue, "train") == ("none" if goes and others else "error")
    assert missing(queue, "evaluate") == "error"
    checked(queue)
    writes: list[int] = []
    before_write(monkeypatch, writes.append)
    tend(queue, CLUSTER, NOW)
    assert not writes


def test_rounds_and_fidelities_are_counted_apart(queue, log):
    labels = {name: label(name, log, round=1) for name in ("a", "b", "c")} | {"n": label("n", log, "nonmagnetic", 1)}
    before = [label(f"before-{i}", log) for i in range(8)]
    train = made("train", "t", work(str(log), "t", [labels[name].output for name in "abc"]), 1)
    decide = made("decide", "d", work(str(log), "d", labels["n"].output), 1)
    submit(queue.controller, [*labels.values(), *before, train, decide])
    for i in range(8):
        put(queue, f"before-{i}", "COMPLETED")
    for name, state in (("a", "COMPLETED"), ("b", "RUNNING"), ("c", "RUNNING"), ("n", "RUNNING")):
        put(queue, name, state)
    assert tend(queue, CLUSTER, NOW) == []  # one of three, and none of one
    put(queue, "b", "COMPLETED")
    assert [line[:59] for line in tend(queue, CLUSTER, NOW)] == [
        "round 1 goes on without 1 of 3 magnetic calculations; what "
    ]
    assert (states(queue)["t"], states(queue)["d"]) == ("READY", "WAITING")


def test_a_share_is_of_whole_calculations(queue, log):
    round_of(queue, log, 14, ["RUNNING"] * 11)
    tend(queue, Cluster(share=0.57), NOW)
    assert states(queue)["train"] == "WAITING"
    tend(queue, Cluster(share=0.56), NOW)  # 0.56 * 25 > 14
    assert states(queue)["train"] == "READY"


def test_a_round_with_too_few_calculations_waits_for_a_person(queue, log):
    round_of(queue, log, 1, ["FAILED"] * 2, error="Traceback\n  somewhere\nOSError: no space left\n")
    said = (
        "round 0 waits: 2 of 3 magnetic calculations are lost, and 2 must be in to go on: m1 of round 0: OSError: no"
        " space left: 'mfal retry' runs them again"
    )
    assert tend(queue, CLUSTER, NOW) == [said]
    assert tend(queue, CLUSTER, NOW) == [said]
    assert queue.live()
    assert queue.retry() == 2
    assert tend(queue, CLUSTER, NOW) == []


def test_what_waits_for_a_lost_job_does_not_go_without_it(queue, log):
    """Once a job may do without late calculations, jobflow-remote starts it without any parent that failed."""
    round_of(queue, log, 3, ["RUNNING"])
    tend(queue, CLUSTER, NOW)
    put(queue, "train", "FAILED", updated_on=NOW)
    queue.controller.refresh_children(flow_document(queue)["jobs"])  # as a runner does
    tend(queue, CLUSTER, NOW)
    assert states(queue)["evaluate"] == "WAITING"
    put(queue, "m0", "COMPLETED", updated_on=NOW)  # what was decided holds, although one has just come in
    put(queue, "train", "COMPLETED", updated_on=NOW)
    tend(queue, CLUSTER, NOW)
    assert (states(queue)["evaluate"], missing(queue, "evaluate")) == ("READY", "none")
    checked(queue)


def test_a_late_calculation_that_is_lost_runs_again_and_moves_no_other(queue, log):
    round_of(queue, log, 3, ["RUNNING"])
    tend(queue, CLUSTER, NOW)
    put(queue, "train", "RUNNING")
    put(queue, "m3", "FAILED")
    tend(queue, CLUSTER, NOW)
    expected = {"m3": "READY", "train": "RUNNING", "evaluate": "WAITING", "n0": "RUNNING"}
    assert states(queue) == {"m0": "COMPLETED", "m1": "COMPLETED", "m2": "COMPLETED"} | expected


def test_a_late_calculation_runs_on_and_again_when_its_round_has_gone_on(queue, log):
    submit(queue.controller, [made("decide", "p", parent(str(log), "p", labels=3, deaths=2))])
    cluster = Cluster(share=0.6, attempts=1)
    run()
    later = datetime.now(UTC) + minutes(11)
    assert "runs again (1 of 1)" in tend(queue, cluster, later)[0]
    run()
    assert tend(queue, cluster, later)[0].startswith("round 0 goes on without 1 of 3 magnetic calculations")
    run()
    assert states(queue)["p-train"] == "COMPLETED"
    assert states(queue)["p-0"] == "FAILED"
    tend(queue, cluster, later)
    run()
    outputs = {name: queue.controller.get_job_output(job_id=uid(name)) for name in ("p-train", "p-evaluate")}
    assert [given and given["name"] for given in outputs["p-train"]["inputs"]] == [None, "p-1", "p-2"]
    assert [given and given["name"] for given in outputs["p-evaluate"]["inputs"]] == [None, "p-1", "p-2", "p-train"]
    assert queue.live() is None  # nobody waits for it any more

    assert queue.retry() == 1
    assert queue.live()
    run()
    assert queue.controller.get_job_output(job_id=uid("p-0"))["try"] == 3
    assert ran(log) == Counter({"p": 1, "p-0": 3, "p-1": 1, "p-2": 1, "p-train": 1, "p-evaluate": 1})
    assert set(states(queue).values()) == {"COMPLETED"}
    checked(queue)


def test_a_pause_is_no_time_in_which_nothing_came(queue, log):
    round_of(queue, log, 3, ["READY"])
    queue.pause()
    assert queue.resume() == 3  # the calculation, and two that wait
    resumed = datetime.now(UTC)
    for name in ("m0", "m1", "m2"):
        put(queue, name, "COMPLETED", updated_on=resumed - minutes(1000))
    tend(queue, CLUSTER, resumed + minutes(59))
    assert states(queue)["train"] == "WAITING"
    tend(queue, CLUSTER, resumed + minutes(61))
    assert states(queue)["train"] == "READY"


def test_what_waits_for_a_job_that_just_replaced_itself_waits_on(queue, log, monkeypatch):
    train = made("train", "t", work(str(log), "t"))
    submit(queue.controller, [train, made("evaluate", "e", work(str(log), "e", train.output))])
    put(queue, "t", "COMPLETED")
    count = Collection.count_documents

    def late(self: Collection, *args: Any, **kwargs: Any) -> int:  # the jobs have been read
        document = self.find_one({"uuid": uid("t")})
        self.insert_one({**document, "_id": 1, "db_id": "9", "index": 2, "state": "WAITING"})
        return count(self, *args, **kwargs)

    monkeypatch.setattr(Collection, "count_documents", late)
    tend(queue, CLUSTER, NOW)
    assert states(queue)["e"] == "WAITING"


def test_what_waits_for_a_job_that_is_not_there_waits_on(queue, log):
    train = made("train", "t", work(str(log), "t"))
    submit(queue.controller, [train, made("evaluate", "e", work(str(log), "e", train.output))])
    queue.controller.jobs.delete_one({"uuid": uid("t")})
    tend(queue, CLUSTER, NOW)
    assert states(queue) == {"e": "WAITING"}


# Paused and cancelled


def test_a_pause_that_comes_into_a_pass_holds(queue, log, monkeypatch):
    train = made("train", "t", work(str(log), "t"))
    submit(queue.controller, [train, made("evaluate", "e", work(str(log), "e", train.output)), label("other", log)])
    put(queue, "t", "COMPLETED")
    queue.settle(flow_document(queue))
    paused: list[int] = []

    def pause(number: int) -> None:  # the pass is about to release what waits
        if number == 1:
            paused.append(queue.pause())

    before_write(monkeypatch, pause)
    tend(queue, CLUSTER, NOW)
    assert paused == [2]
    assert states(queue) == {"t": "COMPLETED", "e": "PAUSED", "other": "PAUSED"}


def test_a_paused_campaign_stays_paused_while_a_running_job_gives_birth(queue, log):
    submit(queue.controller, [made("decide", "p", parent(str(log), "p", labels=1))])
    put(queue, "p", "CHECKED_OUT")
    assert queue.pause() == 0
    run_first(queue)
    assert states(queue) == {"p": "COMPLETED", "p-0": "READY", "p-train": "WAITING", "p-evaluate": "WAITING"}
    tend(queue, CLUSTER)
    assert states(queue) == {"p": "COMPLETED", "p-0": "PAUSED", "p-train": "PAUSED", "p-evaluate": "PAUSED"}
    assert flow_document(queue)["state"] == "PAUSED"
    run()
    assert ran(log) == Counter({"p": 1})
    assert queue.live()
    assert queue.resume() == 3
    run()
    assert set(states(queue).values()) == {"COMPLETED"}
    assert ran(log) == Counter({"p": 1, "p-0": 1, "p-train": 1, "p-evaluate": 1})


def run_first(queue: Queue) -> None:
    """A runner that completes the first job, and does not get further."""
    runner = Runner()
    while states(queue)["p"] != "COMPLETED":
        runner.advance_state(["CHECKED_OUT", "UPLOADED", "DOWNLOADED"])
        runner.check_run_status()


def test_a_round_does_not_go_on_while_paused(queue, log, monkeypatch):
    round_of(queue, log, 3, ["FAILED"])
    queue.controller.flows.update_one({}, {"$set": {"metadata.mfal.paused": True}})
    monkeypatch.setattr(Queue, "pause", lambda _: 0)  # and what waits was born after the pass has held all others
    for name in ("m0", "m1", "m2", "m3"):
        tend(queue, CLUSTER, NOW)
        assert states(queue)["train"] == "WAITING"
        put(queue, name, "COMPLETED")
    assert "without" not in flow_document(queue)["metadata"]["mfal"]
    tend(queue, CLUSTER, NOW)
    assert states(queue)["train"] == "WAITING"


def test_nothing_lost_runs_again_while_paused_or_cancelled(queue, log):
    submit(queue.controller, [label("a", log), label("b", log)])
    put(queue, "a", "FAILED")
    queue.pause()
    tend(queue, CLUSTER, NOW)
    assert states(queue) == {"a": "FAILED", "b": "PAUSED"}
    queue.cancel()
    put(queue, "b", "READY")  # born since
    assert tend(queue, CLUSTER, NOW) == []
    assert states(queue) == {"a": "FAILED", "b": "STOPPED"}
    assert queue.live() is None


# Passes that are killed, and passes at once


def born(log: Any) -> list[Any]:
    """A parent and what it has given birth to."""
    p = made("decide", "p", work(str(log), "p"))
    labels = [label(f"p-{i}", log) for i in range(2)]
    inputs = [one.output for one in labels]
    train = made("train", "p-train", work(str(log), "p-train", inputs))
    evaluate = made("evaluate", "p-evaluate", work(str(log), "p-evaluate", [*inputs, train.output]))
    for job in (*labels, train, evaluate):
        job.metadata["born_of"] = uid("p")
    return [p, *labels, train, evaluate]


def half_born(queue: Queue, log: Any) -> None:
    """As a runner leaves it that dies before it writes that the parent is completed; and a try more."""
    p, *others = born(log)
    submit(queue.controller, [p, label("other", log)])
    job, flow = queue.controller.jobs.find_one({"uuid": uid("p")}), flow_document(queue)
    births = json.loads(json.dumps(Flow(others).as_dict(), cls=MontyEncoder))
    append = partial(queue.controller._append_flow, job, flow, births, "local", DynamicResponseType.ADDITION)
    append()
    with pytest.raises(Exception, match="E11000"):
        append()
    put(queue, "p", "DOWNLOADED", lock_id="runner", lock_time=LONG_AGO)
    queue.controller.flows.update_one({}, {"$set": {"lock_id": "runner", "lock_time": LONG_AGO}})


def lost(queue: Queue, log: Any) -> None:
    submit(queue.controller, [label("a", log), label("b", log)])
    put(queue, "a", "FAILED", error="killed")
    put(queue, "b", "REMOTE_ERROR", previous_state="DOWNLOADED", **{"mfal.attempts": 1})


def late(queue: Queue, log: Any) -> None:
    round_of(queue, log, 3, ["FAILED", "REMOTE_ERROR"])


def unreleased(queue: Queue, log: Any) -> None:
    """As a runner leaves it that dies before it looks what is ready now."""
    submit(queue.controller, born(log))
    put(queue, "p", "COMPLETED", lock_id="runner", lock_time=LONG_AGO)
    for name in ("p-0", "p-1"):
        put(queue, name, "WAITING")
        queue.controller.jobs.update_one({"uuid": uid(name)}, {"$set": {"parents": [uid("p")]}})


def paused(queue: Queue, log: Any) -> None:
    submit(queue.controller, born(log))
    put(queue, "p", "COMPLETED")
    queue.controller.flows.update_one({}, {"$set": {"metadata.mfal.paused": True}})


def cancelled(queue: Queue, log: Any) -> None:
    submit(queue.controller, born(log))
    put(queue, "p", "COMPLETED")
    put(queue, "p-train", "PAUSED")
    queue.controller.flows.update_one({}, {"$set": {"metadata.mfal.cancelled": True}})


SCENES = [half_born, lost, late, unreleased, paused, cancelled]
WRITES = ["update_one", "update_many", "delete_one", "delete_many", "insert_one", "insert_many", "find_one_and_update"]


def picture(queue: Queue) -> Any:
    """All that a pass may change, but for when."""
    jobs = [(j.name, j.index, j.state, sorted(j.parents), j.attempts, bool(j.locked)) for j in queue.jobs()]
    flow = flow_document(queue)
    flow["mfal"] = {key: sorted(v) if isinstance(v, list) else v for key, v in flow["metadata"]["mfal"].items()}
    kept = {key: flow[key] for key in ("parents", "lock_id", "state", "mfal")}
    there = [missing(queue, job.name) for job in queue.jobs()]
    return sorted(jobs), there, kept, sorted(flow["ids"]), sorted(flow["jobs"])


class KilledError(BaseException):
    pass


def before_write(monkeypatch: Any, act: Any) -> None:
    """Call `act` before each write to the database, with its number."""
    count = 0

    def wrap(name: str) -> None:
        original = getattr(Collection, name)

        def write(self: Collection, *args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            act(count)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(Collection, name, write)

    for name in WRITES:
        wrap(name)


@pytest.fixture
def again(queue, log):
    """Sets a scene in an empty queue."""

    def set_scene(scene: Any) -> None:
        queue.controller.reset(max_limit=0)
        scene(queue, log)

    return set_scene


@pytest.fixture
def whole(queue, again, monkeypatch):
    """What a scene is after a pass that nothing disturbs, and how many writes that took."""

    def passed(scene: Any) -> tuple[Any, int]:
        again(scene)
        before, writes = picture(queue), []
        with monkeypatch.context() as patched:
            before_write(patched, writes.append)
            tend(queue, CLUSTER, NOW)
        tend(queue, CLUSTER, NOW)
        assert picture(queue) != before
        return picture(queue), len(writes)

    return passed


def test_a_pass_over_what_runs_well_writes_nothing(queue, log, monkeypatch):
    """And locks nothing: a runner that finds a flow locked waits for half a minute."""
    round_of(queue, log, 3, ["RUNNING", "SUBMITTED", "BATCH_RUNNING", "READY", "FAILED"], updated_on=NOW)
    put(queue, "m7", "FAILED", updated_on=NOW, **{"mfal.attempts": 1})
    put(queue, "m0", "COMPLETED", updated_on=NOW)
    put(queue, "m1", "CHECKED_OUT", lock_id="runner", lock_time=NOW)
    queue.controller.update_flow_state(flow_document(queue)["uuid"])
    writes: list[int] = []
    before_write(monkeypatch, writes.append)
    assert tend(queue, CLUSTER, NOW) == []
    assert not writes


@pytest.mark.parametrize("scene", SCENES)
def test_a_pass_may_be_killed_anywhere(queue, again, whole, monkeypatch, scene):
    expected, writes = whole(scene)
    for last in range(1, writes + 1):
        again(scene)

        def kill(number: int, last: int = last) -> None:
            if number >= last:  # the dead do not write, not even to release a lock
                raise KilledError

        with monkeypatch.context() as patched:
            before_write(patched, kill)
            with pytest.raises(KilledError):
                tend(queue, CLUSTER, NOW)
        tend(queue, CLUSTER, NOW)
        tend(queue, CLUSTER, datetime.now(UTC) + minutes(16))  # what the dead had locked
        assert picture(queue) == expected, f"killed before write {last}"


@pytest.mark.parametrize("scene", SCENES)
def test_a_pass_may_come_between_another_anywhere(queue, again, whole, monkeypatch, scene):
    expected, writes = whole(scene)
    for moment in range(1, writes + 1):
        again(scene)
        news: list[str] = []
        with monkeypatch.context() as patched:

            def other(number: int, patched: Any = patched, moment: int = moment, news: list[str] = news) -> None:
                if number == moment:
                    patched.undo()
                    news += tend(queue, CLUSTER, NOW)

            before_write(patched, other)
            news += tend(queue, CLUSTER, NOW)
        tend(queue, CLUSTER, NOW)
        assert picture(queue) == expected, f"between before write {moment}"
        done = [line for line in news if "waits" not in line]
        assert len(done) == len(set(done)), "told once"
