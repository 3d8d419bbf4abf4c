"""The report: what it says equals the documents, and nothing a campaign names can run or load anything."""

from __future__ import annotations

import base64
import gzip
import html
import re
from typing import Any

import numpy as np
import pytest
from fake_report import EVIL, fake_campaign, fake_frame, fake_label, islands, page_of
from plotly.offline import get_plotlyjs

from mfal.frames import FIDELITIES, Round
from mfal.report.answer import headline
from mfal.report.standalone import hours, number
from mfal.report.text import sentence

FIGURES = {"errors", "cost", "uncertainty", "moments"} | {
    f"parity-{q}-{f}" for q in ("forces", "energy") for f in FIDELITIES
}


def shown(page: str, name: str) -> str:
    """The text of a headline number, with its unit."""
    found = re.search(rf'data-number="{name}">(.*?)</dd>', page)
    assert found, name
    return re.sub("<[^>]+>", "", found.group(1))


def test_every_figure_is_there_with_words_for_it() -> None:
    page = page_of(fake_campaign())
    assert islands(page).keys() == FIGURES
    for name in FIGURES:
        assert re.search(rf'id="{name}" role="img" aria-label="[^"]{{20,}}"', page), name


def test_headline_equals_the_documents() -> None:
    campaign = fake_campaign()
    page = page_of(campaign)
    last = campaign["rounds"][-1]
    assert shown(page, "hold-out") == f"{number(last.errors['hold_out']['magnetic'].forces)} meV/Å"
    assert f"{number(last.errors['hold_out_before']['magnetic'].forces)} before this round" in page
    assert shown(page, "labels-nonmagnetic") == "8 of 8 good"
    assert shown(page, "labels-magnetic") == "4 of 5 good"
    assert shown(page, "core-hours") == hours(15 + 15 + 41 + 42)
    assert shown(page, "skipped") == "1 of 6"
    assert shown(page, "decided") == "1 non-magnetic, 1 magnetic, 2 both, 1 set asideall rounds: 2 of 12"
    assert "go on with round 2." in page
    assert "n = 2 frames" in page
    assert "too few to say" in page
    numbers = headline(campaign["rounds"])
    assert numbers["core_hours"] == {"nonmagnetic": 30.0, "magnetic": 83.0}
    assert numbers["labels"] == {"nonmagnetic": (8, 8), "magnetic": (4, 5)}


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
    for place in ("<dd>{}.</dd>", '<small class="reason">{}</small>', "<h1>{}</h1>", "next: <b>{}</b>"):
        assert place.format(html.escape(evil, quote=False)) in text, place
    assert text.count(f"<dd>{html.escape(evil, quote=False)}.</dd>") == 2  # probe and saving
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
        r"""(?:src|href|action|poster|data)\s*=\s*["']?[^"'>\s]+""", page.split("<body>")[1].split('id="figures"')[0]
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
    assert islands(page).keys() == FIGURES - {"uncertainty"}
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
    assert islands(page).keys() == {"cost", "uncertainty"}
    assert "fake: no SCF" in page
    assert "/fake/dir" in page
    assert shown(page, "labels-magnetic") == "0 of 12 good"
    assert shown(page, "hold-out") == "– meV/Å"
    assert "nan" not in page.split('id="figures"')[0].lower()


def test_absent_moments() -> None:
    campaign = fake_campaign()
    campaign["labels"] = [x.model_copy(update={"magmoms": None}) for x in campaign["labels"]]
    page = page_of(campaign)
    assert islands(page).keys() == FIGURES - {"moments"}
    assert "No magnetic label with moments yet" in page


def test_barely_begun() -> None:
    only = Round(campaign="fake", round=0, candidates=0)
    empty = fake_campaign(rounds=0)
    page = page_of(empty | {"rounds": [only]})
    assert islands(page) == {}
    assert 'id="plotly"' not in page
    with pytest.raises(ValueError, match="no finished round"):
        page_of(empty)


def test_table_has_every_frame_of_the_round() -> None:
    campaign = fake_campaign()
    body = page_of(campaign).split('<table class="frames">')[1].split("</table>")[0]
    ids = [s.frame_id for s in campaign["scores"] if s.round == 1]
    assert re.findall(r'<th scope="row"[^>]*><code>(\w+)', body) == ids
    label = next(x for x in campaign["labels"] if x.frame_id == ids[0] and x.fidelity == "magnetic")
    assert number(label.energy / 6) in body
    assert number(max(np.linalg.norm(label.forces, axis=1))) in body
    # A frame is a body of the table: page.js sorts these
    bodies = [re.sub(r"\s+", " ", part) for part in body.split("<tbody>")[1:]]
    assert len(bodies) == len(ids)
    names = ["both, control arm", "both", "magnetic", "non-magnetic", "no calculation", "set aside"]
    costs = [("9.75", "5.00"), ("9.75", "5.00"), ("7.50", "2.50"), ("2.25", "2.50"), ("–", "0"), ("–", "0")]
    for part, name, (expected, spent) in zip(bodies, names, costs, strict=True):
        assert f'data-sort="{name}"' in part
        assert f"</span>{name}</td>" in part
        cells = re.findall(r'<td class="figure"[^>]*>([^<]*)</td>', part)
        assert cells[4:6] == [expected, spent]
        assert "fake reason" in part
    score = next(s for s in campaign["scores"] if s.round == 1)
    sigmas = (score.sigma_nonmagnetic, score.sigma_delta, score.sigma_magnetic, score.sigma_conditional)
    assert re.findall(r'<td class="figure"[^>]*>([^<]*)</td>', bodies[0])[:4] == [number(s) for s in sigmas]
    headers = [int(n) for n in re.findall(r'data-column="(\d+)"', body)]
    assert headers == list(range(len(re.findall(r"<t[hd]\b", bodies[0].split("</tr>")[0]))))


def test_what_is_not_known_yet_is_not_mentioned() -> None:
    campaign = fake_campaign()
    page = page_of(campaign)
    assert "<dd>Fake saving: twice.</dd>" in page
    assert "<dd>Fake probe: it pays.</dd>" in page
    campaign["rounds"][-1].saving = ""
    page = page_of(campaign)
    assert "What choosing gains" not in page
    assert "<dd>Fake probe: it pays.</dd>" in page
    campaign["rounds"][-1].probe = ""
    assert '<dl class="findings">' not in page_of(campaign)


@pytest.mark.parametrize(("text", "told"), [("", ""), ("uMLIPs agree", "UMLIPs agree."), ("Two. And.", "Two. And.")])
def test_sentence(text: str, told: str) -> None:
    assert sentence(text) == told


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0"), (-6.12345, "−6.12"), (0.01234, "0.0123"), (1234.5, "1,234"), (float("nan"), "–")],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text
