"""What workers keep of what they were sent: a campaign whose jobs ship only what is new, on the surrogate engine."""

from __future__ import annotations

import shutil

import pytest
from conftest import write_campaign

from flows import parcels
from flows.campaign import campaign_flow
from flows.local import run_flow
from flows.progress import Progress
from mfal.config_file import load
from mfal.frames import Label
from stores.campaign import open_stores

LABEL = Label(frame_id="a", fidelity="magnetic", fingerprint="b", status="ok", energy=-1.25, forces=[[0.5, 0, -0.5]])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MFAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_was_kept_comes_back_as_it_was():
    parcels.keep({"one": LABEL, "lost": None}, Label)
    assert parcels.unpacked({"one": None, "lost": None, "new": LABEL}, ["one"], Label) == {
        "one": LABEL,
        "lost": None,
        "new": LABEL,
    }


def test_what_was_never_sent_or_is_broken_is_asked_for(cache):
    with pytest.raises(parcels.NotKeptError):
        parcels.unpacked({"one": None}, ["one"], Label)
    parcels.keep({"one": LABEL}, Label)
    (file,) = cache.glob("*/one.json")
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(parcels.NotKeptError):
        parcels.unpacked({"one": None}, ["one"], Label)


def outcome(folder):
    with open_stores(folder) as stores:
        committees = [stores.committee("small", round) for round in (0, 1)]
        rounds = [
            r.model_dump(exclude={"finished_at", "core_hours", "saving", "probe"}) for r in stores.all_rounds("small")
        ]
        return [c.data_fingerprint for c in committees], [c.trained_on for c in committees], rounds


@pytest.mark.parametrize("wiped", [False, True])
def test_a_campaign_that_ships_only_what_is_new_is_the_same_campaign(tmp_path, finished, cache, wiped):
    """Its real twin, on workers without the campaign's disk, is in tests/cluster."""
    sent: dict[str, list[set[str]]] = {"explore": [], "train": [], "evaluate": []}
    replaced = []

    def look(event, _):
        kind = event.job.metadata["kind"]
        if event.what == "started" and kind in sent and event.job.index == 1:
            given = {
                a: v for argument in event.job.function_args if isinstance(argument, dict) for a, v in argument.items()
            }
            sent[kind].append({name for name, content in given.items() if content is not None})
            if wiped and event.job.metadata["round"] == 1:
                shutil.rmtree(cache)
        if event.what == "finished" and event.job.index == 2:
            replaced.append(kind)

    campaign = load(write_campaign(tmp_path))
    run_flow(campaign_flow(campaign, Progress(remote=True)), campaign, look)
    assert outcome(tmp_path / "run") == outcome(load(finished[0]).directory)
    for first, second in (sent["train"], sent["evaluate"]):
        assert not first & second
    assert sent["explore"] == [set(), set()]
    assert replaced == (["explore", "train", "evaluate"] if wiped else [])
