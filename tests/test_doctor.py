"""`mfal doctor`, on this machine as it is, and with single things of it taken away."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import namedtuple
from importlib import metadata, util
from pathlib import Path

import pytest
import torch
from conftest import write_campaign
from packaging.requirements import Requirement
from pymatgen.core import SETTINGS
from pymongo import MongoClient

from flows import doctor, examine
from stores import filesystem
from stores.campaign import open_stores
from stores.connect import FILE

RED = ("missing", "broken")
NO_VASP = {"kind": "vasp", "command": "no-such-vasp", "gamma_command": "no-such-vasp"}


@pytest.fixture
def found(mfal):
    """The exit code of the command, and its lines by their names."""

    def run(*arguments) -> tuple[int, dict[str, list[dict[str, str]]]]:
        result = mfal("doctor", *arguments, "--json")
        lines: dict[str, list[dict[str, str]]] = {}
        for line in json.loads(result.stdout):
            assert line["state"] in doctor.STYLES
            assert line["state"] == "ok" or line["mend"], line
            lines.setdefault(line["name"], []).append(line)
        return result.exit_code, lines

    return run


def red(lines: dict[str, list[dict[str, str]]]) -> set[str]:
    return {name for name, several in lines.items() if any(line["state"] in RED for line in several)}


def demanded(name: str) -> str:
    every = map(Requirement, metadata.requires("mfal"))
    return next(str(requirement.specifier) for requirement in every if requirement.name == name)


def test_this_machine(found):
    code, lines = found()
    assert (code, red(lines)) == (0, set())
    assert lines["torch"][0]["detail"] == f"{torch.__version__} ({demanded('torch')})"
    assert sys.executable in lines["Python"][0]["detail"]
    assert lines["GPAW with MPI"][0]["state"] == "ok"
    assert "Fe Li Mn O P" in lines["GPAW"][0]["detail"]
    assert not lines.keys() & {"directory", "mypy"}  # of a campaign, and of another extra


def test_only_what_the_campaign_needs_is_red(found, tmp_path, monkeypatch):
    monkeypatch.delitem(SETTINGS, "PMG_VASP_PSP_DIR", raising=False)
    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *more: None if name == "gpaw" else find(name, *more))
    code, lines = found(write_campaign(tmp_path, engine=NO_VASP))
    assert (code, red(lines)) == (1, {"VASP"})
    command, gamma, potcars = lines["VASP"]
    assert command["detail"] == "engine.command = 'no-such-vasp': there is no such program"
    assert command["mend"] == "load VASP's module, or write the whole path"
    assert gamma["detail"].startswith("engine.gamma_command")
    assert (potcars["detail"], potcars["state"]) == ("engine: no POTCARs", "missing")
    assert "PMG_VASP_PSP_DIR" in potcars["mend"]
    assert lines["GPAW"][0]["state"] == "not there"
    code, lines = found(write_campaign(tmp_path, engine={"kind": "gpaw"}))
    assert (code, red(lines)) == (1, {"GPAW"})
    assert "mfal[gpaw]" in lines["GPAW"][0]["mend"]
    assert {line["state"] for line in lines["VASP"]} == {"not there"}
    code, lines = found(write_campaign(tmp_path, engine={"kind": "cp2k", "command": "no-such-cp2k"}))
    assert (code, red(lines)) == (1, {"CP2K"})
    assert found(write_campaign(tmp_path))[0] == 0


def test_a_gpaw_without_mpi(found, tmp_path, monkeypatch):
    monkeypatch.setenv("GPAW_NO_C_EXTENSION", "1")
    code, lines = found(write_campaign(tmp_path, engine={"kind": "gpaw"}))
    assert (code, red(lines)) == (1, {"GPAW with MPI"})
    assert "libopenmpi-dev" in lines["GPAW with MPI"][0]["mend"]
    code, lines = found(write_campaign(tmp_path, engine={"kind": "gpaw", "processes": 1}))
    assert (code, red(lines)) == (0, set())


def test_a_table_with_too_few_labels(found, tmp_path):
    (tmp_path / "few.extxyz").write_text("")
    code, lines = found(write_campaign(tmp_path, engine={"kind": "table", "data": "few.extxyz"}))
    assert (code, red(lines)) == (1, {"labels"})
    assert "few.extxyz" in lines["labels"][0]["detail"]


@pytest.mark.parametrize(
    ("version", "state", "detail"),
    [
        (None, "missing", "not installed ({})"),
        ("0.0.1", "broken", "0.0.1 is not {}"),
        ("99.0rc1", "ok", "99.0rc1 ({})"),
    ],
)
def test_packages(found, tmp_path, monkeypatch, version, state, detail):
    real = metadata.version

    def versions(name: str) -> str:
        if name != "jobflow":
            return real(name)
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", versions)
    code, lines = found(write_campaign(tmp_path))
    assert [(line["state"], line["detail"]) for line in lines["jobflow"]] == [
        (state, detail.format(demanded("jobflow")))
    ]
    assert (code, red(lines)) == ((1, {"jobflow"}) if state in RED else (0, set()))
    assert lines["jobflow"][0]["mend"] == (f"pip install 'jobflow{demanded('jobflow')}'" if state in RED else "")


def test_an_old_python(found, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 1, "final", 0))
    code, lines = found(write_campaign(tmp_path))
    assert (code, red(lines)) == (1, {"Python"})
    assert lines["Python"][0]["detail"] == "3.10.1 is not >=3.11"


def test_what_the_training_asks_for(found, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("CXX", "no-such-compiler")
    code, lines = found(write_campaign(tmp_path, training={"device": "cuda", "compile": True}))
    assert (code, red(lines)) == (1, {"GPU", "C++ compiler"})
    code, lines = found(write_campaign(tmp_path))
    assert (code, lines["GPU"][0]["state"], lines["C++ compiler"][0]["state"]) == (0, "not there", "not there")


SECRETS = ("mongodb", "db.example", "carol", "s3cret", "login.example", "dave", "id_rsa", "27017")
PROJECT = """
name: first
workers:
  big-cluster: {type: remote, host: login.example.org, user: dave, password: s3cret, key_filename: /home/dave/id_rsa}
  here: {type: local, scheduler_type: shell}
  carol:s3cret@login.example.org: {type: mongodb+srv}
queue:
  store: {type: MongoStore, host: "mongodb://carol:s3cret@db.example.org:27017", username: carol, password: s3cret}
"""


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home with jobflow-remote in use; its package is an empty one."""
    (tmp_path / "packages" / "jobflow_remote").mkdir(parents=True)
    (tmp_path / "packages" / "jobflow_remote" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("JFREMOTE_PROJECTS_FOLDER", raising=False)
    monkeypatch.delenv("JOBFLOW_CONFIG_FILE", raising=False)
    (tmp_path / ".jfremote").mkdir()
    (tmp_path / ".jfremote" / "first.yaml").write_text(PROJECT)
    # What PyYAML and Python say of these quotes them.
    (tmp_path / ".jfremote" / "second.yaml").write_text("workers: *carol-s3cret\n")
    (tmp_path / ".jfremote" / "third.yaml").write_text("{workers: {a: s3cret}, password: s3cret")
    (tmp_path / ".jfremote" / "fourth.yaml").write_text("workers: carol:s3cret\n")
    (tmp_path / ".jobflow.yaml").write_text("JOB_STORE: 'mongodb://carol:s3cret@db.example.org:27017'\n")
    return tmp_path


@pytest.mark.usefixtures("home")
def test_no_secret_is_printed(mfal, found, tmp_path, monkeypatch):
    path = write_campaign(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")  # so that no secret is folded out of sight
    for arguments in ([], ["--json"]):
        result = mfal("doctor", path, *arguments)
        assert result.exit_code == 0, result.output
        assert "first: big-cluster (remote), here (local), ? (?)" in result.stdout
        for secret in SECRETS:
            assert secret not in result.output
    _, lines = found(path)
    assert [(line["detail"].split(":")[0], line["state"]) for line in lines["project"]] == [
        ("first", "ok"),
        ("fourth", "not there"),
        ("second", "not there"),
        ("third", "not there"),
    ]
    assert lines["jobflow's settings"][0]["state"] == lines["jobflow-remote"][0]["state"] == "ok"


@pytest.mark.usefixtures("home")
def test_without_jobflow_remote_its_files_are_not_read(found, tmp_path, monkeypatch):
    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *more: None if name == "jobflow_remote" else find(name, *more))
    code, lines = found(write_campaign(tmp_path))
    assert (code, lines["jobflow-remote"][0]["state"]) == (0, "not there")
    assert "project" not in lines


def test_a_directory_that_cannot_be_written(found, tmp_path):
    (tmp_path / "file").touch()
    for directory in ("file", "file/run"):
        code, lines = found(write_campaign(tmp_path, directory=str(tmp_path / directory)))
        assert (code, red(lines)) == (1, {"directory"})
        assert str(tmp_path / "file") in lines["directory"][0]["detail"]
    code, lines = found(write_campaign(tmp_path, directory=str(tmp_path / "new" / "run")))
    assert (code, lines[FILE][0]["state"]) == (0, "not there")
    assert not (tmp_path / "new").exists()


def test_a_full_disk(found, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40 - 2**29, 2**29))
    code, lines = found(write_campaign(tmp_path))
    assert (code, red(lines), lines["room"][0]["detail"]) == (1, {"room"}, "0.5 GiB")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_store_of_ours_is_known_and_left_alone(found, tmp_path):
    path, folder = write_campaign(tmp_path), tmp_path / "run"
    stores = open_stores(folder, make=True)
    try:
        # What was written is in the log yet. A copy is what a killed run leaves; without an index, what rsync may.
        shutil.copytree(folder, tmp_path / "killed")
        shutil.copytree(folder, tmp_path / "copied", ignore=shutil.ignore_patterns("*-shm"))
        before = set(contents(folder))
        assert before == {FILE, f"{FILE}-wal", f"{FILE}-shm"}
        assert found(path)[1][FILE][0]["state"] == "ok"
        assert set(contents(folder)) == before
    finally:
        stores.close()
    for name in ("run", "killed", "copied"):
        before = contents(tmp_path / name)
        code, lines = found(write_campaign(tmp_path, directory=str(tmp_path / name)))
        assert (code, lines[FILE][0]["state"]) == (0, "ok")
        after = contents(tmp_path / name)
        assert after.keys() == before.keys()
        # The index of a log is rebuilt by whoever reads it first.
        assert [file for file in before if after[file] != before[file] and not file.endswith("-shm")] == []


@pytest.mark.parametrize("closed", [True, False])
def test_a_store_of_another_program(found, tmp_path, closed):
    path, folder = write_campaign(tmp_path), tmp_path / "run"
    folder.mkdir()
    db = sqlite3.connect(folder / FILE, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("CREATE TABLE theirs (x)")
    if closed:
        db.close()
    before = contents(folder).keys()
    code, lines = found(path)
    db.close()
    assert (code, red(lines)) == (1, {FILE})
    assert "another program" in lines[FILE][0]["detail"]
    assert len(before) == (1 if closed else 3)
    assert not closed or contents(folder).keys() == before


def test_a_store_that_is_none_and_one_of_tomorrow(found, tmp_path):
    path, folder = write_campaign(tmp_path), tmp_path / "run"
    folder.mkdir()
    (folder / FILE).write_text("labels\n" * 1000)
    code, lines = found(path)
    assert (code, red(lines)) == (1, {FILE})
    assert "cannot be read as SQLite" in lines[FILE][0]["detail"]
    (folder / FILE).unlink()
    open_stores(folder, make=True).close()
    db = sqlite3.connect(folder / FILE)
    db.execute("PRAGMA user_version = 99")
    db.close()
    code, lines = found(path)
    assert (code, red(lines)) == (1, {FILE})
    assert "format 99" in lines[FILE][0]["detail"]


def test_who_runs_the_campaign(found, tmp_path):
    path, folder = write_campaign(tmp_path), tmp_path / "run"
    folder.mkdir()
    (folder / "run.lock").write_text("4711")
    assert found(path)[1]["run.lock"][0]["detail"] == "no run holds it"
    with open(folder / "run.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert found(path)[1]["run.lock"][0]["detail"] == "process 4711 runs the campaign"


@pytest.mark.parametrize(
    ("mounts", "kind"),
    [
        (["disk / ext4", "secret-server:/x {} nfs4"], "nfs4"),
        (["secret-server:/x {} nfs4", "disk / ext4"], "nfs4"),
        (["secret-server:/x / lustre", "disk {} xfs"], "xfs"),
        (["systemd-1 {} autofs", "secret-server:/x {} nfs"], "nfs"),
        (["disk / ext4", "secret-server:/x {}/run/below nfs"], "ext4"),
        (["disk / ext4", "secret-server:/x {beside} nfs"], "ext4"),
        (["disk / ext4", "secret-server:/x {} fuse.sshfs"], "fuse.sshfs"),
        (["disk / gpfs"], "gpfs"),
        (["disk / btrfs"], "btrfs"),
    ],
)
def test_the_file_system_under_the_store(found, tmp_path, monkeypatch, mounts, kind):
    folder = tmp_path / "a b"
    folder.mkdir()
    rows = [row.format(str(folder).replace(" ", "\\040"), beside=tmp_path / "a") for row in mounts]
    (tmp_path / "mounts").write_text("".join(f"{row} rw,relatime 0 0\n" for row in rows))
    monkeypatch.setattr(filesystem, "MOUNTS", tmp_path / "mounts")
    code, lines = found(write_campaign(folder))
    shared = kind in ("nfs", "nfs4", "fuse.sshfs", "gpfs")
    assert (code, red(lines)) == ((1, {"file system"}) if shared else (0, set()))
    assert lines["file system"][0]["detail"].split(":")[0] == kind
    assert "secret-server" not in json.dumps(lines)


def test_a_check_that_breaks_is_a_line(found, tmp_path, monkeypatch):
    def check(_):
        yield examine.Line("half", "ok", "before it broke")
        raise OSError("no answer from mongodb://carol:s3cret@db.example.org:27017 [b]today")

    monkeypatch.setitem(examine.CHECKS, "PyTorch", check)
    code, lines = found(write_campaign(tmp_path))
    assert (code, red(lines)) == (1, {"PyTorch"})
    assert lines["PyTorch"][0]["detail"] == "OSError: no answer from ... [b]today"
    assert lines.keys() >= {"half", "machine", "CP2K"}


def test_the_table(mfal, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    path = write_campaign(tmp_path, directory=str(tmp_path / "[b]run"), engine=NO_VASP)
    result = mfal("doctor", path)
    assert result.exit_code == 1
    assert str(tmp_path / "[b]run") in result.stdout
    rows = [row.split() for row in result.stdout.splitlines()]
    assert ["VASP", "missing", "engine.command"] in [row[:3] for row in rows]
    assert ["OMP_NUM_THREADS", "ok", "8;"] in [row[:3] for row in rows]
    assert ["PyTorch", "ok", f"{torch.__version__},"] in [row[:3] for row in rows]


def test_a_wrong_campaign_file_is_refused(mfal, tmp_path):
    result = mfal("doctor", tmp_path / "none.yaml")
    assert result.exit_code == 2
    assert "none.yaml: cannot be read" in result.stderr


def test_nothing_is_left_behind(found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_campaign(tmp_path)
    found(path)
    found()
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("content", ["JOB_STORE: mongodb://user:geheim123@host/db", "JOB_STORE: {uri: [geheim123"])
def test_a_bad_file_of_settings_is_named_and_not_shown(tmp_path, content):
    """jobflow reads it while it is imported, before any command of ours."""
    (tmp_path / ".jobflow.yaml").write_text(content)
    environment = os.environ | {"HOME": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-m", "flows", "doctor"], env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "~/.jobflow.yaml" in ended.stderr
    assert "geheim123" not in ended.stdout + ended.stderr


def test_a_store_elsewhere(found, tmp_path, mongo_database, monkeypatch):
    code, lines = found(write_campaign(tmp_path, store=f"sqlite:///{tmp_path}/deep/x.sqlite"))
    assert (code, lines["x.sqlite"][0]["state"], "store" in lines) == (0, "not there", False)
    code, lines = found(write_campaign(tmp_path, store=mongo_database))
    assert (code, lines["store"][0]["state"]) == (0, "ok")
    with MongoClient(mongo_database) as client:
        assert client.get_default_database().list_collection_names() == []  # it only looks
    monkeypatch.setattr("stores.connect.PATIENCE", 0.3)
    code, lines = found(write_campaign(tmp_path, store="mongodb://me:${PW}@127.0.0.1:9/none"))
    assert (code, red(lines)) == (1, {"store"})
    assert "${PW} is not in the environment" in str(lines["store"])
    monkeypatch.setenv("PW", "hunter2")
    code, lines = found(write_campaign(tmp_path, store="mongodb://me:${PW}@127.0.0.1:9/none"))
    assert "mongodb://127.0.0.1:9/none: cannot be reached" in str(lines["store"])
    assert "hunter2" not in str(lines)
