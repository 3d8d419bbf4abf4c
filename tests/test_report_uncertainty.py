"""The chapter on the uncertainty: its figures, lists and numbers equal the scores, the evidence and the calibration."""

from __future__ import annotations

import html
import re
from typing import Any, get_args

import numpy as np
import pytest
from fake_report import EVIL, fake_calibration, fake_campaign, islands, page_of
from pymatgen.core import Lattice, Structure

from mfal.acquire.experience import Experience
from mfal.committee.calibrate import Calibration, Evidence, calibrate
from mfal.frames import Case, Decision, Frame, Score
from mfal.report.material import Material
from mfal.report.routing import CLOUD, ROUTES, route
from mfal.report.standalone import FOLDER, number
from mfal.report.text import DECISIONS
from mfal.report.uncertainty.calibration import figure as calibration_figure
from mfal.report.uncertainty.calibration import pairs
from mfal.report.uncertainty.chapter import SIGMAS, chapter
from mfal.report.uncertainty.groups import MOST, binned, grouped, spread
from mfal.report.uncertainty.plane import plane
from mfal.report.uncertainty.where import where
from mfal.report.uncertainty.worst import LISTED, by_element, worst


def test_every_decision_has_a_mark_of_its_own_in_figure_and_table() -> None:
    assert DECISIONS.keys() == set(get_args(Decision))
    assert ROUTES.keys() >= DECISIONS.keys()
    for one in zip(*ROUTES.values(), strict=True):
        assert len(set(one)) == len(ROUTES)
    light, dark = (FOLDER / "page.css").read_text().split("prefers-color-scheme: dark")
    for _, colour, symbol in ROUTES.values():
        variable = colour.removeprefix("var(").removesuffix(")")
        assert f" {variable}: #" in light
        assert f" {variable}: #" in dark
        assert symbol == "square" or f".mark.{symbol}" in dark
    page = page_of(fake_campaign())
    section = page.split('id="uncertainty"')[0].split("<h2>")[-1]
    legend = re.findall(
        r'<span class="mark ([\w-]+)" style="color: (.*?)" aria-hidden="true"></span>(.*?)</li>', section
    )
    drawn = [key for key in ROUTES if key != "hold_out"]  # drawn before there is a sigma
    assert legend == [(ROUTES[k].symbol, ROUTES[k].colour, f"{ROUTES[k].name} (1)") for k in drawn]
    assert [trace["name"] for trace in islands(page)["uncertainty"]["data"]] == [name for *_, name in legend]


def fake_scores(points: list[tuple[float, float]], decision: Decision = "skip", case: Case = "low") -> list[Score]:
    return [
        Score(
            campaign="fake",
            round=1,
            frame_id=str(i),
            sigma_nonmagnetic=x,
            sigma_delta=y,
            decision=decision,
            case=case,
            reason="fake",
        )
        for i, (x, y) in enumerate(points)
    ]


QUADRANTS = {"skip", "non-<br>magnetic", "magnetic", "both, then<br>decide"}
SQUARE = [(0.1, 0.1), (0.1, 0.3), (0.3, 0.1), (0.3, 0.3)]


def labels_of(figure: Any) -> dict[str, Any]:
    return {note.text: note for note in figure.layout.annotations}


def test_the_thresholds_part_four_quadrants() -> None:
    figure = plane(fake_scores(SQUARE), {}, {"nonmagnetic": 0.2, "delta": 0.25})
    assert figure is not None
    notes = labels_of(figure)
    assert notes.keys() == QUADRANTS | {"threshold 0.2", "threshold<br>0.25"}
    assert notes["threshold 0.2"].x == 0.2
    assert notes["threshold<br>0.25"].y == 0.25
    corners = {(notes[word].x > 0.2, notes[word].y > 0.25): word for word in QUADRANTS}
    assert corners == {
        (False, False): "skip",
        (True, False): "non-<br>magnetic",
        (False, True): "magnetic",
        (True, True): "both, then<br>decide",
    }
    lines = [(shape.x0, shape.x1, shape.y0, shape.y1) for shape in figure.layout.shapes]
    assert lines == [(0.2, 0.2, 0, 1), (0, 1, 0.25, 0.25)]


@pytest.mark.parametrize("reach", [2.0, 20.0, 1000.0])
def test_no_point_is_where_the_words_are(reach: float) -> None:
    rng = np.random.default_rng(1)
    points = [(float(x), float(y)) for x, y in 0.02 * np.exp(rng.uniform(0, np.log(2 * reach), (40, 2)))]
    figure = plane(fake_scores(points), {}, {"nonmagnetic": 0.03, "delta": 0.03})
    assert figure is not None
    for axis, values in zip((figure.layout.xaxis, figure.layout.yaxis), np.array(points).T, strict=True):
        assert (axis.type == "log") == (max(values) > 30 * min(values))
        places = np.log10(values) if axis.type == "log" else values
        low, high = axis.range
        margin = 0.07 if axis is figure.layout.yaxis else 0.03
        assert min(places) - low > margin * (high - low)
        assert high - max(places) > margin * (high - low)
        line = np.log10(0.03) if axis.type == "log" else 0.03
        assert low < line < high


def test_a_word_that_would_not_fit_on_a_phone_is_left_out() -> None:
    points = [*SQUARE, (0.1, 0.9)]
    for threshold, fit in (
        (0.02, {"non-<br>magnetic", "both, then<br>decide"}),
        (0.2, QUADRANTS),
        (0.29, {"skip", "magnetic"}),
    ):
        figure = plane(fake_scores(points), {}, {"nonmagnetic": threshold, "delta": 0.5})
        assert figure is not None
        assert labels_of(figure).keys() & QUADRANTS == fit, threshold


def test_a_quadrant_that_cannot_be_has_no_word() -> None:
    """No sigma is below a threshold of zero; and a logarithmic axis has no zero."""
    for points in (SQUARE, [*SQUARE, (50.0, 50.0)]):
        figure = plane(fake_scores(points), {}, {"nonmagnetic": 0.0, "delta": 0.0})
        assert figure is not None
        assert labels_of(figure).keys() == {"both, then<br>decide", "threshold 0", "threshold<br>0"}
        assert not figure.layout.shapes
        assert all(np.isfinite(note.x) and np.isfinite(note.y) for note in figure.layout.annotations)


def test_a_round_without_cheap_calculations_has_no_quadrants() -> None:
    limits = {"nonmagnetic": 0.2, "delta": 0.2}
    figure = plane(fake_scores(SQUARE, "magnetic", "both"), {}, limits, cheap=False)
    assert figure is not None
    assert not labels_of(figure).keys() & QUADRANTS
    figure = plane(fake_scores(SQUARE, "magnetic", "delta"), {}, limits)
    assert figure is not None
    assert labels_of(figure).keys() >= QUADRANTS
    campaign = fake_campaign()
    words = "decided alone"
    assert words not in page_of(campaign)
    campaign["rounds"][-1] = campaign["rounds"][-1].model_copy(update={"cheap": False})
    assert words in page_of(campaign)


def test_random_frames_have_a_route_of_their_own() -> None:
    score = fake_scores([(0.1, 0.1)], "both")[0]
    assert [route(score.model_copy(update={"arm": arm})) for arm in ("hold_out", "control", "committee", None)] == [
        "hold_out",
        "control",
        "both",
        "both",
    ]


def calibration_table(page: str) -> list[list[str]]:
    body = page.split('<table class="calibration">')[1].split("<tbody>")[1].split("</tbody>")[0]
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in body.split("</tr>")[:-1]]


def test_calibration_is_shown_as_it_is() -> None:
    campaign = fake_campaign()
    page = page_of(campaign)
    assert calibration_table(page) == [
        [words, number(1.5 + i), "5", number(0.111 + i), "–", "–"] for i, words in enumerate(SIGMAS.values())
    ]
    assert "Only frames drawn at random teach this" in page
    assert "A dash: the factor needs 9 random frames" in page
    campaign["rounds"][-1].calibration = fake_calibration(20, quantile=2.25, coverage=0.95)
    page = page_of(campaign)
    assert [row[2:] for row in calibration_table(page)] == [
        ["20", number(0.111 + i), "2.25", "95 %"] for i in range(len(SIGMAS))
    ]
    assert "A dash" not in page
    campaign["rounds"][-1].calibration = {}
    page = page_of(campaign)
    assert '<table class="calibration">' not in page
    assert "No frame drawn at random has taught it yet" in page


def crystal(manganese: int, lithium: int, *, source: str = "strain and rattle", size: float = 6.0) -> Frame:
    """Four metal atoms, so many of them Mn, and so much Li, on a line; the source makes the id another one, too."""
    species = ["Mn"] * manganese + ["Fe"] * (4 - manganese) + ["Li"] * lithium
    shift = sum(map(ord, source)) / 1e5
    points = [[(i + shift) / 9, 0.2, 0.1] for i in range(len(species))]
    return Frame.of(Structure(Lattice.cubic(size), species, points), parent="fake-parent", source=source)


def scored(frames: list[Frame], sigmas: list[tuple[float, float]], **changes: Any) -> list[Score]:
    """Each frame with its two sigmas, which the last atom has, and half of which the others have."""
    scores = fake_scores(sigmas)
    for i, (frame, (low, delta)) in enumerate(zip(frames, sigmas, strict=True)):
        n = len(frame.structure)
        atoms = {"nonmagnetic": [low / 2] * (n - 1) + [low], "delta": [delta / 2] * (n - 1) + [delta]}
        own = {"frame_id": frame.frame_id, "sigma_magnetic": low + delta, "sigma_atoms": atoms}
        scores[i] = scores[i].model_copy(update=own | changes)
    return scores


def by_id(frames: list[Frame]) -> dict[str, Frame]:
    return {frame.frame_id: frame for frame in frames}


def evidence(frames: int, kind: Any = "delta", atoms: int = 4) -> list[Evidence]:
    rng = np.random.default_rng(2)
    return [
        Evidence(
            frame_id=f"e{i}",
            kind=kind,
            members=4,
            variance=rng.gamma(2, 0.01, atoms).tolist(),
            squared_error=rng.gamma(2, 0.02, atoms).tolist(),
        )
        for i in range(frames)
    ]


def test_a_crowd_is_drawn_below_the_few_small_and_without_reasons() -> None:
    rng = np.random.default_rng(0)
    points = [(float(x), float(y)) for x, y in rng.gamma(3, 0.03, (CLOUD + 40, 2))]
    scores = fake_scores(points)
    few = [score.model_copy(update={"decision": "magnetic", "case": "delta"}) for score in scores[:3]]
    figure = plane([*few, *scores[3:]], {}, {"nonmagnetic": 0.1, "delta": 0.1})
    assert figure is not None
    crowd, chosen = figure.data
    assert (len(crowd.x), len(chosen.x)) == (CLOUD + 37, 3)
    assert crowd.marker.size < chosen.marker.size
    assert crowd.opacity < 1
    assert crowd.hovertext is None
    assert "fake" in chosen.hovertext[0]
    for trace, own in ((crowd, points[3:]), (chosen, points[:3])):
        assert np.column_stack([trace.x, trace.y]) == pytest.approx(np.array(own), rel=1e-3)
    assert list(chosen.customdata) == ["0", "1", "2"]
    assert list(crowd.customdata) == [score.frame_id for score in scores[3:]]


def test_where_sigma_magnetic_decided_alone_it_is_drawn_with_its_threshold() -> None:
    campaign = fake_campaign()
    last = campaign["rounds"][-1]
    assert "alone" not in islands(page_of(campaign))
    limits = {"nonmagnetic": 0.05, "delta": 0.06, "magnetic": 0.07}
    campaign["rounds"][-1] = last.model_copy(update={"cheap": False, "thresholds": limits})
    figure = islands(page_of(campaign))["alone"]
    drawn = {name: x for t in figure["data"] for name, x in zip(t["customdata"], t["x"], strict=True)}
    expected = {s.frame_id: s.sigma_magnetic for s in campaign["scores"] if s.round == 1}
    assert drawn == pytest.approx(expected, rel=1e-3)
    assert [shape["x0"] for shape in figure["layout"]["shapes"]] == [0.07]
    assert [note["text"] for note in figure["layout"]["annotations"]] == ["threshold 0.07"]
    # a row for each decision, named beside it, the marks of each in its own
    ticks = figure["layout"]["yaxis"]["ticktext"]
    assert len(ticks) == len(figure["data"])
    for row, (trace, tick) in enumerate(zip(figure["data"], ticks, strict=True)):
        assert trace["name"].startswith(tick.replace("<br>", " "))
        assert all(abs(y - row) <= 0.25 for y in trace["y"])


def test_compositions_that_vary_twice_are_a_grid_of_medians() -> None:
    frames = [crystal(0, 4), crystal(0, 4, source="md 300 K"), crystal(2, 4), crystal(2, 0)]
    scores = scored(frames, [(0.1, 0.2), (0.3, 0.6), (0.5, 0.05), (0.2, 0.3)])
    found = where(scores, by_id(frames))
    plots = {plot.name: plot.figure for plot in found.plots}
    expected = {
        "delta": {("0", "1"): 0.4, ("0.5", "1"): 0.05, ("0.5", "0"): 0.3},
        "nonmagnetic": {("0", "1"): 0.2, ("0.5", "1"): 0.5, ("0.5", "0"): 0.2},
    }
    for kind, medians in expected.items():
        (heat,) = plots[f"where-composition-{kind}"].data
        cells = {(x, y): z for y, row in zip(heat.y, heat.z, strict=True) for x, z in zip(heat.x, row, strict=True)}
        assert {cell: z for cell, z in cells.items() if z is not None} == pytest.approx(medians)
        assert (heat.zmin, heat.zmax) == (0, 0.5)  # in both: the same strength is the same sigma
    assert heat.text[list(heat.y).index("1")][list(heat.x).index("0")] == "0.20<br>(2)"
    assert not {"where-manganese", "where-lithium"} & plots.keys()
    assert {(g.name, len(g.delta)) for g in found.groups["lithium"]} == {("0", 1), ("1", 3)}


def test_each_place_has_the_median_and_quartiles_of_its_frames() -> None:
    frames = [crystal(m, 4, source=s) for m in (0, 4) for s in ("ordering", "md 300 K", "md 600 K")]
    sigmas = [(0.1 * i + 0.1, 0.05 * i + 0.1) for i in range(6)]
    found = where(scored(frames, sigmas), by_id(frames))
    plots = {plot.name: plot for plot in found.plots}
    assert plots.keys() == {"where-manganese", "where-temperature", "where-source"}
    low, delta = plots["where-source"].figure.data
    assert [tick.split("<br>n")[0] for tick in plots["where-source"].figure.layout.yaxis.ticktext] == [
        "molecular dynamics",
        "ordering",
    ]
    of_md = np.array([sigmas[i] for i in (1, 2, 4, 5)])
    for trace, values in ((low, of_md[:, 0]), (delta, of_md[:, 1])):
        first, middle, third = np.percentile(values, (25, 50, 75))
        assert trace.x[0] == pytest.approx(middle)
        assert trace.x[0] - trace.error_x.arrayminus[0] == pytest.approx(first)
        assert trace.x[0] + trace.error_x.array[0] == pytest.approx(third)
    assert (low.marker.symbol, low.marker.color) != (delta.marker.symbol, delta.marker.color)
    temperatures = {group.name: len(group.delta) for group in found.groups["temperature"]}
    assert temperatures == {"300": 2, "600": 2}  # an ordering has none
    assert [line for line in found.alike if "fake-parent throughout" in line]
    assert [line for line in found.alike if line == "Li content, Li / (Mn + Fe): 1 throughout"]


def test_what_has_no_composition_or_temperature_is_said() -> None:
    structure = Structure(Lattice.cubic(5), ["Li", "O"], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
    frame = Frame.of(structure, parent="p", source="s")
    found = where(scored([frame], [(0.1, 0.2)]), by_id([frame]))
    assert not found.plots
    assert sum("no frame has one" in line for line in found.alike) == 3
    assert where(fake_scores([(0.1, 0.1)]), {}) == ([], {}, [])


def test_bins_are_even_and_named_by_their_edges() -> None:
    assert binned([0.5, 0.25, None, 0.5], most=4) == (["0.5", "0.25", None, "0.5"], ["0.25", "0.5"])
    values = list(np.linspace(9.02, 12.9, 40))
    names, order = binned(values, most=6, keep=False)
    assert order == ["9 to 10", "10 to 11", "11 to 12", "12 to 13"]
    for value, name in zip(values, names, strict=True):
        low, high = map(float, (name or "").split(" to "))
        assert low <= value < high
    for most in (2, 3, 6):
        assert 1 < len(binned([0.1, 0.2, 0.3, 0.7, 1.1, 1.7], most=most, keep=False)[1]) <= most
    assert binned([7.0, 7.0], most=3, keep=False) == (["7", "7"], ["7"])
    assert binned([None], most=3) == ([None], [])


def test_small_groups_beyond_the_most_become_one() -> None:
    names = [f"g{i}" for i in range(MOST + 3) for _ in range(MOST + 4 - i)]
    groups = grouped(names, np.ones((len(names), 2)))
    assert len(groups) == MOST
    assert groups[-1].name == "4 others"
    assert sum(len(group.delta) for group in groups) == len(names)
    assert spread(groups).layout.yaxis.ticktext[0] == f"g0<br>n = {MOST + 4}"


def test_the_most_uncertain_frames_are_listed_with_their_worst_atoms() -> None:
    frames = [crystal(2, i) for i in range(5)] + [crystal(3, i) for i in range(5)]
    scores = scored(frames, [(0.01 * i, 0.3 - 0.02 * i) for i in range(10)])
    listed = worst(scores, by_id(frames))
    order = sorted(scores, key=lambda score: -(score.sigma_magnetic or 0))[:LISTED]
    assert [item.score.frame_id for item in listed] == [score.frame_id for score in order]
    for item in listed:
        assert item.frame is not None
        site = len(item.frame.structure) - 1
        element = item.frame.structure[site].specie.symbol
        assert item.atoms["delta"] == (element, site, item.score.sigma_delta)
    campaign = fake_campaign() | {"frames": by_id(frames)}
    campaign["scores"] = scores
    page = page_of(campaign)
    body = page.split('<table class="worst">')[1].split("</table>")[0]
    assert re.findall(r'data-frame="(\w+)"', body) == [score.frame_id for score in order]
    for row, item in zip(body.split("<tr>")[2:], listed, strict=True):
        for text in (
            item.formula,
            number(item.score.sigma_magnetic),
            f"{number(item.score.sigma_delta)} <small>{item.atoms['delta'].element} {item.atoms['delta'].site}</small>",
            ROUTES["skip"].name,
        ):
            assert text in row
    assert "counted from 0" in page


def test_sigmas_by_element_are_those_of_all_atoms() -> None:
    frames = [crystal(2, 1), crystal(1, 1, size=7)]
    scores = scored(frames, [(0.1, 0.4), (0.3, 0.2)])
    found = {group.name: group for group in by_element(scores, by_id(frames))}
    assert {name: len(group.delta) for name, group in found.items()} == {"Mn": 3, "Fe": 5, "Li": 2}
    for name, group in found.items():
        for kind, values in (("nonmagnetic", group.nonmagnetic), ("delta", group.delta)):
            expected = [
                score.sigma_atoms[kind][i]  # type: ignore[index]
                for score, frame in zip(scores, frames, strict=True)
                for i, site in enumerate(frame.structure)
                if site.specie.symbol == name
            ]
            assert sorted(values) == sorted(expected)
    campaign = fake_campaign() | {"frames": by_id(frames), "scores": scores}
    assert "elements" in islands(page_of(campaign))
    old = [score.model_copy(update={"sigma_atoms": {}}) for score in scores]
    page = page_of(campaign | {"scores": old})
    assert "elements" not in islands(page)
    assert "from an older version" in page
    assert "counted from 0" not in page


@pytest.mark.parametrize("reduce", ["max", "mean"])
def test_calibration_shows_each_frame_with_the_scale_that_was_found(reduce: Any) -> None:
    items = evidence(12)
    known = calibrate(items, reduce)["delta"]
    found = pairs(items, known.scale, reduce)
    figure = calibration_figure(found, known)
    points, atoms = figure.data
    variance = np.array([item.variance for item in items])
    sigmas = known.scale * np.sqrt(variance.max(axis=1) if reduce == "max" else variance.mean(axis=1))
    assert points.x == pytest.approx(sigmas)
    assert points.y == pytest.approx([np.sqrt(max(item.squared_error)) for item in items])
    assert list(points.customdata) == [item.frame_id for item in items]
    assert known.typical == pytest.approx(np.median(points.x))
    assert known.quantile is not None
    # of the 12, the 12th smallest score is the bound: it holds for all
    assert found.below(known.quantile) == 12
    assert found.below(0.999 * known.quantile) == 11
    # two bins of atoms by their sigma
    order = np.argsort(variance.ravel())
    for place, part in enumerate(np.split(order, 2)):
        squared = np.concatenate([item.squared_error for item in items])[part]
        assert atoms.x[place] == pytest.approx(known.scale * np.sqrt(variance.ravel()[part].mean()))
        assert atoms.y[place] == pytest.approx(np.sqrt(squared.mean()))
    diagonal, bound = figure.layout.shapes
    assert (diagonal.x0, diagonal.x1) == (diagonal.y0, diagonal.y1)
    assert (bound.y0 / bound.x0, bound.y1 / bound.x1) == pytest.approx((known.quantile, known.quantile))


def test_a_single_frame_has_neither_bins_nor_a_bound() -> None:
    items = evidence(1)
    figure = calibration_figure(pairs(items, 1.5, "max"), calibrate(items)["delta"])
    assert len(figure.data) == 1
    assert len(figure.layout.shapes) == 1
    low, high = figure.layout.xaxis.range
    assert high - low == pytest.approx(1)
    assert figure.layout.yaxis.range == figure.layout.xaxis.range
    assert sum(low < np.log10(tick) < high for tick in figure.layout.xaxis.tickvals) >= 2


def test_an_error_of_zero_does_not_break_a_logarithmic_axis() -> None:
    item = evidence(1)[0].model_copy(update={"squared_error": [0.0] * 4, "variance": [0.0] * 4})
    figure = calibration_figure(pairs([item], 1.0, "max"), Calibration(kind="delta", scale=1, frames=1, typical=0))
    assert np.isfinite(figure.layout.xaxis.range).all()


def test_calibration_has_a_panel_for_each_kind_with_evidence() -> None:
    campaign = fake_campaign()
    assert "No frame of the control arm has been predicted yet" in page_of(campaign)
    items = [item for kind in ("nonmagnetic", "delta", "magnetic") for item in evidence(2, kind)]
    page = page_of(campaign | {"experience": Experience(evidence=items)})
    names = {name for name in islands(page) if name.startswith("calibration-")}
    assert names == {"calibration-nonmagnetic", "calibration-delta", "calibration-magnetic"}
    assert "With 2 frames, this shows where things stand and proves nothing" in page
    for name in names:
        assert re.search(rf'id="{name}" role="img" aria-label="[^"]{{20,}}for 2 control frames', page)


def test_numbers_are_those_of_the_documents() -> None:
    frames = [crystal(2, 4), crystal(2, 4, source="md 300 K"), crystal(4, 4)]
    scores = scored(frames, [(0.1, 0.2), (0.3, 0.6), (0.5, 0.05)])
    items = evidence(10)
    campaign = fake_campaign() | {"frames": by_id(frames), "scores": scores, "experience": Experience(evidence=items)}
    numbers = chapter(Material(**campaign)).numbers
    assert numbers["thresholds_ev_per_angstrom"] == {"nonmagnetic": 0.05, "delta": 0.06}
    assert numbers["decisions"] == {"skip": 3}
    deltas = numbers["sigmas_ev_per_angstrom"]["delta"]
    assert (deltas["frames"], deltas["min"], deltas["median"], deltas["max"]) == pytest.approx((3, 0.05, 0.2, 0.6))
    assert numbers["sigmas_ev_per_angstrom"]["conditional"] is None
    own = numbers["calibration"]["delta"]
    assert own["scale"] == campaign["rounds"][-1].calibration["delta"]["scale"]
    assert [pair["frame_id"] for pair in own["pairs"]] == [item.frame_id for item in items]
    assert own["pairs"][0]["worst_error_ev_per_angstrom"] == pytest.approx(np.sqrt(max(items[0].squared_error)))
    assert sum(part["atoms"] for part in own["atoms"]) == 40
    assert "pairs" not in numbers["calibration"]["magnetic"]
    medians = {g["group"]: g["median_sigma_delta_ev_per_angstrom"] for g in numbers["where"]["manganese"]}
    assert medians == pytest.approx({"0.5": 0.4, "1": 0.05})
    assert [item["frame_id"] for item in numbers["most_uncertain"]] == [frames[i].frame_id for i in (1, 2, 0)]
    assert numbers["most_uncertain"][0]["worst_atom_delta"] == {"element": "Fe", "site": 7, "sigma": 0.6}
    assert {group["group"] for group in numbers["elements"]} == {"Mn", "Fe", "Li"}


def test_names_of_groups_stay_text() -> None:
    frames = [crystal(2, 4, source=EVIL), crystal(2, 4, source="<b>x</b>")]
    scores = scored(frames, [(0.1, 0.2), (0.3, 0.6)])
    found = {plot.name: plot.figure for plot in where(scores, by_id(frames)).plots}
    source = found["where-source"]
    for text in [*source.layout.yaxis.ticktext, *source.data[0].hovertext]:
        assert not re.search(r"<(?!br>|/?b>)", text)
    assert not any("<b>x" in text for text in source.layout.yaxis.ticktext)
    alone = [frame.model_copy(update={"parent": EVIL}) for frame in frames]
    page = page_of(fake_campaign() | {"frames": by_id(alone), "scores": scores})
    assert f"Parent: {html.escape(EVIL, quote=False)} throughout" in page
    assert EVIL not in page


def test_the_first_round_says_so_in_one_paragraph() -> None:
    campaign = fake_campaign(rounds=1)
    own = chapter(Material(**campaign))
    assert own.plots == []
    assert own.numbers["most_uncertain"] == []
    page = page_of(campaign)
    assert page.count("There is no committee yet in the first round") == 1
    assert "Where does the uncertainty sit?" not in page
    assert "The most uncertain frames and atoms" not in page
