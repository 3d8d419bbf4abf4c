"""A campaign on MongoDB (a real one where MONGO_URI names it, else the stand-in) is the campaign on a SQLite file."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import write_campaign
from monty.serialization import dumpfn
from pymongo import MongoClient
from typer.testing import CliRunner

import stores as mfal_stores
from mfal.config_file import load
from stores.builder import CampaignBuilder
from stores.connect import KEYS, PATIENCE
from stores.where import FIELDS

SECRET = "hunter2"
#: What two runs of one campaign do not share: when and where.
OF_THE_RUN = {"_id", "last_updated", "finished_at", "started_at", "directory", "core_hours", "seconds", "calibration"}


@pytest.fixture(scope="module")
def on_mongodb(mongo, tmp_path_factory):
    """The small campaign, run to its end on MongoDB; and what it printed."""
    from conftest import in_database

    from flows.cli import app

    name = f"mfal-campaign-{os.getpid()}"
    path = write_campaign(tmp_path_factory.mktemp("mongodb"), store=in_database(mongo, name))
    result = CliRunner().invoke(app, ["run", str(path)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    yield path, result.output
    with MongoClient(mongo) as client:
        client.drop_database(name)


def plain(value):
    """Without what is of the run alone, and with numbers to the digits that a float32 network gives twice."""
    if isinstance(value, dict):
        return {key: plain(content) for key, content in value.items() if key not in OF_THE_RUN}
    if isinstance(value, list):
        return [plain(content) for content in value]
    return float(f"{value:.3g}") if isinstance(value, float) else value


def test_the_documents_are_those_of_sqlite(on_mongodb, finished):
    with mfal_stores.open(on_mongodb[0]) as mongodb, mfal_stores.open(finished[0]) as sqlite:
        for name, keys in KEYS.items():
            found, expected = (
                {tuple(doc[key] for key in keys): doc for doc in stores.collections[name].store.query()}
                for stores in (mongodb, sqlite)
            )
            assert found.keys() == expected.keys()
            assert len(found) == mongodb.collections[name].count()
            for key, document in found.items():
                assert document.keys() - {"_id"} == expected[key].keys()
        assert plain([vars(label) for label in mongodb.all_labels("small")]) == plain(
            [vars(label) for label in sqlite.all_labels("small")]
        )
        assert mongodb.all_frames("small").keys() == sqlite.all_frames("small").keys()
        assert mongodb.committee("small", 1).members[0].weights  # from GridFS
        assert mongodb.evaluation("small", 1)["parity"]
    assert not (on_mongodb[0].parent / "run" / "campaign.sqlite").exists()


def test_the_commands_answer_from_it(on_mongodb, finished, mfal):
    path = on_mongodb[0]
    address = load(path).store
    for place in (path, address):
        rows = json.loads(mfal("query", "labels", place, "--where", "fidelity=magnetic", "--format", "json").stdout)
        expected = mfal("query", "labels", finished[0], "--where", "fidelity=magnetic", "--format", "json").stdout
        assert {row["frame_id"] for row in rows} == {row["frame_id"] for row in json.loads(expected)}
        assert mfal("check", place, "--all").exit_code in (0, 1)
        status = mfal("status", place)
        assert (status.exit_code, "campaign small" in status.stdout) == (0, True), status.output
        assert mfal("why", rows[0]["frame_id"], place).exit_code == 0
    both = mfal("status", path, finished[0])
    assert both.stdout.count(" finished ") == 2
    assert mfal("export", path, path.parent / "labels.extxyz").exit_code == 0
    assert mfal("report", path, "--no-figures").exit_code == 0


def test_a_second_run_calculates_nothing(on_mongodb, mfal):
    result = mfal("run", on_mongodb[0])
    assert result.exit_code == 0, result.output
    assert "No calculation was started: all 15 that the campaign asks for are in the store" in result.stdout


def test_keys_are_unique_there(on_mongodb):
    with mfal_stores.open(on_mongodb[0]) as opened:
        for name, keys in KEYS.items():
            indexes = opened.collections[name].store._collection.index_information().values()
            assert any([key for key, _ in index["key"]] == keys and index.get("unique") for index in indexes)


@pytest.mark.parametrize("place", ["on_mongodb", "finished"])
def test_the_builder_takes_only_what_is_new(request, tmp_path, place):
    path = request.getfixturevalue(place)[0]
    if place == "finished":  # which others use, too
        path = shutil.copytree(path.parent / "run", tmp_path / "run")

    def contents():
        return {name: sorted(map(str, collection.rows({}, list(FIELDS[name])))) for name, collection in parts.items()}

    with mfal_stores.open(path) as opened:
        parts, outputs = opened.collections, opened.jobs.docs_store
        before = contents()
        assert list(CampaignBuilder.of(opened).get_items()) == []
        original = outputs.query_one({"metadata.kind": "label"})
        changed = original | {"completed_at": "2030-01-01T00:00:00.123456"}  # attempted again
        outputs.update(changed | {"output": original["output"] | {"reason": "again"}}, key=["uuid", "index"])
        items = list(CampaignBuilder.of(opened).get_items())
        assert [item["uuid"] for item in items] == [original["uuid"]]
        CampaignBuilder.of(opened).build()
        (label,) = opened.labels.query({"job_uuid": original["uuid"]})
        assert label.reason == "again"
        assert list(CampaignBuilder.of(opened).get_items()) == []
        outputs.update(original, key=["uuid", "index"])
        for collection in parts.values():
            collection.store.remove_docs({})
        CampaignBuilder.of(opened).build()
        assert contents() == before


def test_maggma_runs_the_builder(finished, tmp_path):
    """As those who know maggma do: the builder as a file, and `mrun`."""
    folder = shutil.copytree(finished[0].parent / "run", tmp_path / "run")
    with mfal_stores.open(folder) as opened:
        for collection in opened.collections.values():
            collection.store.remove_docs({})
        dumpfn(CampaignBuilder.of(opened), tmp_path / "builder.json")
    command = [str(Path(sys.executable).with_name("mrun")), str(tmp_path / "builder.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    with mfal_stores.open(folder) as opened:
        assert [opened.collections[name].count() for name in KEYS] == [10, 15, 10, 4, 2]


def test_it_builds_while_the_campaign_runs_and_after_a_kill(mongo_database, tmp_path, mfal):
    """SIGKILL in the middle; a builder at work all the time; the same command again repeats no calculation."""
    path = write_campaign(tmp_path, store=mongo_database)
    command = [sys.executable, "-m", "flows", "run", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    with mfal_stores.open(path) as opened:
        deadline = time.monotonic() + 120
        while opened.labels.count() < 4:
            assert time.monotonic() < deadline
            assert process.poll() is None
            CampaignBuilder.of(opened).build()
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = {label.frame_id + label.fidelity: label.finished_at for label in opened.all_labels()}
    result = mfal("run", path)
    assert result.exit_code == 0, result.output
    with mfal_stores.open(path) as opened:
        after = {label.frame_id + label.fidelity: label.finished_at for label in opened.all_labels()}
        assert len(after) == opened.labels.count() == 15
        assert {key: after[key] for key in before} == before
        assert len(opened.all_rounds("small")) == 2


def test_no_password_gets_out(tmp_path, mfal, monkeypatch):
    """From the server's refusal to the reports, nothing that is written or printed has it."""
    from wire_server import WireServer

    with WireServer(users={"me": SECRET}) as server:
        host = server.uri.removeprefix("mongodb://").split("@")[-1].split("/")[0]
        path = write_campaign(
            tmp_path, store=f"mongodb://me:${{MONGO_PASSWORD}}@{host}/secret?authSource=admin", stop={"rounds": 1}
        )
        monkeypatch.setenv("MONGO_PASSWORD", "wrong-" + SECRET)
        refused = mfal("run", path)
        assert refused.exit_code == 2
        assert f"store = mongodb://{host}/secret: refuses mfal (MongoDB's code 18)" in refused.stderr
        monkeypatch.delenv("MONGO_PASSWORD")
        assert "export MONGO_PASSWORD=" in mfal("run", path).stderr
        monkeypatch.setenv("MONGO_PASSWORD", SECRET)
        outputs = [refused.output]
        for arguments in (
            ["run"],
            ["status"],
            ["query", "labels"],
            ["report", "--no-figures"],
            ["check"],
            ["doctor", "--json"],
        ):
            result = mfal(*arguments[:2] if arguments[0] == "query" else arguments[:1], path, *arguments[2:])
            outputs.append(result.output)
        assert "labels" in outputs[1] or "calculations run" in outputs[1], outputs[1]
        with mfal_stores.open(path) as opened:
            assert opened.address == f"mongodb://{host}/secret"
            for store in (opened.jobs, *(collection.store for collection in opened.collections.values())):
                outputs.append(str(list(store.query())))
            assert opened.labels.count() > 0
    outputs += [file.read_bytes().decode(errors="replace") for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(SECRET in output for output in outputs)


def test_a_server_that_is_not_there(tmp_path, mfal, monkeypatch):
    assert PATIENCE <= 10
    monkeypatch.setattr("stores.connect.PATIENCE", 0.5)
    result = mfal("status", write_campaign(tmp_path, store="mongodb://127.0.0.1:9/none"))
    assert result.exit_code == 2
    assert "store = mongodb://127.0.0.1:9/none: cannot be reached" in result.stderr
    assert "Traceback" not in result.output
