"""Campaigns side by side: what the page says equals the documents, and says when errors do not compare."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from fake_report import EVIL, fake_campaign, islands

from mfal.report.comparison import render
from mfal.report.material import Material
from mfal.report.standalone import number


def two(**changes: Any) -> list[Material]:
    """Of the same made-up campaign, the second with half of its errors, and three rounds."""
    one, other = fake_campaign(rounds=2), fake_campaign(rounds=3) | {"campaign": "fake-other"} | changes
    for summary in other["rounds"]:
        held = summary.errors["hold_out"]["magnetic"]
        held.forces = held.forces / 2
    return [Material(**one), Material(**other)]


def cells(page: str, row: str) -> list[str]:
    found = re.search(rf'<th scope="row">{row}</th>(.*?)</tr>', page)
    assert found, row
    return [re.sub("<[^>]+>", "", cell).strip() for cell in re.findall("<td>(.*?)</td>", found[1])]


def test_the_table_equals_the_documents():
    materials = two()
    page = render(materials).html
    assert cells(page, "Rounds") == ["2", "3"]
    assert cells(page, "Magnetic labels, good of all") == ["4 of 5", "6 of 8"]
    errors = [m.last.errors["hold_out"]["magnetic"].forces for m in materials]
    assert cells(page, "MAE of forces") == [f"{number(error)} meV/Å" for error in errors]
    assert cells(page, "MAE of stress") == ["–", "–"]
    assert cells(page, "Core-hours, magnetic") == ["83.0", "126"]


def test_the_curves_are_the_rounds():
    materials = two()
    figures = islands(render(materials).html)
    assert figures.keys() == {"error-by-cost", "error-by-labels", "cost"}
    for trace, material in zip(figures["error-by-cost"]["data"], materials, strict=True):
        assert trace["name"] == material.campaign
        assert trace["y"] == [r.errors["hold_out"]["magnetic"].forces for r in material.rounds]
    assert figures["error-by-cost"]["data"][0]["x"] == [15 + 41, 15 + 41 + 15 + 42]
    assert figures["error-by-labels"]["data"][0]["x"] == [2, 4]


def test_it_says_when_errors_do_not_compare():
    hold_outs, settings = "The hold-outs are not the same frames", "The magnetic labels are of different settings"
    same = render(two()).html
    assert hold_outs not in same
    assert settings not in same
    assert hold_outs in render(two(parity=[])).html
    others = [x.model_copy(update={"fingerprint": "another"}) for x in fake_campaign(rounds=3)["labels"]]
    assert settings in render(two(labels=others)).html


def test_two_of_one_name_are_told_apart():
    page = render([Material(**fake_campaign()), Material(**fake_campaign())]).html
    assert '<th scope="col">fake-lmfp (1)</th><th scope="col">fake-lmfp (2)</th>' in page


def test_names_stay_text():
    plain, page = render(two()).html, render(two(campaign=EVIL)).html
    assert evil_free(page) == evil_free(plain)
    assert html.escape(EVIL) in page
    assert EVIL not in page
    traces = islands(page)["error-by-cost"]["data"]
    assert traces[1]["name"] == html.escape(EVIL, quote=False)  # plotly reads a little HTML


def evil_free(page: str) -> int:
    return page.count("<script")


def test_the_numbers_are_those_of_the_campaigns():
    found = render(two()).numbers["campaigns"]
    assert [item["campaign"] for item in found] == ["fake-lmfp", "fake-other"]
    assert found[0]["core_hours"] == {"nonmagnetic": 30.0, "magnetic": 83.0}


def test_the_command_compares_what_ran(finished, mfal):
    told = mfal("report", finished[0], finished[0], "--no-figures")
    assert told.exit_code == 0, told.output
    assert Path(told.stdout.strip()) == Path.cwd() / "run" / "reports" / "against-small.html"
    assert "small (2)" in Path(told.stdout.strip()).read_text()
