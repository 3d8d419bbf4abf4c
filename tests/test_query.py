"""`mfal query`: the little language, and what is found and written of a campaign that ran."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import get_args

import ase.io
import pytest
import yaml
from maggma.stores import MemoryStore

from flows.query import COLUMNS, LIMIT
from flows.rows import table_text
from mfal import dataset
from mfal.frames import Label
from stores.campaign import open_stores
from stores.connect import KEYS
from stores.where import FIELDS, MODELS, annotation, criteria


def refused(result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    for word in words:
        assert word in line
    assert not result.stdout


@pytest.fixture
def documents(finished):  # noqa: ARG001
    """What is in a collection of the campaign, asked for without the language."""
    stores = open_stores("run")
    yield lambda collection: list(stores.collections[collection].store.query({}))
    stores.close()


@pytest.fixture
def rows(finished, mfal):  # noqa: ARG001
    """The rows of `mfal query` as JSON."""

    def found(collection, where="", *more):
        result = mfal("query", collection, "run", "--where", where, "--format", "json", *more)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("status=ok", {"status": {"$eq": "ok"}}),
        ("status!=ok", {"status": {"$ne": "ok"}}),
        ("round<2", {"round": {"$lt": 2}}),
        ("round<=2", {"round": {"$lte": 2}}),
        ("energy>-2.5e1", {"energy": {"$gt": -25.0}}),
        ("energy>=.5", {"energy": {"$gte": 0.5}}),
        ("reason~time.?out", {"reason": {"$regex": "time.?out"}}),
        ("reason~'a, b|c'", {"reason": {"$regex": "a, b|c"}}),
        ("reason~a,b", {"reason": {"$regex": "a,b"}}),
        ("energy", {"energy": {"$ne": None}}),
        ("!energy", {"energy": {"$eq": None}}),
        ("reason='two words'", {"reason": {"$eq": "two words"}}),
        ('reason="it\'s"', {"reason": {"$eq": "it's"}}),
        ("reason=''", {"reason": {"$eq": ""}}),
        ("status=failed,collapsed", {"status": {"$in": ["failed", "collapsed"]}}),
        ("status!=failed,collapsed", {"status": {"$nin": ["failed", "collapsed"]}}),
        ("reason='a, b',c", {"reason": {"$in": ["a, b", "c"]}}),
        ("attempt=1,2", {"attempt": {"$in": [1, 2]}}),
        ("settings.spin=true,null", {"settings.spin": {"$in": [True, None]}}),
        ("settings.spin='true'", {"settings.spin": {"$eq": "true"}}),
        ("settings.spin=false", {"settings.spin": {"$eq": False}}),
        ("settings.kind=1.2.3", {"settings.kind": {"$eq": "1.2.3"}}),
        ("magmoms.0>1", {"magmoms.0": {"$gt": 1}}),
        ("earlier.status=failed", {"earlier.status": {"$eq": "failed"}}),
        # text stays text, whatever it looks like
        ("frame_id=123456789012", {"frame_id": {"$eq": "123456789012"}}),
        ("fingerprint=12e456789012,true", {"fingerprint": {"$in": ["12e456789012", "true"]}}),
        ("earlier.frame_id=1", {"earlier.frame_id": {"$eq": "1"}}),
        ("started_at>2026", {"started_at": {"$gt": "2026"}}),
        ("status=null", {"status": {"$eq": None}}),
        ("  round>=1\tround<3 ", {"round": {"$gte": 1, "$lt": 3}}),
        ("reason~a reason~b", {"reason": {"$regex": "a"}, "$and": [{"reason": {"$regex": "b"}}]}),
        ("!energy status=ok", {"energy": {"$eq": None}, "status": {"$eq": "ok"}}),
    ],
)
def test_terms(text, expected):
    found = criteria(text, "labels")
    assert found == expected
    assert json.dumps(found) == json.dumps(expected)  # 1 is not 1.0 nor true


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"status": "ok"},
        {"$or": [{"round": {"$gte": 1}}, {"$nor": [{"status": {"$in": ["ok"]}}]}]},
        {"reason": {"$not": {"$regex": "TIME", "$options": "i"}}, "forces": {"$size": 4}},
        {"earlier": {"$elemMatch": {"status": "failed"}}, "energy": {"$exists": True}},
        {"magmoms": {"$elemMatch": {"$gt": 1}}, "settings": {"kind": "gpaw"}},
    ],
)
def test_json_is_taken_as_it_is(given):
    assert criteria(json.dumps(given), "labels") == given


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("round >= 1", ["'>=' cannot be read", "round>=1", "no blanks around an operator"]),
        ("status==ok", ["'status==ok' cannot be read"]),
        ("reason=~out", ["'reason=~out' cannot be read"]),
        ("round=>1", ["'round=>1' cannot be read"]),
        ("status=", ["'status=' cannot be read"]),
        ("!status=ok", ["'!status=ok' cannot be read"]),
        ("reason='open", ['"reason=\'open" cannot be read']),
        ("status=ok,", ["'status=ok,' cannot be read", "status=failed,collapsed"]),
        ("status=,ok", ["'status=,ok' cannot be read"]),
        ("status=ok,,failed", ["'status=ok,,failed' cannot be read"]),
        ("reason='a'b", ["\"reason='a'b\" cannot be read"]),
        ("round<1,2", ["'round<1,2'", "< compares with a number or a text"]),
        ("round>null", ["'round>null'", "compares with"]),
        ("round>=true", ["'round>=true'", "compares with"]),
        ("reason~(", ["'reason~('", "'(' is not a regular expression"]),
        ("statu=ok", ["'statu=ok'", "'statu' is no field of labels", "did you mean 'status'?"]),
        ("status=ok or round=1", ["'or' is no field of labels: there are campaign, round"]),
        ("earlier.statuss=ok", ["'statuss' is no field of earlier", "'status'"]),
        ("earlier.0.statuss=ok", ["'statuss' is no field of 0", "'status'"]),
        ('{"status": ', ["is not JSON"]),
        ('{"statu": "ok"}', ["did you mean 'status'?"]),
        ('{"$or": [{"statu": "ok"}]}', ["did you mean 'status'?"]),
        ('{"$where": "sleep(1)"}', ["$where: is not possible here", "$and, $or, $nor"]),
        ('{"$and": [{"$expr": {"$function": {}}}]}', ["$expr: is not possible here"]),
        ('{"status": {"$where": "1"}}', ["status: $where: is not possible here", "$regex"]),
        ('{"status": {"$not": {"$where": "1"}}}', ["$where: is not possible here"]),
        ('{"earlier": {"$elemMatch": {"$where": "1"}}}', ["$where: is not possible here"]),
        ('{"earlier": {"$elemMatch": {"status": {"$where": "1"}}}}', ["$where: is not possible here"]),
        ('{"status": {"$eq": "ok", "kind": 1}}', ["kind: is not possible here"]),
        ('{"$or": []}', ["$or: must be a list"]),
        ('{"$or": ["ok"]}', ['"ok" is not an object']),
        ('{"status": {"$in": "ok"}}', ['status: $in = "ok": must be a list']),
        ('{"status": {"$not": 3}}', ["$not = 3: must be an object"]),
        ('{"forces": {"$size": true}}', ["$size = true: must be a whole number"]),
        ('{"status": {"$regex": "("}}', ["is not a regular expression"]),
        ('{"status": {"$options": "i"}}', ["$options = 'i': must be beside a $regex"]),
        ('{"status": {"$regex": "a", "$options": "q"}}', ["$options = 'q'"]),
    ],
)
@pytest.mark.usefixtures("finished")
def test_what_cannot_be_read_is_refused(mfal, text, words):
    refused(mfal("query", "labels", "run", "--where", text), "--where", *words)


def test_fields_below_a_field():
    assert annotation("rounds", "core_hours.magnetic", "x") is float
    assert annotation("rounds", "calibration.delta.scale", "x") is not None
    for field in ("core_hours.magnetc", "errors.hold_out.magnetic.force", "counts.magnetic.okay"):
        with pytest.raises(ValueError, match=rf"x: '{field.split('.')[-1]}' is no field of .*did you mean"):
            annotation("rounds", field, "x")
    assert set(get_args(annotation("labels", "status", "x"))) >= {"ok", "failed"}


def test_every_stored_field_is_known(documents):
    assert FIELDS.keys() == MODELS.keys() == COLUMNS.keys() == KEYS.keys()
    for collection in FIELDS:
        stored = {name for document in documents(collection) for name in document if not name.startswith("@")}
        assert stored <= FIELDS[collection].keys()
        assert {"campaign", "round", "job_uuid", *KEYS[collection]} <= stored


@pytest.mark.parametrize(
    ("collection", "where", "matches"),
    [
        ("labels", "fidelity=magnetic", lambda d: d["fidelity"] == "magnetic"),
        ("labels", "fidelity!=magnetic round>=1", lambda d: d["fidelity"] != "magnetic" and d["round"] >= 1),
        ("labels", "energy<-20 energy>=-28", lambda d: -28 <= d["energy"] < -20),
        ("labels", "magmoms", lambda d: d["magmoms"] is not None),
        ("labels", "!magmoms", lambda d: d["magmoms"] is None),
        ("labels", "settings.kind=surrogate fidelity~^mag", lambda d: d["fidelity"] == "magnetic"),
        ("labels", '{"$or": [{"round": 1}, {"fidelity": "magnetic"}]}', lambda d: d["round"] == 1 or d["magmoms"]),
        ("scores", "round>=1 sigma_magnetic>0", lambda d: d["round"] >= 1 and d["sigma_magnetic"] is not None),
        ("scores", "arm=control,hold_out", lambda d: d["arm"] in ("control", "hold_out")),
        ("scores", "arm!=control,hold_out", lambda d: d["arm"] not in ("control", "hold_out")),
        ("frames", "source~^md round=0,1", lambda d: d["source"].startswith("md")),
        ("models", "member=1 trained_on.magnetic>2", lambda d: d["member"] == 1 and d["trained_on"]["magnetic"] > 2),
        ("rounds", "stop=true", lambda d: d["stop"]),
    ],
)
def test_criteria_find_the_same_in_every_store(documents, rows, collection, where, matches):
    every = documents(collection)
    memory = MemoryStore()
    memory.connect()
    memory.update([dict(document) for document in every], key=KEYS[collection])
    wanted = criteria(where, collection)
    assert memory.count() == len(every)
    found = [[document[key] for key in KEYS[collection]] for document in memory.query(wanted)]
    expected = [[document[key] for key in KEYS[collection]] for document in every if matches(document)]
    assert 0 < len(expected) < len(every)
    assert sorted(found) == sorted(expected)
    keys = ",".join(KEYS[collection])
    assert sorted(list(row.values()) for row in rows(collection, where, "--columns", keys)) == sorted(expected)


def test_json_of_every_field(documents, rows):
    for collection in FIELDS:
        found = rows(collection, "", "--columns", "all")
        expected = [{name: document.get(name) for name in FIELDS[collection]} for document in documents(collection)]
        assert found == json.loads(json.dumps(expected, default=lambda time: time.isoformat(timespec="milliseconds")))
        assert [row.keys() for row in rows(collection)] == [dict.fromkeys(COLUMNS[collection].split()).keys()] * len(
            found
        )
    assert all(isinstance(row["structure"], dict) for row in rows("frames", "", "--columns", "all"))


def test_columns_lead_into_fields(documents, rows):
    columns = ["magmoms.0", "core_hours", "settings.kind", "forces.1.2"]
    found = rows("labels", "fidelity=magnetic", "--columns", ",".join(columns))
    magnetic = [label for label in documents("labels") if label["fidelity"] == "magnetic"]
    assert found == [
        dict(zip(columns, (d["magmoms"][0], d["core_hours"], "surrogate", d["forces"][1][2]), strict=True))
        for d in magnetic
    ]
    logs = rows("models", "member=0", "--columns", "log.epoch,log.9.loss")
    assert logs == [{"log.epoch": [1, 2], "log.9.loss": None}] * 2


@pytest.mark.usefixtures("finished")
def test_json_has_no_nan(mfal, tmp_path):
    stores = open_stores(tmp_path, make=True)
    stores.scores.store.update(
        {"campaign": "c", "round": 0, "frame_id": "a", "gain": math.nan, "thresholds": {"delta": math.inf}},
        key=KEYS["scores"],
    )
    stores.close()
    result = mfal("query", "scores", tmp_path, "--format", "json", "--columns", "gain,thresholds")
    assert json.loads(result.stdout, parse_constant=pytest.fail) == [{"gain": None, "thresholds": {"delta": None}}]


def test_csv(documents, mfal):
    columns = ["frame_id", "decision", "sigma_magnetic", "thresholds", "gain"]
    result = mfal("query", "scores", "run", "--format", "csv", "--columns", ",".join(columns))
    found = list(csv.DictReader(io.StringIO(result.stdout)))
    expected = documents("scores")
    assert len(found) == len(expected)
    for row, score in zip(found, expected, strict=True):
        assert list(row) == columns
        assert (row["frame_id"], row["decision"]) == (score["frame_id"], score["decision"])
        assert json.loads(row["thresholds"]) == score["thresholds"]
        for name in ("sigma_magnetic", "gain"):
            assert row[name] == ("" if score[name] is None else repr(score[name]))
    stops = mfal("query", "rounds", "run", "--format", "csv", "--columns", "stop", "--sort", "round").stdout
    assert stops == "stop\nfalse\ntrue\n"


def test_table(documents, mfal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = mfal("query", "labels", "run", "--where", "fidelity=magnetic")
    assert result.exit_code == 0, result.output
    head, units, _, *lines = [line for line in result.stdout.splitlines() if line.strip()]
    assert sorted(f"{head} {units}".split()) == sorted([*COLUMNS["labels"].split(), "eV", "core-h"])
    magnetic = [label for label in documents("labels") if label["fidelity"] == "magnetic"]
    assert len(lines) == len(magnetic)
    for line, label in zip(lines, magnetic, strict=True):
        assert line.split()[1:4] == [label["frame_id"], "magnetic", label["status"]]
        assert f" {label['energy']:.3f} " in line
    monkeypatch.setenv("COLUMNS", "60")  # nothing that is short is cut where there is little room
    narrow = mfal("query", "scores", "run").stdout
    for score in documents("scores"):
        assert re.search(rf" {score['frame_id']} +{score['decision']} ", narrow)


@pytest.mark.usefixtures("finished")
def test_user_text_is_no_markup(mfal, tmp_path):
    text = table_text(["thresholds.[red]x"], [["[bold]y[/] [/]"]], 1, None)
    assert "thresholds.[red]x" in text
    assert "[bold]y[/] [/]" in text
    refused(mfal("query", "labels", "run", "--where", "[/]"), "'[/]' cannot be read")
    refused(mfal("query", "labels", "run", "--columns", "[/]"), "--columns [/]: '[/]' is no field of labels")
    refused(mfal("query", "labels", "[/]"), "[/]: has no campaign.sqlite", "mfal run")
    result = mfal("query", "labels", "run", "--format", "csv", "--out", tmp_path / "[b]x.csv")
    assert "[b]x.csv: 15 labels" in result.stdout


def test_sort_and_limit(documents, rows, mfal):
    gains = sorted((d["sigma_magnetic"] for d in documents("scores") if d["sigma_magnetic"] is not None), reverse=True)
    found = [row["sigma_magnetic"] for row in rows("scores", "", "--sort", "-sigma_magnetic")]
    assert found[: len(gains)] == gains
    assert set(found[len(gains) :]) == {None}
    up = [row["sigma_magnetic"] for row in rows("scores", "sigma_magnetic", "--sort", "sigma_magnetic", "--limit", "3")]
    assert up == gains[::-1][:3]
    refused(mfal("query", "scores", "run", "--sort", "-sigma_magnetc"), "--sort sigma_magnetc", "'sigma_magnetic'")
    every = len(documents("labels"))
    assert every > 4
    assert mfal("query", "labels", "run", "--limit", "4").stdout.endswith(f"4 of {every}: --limit 0 shows all\n")
    for most in (0, every):
        result = mfal("query", "labels", "run", "--limit", most)
        assert sum("magnetic" in line for line in result.stdout.splitlines()) == every
        assert "--limit" not in result.stdout


def test_only_a_table_has_a_limit_of_its_own(mfal, tmp_path):
    stores = open_stores(tmp_path, make=True)
    many = [{"campaign": "c", "round": i, "finished_at": "x"} for i in range(LIMIT + 1)]
    stores.rounds.store.update(many, key=KEYS["rounds"])
    stores.close()
    table = mfal("query", "rounds", tmp_path, "--columns", "round,finished_at").stdout
    assert len(re.findall(r"^ +\d+  x", table, re.MULTILINE)) == LIMIT
    assert table.endswith(f"{LIMIT} of {LIMIT + 1}: --limit 0 shows all\n")
    assert len(json.loads(mfal("query", "rounds", tmp_path, "--format", "json").stdout)) == LIMIT + 1


def test_a_campaign_file_is_for_its_campaign(finished, mfal, tmp_path):
    path, _ = finished
    stores = open_stores(tmp_path, make=True)
    stores.rounds.store.update([{"campaign": name, "round": 0} for name in ("small", "other")], key=KEYS["rounds"])
    stores.close()
    config = tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"directory": str(tmp_path)}))

    def campaigns(where, what):
        more = ["--where", where, "--format", "csv", "--columns", "campaign"]
        return mfal("query", "rounds", what, *more).stdout.split()[1:]

    assert campaigns("", tmp_path) == ["small", "other"]
    assert (
        campaigns("", config) == campaigns("round=0", config) == campaigns("campaign=small,other", config) == ["small"]
    )
    assert campaigns("campaign=other", tmp_path) == ["other"]
    assert campaigns("campaign=other", config) == []


def test_extxyz_of_labels(finished, mfal, tmp_path):
    out = tmp_path / "magnetic.extxyz"
    result = mfal("query", "labels", "run", "--where", "fidelity=magnetic", "--format", "extxyz", "--out", out)
    assert result.exit_code == 0, result.output
    frames, labels = dataset.read(out)
    assert result.stdout == f"{out}: {len(labels)} labels\n"
    assert not result.stderr
    mfal("export", finished[0], tmp_path / "all.extxyz")
    exported = [label for label in dataset.read(tmp_path / "all.extxyz")[1] if label.fidelity == "magnetic"]
    key = Label.model_dump_json
    assert sorted(labels, key=key) == sorted(exported, key=key)
    assert len(frames) == len(labels)
    assert (
        mfal("query", "labels", "run", "--where", "fidelity=magnetic", "--format", "extxyz").stdout == out.read_text()
    )


def test_extxyz_leaves_out_what_is_not_good(documents, mfal, tmp_path):
    stores = open_stores(tmp_path, make=True)
    stores.frames.store.update(documents("frames"), key=KEYS["frames"])
    labels = [label for label in documents("labels") if label["fidelity"] == "nonmagnetic"]
    labels[0]["status"] = "failed"
    labels[1]["forces"][0] = [99.0, 0.0, 0.0]  # beyond sanity.force
    stores.labels.store.update(labels, key=KEYS["labels"])
    arguments = ("query", "labels", tmp_path, "--format", "extxyz")
    result = mfal(*arguments, "--out", tmp_path / "x.extxyz")
    assert "Left out: 2 labels that are not good" in result.stderr
    assert result.stdout == f"{tmp_path / 'x.extxyz'}: {len(labels) - 2} labels\n"
    assert {label.frame_id for label in dataset.read(tmp_path / "x.extxyz")[1]} == {d["frame_id"] for d in labels[2:]}
    bad = mfal(*arguments, "--where", "status!=ok")
    assert bad.exit_code == 2
    assert "there is no good label to write" in bad.stderr
    # a frame with labels of two settings
    stores.labels.store.update(labels[2] | {"fingerprint": "other"}, key=KEYS["labels"])
    stores.close()
    twice = mfal(*arguments, "--out", tmp_path / "y.extxyz")
    assert twice.exit_code == 2
    assert f"{labels[2]['frame_id']} has 2 good nonmagnetic labels: give one of them" in twice.stderr
    assert not (tmp_path / "y.extxyz").exists()
    assert mfal(*arguments, "--where", "fingerprint=other").exit_code == 0


def test_extxyz_of_frames(documents, mfal, tmp_path):
    out = tmp_path / "frames.extxyz"
    result = mfal("query", "frames", "run", "--where", "round=1", "--format", "extxyz", "--out", out)
    expected = [d["frame_id"] for d in documents("frames") if d["round"] == 1]
    assert result.stdout == f"{out}: {len(expected)} frames\n"
    assert [frame.frame_id for frame in dataset.iter_frames(out)] == expected
    assert [image.info["frame_id"] for image in ase.io.read(out, ":")] == expected
    stores = open_stores("run")
    known = stores.all_frames()
    stores.close()
    for frame in dataset.iter_frames(out):
        assert frame.structure.matches(known[frame.frame_id].structure)
    # a name that ASE would take for an infinite number
    stores = open_stores(tmp_path, make=True)
    stores.frames.store.update(documents("frames")[0] | {"frame_id": "12e456789012"}, key=KEYS["frames"])
    stores.close()
    mfal("query", "frames", tmp_path, "--where", "frame_id=12e456789012", "--format", "extxyz", "--out", out, "--force")
    assert ase.io.read(out).info["frame_id"] == "12e456789012"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["scores", "run", "--format", "extxyz"], ["--format extxyz: scores have no atoms", "frames or labels"]),
        (["labels", "run", "--format", "extxyz", "--columns", "energy"], ["--columns energy: is not for"]),
        (["labels", "run", "--columns", "all"], ["--columns all", "--format json or csv"]),
        (["labels", "run", "--columns", "status,energi"], ["--columns energi", "did you mean 'energy'?"]),
        (["labels", "nowhere"], ["nowhere: has no campaign.sqlite"]),
        (["labels", "no-such.yaml"], ["no-such.yaml", "cannot be read"]),
    ],
)
@pytest.mark.usefixtures("finished")
def test_query_refuses(mfal, arguments, words):
    refused(mfal("query", *arguments), *words)
    assert not Path("nowhere").exists()


@pytest.mark.usefixtures("finished")
def test_out_is_not_overwritten(mfal, tmp_path):
    out = tmp_path / "labels.csv"
    out.write_text("mine")
    arguments = ("query", "labels", "run", "--format", "csv", "--out", out)
    refused(mfal(*arguments), "labels.csv: is there already", "--force")
    assert out.read_text() == "mine"
    assert mfal(*arguments, "--force").exit_code == 0
    assert out.read_text() == mfal(*arguments[:-2]).stdout
    refused(mfal(*arguments[:-1], tmp_path, "--force"), "is there already")
    table = mfal("query", "labels", "run", "--out", tmp_path / "table.txt")
    assert table.exit_code == 0
    assert set(COLUMNS["labels"].split()) < set((tmp_path / "table.txt").read_text().split())


@pytest.mark.parametrize(
    ("format", "printed"), [("table", ""), ("json", "[]\n"), ("csv", "frame_id\n"), ("extxyz", "")]
)
@pytest.mark.usefixtures("finished")
def test_nothing_found(mfal, tmp_path, format, printed):
    columns = [] if format == "extxyz" else ["--columns", "frame_id"]
    arguments = ("query", "labels", "run", "--where", "round>9", "--format", format, *columns)
    result = mfal(*arguments)
    assert result.exit_code == 0
    assert result.stdout == printed
    assert result.stderr == "None of the 15 labels in run matches\n"
    assert mfal(*arguments, "--out", tmp_path / "x").exit_code == 0
    assert (tmp_path / "x").exists() == bool(printed)


def test_times(documents, rows, mfal):
    times = sorted(document["last_updated"] for document in documents("labels"))
    found = rows("labels", f"last_updated>{times[4].isoformat()}", "--columns", "last_updated")
    assert len(found) == sum(time > times[4] for time in times)
    assert rows("labels", "last_updated<2020-01-01") == []
    refused(mfal("query", "labels", "run", "--where", "last_updated>soon"), "soon is no time", "2026-11-21")
