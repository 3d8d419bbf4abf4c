"""The report in Chromium: figures, the table, the view of a frame; nothing that a campaign names can run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, DRAWN, MISSING, SIDEWAYS, Watched, check_page, chromium, opened, until
from fake_report import fake_campaign, fake_frame, page_of
from playwright.sync_api import Browser
from test_report_explorer import island

from mfal.frames import Score
from mfal.report.standalone import hours, number

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def campaign() -> dict[str, Any]:
    """The made-up one with sigmas of atoms, directories, and a frame whose name, parent and source are markup."""
    made = fake_campaign()
    rng = np.random.default_rng(3)
    evil = next(s for s in made["scores"] if s.round == 1 and s.decision == "skip").frame_id
    made["frames"][EVIL] = (
        made["frames"].pop(evil).model_copy(update={"frame_id": EVIL, "parent": EVIL, "source": EVIL})
    )
    made["scores"] = [s.model_copy(update={"frame_id": EVIL}) if s.frame_id == evil else s for s in made["scores"]]
    made["scores"] = [with_atoms(score, rng) for score in made["scores"]]
    made["labels"] = [x.model_copy(update={"directory": "/fake/100 % & #1"}) for x in made["labels"]]
    return made


def with_atoms(score: Score, rng: np.random.Generator) -> Score:
    atoms = {kind: rng.gamma(3, 0.03, 6).tolist() for kind in ("nonmagnetic", "delta")}
    return score.model_copy(update={"sigma_atoms": atoms, "reason": EVIL if score.decision == "skip" else "fake why"})


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "round-1.html"
    path.write_text(page_of(campaign()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def long_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 500 frames, more than are in view or on paper."""
    made = fake_campaign()
    template = next(s for s in made["scores"] if s.round == 1)
    rng = np.random.default_rng(4)
    for i in range(100, 594):
        frame = fake_frame(i, source=f"md {300 * (i % 3 + 1)} K")
        made["frames"][frame.frame_id] = frame
        sigma = float(rng.gamma(3, 0.03)) if i % 7 else None
        changes = {"frame_id": frame.frame_id, "decision": "skip", "arm": None, "sigma_delta": sigma, "reason": "x"}
        made["scores"].append(template.model_copy(update=changes))
    path = tmp_path_factory.mktemp("long") / "round-1.html"
    path.write_text(page_of(made), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def only(browser: Browser, report: Path) -> Iterator[Watched]:
    found = opened(browser, report)
    yield found
    found.page.close()


@pytest.fixture
def watched(only: Watched) -> Iterator[Watched]:
    """One page for many tests, each with no view open and no filter set; the order of the rows is what it was."""
    only.page.evaluate("document.getElementById('frame').close()")
    only.page.locator(".filter input").fill("")
    for choice in only.page.locator(".filter select").all():
        choice.select_option("")
    yield only
    assert only.wrong == []


def columns(report: Path) -> dict[str, list[Any]]:
    return json.loads(island(report.read_text(encoding="utf-8"), "frames-table"))["columns"]


def ids(watched: Watched) -> list[str]:
    """Of the rows that are elements now, from above."""
    return watched.page.locator(".frames tbody th code").all_text_contents()


def test_all_is_drawn_everywhere_and_nothing_goes_wrong(browser: Browser, report: Path) -> None:
    check_page(browser, report)


def test_the_first_round_is_drawn_too(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "round-0.html"
    path.write_text(page_of(fake_campaign(rounds=1)), encoding="utf-8")
    check_page(browser, path)


def test_cells_say_what_the_data_says(watched: Watched, report: Path) -> None:
    data = columns(report)
    shown = ids(watched)
    assert sorted(shown) == sorted(data["frame_id"])
    for place, row in enumerate(map(data["frame_id"].index, shown)):
        line = watched.page.locator(".frames tbody tr:not(.space)").nth(place)
        cells = line.locator("td.figure").all_text_contents()
        sigmas = [data[f"sigma_{kind}"][row] for kind in ("nonmagnetic", "delta", "magnetic", "conditional")]
        assert cells[:4] == [number(sigma) for sigma in sigmas]
        expected = data["expected"][row]
        assert cells[4:6] == ["–" if expected is None else hours(expected), hours(data["spent"][row])]
        assert len(cells) == 10


@pytest.mark.parametrize("column", ["sigma_delta", "expected"])
def test_sorting_both_ways_keeps_absent_values_last(watched: Watched, report: Path, column: str) -> None:
    data = columns(report)
    known = {i: value for i, value in zip(data["frame_id"], data[column], strict=True) if value is not None}
    button = watched.page.locator(f'th[data-column="{column}"] button')
    for way, state in ((1, "ascending"), (-1, "descending")):
        button.focus()
        watched.page.keyboard.press("Enter")
        assert watched.page.locator("th[aria-sort]").get_attribute("aria-sort") == state
        assert watched.page.locator("th[aria-sort]").count() == 1
        shown = ids(watched)
        assert len(shown) == len(data["frame_id"])
        assert [known[i] for i in shown[: len(known)]] == sorted(known.values(), reverse=way < 0)
        assert not set(shown[len(known) :]) & known.keys()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("sigma_delta>0.08", lambda r: r["sigma_delta"] > 0.08),
        ("delta<=0.08 magnetic", lambda r: r["sigma_delta"] <= 0.08 and "magnetic" in r["route"]),
        ("source~SCRIPT", lambda r: EVIL in r["source"]),
        ('source="fake rattle"', lambda r: r["source"] == "fake rattle"),
        ("source!=rattle", lambda _: True),
        ("mn", lambda _: True),
        ("limnfepo2", lambda _: True),
        ("expected>0", lambda r: r["expected"] is not None),
        ("status=failed", lambda r: r["route"] == "magnetic"),
        ("nonsense>3", lambda _: False),
        ("", lambda _: True),
    ],
)
def test_find_shows_what_the_terms_say(watched: Watched, report: Path, text: str, wanted: Any) -> None:
    data = columns(report)
    rows = [dict(zip(data, values, strict=True)) for values in zip(*data.values(), strict=True)]
    watched.page.locator(".filter input").fill(text)
    expected = {row["frame_id"] for row in rows if wanted(row)}
    assert set(ids(watched)) == expected
    assert watched.page.locator("#shown").text_content().startswith(f"{len(expected)} of {len(rows)} frames")


def test_the_choices_filter_by_decision_and_label(watched: Watched, report: Path) -> None:
    data = columns(report)
    decision, label = watched.page.locator(".filter select").all()
    decision.select_option("both")
    both = {i for i, route in zip(data["frame_id"], data["route"], strict=True) if route == "both"}
    assert set(ids(watched)) == both
    decision.select_option("")
    for choice, count in (("any", 4), ("none", 2), ("failed", 1), ("good", 3)):
        label.select_option(choice)
        assert len(ids(watched)) == count, choice


def test_only_rows_in_view_are_elements_and_all_can_be_reached(browser: Browser, long_report: Path) -> None:
    watched = opened(browser, long_report)
    order = columns(long_report)["frame_id"]
    assert len(order) == 500
    first = ids(watched)
    assert 0 < len(first) < 60
    assert first == order[: len(first)]
    box = watched.page.locator(".explorer")
    box.focus()
    watched.page.keyboard.press("End")
    until(watched.page, "document.querySelector('.frames tbody').rows[1].getAttribute('aria-rowindex') > 400")
    assert ids(watched) == order[-len(ids(watched)) :]
    last = watched.page.locator(".frames tbody tr:not(.space)").last
    assert last.get_attribute("aria-rowindex") == "502"
    assert watched.page.locator(".frames").get_attribute("aria-rowcount") == "502"
    assert watched.wrong == []
    watched.page.close()


def test_paper_has_the_first_rows_of_the_order(browser: Browser, long_report: Path) -> None:
    watched = opened(browser, long_report)
    watched.page.locator('th[data-column="sigma_delta"] button').click()
    shown = ids(watched)
    watched.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    printed = ids(watched)
    assert len(printed) == 200
    assert printed[: len(shown)] == shown
    watched.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert ids(watched) == shown
    assert watched.wrong == []
    watched.page.close()


def test_the_view_says_what_the_documents_say(watched: Watched) -> None:
    page = watched.page
    made = campaign()
    label = next(x for x in made["labels"] if x.status == "failed")
    page.locator(f'.frames button[data-frame="{label.frame_id}"]').click()
    text = page.locator("#frame").inner_text()
    score = next(s for s in made["scores"] if s.frame_id == label.frame_id)
    assert number(score.sigma_delta) in text
    for words in ("fake crash", "failed", "fake why", "2.50 core-hours", "/fake/100 % & #1", label.frame_id):
        assert words in text, words
    link = page.locator("#frame a")
    assert link.get_attribute("href") == "file:///fake/100%20%25%20%26%20%231"
    assert link.get_attribute("rel") == "noreferrer"
    worst = int(np.argmax(score.sigma_atoms["delta"]))
    symbol = made["frames"][label.frame_id].structure[worst].specie.symbol
    assert f"{symbol} {worst}, σ Δ" in page.locator("[data-part=worst]").text_content()
    page.locator("#frame summary").click()
    assert page.locator("#frame .sites tbody tr").count() == 6


def test_markup_in_names_stays_text(watched: Watched) -> None:
    page = watched.page
    page.locator(f'.frames button[data-frame="{EVIL}"]').click()
    assert page.locator("#frame [data-part=origin]").text_content() == f"{EVIL}, {EVIL}, from {EVIL}"
    assert EVIL in page.locator("#frame [data-part=decision]").text_content()
    assert page.locator(".frames script, #frame script").count() == 0
    page.keyboard.press("Escape")
    # a clicked point, which has the name as plotly needs it
    page.evaluate("""() => {
      const plot = document.getElementById("uncertainty");
      const point = plot.data.find((trace) => trace.name.startsWith("no calculation")).customdata[0];
      plot.emit("plotly_click", { points: [{ customdata: point }] });
    }""")
    assert page.locator("#frame [data-part=origin]").text_content() == f"{EVIL}, {EVIL}, from {EVIL}"
    assert page.locator("#frame").get_attribute("open") is not None


def test_the_picture_turns_and_changes_its_colours(watched: Watched) -> None:
    page = watched.page
    page.locator(".frames tbody button").first.click()
    until(page, DRAWN)
    picture = page.locator("#frame canvas")
    seen = [picture.evaluate("(canvas) => canvas.toDataURL()")]

    def changed() -> None:
        seen.append(picture.evaluate("(canvas) => canvas.toDataURL()"))
        assert len(set(seen)) == len(seen)

    picture.focus()
    for key in ("ArrowLeft", "ArrowUp", "+"):
        page.keyboard.press(key)
        changed()
    page.get_by_role("button", name="Turn down").click()
    changed()
    box = picture.bounding_box()
    assert box
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 130)
    page.mouse.up()
    changed()
    for kind in ("σ Δ", "σ non-magnetic"):
        page.get_by_label(kind, exact=True).check()
        changed()


def test_next_and_previous_follow_the_table(watched: Watched) -> None:
    page = watched.page
    page.locator('th[data-column="sigma_magnetic"] button').click()
    order = ids(watched)
    page.locator(".frames tbody button").nth(1).click()
    origin = page.locator("#frame [data-part=origin]")
    for button, place in (("next", 2), ("next", 3), ("previous", 2), ("previous", 1), ("previous", 0)):
        page.get_by_role("button", name=button).click()
        assert order[place] in (origin.text_content() or "")
    assert page.get_by_role("button", name="previous").is_disabled()


def test_a_point_of_a_figure_opens_its_frame(watched: Watched) -> None:
    page = watched.page
    places = page.evaluate(
        """() => [...document.querySelectorAll("#uncertainty .scatterlayer .point")].map((point) => {
          point.scrollIntoView({ block: "center" });
          const box = point.getBoundingClientRect();
          return [box.x + box.width / 2, box.y + box.height / 2, scrollY];
        })"""
    )
    assert places
    x, y, _ = places[-1]
    page.mouse.move(x, y)
    page.mouse.click(x, y)
    page.wait_for_selector("#frame[open]")
    assert any(i in (page.locator("#frame [data-part=origin]").text_content() or "") for i in ids(watched))
    until(page, DRAWN)


def test_a_frame_beyond_the_budget_says_how_to_see_it(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mfal.report.explorer.chapter.BUDGET", 0)
    path = tmp_path / "round-1.html"
    path.write_text(page_of(campaign()), encoding="utf-8")
    watched = opened(browser, path)
    button = watched.page.locator(".frames tbody button").first
    frame_id = button.text_content()
    button.click()
    watched.page.wait_for_selector("[data-part=absent]:not([hidden])")
    command = watched.page.locator("[data-part=command]").text_content()
    assert command == f"mfal query frames CAMPAIGN.yaml --where frame_id={frame_id} --format extxyz"
    assert not watched.page.locator("#frame canvas").is_visible()
    assert watched.wrong == []
    watched.page.close()


def test_a_phone_scrolls_the_table_and_not_the_page(browser: Browser, report: Path) -> None:
    watched = opened(browser, report, width=400)
    assert watched.page.evaluate(SIDEWAYS) <= 0
    assert watched.page.evaluate(
        "(() => { const b = document.querySelector('.explorer'); return b.scrollWidth > b.clientWidth; })()"
    )
    watched.page.close()
