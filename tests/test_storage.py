"""What a campaign file may say of its store: what is taken, what is refused, and that no password is repeated."""

from __future__ import annotations

import pytest
import yaml
from conftest import small_campaign
from jobflow import JobStore
from maggma.stores import GridFSStore, MongoStore

from mfal.config_file import ConfigError, load
from stores import connect
from stores.connect import address
from stores.sqlite import SQLiteStore

SECRET = "hunter2"
MONGO = {"type": "MongoStore", "database": "d", "collection_name": "outputs", "host": "h"}


def loaded(folder, store):
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(small_campaign(folder / "run") | {"store": store}))
    return load(path).store


@pytest.mark.parametrize(
    "store",
    [
        None,
        "jobflow",
        "sqlite:////data/labels.sqlite",
        "mongodb://localhost/mfal",
        "mongodb://one:27017,two:27018/mfal?replicaSet=rs0",
        "mongodb+srv://me:${MONGO_PASSWORD}@cluster.example.org/mfal?authSource=admin",
        "mongodb://h/d?tlsCertificateKeyFilePassword=${KEY}",
        MONGO,
        MONGO | {"username": "me", "password": "${MONGO_PASSWORD}"},
        {"docs_store": MONGO, "additional_stores": {"data": MONGO | {"type": "GridFSStore"}}},
        {"@module": "maggma.stores.mongolike", "@class": "MongoStore", "database": "d", "collection_name": "outputs"},
    ],
)
def test_forms(tmp_path, store):
    assert loaded(tmp_path, store) == store


def test_a_relative_file_stays_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert loaded(tmp_path, "sqlite:///here/a.sqlite") == f"sqlite:///{tmp_path}/here/a.sqlite"


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ("mongo", ["is no address", "mongodb://host/database"]),
        (7, ["is no address"]),
        ("sqlite://a.sqlite", ["is no address", "sqlite:///folder/name.sqlite"]),
        ("mongodb://localhost", ["is no address"]),
        ("mongodb://localhost/", ["is no address"]),
        ("mongodb://localhost/a.b", ["is no address"]),
        (["sqlite:///a"], ["is no address"]),
        ({"host": "h"}, ["without 'type'"]),
        (f"mongodb://me:{SECRET}@h/d", ["holds a password", "${MONGO_PASSWORD}"]),
        (f"mongodb://me:{SECRET}@x@h/d", ["is no address"]),
        (f"mongodb://me:{SECRET}/x@h/d", ["is no address"]),
        (f"postgres://me:{SECRET}@h/d", ["is no address"]),
        (f"mongodb://h/d?tlsCertificateKeyFilePassword={SECRET}", ["tlsCertificateKeyFilePassword: holds a password"]),
        (f"mongodb://h/d?authMechanismProperties=AWS_SESSION_TOKEN:{SECRET}", ["holds a password"]),
        (MONGO | {"password": SECRET}, ["password: holds a password", "${MONGO_PASSWORD}"]),
        (MONGO | {"ssh_tunnel": {"type": "SSHTunnel", "password": SECRET}}, ["holds a password"]),
        (MONGO | {"mongoclient_kwargs": {"tlsCertificateKeyFilePassword": SECRET}}, ["holds a password"]),
        ({"type": "MongoURIStore", "uri": f"mongodb://me:{SECRET}@h/d"}, ["uri: holds a user", "address alone"]),
        ({"docs_store": MONGO | {"password": [SECRET]}}, ["holds a password"]),
    ],
)
def test_what_is_refused_and_not_repeated(tmp_path, store, words):
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, store)
    assert "store: " in str(refused.value)
    assert all(word in str(refused.value) for word in words), refused.value
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "place", [f"mongodb://me:{SECRET}@h/d", f"mongodb://me:{SECRET}@h", f"postgres://{SECRET}@h/d"]
)
def test_addresses_on_the_command_line_are_checked_alike(mfal, place):
    result = mfal("query", "labels", place)
    assert result.exit_code == 2
    assert result.stderr.startswith("store: ")
    assert SECRET not in result.output


def test_addresses_are_for_people():
    assert address(f"mongodb://me:{SECRET}@h:1/d?a=b", None) == "mongodb://h:1/d"
    assert address("sqlite:////a/b.sqlite", None) == "sqlite:////a/b.sqlite"
    assert address(MONGO | {"password": SECRET, "username": "me"}, None) == "MongoStore h/d"
    assert address({"docs_store": MONGO}, None) == "MongoStore h/d"


def test_user_and_password_come_from_the_environment_and_stand_in_no_name(monkeypatch):
    monkeypatch.setenv("MONGO_USER", "m@e")
    monkeypatch.setenv("MONGO_PASSWORD", f"{SECRET}/%40")
    docs, blobs = connect._mongodb("mongodb://${MONGO_USER}:${MONGO_PASSWORD}@h:1,g:2/d?replicaSet=r&authSource=x")
    for store in (docs, blobs):
        assert (store.username, store.password, store.auth_source) == ("m@e", f"{SECRET}/%40", "x")
        assert (store.database, store.host) == ("d", "mongodb://h:1,g:2/?replicaSet=r&authSource=x")
        assert SECRET not in store.name
    assert connect._mongodb("mongodb://a%40b@h/d")[0].username == "a@b"
    monkeypatch.delenv("MONGO_PASSWORD")
    with pytest.raises(ValueError, match=r"\$\{MONGO_PASSWORD\} is not in the environment: export MONGO_PASSWORD"):
        connect._mongodb("mongodb://me:${MONGO_PASSWORD}@h/d")


def test_what_jobflow_has_is_taken_with_its_blobs(monkeypatch):
    monkeypatch.setenv("PW", SECRET)
    docs, blobs, prefix = connect._given(MONGO | {"username": "me", "password": "${PW}"}, None)
    assert (type(docs), docs.collection_name, docs.password) == (MongoStore, "outputs", SECRET)
    assert (type(blobs), blobs.collection_name, blobs.password) == (GridFSStore, "outputs_blobs", SECRET)
    assert prefix == "mfal_"
    own = {"type": "GridFSStore", "database": "d", "collection_name": "theirs"}
    both = {"docs_store": MONGO, "additional_stores": {"data": own}}
    assert connect._given(both, None)[1].collection_name == "theirs"
    monkeypatch.setattr(connect.SETTINGS, "JOB_STORE", JobStore(MongoStore("d", "outputs")))
    assert connect._given("jobflow", None)[1].collection_name == "outputs_blobs"


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ({"type": "MemoryStore"}, "forgets all when the process ends"),
        ({"type": "JSONStore", "paths": "a.json", "read_only": False}, "loses what two processes write"),
        ({"type": "NoSuchStore"}, "is not what maggma makes a store of"),
        ({"type": "MongoStore", "password": "${PW}", "databse": "d"}, "is not what maggma makes a store of"),
        ({"@module": "fractions", "@class": "Fraction"}, "is no maggma store"),
    ],
)
def test_stores_that_cannot_keep_a_campaign(tmp_path, monkeypatch, store, words):
    monkeypatch.setenv("PW", SECRET)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^store = .*{words}") as refused:
        connect.connect(store, None)
    assert SECRET not in str(refused.value)


def test_the_default_and_a_file(tmp_path):
    jobs, collections = connect.connect(None, tmp_path)
    assert jobs.docs_store == SQLiteStore(tmp_path / connect.FILE, "outputs")
    assert collections["labels"] == SQLiteStore(tmp_path / connect.FILE, "labels")
    connect.connect(f"sqlite:///{tmp_path}/deep/er.sqlite", None)
    assert (tmp_path / "deep" / "er.sqlite").is_file()
