"""The report: what it says equals the documents, and nothing a campaign names can run or load anything."""

from __future__ import annotations

import base64
import gzip
import html
import re
from typing import Any

import pytest
from fake_report import EVIL, fake_campaign, fake_frame, fake_label, islands, page_of, shown
from plotly.offline import get_plotlyjs

from mfal.frames import FIDELITIES, Round
from mfal.report.standalone import number
from mfal.report.text import sentence

#: Of the chapters that tell of every round, from the first on.
FIGURES = {
    "errors-forces",
    "errors-energy",
    "cost",
    "spent",
    "saving",
    "moments",
    "sizes",
    "parity-magmoms-magnetic",
} | {f"parity-{q}-{f}" for q in ("forces", "energy", "stress") for f in FIDELITIES}


def test_every_figure_is_there_with_words_for_it() -> None:
    page = page_of(fake_campaign())
    drawn = islands(page).keys()
    assert drawn > FIGURES
    assert drawn == set(re.findall(r'<div class="plot" id="([\w-]+)"', page))
    for name in drawn:
        assert re.search(rf'id="{name}" role="img" aria-label="[^"]{{20,}}"', page), name


@pytest.mark.parametrize("evil", [EVIL, "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "<!--<script>"])
def test_what_a_campaign_names_stays_text(evil: str) -> None:
    campaign = fake_campaign()
    plain = page_of(campaign)
    campaign["campaign"] = evil
    frame = fake_frame(15, source=evil).model_copy(update={"parent": evil})
    campaign["frames"][frame.frame_id] = frame
    campaign["scores"] = [s.model_copy(update={"reason": evil}) for s in campaign["scores"]]
    campaign["labels"] = [
        x.model_copy(update={"reason": evil, "directory": evil, "fingerprint": evil, "settings": {evil: evil}})
        for x in campaign["labels"]
    ]
    campaign["rounds"] = [
        r.model_copy(
            update={"next_step": evil, "dropped": {evil: 1}, "finished_at": evil, "probe": evil, "saving": evil}
        )
        for r in campaign["rounds"]
    ]
    for item in campaign["parity"]:
        item["frame_id"] = evil
    page = page_of(campaign)
    text = page.replace("&#34;", '"').replace("&quot;", '"')
    for place in ("<dd>{}.</dd>", "<h1>{}</h1>", "next: <b>{}</b>"):
        assert place.format(html.escape(evil, quote=False)) in text, place
    assert text.count(f"<dd>{html.escape(evil, quote=False)}.</dd>") == 1  # what comes next
    assert text.count(f" {html.escape(evil, quote=False)}.</dd>") == 1  # the probe
    assert evil not in page
    for tag in ("<script", "</script", "<img", "<!--"):
        assert page.count(tag) == plain.count(tag), tag
    hovers = islands(page)["uncertainty"]["data"][0]["hovertext"]
    assert html.escape(evil, quote=False).replace(" ", "") in hovers[0].replace("<br>", "").replace(
        " ", ""
    )  # plotly reads a little HTML


def test_nothing_is_loaded_from_anywhere() -> None:
    page = page_of(fake_campaign())
    assert not re.findall(
        r"""(?:src|href|action|poster|data)\s*=\s*["']?(?!#)[^"'>\s]+""",
        page.split("<body>")[1].split('id="figures"')[0],
    )
    assert not re.search(r"https?://|@import|url\(|<link|<iframe|<base", page)
    assert "default-src 'none'" in page


def test_plotly_is_there_once_and_whole() -> None:
    page = page_of(fake_campaign())
    packed = re.findall(r'id="plotly">(.*?)</script>', page)
    assert len(packed) == 1
    assert gzip.decompress(base64.b64decode(packed[0])).decode() == get_plotlyjs()
    assert len(page) < 2.5e6


def test_same_documents_same_page() -> None:
    assert page_of(fake_campaign()) == page_of(fake_campaign())


def test_first_round_has_no_committee() -> None:
    page = page_of(fake_campaign(rounds=1))
    assert islands(page).keys() == FIGURES - {"saving"}
    assert "drawn at random" in page
    assert "Round 0, the first" in page


def test_failed_labels_without_numbers() -> None:
    campaign = fake_campaign()
    bad: dict[str, Any] = {
        "energy": None,
        "forces": None,
        "magmoms": None,
        "reason": "fake: no SCF",
        "directory": "/fake/dir",
    }
    campaign["labels"] = [
        fake_label(f, fidelity, "unconverged", **bad) for f in campaign["frames"].values() for fidelity in FIDELITIES
    ]
    campaign["parity"] = []
    for r in campaign["rounds"]:
        r.counts, r.errors = {"nonmagnetic": {"unconverged": 6}, "magnetic": {"unconverged": 6}}, {}
    page = page_of(campaign)
    assert islands(page).keys() & FIGURES == {"cost", "spent", "saving", "sizes"}
    assert "fake: no SCF" in page
    assert "/fake/dir" in page
    assert shown(page, "labels-magnetic") == "0 of 12 good"
    assert shown(page, "hold-out") == "– meV/Å"
    assert "nan" not in page.split('id="figures"')[0].lower()


def test_absent_moments() -> None:
    campaign = fake_campaign()
    campaign["labels"] = [x.model_copy(update={"magmoms": None}) for x in campaign["labels"]]
    page = page_of(campaign)
    assert islands(page).keys() & FIGURES == FIGURES - {"moments"}
    assert "No magnetic label with moments yet" in page


def test_barely_begun() -> None:
    only = Round(campaign="fake", round=0, candidates=0)
    empty = fake_campaign(rounds=0)
    page = page_of(empty | {"rounds": [only]})
    assert islands(page) == {}
    assert 'id="plotly"' not in page
    with pytest.raises(ValueError, match="no finished round"):
        page_of(empty)


@pytest.mark.parametrize(("text", "told"), [("", ""), ("uMLIPs agree", "UMLIPs agree."), ("Two. And.", "Two. And.")])
def test_sentence(text: str, told: str) -> None:
    assert sentence(text) == told


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0"), (-6.12345, "−6.12"), (0.01234, "0.0123"), (1234.5, "1,234"), (float("nan"), "–")],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text
