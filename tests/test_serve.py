"""`mfal serve`: what it gives out and to whom, and that it follows a campaign. A real server on a real store."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import uvicorn
from browser import CHROMIUM, MISSING, chromium, until

from flows.serve import application
from flows.standing import standing
from mfal.config import Campaign
from mfal.config_file import load
from stores.campaign import CampaignStores, open_stores

SECRET = "a-secret"


@contextmanager
def served(stores: CampaignStores, campaign: Campaign) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(
            uvicorn.Config(application(stores, campaign, SECRET), log_level="error", timeout_graceful_shutdown=0)
        )
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://localhost:{listening.getsockname()[1]}/{SECRET}/"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def copied(finished, tmp_path) -> Iterator[tuple[Campaign, CampaignStores]]:
    """A campaign that ran to its end, in a store of its own."""
    shutil.copytree(Path.cwd() / "run", tmp_path / "run")
    campaign = load(finished[0]).model_copy(update={"directory": tmp_path / "run"})
    with open_stores(campaign) as stores:
        yield campaign, stores


def fetched(address: str, **headers: str) -> HTTPResponse:
    return urlopen(Request(address, headers=headers), timeout=60)


def events(response: HTTPResponse) -> Iterator[dict]:
    for line in response:
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))


def test_the_last_report_and_every_other(copied):
    with served(copied[1], copied[0]) as home:
        last = fetched(home)
        assert last.url == f"{home}round/1"
        page = last.read().decode()
        assert "small, round 1: mfal report" in page
        assert "connect-src 'self'" in page
        assert '<aside id="live"' in page
        assert last.headers["Cache-Control"] == "no-store"
        assert last.headers["Referrer-Policy"] == "no-referrer"  # its address is a secret
        assert "small, round 0: mfal report" in fetched(f"{home}round/0").read().decode()
        assert json.load(fetched(f"{home}numbers/0"))["round"] == 0


@pytest.mark.parametrize(
    ("place", "headers", "code"),
    [
        ("../", {}, 404),
        ("../wrong/", {}, 404),
        ("../wrong/events", {}, 404),
        ("round/7", {}, 404),
        ("", {"Host": "evil.example"}, 400),
        ("events", {"Host": "evil.example"}, 400),
    ],
)
def test_nothing_is_given_out_without_the_secret_or_under_another_name(copied, place, headers, code):
    with served(copied[1], copied[0]) as home:
        address = home.replace(f"{SECRET}/", "") + place.removeprefix("../") if place.startswith("..") else home + place
        with pytest.raises(HTTPError) as refused:
            fetched(address, **headers)
        assert refused.value.code == code
        assert SECRET not in refused.value.read().decode()


def test_it_follows_the_campaign(copied):
    campaign, stores = copied
    done = list(stores.rounds.store.query({"campaign": "small"}, sort={"round": 1}))
    stores.rounds.store.remove_docs({"round": 1})
    with served(stores, campaign) as home, fetched(f"{home}events") as response:
        told = events(response)
        first = next(told)
        assert (first["finished"], first["round"], first["ended"]) == (0, 1, False)
        stores.rounds.store.update(done[1:])
        second = next(told)
        assert (second["finished"], second["round"], second["ended"]) == (1, 1, True)
        assert second["next_step"] == stores.all_rounds("small")[-1].next_step


def test_before_the_first_round_there_is_a_page_that_waits(copied):
    campaign, stores = copied
    stores.rounds.store.remove_docs({})
    with served(stores, campaign) as home:
        page = fetched(home).read().decode()
        assert "No round is finished yet" in page
        assert "<h1>small</h1>" in page


def test_where_a_campaign_stands_equals_its_documents(copied):
    _, stores = copied
    labels = list(stores.labels.store.query({"round": 1}))
    now = standing(stores, "small", {})
    assert now.ended
    assert now.round == 1
    for fidelity, found in now.calculations.items():
        own = [label for label in labels if label["fidelity"] == fidelity]
        assert found.asked == sum(found.by_status.values()) == len({label["frame_id"] for label in own})
        assert found.core_hours == pytest.approx(sum(label["core_hours"] for label in own))
    assert len(now.newest) == min(6, len(labels))
    assert [news.finished_at for news in now.newest] == sorted((x["finished_at"] for x in labels), reverse=True)[:6]
    stores.rounds.store.remove_docs({"round": 1})
    assert not standing(stores, "small", {}).ended
    stores.jobs.remove_docs({"metadata.kind": "decide", "metadata.round": 1})
    stores.scores.store.remove_docs({"round": 1})  # only the second decision builds them
    first = standing(stores, "small", {}).calculations
    assert first["magnetic"].asked is None
    assert first["nonmagnetic"].asked == now.calculations["nonmagnetic"].asked > 0
    stores.jobs.remove_docs({"metadata.kind": "score", "metadata.round": 1})
    assert not standing(stores, "small", {}).scored
    for collection in (stores.models, stores.labels, stores.frames):
        collection.store.remove_docs({"round": 1})
    begun = standing(stores, "small", {})
    assert (begun.frames, begun.scored, begun.trained, begun.newest) == (0, False, False, [])


def test_an_attempt_once_more_counts_once(copied):
    _, stores = copied
    label = stores.labels.store.query_one({"round": 1, "fidelity": "magnetic"})
    before = standing(stores, "small", {}).calculations["magnetic"]
    again = {key: value for key, value in label.items() if key != "_id"} | {"attempt": 2, "status": "failed"}
    stores.labels.store.update([again])
    after = standing(stores, "small", {}).calculations["magnetic"]
    assert sum(after.by_status.values()) == sum(before.by_status.values())
    assert after.by_status["failed"] == 1
    assert after.core_hours > before.core_hours


def test_a_port_that_is_taken_is_refused(finished, mfal):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = mfal("serve", finished[0], "--port", port)
    assert told.exit_code == 2
    assert f"--port {port}" in told.stderr
    assert "give another" in told.stderr


def test_nothing_has_run(tmp_path, mfal):
    from conftest import write_campaign

    told = mfal("serve", write_campaign(tmp_path), "--port", 0)
    assert told.exit_code == 2
    assert "'mfal run'" in told.stderr


@pytest.mark.skipif(CHROMIUM is None, reason=MISSING)
def test_the_page_follows_by_itself(copied):
    """In a real browser: waits for the first report, shows it, and says when the next one is there."""
    campaign, stores = copied
    done = list(stores.rounds.store.query({"campaign": "small"}, sort={"round": 1}))
    stores.rounds.store.remove_docs({})
    with served(stores, campaign) as home, chromium() as browser:
        page = browser.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
        page.goto(home)
        page.wait_for_selector("text=No round is finished yet")
        page.wait_for_selector("#live :text('Round 0 is under way')")
        stores.rounds.store.update(done[:1])
        page.wait_for_url("**/round/0")
        page.wait_for_selector("#live :text('Round 1 is under way: evaluating')")
        assert page.locator("#live progress").count() == 2
        stores.rounds.store.update(done[1:])
        page.locator("#live a").click()
        page.wait_for_url("**/round/1")
        page.wait_for_selector("#live :text('The campaign has ended')")
        until(page, "!document.querySelector('.plot:not(.js-plotly-plot)')")
        page.wait_for_selector(".explorer[data-ready]")
        scored = {score.frame_id for score in stores.all_scores("small", round=1)}
        assert set(page.locator(".frames tbody button[data-frame] code").all_text_contents()) == scored
        assert wrong == []
