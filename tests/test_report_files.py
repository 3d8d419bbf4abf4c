"""`mfal report`: the files that it writes, and what it says of what it cannot."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from browser import CHROMIUM, MISSING
from fake_report import fake_campaign

from mfal.report import pictures
from mfal.report.material import Material
from mfal.report.page import render

drawn = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)


def test_the_page_and_its_numbers_stand_side_by_side(finished, mfal):
    told = mfal("report", finished[0], "--no-figures")
    assert told.exit_code == 0, told.output
    page = Path(told.stdout.strip())
    assert page == Path.cwd() / "run" / "reports" / "round-1.html"
    numbers = json.loads(page.with_suffix(".json").read_text())
    assert (numbers["campaign"], numbers["round"]) == ("small", 1)
    assert set(numbers) == {"campaign", "round", "answer", "uncertainty", "labelled", "explorer"}
    earlier = mfal("report", finished[0], "--no-figures", "--round", 0)
    assert json.loads(Path(earlier.stdout.strip()).with_suffix(".json").read_text())["round"] == 0


def test_somewhere_else(finished, mfal, tmp_path):
    told = mfal("report", finished[0], "--no-figures", "--out", tmp_path / "new" / "mine.html")
    assert told.exit_code == 0, told.output
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"mine.html", "mine.json"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--round", 7], ["small", "round 7", "finished are 0, 1"]),
        (["--out", "page.pdf"], ["--out page.pdf", "must end in .html"]),
        (["small.yaml", "--round", 0], ["--round", "one campaign"]),
        (["missing.yaml"], ["missing.yaml"]),
    ],
)
def test_what_cannot_be_is_refused(finished, mfal, arguments, words):
    told = mfal("report", finished[0], *arguments)
    assert told.exit_code == 2
    assert all(word in told.stderr for word in words), told.stderr


def test_without_a_browser_the_rest_is_written(finished, mfal, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures.shutil, "which", lambda _: None)
    told = mfal("report", finished[0], "--out", tmp_path / "page.html")
    assert told.exit_code == 0
    assert told.stdout.strip() == str(tmp_path / "page.html")
    assert "no Chrome or Chromium" in told.stderr
    assert "apt-get install chromium" in told.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"page.html", "page.json"}


def test_a_browser_that_breaks_changes_nothing(tmp_path, monkeypatch):
    """A fake one: no Chromium is started."""
    import kaleido

    def broken(_):
        raise RuntimeError("fake crash")

    monkeypatch.setattr(pictures.shutil, "which", lambda name: name)
    monkeypatch.setattr(kaleido, "write_fig_from_object_sync", broken)
    (tmp_path / "round-0").mkdir()
    (tmp_path / "round-0" / "kept.svg").touch()
    with pytest.raises(pictures.CannotDrawError, match="fake crash"):
        pictures.write(render(Material(**fake_campaign())).plots, tmp_path / "round-0")
    assert [path.name for path in tmp_path.rglob("*")] == ["round-0", "kept.svg"]


def test_a_still_figure_has_colours_of_its_own_and_its_legend():
    for plot in render(Material(**fake_campaign())).plots:
        text = pictures.still(plot).to_json()
        assert "var(" not in text, plot.name
        assert re.search(r"#[0-9a-f]{6}", text), plot.name
        assert "var(" in plot.figure.to_json()  # the page's own is as it was


@drawn
def test_figures_are_drawn(tmp_path):
    plots = [plot for plot in render(Material(**fake_campaign())).plots if plot.name in ("uncertainty", "moments")]
    assert len(plots) == 2
    (tmp_path / "round-1").mkdir()
    (tmp_path / "round-1" / "old.svg").touch()
    files = pictures.write(plots, tmp_path / "round-1")
    assert [path.name for path in files] == ["moments.png", "moments.svg", "uncertainty.png", "uncertainty.svg"]
    assert [path.name for path in tmp_path.iterdir()] == ["round-1"]
    svg = (tmp_path / "round-1" / "uncertainty.svg").read_text()
    assert svg.startswith("<svg")
    assert "no calculation" in svg  # the legend
    assert files[0].read_bytes().startswith(b"\x89PNG")
