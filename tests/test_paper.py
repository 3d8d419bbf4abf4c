"""The paper's experiments on a few rock-salt labels: real trainings, a few steps each."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from benchmarks import page, paper_plots, paper_tables
from benchmarks.experiments import experiments
from benchmarks.trainings import Data, Result, Run, Settings, blank, fingerprint, trained
from mfal.dataset import read, write
from mfal.frames import FIDELITIES, Errors
from mfal.model.multifidelity import pretrained
from mfal.training.trainer import _Run

LABELS = Path(__file__).parents[1] / "data" / "rocksalt-gpaw" / "labels.extxyz"
SETTINGS = Settings(labels_seen=4, batch_size=2, device="cpu")


def run(**values):
    return Run.model_validate({"strategy": "multi-fidelity", "magnetic": 3, "nonmagnetic": 5, "seed": 0} | values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """As `mfal export` writes it: 8 frames to train on, of which 2 have no magnetic label, and 2 held out."""
    out = tmp_path_factory.mktemp("exported")
    frames, labels = read(LABELS)
    frames = sorted(frames, key=lambda frame: len(frame.structure))[:10]
    names = [frame.frame_id for frame in frames]
    splits = dict.fromkeys(names, "train") | dict.fromkeys(names[:2], "hold_out")
    for fidelity, there in zip(FIDELITIES, (names, names[:8]), strict=True):
        own = [label for label in labels if label.fidelity == fidelity and label.frame_id in there]
        write(out / f"{fidelity}.extxyz", frames, own, splits=splits)
    (out / "splits.json").write_text(json.dumps({"train": names[2:], "hold_out": names[:2]}))
    return out


@pytest.fixture(scope="module")
def data(folder):
    return Data.read(folder)


def test_what_is_held_out_is_tested_on_and_never_drawn(folder, data):
    held = set(json.loads((folder / "splits.json").read_text())["hold_out"])
    assert {example.frame_id for example in data.test} == held
    assert {fidelity: len(labels) for fidelity, labels in data.train.items()} == {"nonmagnetic": 8, "magnetic": 6}
    everything = data.drawn(run(magnetic=6, nonmagnetic=8))
    assert len(everything) == 14
    assert not held & {example.frame_id for example in everything}


def test_a_larger_draw_holds_the_smaller_one_of_its_seed(data):
    def names(**values):
        return [(example.frame_id, example.fidelity) for example in data.drawn(run(**values))]

    assert set(names(magnetic=2)) < set(names(magnetic=5))
    assert names() == names()
    assert set(names()) != set(names(seed=1))
    with pytest.raises(ValueError, match="6 magnetic labels to learn from, and not 7"):
        names(magnetic=7)


def test_a_folder_without_a_test_set_is_refused(folder, tmp_path):
    (tmp_path / "labels.extxyz").write_text((folder / "nonmagnetic.extxyz").read_text())
    with pytest.raises(ValueError, match="has no magnetic label to learn from"):
        Data.read(tmp_path)
    (tmp_path / "more.extxyz").write_text((folder / "magnetic.extxyz").read_text())
    with pytest.raises(ValueError, match="nothing to test on"):
        Data.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({}, {"nonmagnetic", "magnetic"}),
        ({"parts": ""}, {"nonmagnetic", "magnetic"}),
        ({"strategy": "high-only", "nonmagnetic": 0, "weights": "random"}, {"magnetic"}),
        ({"strategy": "transfer"}, {"magnetic"}),
        ({"strategy": "delta"}, {"nonmagnetic", "magnetic"}),
        ({"strategy": "as pretrained", "nonmagnetic": 0}, {"magnetic"}),
    ],
    ids=["multi-fidelity", "one model of both", "random weights", "transfer", "delta", "as pretrained"],
)
def test_each_kind_of_run_trains_and_is_tested(data, changes, known):
    result = trained(run(**changes), data, SETTINGS)
    assert set(result.errors) == known
    assert result.errors["magnetic"].frames == 2
    assert 0 < result.errors["magnetic"].forces < 2000  # meV/Å; what forgets to train on energies is far beyond
    assert result == Result.model_validate_json(result.model_dump_json())


def test_twice_as_long_is_as_many_steps_as_two_fidelities_take(data, monkeypatch):
    counted = Counter()
    step = _Run._step
    monkeypatch.setattr(_Run, "_step", lambda self, *a: counted.update([self.model.fidelities]) or step(self, *a))
    settings = SETTINGS.model_copy(update={"labels_seen": 8})
    trained(run(magnetic=4, nonmagnetic=4), data, settings)
    trained(run(magnetic=4, nonmagnetic=0, strategy="high-only", times=2), data, settings)
    assert counted[FIDELITIES] == counted["magnetic",] == 8
    trained(run(magnetic=4, nonmagnetic=0, strategy="high-only"), data, settings)
    assert counted["magnetic",] == 8 + 4


def test_random_weights_come_from_the_seed():
    one, same, other = (blank(seed).state_dict() for seed in (0, 0, 1))
    name = "atom_conv_layers.0.twoBody_atom.mlp_core.layers.0.weight"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])
    assert one.keys() == pretrained("0.3.0").state_dict().keys()


def test_results_are_of_the_data_and_the_settings(data):
    base = fingerprint(data, SETTINGS)
    assert base != fingerprint(data, SETTINGS.model_copy(update={"labels_seen": 5}))
    assert base == fingerprint(data, SETTINGS.model_copy(update={"device": "cuda"}))


def made_up(experiment):
    """Errors that halve when the labels double, and are a tenth worse with another seed; a fake of `trained`."""
    return {
        run: Result(
            fingerprint="",
            run=run,
            errors={"magnetic": Errors(**dict.fromkeys(paper_tables.QUANTITIES, 1.1**run.seed * 8 / run.magnetic))},
            seconds=1.0,
        )
        for run in experiment.runs
    }


def test_the_figures_ask_for_labels_that_are_there_and_share_runs():
    found = experiments({"nonmagnetic": 40, "magnetic": 16}, 3)
    runs = [run for experiment in found for run in experiment.runs]
    assert len(set(runs)) < len(runs)
    assert all(run.magnetic <= 16 and run.nonmagnetic <= 40 for run in runs)
    fig_4 = next(experiment for experiment in found if experiment.name == "fig-4")
    assert [series.name for series in fig_4.series] == ["N", "F", "C", "E", "M", "R", "−C", "−E", "−M", "−R"]


def test_tables_and_figures_of_every_experiment(tmp_path):
    for experiment in experiments({"nonmagnetic": 40, "magnetic": 16}, 3):
        results = made_up(experiment)
        rows = list(paper_tables.rows(experiment, results))
        header = paper_tables.header(experiment)
        assert all(len(row) == len(header) for row in rows)
        assert sum(len(series.points) for series in experiment.series) == len(rows)
        paper_plots.draw(tmp_path / "figure.svg", experiment, results)
        assert all(series.name in (tmp_path / "figure.svg").read_text() for series in experiment.series)


def test_a_ratio_is_taken_seed_by_seed():
    experiment = experiments({"nonmagnetic": 40, "magnetic": 16}, 3)[0]
    results = made_up(experiment)
    ours = next(series for series in experiment.series if series.name == "multi-fidelity").points[16]
    for number in ours:
        results[number].errors["magnetic"].forces *= 0.8
    (row,) = (row for row in paper_tables.rows(experiment, results) if row[:2] == ["multi-fidelity", "16"])
    assert row[-1] == "0.8 (0.8–0.8)"  # the seeds differ by a tenth, and the ratio does not


def test_a_page_is_filled_between_its_marks(tmp_path):
    text = tmp_path / "page.md"
    text.write_text("above\n<!-- one: begin -->\nold\n<!-- one: end -->\nbelow\n")
    page.fill(text, "one", page.table(["a", "b"], [["1", "2"]]))
    page.fill(text, "one", page.table(["a", "b"], [["3", "4"]]))
    lines = [
        "above",
        "<!-- one: begin -->",
        "| a | b |",
        "| --- | --- |",
        "| 3 | 4 |",
        "<!-- one: end -->",
        "below",
        "",
    ]
    assert text.read_text().split("\n") == lines
    with pytest.raises(ValueError, match="two: begin"):
        page.fill(text, "two", "")
