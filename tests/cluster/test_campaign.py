"""The quickstart through jobflow-remote and Slurm, with the surrogate in place of DFT: each job where it belongs.

Its real twin, with GPAW, is `mfal submit configs/quickstart.yaml` (docs/cluster.md).
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from flows import home
from flows.queue import Queue
from flows.send import send
from flows.tend import tend
from mfal.config import Campaign
from mfal.config_file import ConfigError, load
from stores.campaign import CampaignStores, open_stores

from .machine import Machine, MachineError, until

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


@pytest.fixture
def campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Campaign:
    """The quickstart's file but for its engine, its folder and its patience; and parcels that nobody else has."""
    monkeypatch.setenv("MFAL_CACHE", str(tmp_path / "kept-on-workers"))
    content = yaml.safe_load(QUICKSTART.read_text())
    content |= {"engine": {"kind": "surrogate"}, "directory": str(tmp_path / "home")}
    content["training"]["epochs"] = 4
    for parent in content["parents"]:
        parent["structure"] = str(QUICKSTART.parent / parent["structure"])
    path = tmp_path / "quickstart.yaml"
    path.write_text(yaml.safe_dump(content))
    return load(path)


def bring_and_tend(campaign: Campaign, queue: Queue, stores: CampaignStores) -> None:
    """A pass of `mfal watch`."""
    home.bring(stores, queue.controller.jobstore, home.outputs_of(campaign))
    tend(queue, campaign.cluster)


def follow(campaign: Campaign, queue: Queue, stores: CampaignStores, patience: float = 1500) -> None:
    """`mfal watch` until the campaign has ended."""

    def ended() -> bool:
        bring_and_tend(campaign, queue, stores)
        return queue.live() is None

    try:
        until(ended, "the campaign ends", patience, every=1)
    except MachineError as error:
        raise AssertionError([(job.name, job.state, job.error) for job in queue.jobs()]) from error
    bring_and_tend(campaign, queue, stores)


@pytest.mark.usefixtures("controller")
def test_every_job_of_the_quickstart_runs_where_it_was_sent(machine: Machine, campaign: Campaign):
    machine.runner.start()
    queue = Queue.of(campaign)
    with open_stores(campaign, make=True) as stores:
        assert [job.metadata["kind"] for job in send(campaign, queue, stores)] == ["explore", "score"]
        follow(campaign, queue, stores)
        assert {job.state for job in queue.jobs()} == {"COMPLETED"}
        rounds = stores.all_rounds(campaign.campaign)
        assert [summary.round for summary in rounds] == [0, 1]
        assert rounds[-1].stop
        documents = list(stores.jobs.query({}, ["metadata"]))
        assert send(campaign, queue, stores) == []  # all is done
    where = {(d["metadata"]["round"], d["metadata"]["kind"]): set() for d in documents}
    for document in documents:
        ran = document["metadata"]["ran"]
        where[document["metadata"]["round"], document["metadata"]["kind"]].add((ran["worker"], ran["partition"]))
    kinds = ("explore", "score", "label", "decide", "train", "evaluate")
    assert where == {
        (round, kind): {("gpu", "gpu") if kind == "train" else ("cpu", "cpu")} for round in (0, 1) for kind in kinds
    }
    ships_only_what_is_new(machine, campaign)


def ships_only_what_is_new(machine: Machine, campaign: Campaign) -> None:
    """What the queue sent to train, evaluate and explore in the second round holds nothing of the first one's data."""
    with open_stores(campaign) as stores:
        first = set(stores.frames.store.distinct("frame_id", {"round": 0}))
    inputs = list((machine.folder / "work").rglob("jfremote_in.json"))
    seen = 0
    for path in inputs:
        job = json.loads(path.read_bytes())["job"]
        if job["metadata"]["kind"] in ("train", "evaluate", "explore") and job["metadata"]["round"] == 1:
            progress = job["function_args"][1]
            sent = [content for argument in job["function_args"][2:] for content in whole(argument)]
            assert not first & {document.get("frame_id") for document in sent}
            assert job["metadata"]["kind"] == "explore" or sent
            assert progress["remote"]
            seen += 1
    assert seen == 3


def whole(argument: object) -> list[dict]:
    """The frames and labels in one of a job's arguments (`frames` and `labels` are by uuid); not scores."""
    if not isinstance(argument, dict) or "@class" in argument:
        return []
    contents = [c for value in argument.values() for c in (value if isinstance(value, list) else [value])]
    return [c for c in contents if isinstance(c, dict) and c.get("@class") in ("Frame", "Label")]


@pytest.mark.usefixtures("controller")
@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"partition": "none", "ntasks": 1}, "Slurm says: .*Invalid partition"),
        ({"partition": "cpu", "ntasks": 1, "gres": "gpu:9"}, "Slurm says: "),
        ({"partition": "cpu", "ntasks": 1, "nodez": 1}, "nodez. .*'nodes' instead of 'nodez'"),
    ],
)
def test_slurm_itself_is_asked_before_anything_is_sent(campaign: Campaign, resources: dict, said: str):
    place = campaign.cluster.place("train").model_copy(update={"resources": resources})
    cluster = campaign.cluster.model_copy(update={"jobs": {"train": place}})
    asked = campaign.model_copy(update={"cluster": cluster})
    queue = Queue.of(asked)
    with open_stores(asked, make=True) as stores, pytest.raises(ConfigError) as refused:
        send(asked, queue, stores)
    (line,) = refused.value.lines
    assert re.search(f"cluster.jobs.train.resources = .*{said}", line)
    assert queue.flows() == []
