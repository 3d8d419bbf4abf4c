"""`mfal submit` and its like on a project of this machine: what is refused, what is sent, what comes home."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import small_campaign, write_campaign
from remote_project import set_up

from flows import home
from flows.queue import Queue
from flows.send import left, send
from mfal.config_file import load
from stores.campaign import open_stores


@pytest.fixture
def controller(tmp_path, mongo_database, monkeypatch):
    controller = set_up(tmp_path, mongo_database, monkeypatch, exec_config={"dft": {"export": {"A": "1"}}})
    yield controller
    controller.close()


def cluster(**jobs: Any) -> dict[str, Any]:
    return {"jobs": jobs}


@pytest.mark.usefixtures("controller")
@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"default": {"worker": "lokal"}}, "cluster.jobs.default.worker = 'lokal': project mfal-test has local"),
        (
            {"train": {"worker": "local", "exec_config": "gpu"}},
            "cluster.jobs.train.exec_config = 'gpu': project mfal-test has dft",
        ),
        (
            {"magnetic": {"worker": "local", "resources": {"cores": 4}}},
            "cluster.jobs.magnetic.resources = {'cores': 4}: The following keys are not present",
        ),
    ],
)
def test_what_the_project_lacks_is_said_before_anything_is_sent(tmp_path, mfal, section, said):
    result = mfal("submit", write_campaign(tmp_path, cluster=cluster(**section)))
    assert result.exit_code == 2
    assert said in result.stderr
    assert Queue.of(load(tmp_path / "small.yaml")).flows() == []


@pytest.mark.usefixtures("controller")
def test_a_kind_of_job_that_there_is_not_is_refused_by_the_file(tmp_path, mfal):
    result = mfal("submit", write_campaign(tmp_path, cluster=cluster(training={"worker": "local"})))
    assert result.exit_code == 2
    assert "cluster.jobs.training" in result.stderr


@pytest.mark.usefixtures("controller")
def test_a_project_that_there_is_not(tmp_path, mfal):
    result = mfal("submit", write_campaign(tmp_path), "--project", "other")
    assert result.exit_code == 2
    assert "cluster.project = 'other'" in result.stderr


@pytest.mark.usefixtures("controller")
def test_a_table_is_for_this_machine(tmp_path, mfal):
    data = Path(__file__).parents[1] / "data" / "rocksalt-gpaw" / "labels.extxyz"
    result = mfal("submit", write_campaign(tmp_path, engine={"kind": "table", "data": str(data)}))
    assert result.exit_code == 2
    assert "'mfal run'" in result.stderr


def test_each_job_says_where_it_goes_and_gives_that_to_no_other(tmp_path, controller):
    section = cluster(
        default={"worker": "local"}, explore={"worker": "local", "exec_config": "dft", "resources": {"qout_path": "a"}}
    )
    campaign = load(write_campaign(tmp_path, cluster=section))
    with open_stores(campaign, make=True) as stores:
        send(campaign, Queue.of(campaign), stores)
    jobs = {d["job"]["metadata"]["kind"]: d for d in controller.jobs.find({})}
    assert jobs.keys() == {"explore", "score"}
    assert (jobs["explore"]["exec_config"], jobs["explore"]["resources"]) == ("dft", {"qout_path": "a"})
    assert (jobs["score"]["exec_config"], jobs["score"]["resources"]) == (None, None)
    assert not any(d["job"]["config"]["pass_manager_config"] for d in jobs.values())
    assert not any("store" in str(d["job"]["function_args"][0].get("store")) for d in jobs.values())


def test_a_campaign_is_in_the_queue_once(tmp_path, mfal, controller):
    path = write_campaign(tmp_path)
    assert mfal("submit", path).exit_code == 0
    again = mfal("submit", path)
    assert again.exit_code == 2
    assert "is in the queue already" in again.stderr
    twin = tmp_path / "twin.yaml"
    twin.write_text(yaml.safe_dump(small_campaign(tmp_path / "other") | {"campaign": "twin"}))
    refused = mfal("submit", twin)
    assert refused.exit_code == 2
    assert "would calculate the same frames as 'small'" in refused.stderr
    assert controller.flows.count_documents({}) == 1
    assert mfal("cancel", path).exit_code == 0
    assert mfal("submit", path).exit_code == 0
    assert controller.flows.count_documents({}) == 1  # the cancelled one made way


def test_a_campaign_that_began_here_goes_on_there(tmp_path, finished, controller):
    """What is done is not sent again, and what is sent can be resolved in the project's store."""
    content = yaml.safe_load(finished[0].read_text())
    path = tmp_path / "more.yaml"
    path.write_text(yaml.safe_dump(content | {"directory": str(load(finished[0]).directory), "stop": {"rounds": 3}}))
    campaign = load(path)
    with open_stores(campaign) as stores:
        here = {d["uuid"] for d in stores.jobs.query({}, ["uuid"])}
        explore, score = send(campaign, Queue.of(campaign), stores)
    assert (explore.metadata["kind"], explore.metadata["round"]) == ("explore", 2)
    assert score.metadata["kind"] == "score"
    there = {d["uuid"] for d in controller.jobstore.query({}, ["uuid"])}
    assert there < here  # scores and the first committee are nobody's any more
    committee = explore.resolve_args(controller.jobstore, inplace=False).function_args[2]
    assert (committee.round, bool(committee.members[0].weights)) == (1, True)
    progress = explore.function_args[1]
    assert {*progress.explorations, *progress.known, *(label.uuid for label in progress.labels)} <= there


def test_outputs_come_home_once_and_whole(tmp_path, finished, controller):
    """The outputs of a whole campaign, in a project's MongoDB and GridFS, to a new SQLite file."""
    campaign = load(finished[0])
    with open_stores(campaign) as made:
        keys = [(d["uuid"], d["index"]) for d in made.jobs.query({}, ["uuid", "index"])]
        home.copy(made.jobs, controller.jobstore, keys)
        moved = campaign.model_copy(update={"directory": tmp_path / "new"})
        (tmp_path / "new").mkdir()
        with open_stores(moved, make=True) as stores:
            assert home.bring(stores, controller.jobstore, home.outputs_of(campaign)) == len(keys)
            assert home.bring(stores, controller.jobstore, home.outputs_of(campaign)) == 0
            assert stores.all_rounds("small") == made.all_rounds("small")
            assert stores.all_labels("small") == made.all_labels("small")
            assert stores.committee("small", 1) == made.committee("small", 1)
            assert stores.evaluation("small", 1)["parity"] == made.evaluation("small", 1)["parity"]
            assert left(campaign, stores.jobs) == []


@pytest.mark.usefixtures("controller")
def test_labels_that_failed_are_tried_again_by_the_next_run(tmp_path, finished, mfal):
    path, directory = tmp_path / "again.yaml", tmp_path / "copy"
    content = yaml.safe_load(finished[0].read_text())
    path.write_text(yaml.safe_dump(content | {"directory": str(directory)}))
    campaign = load(path)
    directory.mkdir()
    with open_stores(load(finished[0])) as made, open_stores(campaign, make=True) as stores:
        documents = list(made.jobs.docs_store.query({"metadata.kind": "label"}))
        documents[0]["output"] |= {"status": "failed", "reason": "time out"}
        stores.jobs.docs_store.update([{k: v for k, v in d.items() if k != "_id"} for d in documents])
    result = mfal("retry", path, "--status", "failed")
    assert result.exit_code == 0, result.output
    assert "0 calculations sent again, 1 for the next 'mfal submit' or 'mfal run'" in result.stdout
    with open_stores(campaign) as stores:
        found = stores.jobs.query_one({"uuid": documents[0]["uuid"]}, ["metadata"])
        assert found["metadata"]["limits"] is None
