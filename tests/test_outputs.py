"""An output is there with its blobs or not at all, whenever the process dies."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import stores as mfal_stores
from stores.campaign import open_stores
from stores.connect import FILE

KILLED = """if True:
    import os, signal, sys
    from stores.campaign import open_stores
    from stores.sqlite import SQLiteStore

    opened = open_stores(sys.argv[1], make=True)
    update = SQLiteStore.update

    def updated_and_killed(store, *args, **kwargs):  # dies between the two writes, whichever comes first
        update(store, *args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    SQLiteStore.update = updated_and_killed
    opened.jobs.update({"uuid": "u", "index": 1, "output": {"frames": [1, 2]}}, save={"data": ["frames"]})
"""


def test_killed_between_document_and_blob(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parents[1], timeout=120, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / FILE).is_file()
    with mfal_stores.open(tmp_path) as opened:
        assert opened.jobs.count({"uuid": "u"}) == 0  # so that the job is run again


@pytest.mark.parametrize("place", ["file", "mongodb"])
def test_both_are_there(tmp_path, request, place):
    where = tmp_path if place == "file" else request.getfixturevalue("mongo_database")
    with open_stores(where, make=True) as opened:
        for frames in ([1, 2], [3]):  # put out again, as by an attempt under other limits
            document = {"uuid": "u", "index": 1, "output": {"frames": frames, "n": 2}}
            opened.jobs.update(document, save={"data": ["frames"]})
            assert opened.jobs.query_one({"uuid": "u"}, load=True)["output"] == {"frames": frames, "n": 2}
        assert opened.jobs.count() == 1
        assert set(opened.jobs.query_one({"uuid": "u"})["output"]["frames"]) >= {"blob_uuid", "store"}
        with pytest.raises(ValueError, match="Unrecognised additional store"):
            opened.jobs.update({"uuid": "v", "index": 1, "output": {"x": 1}}, save={"nowhere": ["x"]})
        assert opened.jobs.count({"uuid": "v"}) == 0
