"""The chapter on the labels: parity, moments, outcomes and costs equal the documents."""

from __future__ import annotations

import html
import json
import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from fake_report import EVIL, fake_campaign, fake_frame, fake_label, islands, page_of

from mfal.acquire.cost import CostModel
from mfal.dft.valence import MOMENTS
from mfal.frames import FIDELITIES, WORDS, Frame, Label
from mfal.report.labelled import chapter as labelled
from mfal.report.labelled import moments, sizes
from mfal.report.material import Material
from mfal.report.outcomes import ENDINGS, SYMBOLS, WRONG, ending, judged, reasons, tally
from mfal.report.parity_plots import QUANTITIES, parity_plot
from mfal.report.points import MOST_POINTS, coarse, scaled, shown
from mfal.report.standalone import FOLDER, number
from mfal.training.loss import UNITS


def table(page: str) -> dict[str, list[int]]:
    """The calculations by outcome: non-magnetic of the round and of all, then magnetic."""
    body = page.split('<table class="tally">')[1].split("<tbody>")[1].split("</tbody>")[0]
    rows = re.findall(r'<th scope="row">([\w ]+)</th>(.*?)</tr>', body)
    return {name: [int(n) for n in re.findall(r"<td[^>]*>(\d+)</td>", cells)] for name, cells in rows}


def test_every_quantity_and_fidelity_has_its_parity_plot_with_errors_and_their_n() -> None:
    campaign = fake_campaign()
    page = page_of(campaign)
    drawn = islands(page)
    for quantity in QUANTITIES:
        for fidelity in FIDELITIES:
            name = f"parity-{quantity}-{fidelity}"
            if (quantity, fidelity) == ("magmoms", "nonmagnetic"):
                assert name not in drawn
                continue
            for key, word in (("train", "training"), ("hold_out", "hold-out")):
                rows = [r for r in campaign["parity"] if (r["fidelity"], r["set"]) == (fidelity, key)]
                pairs = np.concatenate([np.reshape(r[quantity], (2, -1)) for r in rows], axis=1)
                missed = UNITS[quantity] * (pairs[1] - pairs[0])
                mae, rmse = number(np.abs(missed).mean()), number(np.sqrt((missed**2).mean()))
                frames = f"{len(rows)} {'frame' if len(rows) == 1 else 'frames'}"
                legend = f"{word}: MAE {mae}, RMSE {rmse} {QUANTITIES[quantity].error}, n = {frames}"
                assert f"{legend}</li>" in page
                (trace,) = (t for t in drawn[name]["data"] if t["name"] == legend)
                assert trace["marker"]["symbol"] == ("diamond" if key == "hold_out" else "circle")
                assert len(trace["hovertext"]) == pairs.shape[1]


def test_very_many_points_are_thinned_and_the_errors_are_of_all() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 3 * MOST_POINTS))
    row = {"frame_id": "a", "fidelity": "magnetic", "energy": None, "stress": None, "magmoms": None}
    plot = parity_plot("many", [row | {"forces": values.tolist()}], "magnetic", "forces")
    assert plot is not None
    (trace,) = plot.figure.data
    assert len(trace.x) == len(trace.hovertext) == MOST_POINTS
    assert f"MAE {number(1000 * np.abs(values[1] - values[0]).mean())}," in trace.name
    # what is drawn is drawn where it is, to a thousandth of the axis
    assert np.abs(trace.x - values[0][shown(values.shape[1])]).max() < np.ptp(values) / 1000
    assert "n = 1 frame" in plot.alt


def test_a_single_value_has_a_place() -> None:
    assert coarse(np.array([2.5, 2.5]), 0.0).tolist() == [2.5, 2.5]


@pytest.mark.parametrize(("values", "log"), [((1, 9), False), ((0.0, 50), False), ((1, 11), True), ((0.02, 300), True)])
def test_an_axis_is_logarithmic_where_the_span_asks_for_it(values: tuple[float, float], log: bool) -> None:
    axis = scaled(values)
    assert (axis.get("type") == "log") is log
    if log:
        assert axis["tickvals"]
        assert all(values[0] / 2 < tick < 2 * values[1] for tick in axis["tickvals"])


def test_an_untrained_fidelity_is_named_beside_its_energies() -> None:
    campaign = fake_campaign()
    words = "The committee is not trained on non-magnetic labels"
    assert words not in page_of(campaign)
    campaign["rounds"][-1].trained_on = {"nonmagnetic": 0, "magnetic": 4}
    assert words in page_of(campaign)


def ion_frame() -> Frame:
    """With Mn and Fe on its last two sites."""
    frame = fake_frame(1)
    assert [site.specie.symbol for site in frame.structure] == ["Li", "O", "O", "P", "Mn", "Fe"]
    return frame


def magnetic(manganese: float, iron: float, status: Any = "ok", **changes: Any) -> Label:
    return fake_label(ion_frame(), "magnetic", status, magmoms=[0, 0, 0, 0, manganese, iron], **changes)


def test_ions_are_counted_in_the_bands_of_their_valences_by_size() -> None:
    frames = {ion_frame().frame_id: ion_frame()}
    labels = [
        magnetic(4.5, -3.7),
        magnetic(-4.4, 4.2),
        magnetic(4.2, 3.93),  # both between two bands
        magnetic(0.1, 3.6, "collapsed"),
        magnetic(3.0, -3.6, "unconverged"),
        magnetic(4.5, -3.7, "ok", flag="fake: too large"),
    ]
    found = moments.counts(moments.ions(labels, frames))
    assert found["Mn"]["ok"] == {"Mn²⁺": 2, "Mn³⁺": 0, "Mn⁴⁺": 0, "in no band": 1}
    assert found["Fe"]["ok"] == {"Fe²⁺": 1, "Fe³⁺": 1, "in no band": 1}
    assert found["Mn"]["collapsed"]["in no band"] == 1
    assert found["Mn"]["unconverged"]["Mn⁴⁺"] == 1
    assert found["Fe"]["held_back"]["Fe²⁺"] == 1
    lines = moments.sentences(moments.ions(labels, frames))
    assert lines[0] == "Mn in good labels: 2 Mn²⁺, 1 in no band."
    assert "Mn in labels of the outcome “collapsed”: 1 in no band." in lines


def test_no_two_bands_of_an_element_overlap() -> None:
    for sizes_of in MOMENTS.values():
        known = sorted(sizes_of.values())
        assert all(b - a >= 2 * moments.BAND - 1e-9 for a, b in pairwise(known))


def test_moments_that_are_not_of_these_sites_are_left_out() -> None:
    frames = {ion_frame().frame_id: ion_frame()}
    assert moments.ions([fake_label(ion_frame(), "magnetic", magmoms=[4.5, 3.7])], frames) == []
    assert moments.ions([magnetic(4.5, 3.7)], {}) == []
    assert moments.moments([]) is None


def test_wrong_states_and_unused_labels_have_shapes_of_their_own() -> None:
    frames = {ion_frame().frame_id: ion_frame()}
    labels = [magnetic(4.5, -3.7), *(magnetic(4.4, -3.6, status) for status in ("other_state", "collapsed", "failed"))]
    plot = moments.moments(moments.ions(labels, frames))
    assert plot is not None
    traces = {trace.name: trace for trace in plot.figure.data}
    assert traces.keys() == {
        "Mn, good labels (1 ion)",
        "Fe, good labels (1 ion)",
        "other state (2 ions)",
        "collapsed (2 ions)",
        "failed (2 ions)",
    }
    shapes = {name: trace.marker.symbol for name, trace in traces.items()}
    assert len(set(shapes.values())) == 4
    red = {name for name, trace in traces.items() if trace.marker.color == "var(--bad)"}
    assert red == {"other state (2 ions)", "collapsed (2 ions)"}
    assert sorted(traces["other state (2 ions)"].x) == [3.6, 4.4]
    # rows from below: Fe, Mn; good labels lie above the others of their row
    assert traces["Mn, good labels (1 ion)"].y[0] > max(traces["other state (2 ions)"].y) > 0.5
    bands = {(shape.x0, shape.x1) for shape in plot.figure.layout.shapes}
    expected = [size for element in ("Mn", "Fe") for size in MOMENTS[element].values()]
    assert bands == {(size - moments.BAND, size + moments.BAND) for size in expected}


def test_every_ending_has_a_shape_that_legends_know() -> None:
    assert SYMBOLS.keys() == ENDINGS.keys()
    assert len(set(SYMBOLS.values())) == len(SYMBOLS)
    assert set(WRONG) < ENDINGS.keys()
    style = (FOLDER / "page.css").read_text()
    assert all(f".mark.{symbol}" in style for symbol in SYMBOLS.values())


def lost_campaign() -> tuple[dict[str, Any], Label]:
    """With lost calculations of three kinds in the last round, and one label that is held back."""
    campaign = fake_campaign()
    added = [fake_frame(30 + i) for i in range(4)]
    campaign["frames"] |= {frame.frame_id: frame for frame in added}
    held = fake_label(added[3], "magnetic", core_hours=9.0)
    campaign["labels"] += [
        fake_label(added[0], "nonmagnetic", "failed", reason="GPAW stopped with exit code 1: no", core_hours=0.5),
        fake_label(added[1], "nonmagnetic", "failed", reason="GPAW stopped with exit code 137: no", core_hours=0.25),
        fake_label(
            added[1], "magnetic", "unconverged", reason="fake: 99 iterations", core_hours=4.0, directory="/d<b>"
        ),
        fake_label(added[1], "magnetic", core_hours=5.0, attempt=2, earlier_core_hours=4.0),
        fake_label(added[2], "magnetic", "other_state", reason="Fe (site 5) has +2.91 µB", core_hours=3.0),
        held,
    ]
    campaign["scores"].append(campaign["scores"][-1].model_copy(update={"frame_id": held.frame_id}))
    last = campaign["rounds"][-1]
    last.counts["nonmagnetic"]["failed"] = 2
    last.counts["magnetic"]["ok"] += 2
    last.counts["magnetic"]["other_state"] = 1
    last.flagged = [f"{held.frame_id} (magnetic): a force of 50.0 eV/Å (sanity.force = 40)"]
    return campaign, held


def test_calculations_are_tallied_and_one_held_back_is_not_good() -> None:
    campaign, _ = lost_campaign()
    assert table(page_of(campaign)) == {
        "good": [3, 8, 3, 5],
        "held back": [0, 0, 1, 1],
        "unconverged": [0, 0, 0, 0],
        "other state": [0, 0, 1, 1],
        "collapsed": [0, 0, 0, 0],
        "failed": [2, 2, 1, 1],
    }
    plain = page_of(fake_campaign())
    assert table(plain)["good"] == [3, 8, 2, 4]
    assert "held back" not in table(plain)
    assert "Held back" not in plain


def test_what_the_last_round_held_back_is_flagged_and_nothing_else() -> None:
    campaign, held = lost_campaign()
    material = Material(**campaign)
    flagged = [label for label in judged(material) if label.flag]
    assert [(label.frame_id, label.fidelity) for label in flagged] == [(held.frame_id, "magnetic")]
    assert flagged[0].flag == "a force of 50.0 eV/Å (sanity.force = 40)"
    assert ending(flagged[0]) == "held_back"
    assert sum(count for (_, key), (_, count) in tally(material, judged(material)).items() if key == "held_back") == 1


def test_reasons_that_differ_in_numbers_are_one_and_the_costliest_comes_first() -> None:
    campaign, held = lost_campaign()
    found = reasons(judged(Material(**campaign)))
    assert [(r.fidelity, r.ending, r.attempts, r.core_hours) for r in found] == [
        ("magnetic", "held_back", 1, 9.0),
        ("magnetic", "unconverged", 1, 4.0),  # an attempt, whose calculation came out good in the end
        ("magnetic", "other_state", 1, 3.0),
        ("magnetic", "failed", 1, 2.5),
        ("nonmagnetic", "failed", 2, 0.75),
    ]
    page = page_of(campaign)
    body = page.split('<table class="reasons">')[1].split("<tbody>")[1].split("</tbody>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in body.split("</tr>")[:-1]]
    assert [row[2:] for row in rows] == [["1", "9.00"], ["1", "4.00"], ["1", "3.00"], ["1", "2.50"], ["2", "0.75"]]
    assert "a force of 50.0 eV/Å (sanity.force = 40)" in rows[0][1]
    assert held.frame_id in rows[0][1]
    assert "for example: GPAW stopped with exit code 1: no" in rows[4][1]
    assert "for example" not in rows[0][1]
    assert '<code class="path">/d&lt;b&gt;</code>' in rows[1][1]
    assert "exit code 137" not in page


def test_more_reasons_than_fit_are_summed_up() -> None:
    campaign = fake_campaign()
    frame = next(iter(campaign["frames"].values()))
    words = [chr(ord("a") + i) for i in range(labelled.MOST_REASONS)]
    campaign["labels"] = [
        fake_label(frame, "magnetic", "failed", reason=f"fake {word}", attempt=1 + i, core_hours=100.0 - i)
        for i, word in enumerate((*words, "last", "least"))
    ]
    page = page_of(campaign)
    assert "fake t" in page
    assert "fake last" not in page
    assert "2 more reasons" in page
    assert ">159<" in page  # core-hours: 80 + 79
    assert len(labelled.chapter(Material(**campaign)).numbers["reasons"]) == len(words) + 2


def test_costs_are_of_calculations_with_all_their_attempts_beside_what_was_expected() -> None:
    campaign, _ = lost_campaign()
    material = Material(**campaign)
    known = sizes.costs(judged(material), material.frames)
    assert sum(cost.core_hours for cost in known) == pytest.approx(sum(x.core_hours for x in campaign["labels"]))
    (tried,) = (cost for cost in known if cost.attempts == 2)
    assert (tried.core_hours, tried.ending) == (9.0, "ok")
    plot = sizes.by_size(known, material.experience.calculations)
    assert plot is not None
    traces = {trace.name: trace for trace in plot.figure.data if trace.name}
    assert traces["magnetic, good (5)"].marker.symbol == "circle"
    assert max(traces["magnetic, good (5)"].y) == 9.0
    assert traces["magnetic, held back (1)"].marker.symbol == "circle-open"
    assert all(abs(x - 6) <= 6 * sizes.ASIDE for trace in traces.values() for x in trace.x)
    model = CostModel.fit(material.experience.calculations)
    lines = [trace for trace in plot.figure.data if trace.name is None]
    assert [list(line.x) for line in lines] == [[6], [6]]
    structure = ion_frame().structure
    for fidelity, line in zip(FIDELITIES, lines, strict=True):
        assert line.y[0] == pytest.approx(model.core_hours(fidelity, structure))
        assert f"{WORDS[fidelity]}: 6 atoms" in plot.alt


def test_nothing_is_expected_before_there_are_costs_and_nothing_drawn_without() -> None:
    campaign = fake_campaign()
    known = sizes.costs(campaign["labels"], campaign["frames"])
    plot = sizes.by_size(known, [])
    assert plot is not None
    assert all(trace.name for trace in plot.figure.data)
    assert "nothing yet" in plot.alt
    assert sizes.by_size([cost._replace(core_hours=0.0) for cost in known], []) is None


def test_numbers_are_plain_and_equal_the_documents() -> None:
    campaign, _ = lost_campaign()
    numbers = labelled.chapter(Material(**campaign)).numbers
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    assert {(p["fidelity"], p["set"]) for p in numbers["parity"]} == {
        (f, s) for f in FIDELITIES for s in ("train", "hold_out")
    }
    forces = next(p for p in numbers["parity"] if "force_mae_mev_per_angstrom" in p and p["fidelity"] == "magnetic")
    assert f"MAE {number(forces['force_mae_mev_per_angstrom'])}, RMSE" in page_of(campaign)
    assert numbers["moments"]["ions"]["Mn"]["ok"]["Mn²⁺"] == 5
    assert sum(reason["core_hours"] for reason in numbers["reasons"]) == pytest.approx(19.25)
    outcome = next(o for o in numbers["outcomes"] if (o["fidelity"], o["outcome"]) == ("magnetic", "held_back"))
    assert (outcome["calculations_of_round"], outcome["calculations"]) == (1, 1)


def test_words_of_a_campaign_stay_text() -> None:
    campaign, _ = lost_campaign()
    plain = page_of(campaign)
    campaign["labels"] = [
        label if label.good else label.model_copy(update={"reason": EVIL, "directory": EVIL})
        for label in campaign["labels"]
    ]
    campaign["parity"] = [row | {"frame_id": EVIL} for row in campaign["parity"]]
    page = page_of(campaign)
    assert EVIL not in page
    assert page.count("<script") == plain.count("<script")
    reasons_of = page.split('<table class="reasons">')[1].split("</table>")[0]
    assert reasons_of.count(html.escape(EVIL)) == 2 * 4  # wording and directory of each
    hovers = islands(page)["parity-forces-magnetic"]["data"][0]["hovertext"]
    assert hovers[0] == html.escape(EVIL, quote=False)
