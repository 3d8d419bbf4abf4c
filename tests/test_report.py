"""The report: what it says equals the documents, and nothing a campaign names can run or load anything."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from typing import Any

import numpy as np
import pytest
from plotly.offline import get_plotlyjs
from pymatgen.core import Lattice, Structure

from mfal.frames import FIDELITIES, Errors, Fidelity, Frame, Label, Round, Score, Status
from mfal.report import render
from mfal.report.page import headline
from mfal.report.standalone import hours, number

EVIL = "</script><script>alert(1)</script>{{ 7*7 }}"
FIGURES = {"errors", "cost", "uncertainty", "moments"} | {
    f"parity-{q}-{f}" for q in ("forces", "energy") for f in FIDELITIES
}


def fake_frame(index: int, source: str = "fake rattle") -> Frame:
    """Not an olivine: six atoms on a line of no physical meaning."""
    species = ["Li", "P", "O", "O", "Mn", "Fe"]
    points = [[(i + 0.01 * index) / 6, 0.3, 0.1 * i] for i in range(6)]
    return Frame.of(Structure(Lattice.cubic(6), species, points), parent="fake-parent", source=source)


def fake_label(frame: Frame, fidelity: Fidelity, status: Status = "ok", **changes: Any) -> Label:
    """Numbers drawn from a generator seeded by the frame, not from any calculation."""
    rng = np.random.default_rng(int(frame.frame_id, 16))
    content: dict[str, Any] = {
        "frame_id": frame.frame_id,
        "fidelity": fidelity,
        "fingerprint": f"fake-{fidelity}",
        "status": status,
        "energy": -40 + rng.normal(),
        "forces": rng.normal(size=(6, 3)).tolist(),
        "core_hours": 2.5,
        "magmoms": [0, 0, 0, 0, 4.5, -3.7] if fidelity == "magnetic" else None,
        "settings": {"engine": "fake"},
    }
    return Label(**(content | changes))


def fake_campaign(rounds: int = 2, frames_a_round: int = 6) -> dict[str, Any]:
    """A campaign of made-up numbers with one failed calculation a round."""
    rng = np.random.default_rng(0)
    campaign: dict[str, Any] = {
        "campaign": "fake-lmfp",
        "rounds": [],
        "frames": {},
        "labels": [],
        "scores": [],
        "parity": [],
    }
    arms: list[Any] = ["hold_out", "control", "committee", "committee", None, None]
    for n in range(rounds):
        for i in range(frames_a_round):
            frame = fake_frame(10 * n + i)
            arm = arms[i % len(arms)]
            campaign["frames"][frame.frame_id] = frame
            sigma = {f"sigma_{k}": float(rng.gamma(3, 0.03)) for k in ("nonmagnetic", "delta", "magnetic")} if n else {}
            campaign["scores"].append(
                Score(
                    campaign="fake-lmfp",
                    round=n,
                    frame_id=frame.frame_id,
                    arm=arm,
                    reason="fake reason",
                    decision="magnetic" if arm else "skip",
                    **sigma,
                )
            )
            for fidelity in FIDELITIES if arm else FIDELITIES[:1]:
                label = fake_label(frame, fidelity)
                if fidelity == "magnetic" and i == 2:
                    label = fake_label(
                        frame, fidelity, "failed", energy=None, forces=None, magmoms=None, reason="fake crash"
                    )
                campaign["labels"].append(label)
                if label.good:
                    forces = np.asarray(label.forces).ravel()
                    campaign["parity"].append(
                        {
                            "frame_id": frame.frame_id,
                            "fidelity": fidelity,
                            "magmoms": None,
                            "set": "hold_out" if arm == "hold_out" else "train",
                            "energy": [label.energy / 6, label.energy / 6 + rng.normal() / 50],
                            "forces": [forces.tolist(), (forces + rng.normal(size=forces.size) / 10).tolist()],
                        }
                    )
        error = {
            f: Errors(energy=9.5, forces=(150 if f == "magnetic" else 60) / (n + 1.2), frames=2) for f in FIDELITIES
        }
        before = {f: Errors(energy=20, forces=(190 if f == "magnetic" else 95) / (n + 1), frames=2) for f in FIDELITIES}
        campaign["rounds"].append(
            Round(
                campaign="fake-lmfp",
                round=n,
                candidates=40,
                dropped={"near-duplicates": 30},
                counts={"nonmagnetic": {"ok": 6}, "magnetic": {"ok": 3, "failed": 1}},
                core_hours={"nonmagnetic": 15.0, "magnetic": 41.0 + n},
                errors={"hold_out": error, "hold_out_before": before, "control_before": before},
                trained_on={"nonmagnetic": 5 * n + 5, "magnetic": 2 * n + 2},
                threshold=0.05,
                next_step="go on with round 2.",
                finished_at="2025-11-21T02:40:00+00:00",
            )
        )
    return campaign


def islands(page: str) -> dict[str, Any]:
    found = re.findall(r'<script type="application/json" id="data-([\w-]+)">(.*?)</script>', page, re.DOTALL)
    return {name: json.loads(text) for name, text in found}


def shown(page: str, name: str) -> str:
    """The text of a headline number, with its unit."""
    found = re.search(rf'data-number="{name}">(.*?)</dd>', page)
    assert found, name
    return re.sub("<[^>]+>", "", found.group(1))


def test_every_figure_is_there_with_words_for_it() -> None:
    page = render(**fake_campaign())
    assert islands(page).keys() == FIGURES
    for name in FIGURES:
        assert re.search(rf'id="{name}" role="img" aria-label="[^"]{{20,}}"', page), name


def test_headline_equals_the_documents() -> None:
    campaign = fake_campaign()
    page = render(**campaign)
    last = campaign["rounds"][-1]
    assert shown(page, "hold-out") == f"{number(last.errors['hold_out']['magnetic'].forces)} meV/Å"
    assert f"{number(last.errors['hold_out_before']['magnetic'].forces)} before this round" in page
    assert shown(page, "labels-nonmagnetic") == "12 of 12 good"
    assert shown(page, "labels-magnetic") == "6 of 8 good"
    assert shown(page, "core-hours") == hours(15 + 15 + 41 + 42)
    assert shown(page, "skipped") == "2 of 6"
    assert "4 in all rounds" in page
    assert "go on with round 2." in page
    assert "n = 2 frames" in page
    assert "too few to say" in page
    numbers = headline(campaign["rounds"], campaign["scores"])
    assert numbers["core_hours"] == {"nonmagnetic": 30.0, "magnetic": 83.0}
    assert numbers["labels"] == {"nonmagnetic": (12, 12), "magnetic": (6, 8)}


@pytest.mark.parametrize("evil", [EVIL, "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "<!--<script>"])
def test_what_a_campaign_names_stays_text(evil: str) -> None:
    campaign = fake_campaign()
    plain = render(**campaign)
    campaign["campaign"] = evil
    frame = fake_frame(15, source=evil).model_copy(update={"parent": evil})
    campaign["frames"][frame.frame_id] = frame
    campaign["scores"] = [s.model_copy(update={"reason": evil}) for s in campaign["scores"]]
    campaign["labels"] = [
        x.model_copy(update={"reason": evil, "directory": evil, "fingerprint": evil, "settings": {evil: evil}})
        for x in campaign["labels"]
    ]
    campaign["rounds"] = [
        r.model_copy(update={"next_step": evil, "dropped": {evil: 1}, "finished_at": evil}) for r in campaign["rounds"]
    ]
    for item in campaign["parity"]:
        item["frame_id"] = evil
    page = render(**campaign)
    assert html.escape(evil, quote=False) in page.replace("&#34;", '"').replace("&quot;", '"')
    assert evil not in page
    for tag in ("<script", "</script", "<img", "<!--"):
        assert page.count(tag) == plain.count(tag), tag
    hovers = islands(page)["uncertainty"]["data"][0]["hovertext"]
    assert html.escape(evil, quote=False).replace(" ", "") in hovers[0].replace("<br>", "").replace(
        " ", ""
    )  # plotly reads a little HTML


def test_nothing_is_loaded_from_anywhere() -> None:
    page = render(**fake_campaign())
    assert not re.findall(
        r"""(?:src|href|action|poster|data)\s*=\s*["']?[^"'>\s]+""", page.split("<body>")[1].split('id="plotly"')[0]
    )
    assert not re.search(r"https?://|@import|url\(|<link|<iframe|<base", page)
    assert "default-src 'none'" in page


def test_plotly_is_there_once_and_whole() -> None:
    page = render(**fake_campaign())
    packed = re.findall(r'id="plotly">(.*?)</script>', page)
    assert len(packed) == 1
    assert gzip.decompress(base64.b64decode(packed[0])).decode() == get_plotlyjs()
    assert len(page) < 2.5e6


def test_same_documents_same_page() -> None:
    assert render(**fake_campaign()) == render(**fake_campaign())


def test_first_round_has_no_committee() -> None:
    page = render(**fake_campaign(rounds=1))
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
    page = render(**campaign)
    assert islands(page).keys() == {"cost", "uncertainty"}
    assert "fake: no SCF" in page
    assert "/fake/dir" in page
    assert shown(page, "labels-magnetic") == "0 of 12 good"
    assert shown(page, "hold-out") == "– meV/Å"
    assert "nan" not in page.split('id="plotly"')[0].lower()


def test_absent_moments() -> None:
    campaign = fake_campaign()
    campaign["labels"] = [x.model_copy(update={"magmoms": None}) for x in campaign["labels"]]
    page = render(**campaign)
    assert islands(page).keys() == FIGURES - {"moments"}
    assert "No magnetic label with moments yet" in page


def test_barely_begun() -> None:
    only = Round(campaign="fake", round=0, candidates=0, threshold=0.05)
    page = render(campaign="fake", rounds=[only], frames={}, labels=[], scores=[], parity=[])
    assert islands(page) == {}
    assert 'id="plotly"' not in page
    with pytest.raises(ValueError, match="no finished round"):
        render(campaign="fake", rounds=[], frames={}, labels=[], scores=[], parity=[])


def test_table_has_every_frame_of_the_round() -> None:
    campaign = fake_campaign()
    body = render(**campaign).split('<table class="frames">')[1].split("</table>")[0]
    ids = [s.frame_id for s in campaign["scores"] if s.round == 1]
    assert re.findall(r'<th scope="row"><code>(\w+)', body) == ids
    label = next(x for x in campaign["labels"] if x.frame_id == ids[0] and x.fidelity == "magnetic")
    assert number(label.energy / 6) in body
    assert number(max(np.linalg.norm(label.forces, axis=1))) in body


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0"), (-6.12345, "−6.12"), (0.01234, "0.0123"), (1234.5, "1,234"), (float("nan"), "–")],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text
