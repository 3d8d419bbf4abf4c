"""The first chapter of the report: errors, core-hours, gains and what comes next equal the documents."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import pytest
from fake_report import EVIL, fake_campaign, fake_frame, fake_label, islands, page_of, shown

from mfal.acquire.cost import Calculation
from mfal.acquire.exhaustive import exhaustive
from mfal.acquire.experience import Experience
from mfal.acquire.saving import saving
from mfal.committee.calibrate import Calibration, Kind
from mfal.config import Acquire, Stop
from mfal.frames import FIDELITIES, Errors, Fidelity
from mfal.report.answer import chapter as answer
from mfal.report.answer import gains, learning, next_step, spent
from mfal.report.material import Material
from mfal.report.outcomes import judged, tally
from mfal.report.standalone import hours, number


def material(**changes: Any) -> Material:
    return Material(**(fake_campaign() | changes))


def said(page: str, what: str) -> str:
    """What the page says under a heading of its findings."""
    found = re.search(rf"<dt>{what}</dt><dd>(.*?)</dd>", page, re.DOTALL)
    assert found, what
    return html.unescape(found.group(1))


def with_errors(campaign: dict[str, Any]) -> dict[str, Any]:
    """Errors of all four quantities, of moments at the magnetic fidelity alone; no two alike."""
    for r in campaign["rounds"]:
        for i, key in enumerate(("hold_out", "hold_out_before", "control_before")):
            for j, fidelity in enumerate(FIDELITIES):
                value = 1 + r.round + 0.1 * i + 0.01 * j
                r.errors[key][fidelity] = Errors(
                    energy=10 * value,
                    forces=100 * value,
                    stress=value,
                    magmoms=0.1 * value if fidelity == "magnetic" else None,
                    frames=5 + i,
                )
    return campaign


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
    m = Material(**campaign)
    numbers = answer.headline(m.rounds, tally(m, judged(m)))
    assert numbers["core_hours"] == {"nonmagnetic": 30.0, "magnetic": 83.0}
    assert numbers["labels"] == {"nonmagnetic": (8, 8), "magnetic": (4, 5)}
    assert numbers["labels_last"] == {"nonmagnetic": (3, 3), "magnetic": (2, 3)}


def test_a_label_that_is_held_back_is_not_good() -> None:
    campaign = fake_campaign()
    frame = campaign["scores"][6].frame_id  # control frame of round 1
    campaign["rounds"][-1].flagged = [f"{frame} (magnetic): a force of 50.0 eV/Å (sanity.force = 40)"]
    page = page_of(campaign)
    assert shown(page, "labels-magnetic") == "3 of 5 good"
    assert shown(page, "labels-nonmagnetic") == "8 of 8 good"


def test_each_quantity_has_a_panel_that_equals_the_documents() -> None:
    campaign = with_errors(fake_campaign())
    drawn = islands(page_of(campaign))
    rounds = campaign["rounds"]
    for quantity in ("energy", "forces", "stress", "magmoms"):
        traces = {trace["name"]: trace for trace in drawn[f"errors-{quantity}"]["data"]}
        both = {"magnetic"} if quantity == "magmoms" else {"magnetic", "non-magnetic"}
        assert traces.keys() == {f"{f}, {of}" for f in both for of in ("hold-out", "random frames")}

        def error(n: int, key: Any, quantity: str = quantity) -> Any:
            return getattr(rounds[n].errors[key]["magnetic"], quantity)

        held, control = traces["magnetic, hold-out"], traces["magnetic, random frames"]
        # energies of the pretrained model say nothing: no start, and no random frames of the first round
        start = [] if quantity == "energy" else [error(0, "hold_out_before")]
        assert held["y"] == [*start, error(0, "hold_out"), error(1, "hold_out")]
        assert held["x"] == [*([-1] if start else []), 0, 1]
        assert control["y"] == [error(n, "control_before") for n in ([1] if quantity == "energy" else [0, 1])]
        assert (held["line"]["dash"], held["marker"]["symbol"]) == ("solid", "circle")
        assert (control["line"]["dash"], control["marker"]["symbol"]) == ("dot", "circle-open")
        assert all("n = 7 frames" in text for text in control["hovertext"])


def test_energies_are_left_out_until_a_fidelity_was_trained_on() -> None:
    rounds = with_errors(fake_campaign())["rounds"]
    untrained = [r.model_copy(update={"trained_on": {"nonmagnetic": 0, "magnetic": 3}}) for r in rounds]
    assert {line.fidelity for line in learning.lines(untrained, "energy")} == {"magnetic"}
    assert {line.fidelity for line in learning.lines(untrained, "forces")} == {"magnetic", "nonmagnetic"}
    assert learning.panel([r.model_copy(update={"trained_on": {}}) for r in rounds], "energy") is None


def test_a_panel_tells_its_last_errors_to_who_cannot_see_it() -> None:
    plot = learning.panel(with_errors(fake_campaign())["rounds"], "stress")
    assert plot is not None
    assert "magnetic, hold-out: before 1.11, round 0 1.01, round 1 2.01" in plot.alt
    assert "stress, GPa" in plot.alt


def cost_bars(page: str) -> dict[tuple[str, str], float]:
    bars = islands(page)["spent"]["data"]
    return {(bar["name"], end): value for bar in bars for end, value in zip(bar["y"], bar["x"], strict=True)}


def test_core_hours_by_outcome_equal_the_labels_and_no_attempt_counts_twice() -> None:
    campaign = fake_campaign()
    frame = fake_frame(16)
    campaign["frames"][frame.frame_id] = frame
    first = fake_label(frame, "magnetic", "unconverged", core_hours=4.0, reason="fake: slow", magmoms=None)
    # the stores keep each attempt as a document of its own
    second = fake_label(frame, "magnetic", core_hours=1.5, attempt=2, earlier_core_hours=4.0)
    campaign["labels"] += [first, second]
    assert cost_bars(page_of(campaign)) == {
        ("non-magnetic", "good"): 8 * 2.5,
        ("magnetic", "good"): 4 * 2.5 + 1.5,
        ("magnetic", "unconverged"): 4.0,
        ("magnetic", "failed"): 2.5,
    }


def test_where_rounds_and_labels_disagree_the_page_says_so() -> None:
    campaign = fake_campaign()
    spent_on: dict[Fidelity, float] = {f: 2.5 * sum(x.fidelity == f for x in campaign["labels"]) for f in FIDELITIES}
    booked = campaign["rounds"][0].model_copy(update={"core_hours": spent_on})
    free = campaign["rounds"][1].model_copy(update={"core_hours": {}})
    assert spent.difference([booked, free], campaign["labels"]) == ""
    assert "other settings" in spent.difference(campaign["rounds"], campaign["labels"])
    less = spent.difference([booked, free], campaign["labels"] * 2)
    assert f"add up to {hours(65)} core-hours, and the rounds have booked {hours(32.5)}" in less
    assert "came in late" in less
    assert html.escape(spent.difference(campaign["rounds"], campaign["labels"])) in page_of(campaign)
    assert "have booked" not in page_of(campaign | {"rounds": [booked, free]})


def test_no_cost_no_bars() -> None:
    free = [label.model_copy(update={"core_hours": 0.0}) for label in fake_campaign()["labels"]]
    assert spent.by_ending(free) is None
    assert spent.by_ending([]) is None


def test_gains_are_drawn_and_said_as_measured() -> None:
    m = material()
    page = page_of(fake_campaign())
    found, alone = m.experience.saving, m.experience.saving_all_magnetic
    assert found is not None
    assert alone is not None
    assert found.low is not None
    assert not found.significant
    assert said(page, "Over random frames").endswith("not yet significant.")
    assert said(page, "Over random frames, magnetic alone") == f"A{alone.message[1:]}."
    figure = islands(page)["saving"]
    line, point = (t for t in figure["data"] if t["y"][0] == 1)
    assert line["x"][0] == pytest.approx(found.low)
    assert point["x"] == [found.ratio]
    assert point["marker"]["symbol"] == "circle-open"
    (other,) = (t for t in figure["data"] if t["y"][0] == 0)  # two frames: no interval
    assert other["x"] == [alone.ratio]
    texts = [note["text"] for note in figure["layout"]["annotations"]]
    assert sorted(texts) == sorted(
        [
            f"Over random frames<br><b>{gains.interval(found)}</b>, not yet significant",
            f"Over random frames, magnetic alone<br><b>{gains.interval(alone)}</b>, too few frames to tell",
        ]
    )


@pytest.mark.parametrize(
    ("chosen", "drawn", "symbol", "ends", "verdict"),
    [
        ([(1.0, 1.0)] * 9, [(0.5, 1.0)] + [(0.0, 1.0)] * 4, "circle", "triangle-right", "significant"),
        ([(1.0, 1.0)] * 9, [(0.5, 1.0)] * 9, "circle", "line-ns-open", "significant"),
        ([(1.0, 1.0)] * 3, [(1.0, 1.0)] * 3, "circle-open", "line-ns-open", "not yet significant"),
        ([(1.0, 1.0), (0.0, 1.0), (0.0, 1.0)], [(1.0, 1.0)] * 3, "circle-open", "line-ns-open", "not yet significant"),
    ],
)
def test_an_interval_shows_whether_it_is_open_and_whether_it_excludes_one(
    chosen: list[tuple[float, float]], drawn: list[tuple[float, float]], symbol: str, ends: str, verdict: str
) -> None:
    found = saving(chosen, drawn)
    gain = gains.Gain("fake", found)
    assert gain.verdict == verdict
    plot = gains.figure({"fake": gain})
    assert plot is not None
    line, point = plot.figure.data
    assert point.marker.symbol == symbol
    assert line.marker.symbol[1] == ends
    assert found is not None
    assert line.marker.symbol[0] == ("line-ns-open" if found.low else "triangle-left")
    assert verdict in plot.alt
    low, high = plot.figure.layout.xaxis.range
    assert all(10**low < x <= 1.001 * 10**high for x in (*line.x, *point.x, 1.0))


def test_what_is_not_measured_is_said() -> None:
    campaign = fake_campaign() | {"experience": Experience()}
    page = page_of(campaign)
    assert "saving" not in islands(page)
    assert "Not measured yet: that takes frames that the committee chose" in page
    assert said(page, "Over random frames") == "Not measured yet."
    assert "Labelling everything" not in page


def test_the_estimate_is_the_mean_cost_of_a_good_label_times_the_frames() -> None:
    m = material()
    page = page_of(fake_campaign())
    found = gains.everything(m)
    assert found is not None
    # five magnetic calculations of 2.5 core-hours, four good ones, and twelve scored frames
    assert (found.calculations, found.frames) == (5, 12)
    assert found.core_hours == pytest.approx(12 * 5 * 2.5 / 4)
    text = said(page, "Labelling everything")
    assert f"all 12 frames that the campaign looked at magnetically would cost about {hours(37.5)} core-hours" in text
    assert f"the campaign has spent {hours(113)}" in text
    assert "an estimate, not a measurement" in text
    assert "not the same information" in text


def calculation(core_hours: float, good: bool = True, fidelity: Fidelity = "magnetic") -> Calculation:
    return Calculation(fidelity=fidelity, atoms=28, elements=["Fe"], magnetic_atoms=4, core_hours=core_hours, good=good)


def test_no_estimate_without_a_good_label_and_no_bound_where_there_may_be_none() -> None:
    assert exhaustive([], 9) is None
    assert exhaustive([calculation(1.0, good=False)] * 4, 9) is None
    assert exhaustive([calculation(1.0, fidelity="nonmagnetic")] * 4, 9) is None
    few = exhaustive([calculation(2.0)] * 2, 9)
    assert few is not None
    assert (few.core_hours, few.low, few.high) == (18, None, None)
    rare = exhaustive([calculation(1.0)] + [calculation(1.0, good=False)] * 5, 9)
    assert rare is not None
    assert rare.core_hours == pytest.approx(54)
    assert rare.low is not None
    assert rare.high is None
    assert "or more" in gains.estimate(rare, 1.0)
    same = exhaustive([calculation(2.0)] * 9, 9)
    assert same is not None
    assert (same.low, same.high) == (18, 18)


def test_what_ends_the_campaign_is_said_with_where_it_is() -> None:
    stop = Stop(rounds=7, core_hours=500, force_error=40)
    page = page_of(fake_campaign() | {"stop": stop})
    text = said(page, "What ends the campaign")
    last = fake_campaign()["rounds"][-1]
    assert "2 of 7 rounds are done" in text
    assert f"{hours(113)} of 500 core-hours are spent" in text
    assert f"is {number(last.errors['hold_out']['magnetic'].forces)} meV/Å (n = 2 frames), and the aim is 40.0" in text
    assert said(page, "Next") == "Go on with round 2."
    text = next_step.grounds(material(stop=Stop(rounds=2)))["What ends the campaign"]
    assert "without a limit" in text
    assert "no aim is set" in text


def test_thresholds_of_the_next_round_are_said_unless_there_is_none() -> None:
    kinds: tuple[Kind, ...] = ("nonmagnetic", "delta", "magnetic", "conditional")
    taught = {kind: Calibration(kind=kind, scale=1, frames=5, typical=0.1 + i) for i, kind in enumerate(kinds)}
    experience = Experience(calibration=taught)
    told = "σ non-magnetic 0.100, σ Δ 1.10, σ magnetic 2.10, σ left 3.10 eV/Å"
    assert next_step.grounds(material(experience=experience))["Thresholds of the next round"].startswith(told)
    fixed = next_step.grounds(material(experience=experience, acquire=Acquire(threshold=0.3)))
    assert "σ Δ 0.300" in fixed["Thresholds of the next round"]
    assert "acquire.threshold" in fixed["Thresholds of the next round"]
    assert "no random frame" in next_step.grounds(material(experience=Experience()))["Thresholds of the next round"]
    rounds = fake_campaign()["rounds"]
    rounds[-1] = rounds[-1].model_copy(update={"stop": True})
    ended = next_step.grounds(material(rounds=rounds))
    assert "Thresholds of the next round" not in ended
    assert ended["Cheap labels"].startswith("If it went on, non-magnetic calculations would be run")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("auto", "wherever the committee asks"),
        ("always", "acquire.nonmagnetic: always"),
        ("never", "random frames alone"),
    ],
)
def test_whether_cheap_labels_go_on_is_said_with_the_probe(setting: Any, words: str) -> None:
    text = next_step.grounds(material(acquire=Acquire(nonmagnetic=setting)))["Cheap labels"]
    assert words in text
    assert text.endswith("Fake probe: it pays.")
    rounds = [r.model_copy(update={"probe": ""}) for r in fake_campaign()["rounds"]]
    text = next_step.grounds(material(acquire=Acquire(nonmagnetic=setting), rounds=rounds))["Cheap labels"]
    assert words in text
    assert "robe" not in text


def test_numbers_are_plain_and_equal_the_documents() -> None:
    m = material()
    numbers = answer.chapter(m).numbers
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    assert numbers["good_labels"] == {"nonmagnetic": 8, "magnetic": 4}
    assert numbers["core_hours"]["booked_by_rounds"] == 113
    assert numbers["core_hours"]["of_labels"] == 13 * 2.5
    assert sum(part["core_hours"] for part in numbers["core_hours"]["by_outcome"]) == 13 * 2.5
    held = next(
        line
        for line in numbers["errors"]["force_mae_mev_per_angstrom"]
        if (line["fidelity"], line["set"]) == ("magnetic", "hold_out")
    )
    assert held["errors"][1:] == [r.errors["hold_out"]["magnetic"].forces for r in m.rounds]
    assert m.experience.saving is not None
    assert numbers["saving"]["over"]["random"]["ratio"] == m.experience.saving.ratio
    assert numbers["saving"]["over"]["all_magnetic"]["verdict"] == "too few frames to tell"
    assert numbers["saving"]["all_frames_magnetic_estimate"]["core_hours"] == 37.5
    assert numbers["next"]["rounds"] == {"done": 2, "of": m.stop.rounds}
    assert numbers["next"]["next_step"] == "go on with round 2."


def test_words_of_a_campaign_stay_text() -> None:
    campaign = fake_campaign()
    campaign["rounds"] = [r.model_copy(update={"next_step": EVIL, "probe": EVIL}) for r in campaign["rounds"]]
    page = page_of(campaign)
    assert EVIL not in page
    assert said(page, "Next") == f"{EVIL}."
    assert said(page, "Cheap labels").endswith(f"{EVIL}.")
