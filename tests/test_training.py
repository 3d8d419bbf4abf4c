"""Labels to examples, the masked loss and the training loop."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from chgnet.model import CHGNet
from pymatgen.core import Lattice, Structure

from mfal.config import LossWeights, Training
from mfal.frames import FIDELITIES, Frame, Label
from mfal.model.engine import Output, predict
from mfal.model.graph import Graph
from mfal.model.multifidelity import MultiFidelityCHGNet, silence
from mfal.training import checkpoint, trainer
from mfal.training.examples import Example, examples
from mfal.training.loss import Heads, loss, weight_table
from mfal.training.packed import PackedExamples
from mfal.training.references import fit_reference_energies
from mfal.training.shares import shares
from mfal.training.trainer import device, train

SURROGATES = {"nonmagnetic": "0.2.0", "magnetic": "r2scan"}
CPU = {"device": "cpu", "learning_rate": 1e-3, "batch_size": 2}


def frame(cation: str = "Mn", seed: int = 0) -> Frame:
    lattice = Lattice([[0, 2.15, 2.15], [2.15, 0, 2.15], [2.15, 2.15, 0]])
    noise = np.random.default_rng(seed).normal(0, 0.08, (2, 3))
    positions = np.array([[0, 0, 0], [2.15, 2.15, 2.15]]) + noise
    structure = Structure(lattice, [cation, "O"], positions, coords_are_cartesian=True)
    return Frame.of(structure, parent="rock salt", source="rattle")


def label(of: Frame, fidelity: str = "magnetic", **values) -> Label:
    given = {"energy": -10.0, "forces": [[0.1, 0, 0], [-0.1, 0, 0]], "status": "ok"} | values
    return Label(frame_id=of.frame_id, fidelity=fidelity, fingerprint="test", **given)


@pytest.fixture(scope="module")
def surrogate_examples():
    """Two fidelities from two pretrained CHGNets: moments at the magnetic one only, and fewer of it."""
    frames = [frame("Mn", 0), frame("Fe", 1), frame("Mn", 2)]
    labels = []
    for fidelity, name in SURROGATES.items():
        with silence():
            model = CHGNet.load(model_name=name, use_device="cpu", verbose=False)
        for of in frames if fidelity == "nonmagnetic" else frames[:2]:
            values = model.predict_structure(of.structure)
            moments = (-values["m"]).tolist() if fidelity == "magnetic" else None
            labels.append(
                label(
                    of,
                    fidelity,
                    energy=values["e"].item() * 2,
                    forces=values["f"].tolist(),
                    stress=values["s"].tolist(),
                    magmoms=moments,
                )
            )
    return examples(frames, labels)


def test_examples_are_the_good_labels():
    one, other = frame("Mn"), frame("Fe")
    found = examples(
        [one, other],
        [
            label(one, "nonmagnetic"),
            label(one, magmoms=[-4.5, 0.1], stress=np.eye(3).tolist()),
            label(other, status="collapsed"),
        ],
    )
    assert [(e.frame_id, e.fidelity) for e in found] == [(one.frame_id, f) for f in FIDELITIES]
    assert found[0].graph is found[1].graph
    assert found[0].energy == -5.0
    assert (found[0].stress, found[0].magmoms) == (None, None)
    # sites are in the frame's canonical order: O before Mn
    assert found[1].magmoms.tolist() == pytest.approx([4.5, 0.1])
    assert found[1].forces.shape == (2, 3)


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("energy", math.nan, "is not finite"),
        ("forces", [[0.0, 0.0, math.inf], [0, 0, 0]], "is not finite"),
        ("forces", [[0.0, 0.0, 0.0]], r"has shape \(1, 3\), not \(2, 3\)"),
        ("forces", [[0.0, 0.0, 0.0], [0.0]], "is not an array"),
        ("stress", [[0.0] * 3], "has shape"),
        ("magmoms", [math.nan, 1.0], "is not finite"),
        ("magmoms", [1.0], "has shape"),
    ],
)
def test_bad_numbers_are_refused_by_name(field, value, what):
    of = frame()
    with pytest.raises(ValueError, match=rf"{field} of {of.frame_id} \(magnetic\).*{what}"):
        examples([of], [label(of, **{field: value})])
    assert examples([of], [label(of, status="failed", **{field: value})]) == []


def test_labels_without_numbers_or_frame_are_refused():
    of = frame()
    with pytest.raises(ValueError, match=rf"{of.frame_id}.*has no numbers"):
        examples([of], [label(of, energy=None, forces=None)])
    with pytest.raises(ValueError, match=rf"{of.frame_id}.*no such frame"):
        examples([], [label(of)])


def packed(*of: Example, dtype=torch.float32):
    return PackedExamples(of, FIDELITIES, dtype=dtype).batch(np.arange(len(of)))


def test_loss_is_the_weighted_mean_of_what_is_labelled():
    graph = Graph.of(frame().structure)
    batch, targets = packed(
        Example("one", "nonmagnetic", graph, energy=1.0, forces=torch.zeros(2, 3)),
        Example("two", "magnetic", graph, stress=torch.ones(3, 3), magmoms=torch.tensor([0.0, 0.5])),
    )
    output = Output(
        energy=torch.tensor([[1.05], [7.0]]),
        forces=torch.tensor([0.5, 0.5, 9.0, 9.0])[:, None].expand(4, 3),
        stress=torch.stack([torch.zeros(3, 3), 3 * torch.ones(3, 3)]),
        magmoms=torch.tensor([1.0, 2.0, 0.3, 0.5]),
        features=torch.zeros(4, 64),
    )
    settings = Training(
        weights=LossWeights(energy=2, forces=3, stress=5, magmoms=7),
        weights_by_fidelity={"magnetic": LossWeights(energy=2, forces=3, stress=11, magmoms=0.5)},
    )
    weights = weight_table(settings, FIDELITIES)
    found = loss(output, targets, batch, weights)
    first = 2 * 0.5 * 0.05**2 + 3 * 0.1 * (0.5 - 0.05)
    second = 11 * 0.1 * (2 - 0.05) + 0.5 * 0.1 * (0.3 - 0.05) / 2
    assert found.by_graph.tolist() == pytest.approx([first, second], rel=1e-5)
    assert found.errors.tolist() == pytest.approx([0.05, 3.0, 18.0, 0.3], rel=1e-5)
    assert found.counts.tolist() == [1, 6, 9, 2]
    found = loss(output, targets, batch, weights, kind="mse")
    assert found.by_graph.tolist() == pytest.approx([2 * 0.05**2 + 3 * 0.25, 11 * 4 + 0.5 * 0.09 / 2], rel=1e-5)


def test_heads_share_a_batch_by_their_weights():
    graph = Graph.of(frame().structure)
    batch, targets = packed(*(Example(name, "magnetic", graph, energy=0.0, forces=torch.zeros(2, 3)) for name in "ab"))
    output = Output(
        energy=torch.tensor([[1.0, 3.0], [1.0, 3.0]]),
        forces=torch.ones(4, 3),
        stress=torch.zeros(2, 3, 3),
        magmoms=torch.zeros(4),
        features=torch.zeros(4, 64),
    )
    heads = Heads(weights=torch.tensor([[1.0, 0.0], [0.5, 2.0]]), drawn=torch.tensor([0, 1]))
    weights = weight_table(Training(weights=LossWeights(energy=1, forces=1)), FIDELITIES)
    found = loss(output, targets, batch, weights, kind="mse", heads=heads)
    # energies: mean over 2 graphs x 2 heads; forces: mean over 12 components, by the weight of the head drawn
    assert found.by_graph.tolist() == pytest.approx([1 / 4 + 6 / 12, (0.5 + 18) / 4 + 2 * 6 / 12])


def test_absent_moments_change_nothing_and_give_no_gradient(surrogate_examples):
    model = MultiFidelityCHGNet.from_pretrained("0.3.0").train()
    full = surrogate_examples[-1]
    assert full.magmoms is not None

    def step(example, weights):
        model.zero_grad()
        batch, targets = packed(example)
        table = weight_table(Training(weights=weights), FIDELITIES)
        value = loss(predict(model, batch, create_graph=True), targets, batch, table).by_graph.sum()
        value.backward(inputs=list(model.site_wise.parameters()))
        gradient = model.site_wise.weight.grad
        return value.item(), 0.0 if gradient is None else gradient.abs().sum().item()

    absent, no_gradient = step(replace(full, magmoms=None), LossWeights())
    without, _ = step(full, LossWeights(magmoms=0))
    present, gradient = step(full, LossWeights())
    zero, _ = step(replace(full, magmoms=torch.zeros(2)), LossWeights())
    assert no_gradient == 0
    assert absent == pytest.approx(without, rel=1e-5)
    assert gradient > 0
    assert absent < present < zero


def test_a_batch_keeps_labels_with_their_graphs(surrogate_examples):
    everything = PackedExamples(surrogate_examples, FIDELITIES)
    picks = np.array([4, 0, 3])
    batch, targets = everything.batch(picks)
    for place, pick in enumerate(picks):
        example, own = surrogate_examples[pick], batch.graph == place
        assert batch.fidelity[place] == FIDELITIES.index(example.fidelity)
        assert targets.energy[place].item() == pytest.approx(example.energy)
        assert torch.equal(targets.forces[own], example.forces)
        assert torch.equal(targets.stress[place], example.stress)
        np.testing.assert_allclose(batch.positions[own], example.graph.positions, atol=1e-6)
        if example.magmoms is None:
            assert targets.magmoms[own].isnan().all()
        else:
            assert torch.equal(targets.magmoms[own], example.magmoms)


def test_foreign_fidelities_are_refused(surrogate_examples):
    with pytest.raises(ValueError, match="fidelity magnetic: the model knows nonmagnetic"):
        PackedExamples(surrogate_examples, ["nonmagnetic"])


def fitted(data, **arguments):
    model = MultiFidelityCHGNet.from_pretrained("0.3.0", **arguments)
    fit_reference_energies(model, data)
    return model


def test_training_lowers_the_loss_and_is_determined_by_the_seed(surrogate_examples):
    settings = Training(epochs=6, **CPU)
    seen = []
    models = [fitted(surrogate_examples) for _ in range(2)]
    start = {name: value.clone() for name, value in models[0].named_parameters()}
    logs = [
        train(model, surrogate_examples, settings, seed=5, on_epoch=lambda epoch, _: seen.append(epoch))
        for model in models
    ]
    assert logs[0] == logs[1]
    assert seen == [1, 2, 3, 4, 5, 6] * 2
    assert logs[0][-1]["loss"] < 0.6 * logs[0][0]["loss"]
    assert logs[0][-1]["forces"] < logs[0][0]["forces"]
    assert logs[0][0].keys() == {"epoch", "learning_rate", "loss", "energy", "forces", "stress", "magmoms"}
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not models[0].training
    changed = {name for name, value in models[0].named_parameters() if not torch.equal(value, start[name])}
    assert changed >= {name for name in models[0].fidelity_parameters() if not name.startswith("composition_model")}
    for name in changed:  # the reference energies are fitted and not trained
        if name.startswith("composition_model"):
            assert torch.allclose(states[0][name], start[name], atol=1e-4)


def test_another_seed_is_another_order(surrogate_examples):
    losses = [
        train(fitted(surrogate_examples), surrogate_examples, Training(epochs=1, **CPU), seed=seed)[0]["loss"]
        for seed in (1, 2)
    ]
    assert losses[0] != losses[1]


@pytest.mark.parametrize("counts", [(5, 3), (7, 1), (4, 4), (0, 5)])
def test_every_fidelity_is_seen_equally_often_and_so_are_its_labels(counts):
    fidelities = [name for name, count in zip(FIDELITIES, counts, strict=True) for _ in range(count)]
    seen = np.zeros(len(fidelities), dtype=int)
    for epoch in range(1, 8):
        numbers = shares(fidelities, seed=3, epoch=epoch)
        assert len(numbers) == len(fidelities)
        np.add.at(seen, numbers, 1)
        times = [seen[[name == own for name in fidelities]] for own in sorted(set(fidelities))]
        assert all(own.max() - own.min() <= 1 for own in times)
        # An odd number of labels leaves one over in each epoch.
        assert max(own.sum() for own in times) - min(own.sum() for own in times) <= epoch
    assert not np.array_equal(shares(fidelities, seed=3, epoch=1), shares(fidelities, seed=4, epoch=1))


def test_a_loss_that_is_not_finite_names_the_frame(surrogate_examples, tmp_path):
    bad = replace(surrogate_examples[0], frame_id="bad", forces=torch.full((2, 3), 1e30))
    data = [*surrogate_examples[1:], bad]
    settings = Training(epochs=1, loss="mse", **CPU)
    with pytest.raises(FloatingPointError, match=r"loss is not finite in epoch 1 for bad \(nonmagnetic\): look at"):
        train(fitted(surrogate_examples), data, settings, seed=0, directory=tmp_path)
    assert not list(tmp_path.iterdir())  # nothing of the broken model is kept


def test_what_cannot_be_trained_on_is_refused(surrogate_examples):
    model = MultiFidelityCHGNet.from_pretrained("0.3.0")
    with pytest.raises(ValueError, match="nothing to train on"):
        train(model, [], Training(epochs=1, **CPU), seed=0)
    with pytest.raises(ValueError, match=r"forces of .* \(nonmagnetic\): is not finite"):
        replace(surrogate_examples[0], forces=torch.full((2, 3), math.nan))
    short = Graph.of(frame().structure, atom_cutoff=5)
    with pytest.raises(ValueError, match=rf"graph of {surrogate_examples[0].frame_id} ends at 5.0 Å"):
        train(model, [replace(surrogate_examples[0], graph=short)], Training(epochs=1, **CPU), seed=0)
    with pytest.raises(ValueError, match=r"training.patience needs a hold-out"):
        train(model, surrogate_examples, Training(epochs=1, patience=1, **CPU), seed=0)


class KilledError(Exception):
    """Stands for SIGKILL: nothing after it runs."""


@pytest.mark.parametrize(
    ("heads", "settings"),
    [(1, {}), (2, {"ema": 0.9, "patience": 3, "weights_by_fidelity": {"nonmagnetic": {"stress": 0.0}}})],
)
def test_a_killed_training_goes_on_to_the_same_result(surrogate_examples, tmp_path, monkeypatch, heads, settings):
    """Killed at every step in turn, also between a step and its checkpoint."""
    monkeypatch.setattr(trainer, "CHECKPOINT", 0.0)
    settings = Training(epochs=3, **CPU, **settings)
    hold_out = surrogate_examples[:1]

    def run(directory, kill_at=None):
        model = fitted(surrogate_examples, heads=heads)
        steps = 0

        def step(*arguments, **keywords):
            nonlocal steps
            steps += 1
            if steps == kill_at:
                raise KilledError
            return gradients(*arguments, **keywords)

        monkeypatch.setattr(trainer, "gradients", step)
        log = train(model, surrogate_examples, settings, seed=1, hold_out=hold_out, directory=directory)
        return log, model.state_dict(), steps

    gradients = trainer.gradients
    log, state, steps = run(tmp_path / "whole")
    assert steps == 9
    assert [entry["epoch"] for entry in log] == [1, 2, 3]
    for _ in range(4):
        with pytest.raises(KilledError):
            run(tmp_path / "killed", kill_at=3)  # two steps more each time
    again, other, left = run(tmp_path / "killed")
    assert left == 1
    assert again == log
    for name in state:
        assert torch.equal(state[name], other[name]), name
    assert (tmp_path / "killed" / "log.csv").read_text() == (tmp_path / "whole" / "log.csv").read_text()
    assert run(tmp_path / "killed")[2] == 0  # finished: nothing is done again
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["checkpoint.pt", "log.csv"]


def test_a_folder_of_another_training_is_refused(surrogate_examples, tmp_path):
    settings = Training(epochs=1, **CPU)
    train(fitted(surrogate_examples), surrogate_examples[:2], settings, seed=0, directory=tmp_path)
    seen = []
    for data, seed, lr in [(3, 0, 1e-3), (2, 1, 1e-3), (2, 0, 1e-4)]:
        other = Training(epochs=1, **CPU | {"learning_rate": lr})
        with pytest.raises(ValueError, match=r"holds a training with other examples, settings, seed"):
            train(fitted(surrogate_examples), surrogate_examples[:data], other, seed=seed, directory=tmp_path)
    train(
        fitted(surrogate_examples),
        surrogate_examples[:2],
        settings,
        seed=0,
        directory=tmp_path,
        on_epoch=lambda epoch, _: seen.append(epoch),
    )
    assert seen == [1]  # the epochs that it has are told again
    (tmp_path / checkpoint.FILE).write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"checkpoint.pt: is not the checkpoint of a training: remove it"):
        train(fitted(surrogate_examples), surrogate_examples[:2], settings, seed=0, directory=tmp_path)


def test_patience_keeps_the_best_epoch(surrogate_examples):
    hold_out = surrogate_examples[3:4]
    # A learning rate that ruins the model: the loss on the hold-out has its best epoch early.
    settings = Training(epochs=30, patience=2, **CPU | {"learning_rate": 3e-2})
    model = fitted(surrogate_examples)
    log = train(model, surrogate_examples[:3], settings, seed=0, hold_out=hold_out)
    losses = [entry["hold_out_loss"] for entry in log]
    best = int(np.argmin(losses))
    assert len(log) == best + 1 + 2 < 30
    batch, targets = PackedExamples(hold_out, FIDELITIES).batch(np.arange(1))
    found = loss(predict(model, batch), targets, batch, weight_table(settings, FIDELITIES))
    assert found.by_graph.sum().item() == pytest.approx(losses[best], rel=1e-4)
    assert log[best]["hold_out_forces"] == pytest.approx(found.errors[1].item() / 6 * 1e3, rel=1e-4)


def test_the_average_of_the_weights_is_the_model(surrogate_examples):
    states = []
    for ema in (None, 0.5, 1e-9):
        model = fitted(surrogate_examples)
        train(model, surrogate_examples, Training(epochs=2, ema=ema, **CPU), seed=0)
        states.append(model.site_wise.weight.detach())
    assert torch.allclose(states[0], states[2], atol=1e-7)  # no memory: the last weights
    assert not torch.allclose(states[0], states[1], atol=1e-6)


def test_heads_learn_and_disagree(surrogate_examples):
    model = fitted(surrogate_examples, heads=3)
    log = train(model, surrogate_examples, Training(epochs=8, **CPU), seed=0)
    assert log[-1]["loss"] < 0.7 * log[0]["loss"]
    batch, _ = PackedExamples(surrogate_examples, FIDELITIES).batch(np.arange(len(surrogate_examples)))
    energies = predict(model, batch).energy
    assert energies.shape == (5, 3)
    assert (energies.std(dim=1) > 1e-5).all()


def test_the_log_is_a_table(surrogate_examples, tmp_path):
    log = train(fitted(surrogate_examples), surrogate_examples, Training(epochs=2, **CPU), seed=0, directory=tmp_path)
    header, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert header.split(",") == list(log[0])
    assert [[float(value) for value in row.split(",")] for row in rows] == [list(entry.values()) for entry in log]


def test_a_longer_graph_gives_the_same_predictions():
    model = MultiFidelityCHGNet.from_pretrained("0.2.0").eval()
    graphs = [Graph.of(frame().structure, atom_cutoff=cutoff) for cutoff in (5, 6)]
    assert len(graphs[1].edge_bond) > len(graphs[0].edge_bond)
    short, long = (predict(model, packed(Example("x", "magnetic", graph, energy=0.0))[0]) for graph in graphs)
    assert short.energy.item() == pytest.approx(long.energy.item(), abs=1e-5)
    assert torch.allclose(short.forces, long.forces, atol=5e-4)
    assert torch.allclose(short.stress, long.stress, atol=5e-3)


def test_device():
    assert device("cpu") == torch.device("cpu")
    assert device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_subnormal_numbers_are_zeros_in_all_threads_and_only_for_a_while():
    """In a process of its own: here torch may have started its threads before mfal."""
    code = """
import torch
torch.set_num_threads(2)
from mfal.model.subnormal import subnormal_is_zero

def left(): return (torch.full((1 << 22,), 2e-38) / 4).any().item()

with subnormal_is_zero():
    print(left())
    with subnormal_is_zero():
        pass
    print(left())
print(left(), 5e-324 > 0)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False", "True", "True"]


def test_a_fork_of_a_process_that_has_imported_all_can_compute():
    """Not so where an import has started torch's threads: the fork has them not, and waits for them."""
    code = """
import os, torch
torch.set_num_threads(2)
import mfal.training.trainer
if not os.fork():
    os._exit(7 if torch.ones(1 << 22).add_(1).sum() > 0 else 1)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout.split() == ["7"]


def test_a_training_leaves_the_process_its_subnormal_numbers(surrogate_examples):
    train(fitted(surrogate_examples), surrogate_examples, Training(epochs=1, batch_size=64), seed=0)
    assert np.float64(2.3e-308) / 4 > 0
