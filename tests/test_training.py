"""Labels to examples, the masked loss and the training loop."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from chgnet.graph import CrystalGraphConverter
from chgnet.model import CHGNet
from pymatgen.core import Lattice, Structure

from mfal.config import LossWeights, Training
from mfal.frames import FIDELITIES, Frame, Label
from mfal.model.multifidelity import MultiFidelityCHGNet, silence
from mfal.training.examples import Example, examples
from mfal.training.loss import loss, residuals, task
from mfal.training.references import fit_reference_energies
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
    assert found[1].graph.graph_id == one.frame_id


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


def synthetic(**values) -> Example:
    return Example(frame_id="synthetic", fidelity="magnetic", graph=None, **values)


def test_loss_is_the_weighted_huber_of_what_is_labelled():
    prediction = {
        "e": torch.tensor([1.05, 7.0]),
        "f": [torch.full((2, 3), 0.5), torch.full((1, 3), 9.0)],
        "s": [torch.zeros(3, 3), torch.ones(3, 3)],
        "m": [torch.tensor([1.0, 2.0]), torch.tensor([0.3])],
    }
    batch = [
        synthetic(energy=1.0, forces=torch.zeros(2, 3)),
        synthetic(stress=torch.ones(3, 3), magmoms=torch.tensor([0.0])),
    ]
    found = residuals(prediction, batch)
    assert {name: tuple(values.shape) for name, values in found.items()} == {
        "energy": (1,),
        "forces": (6,),
        "stress": (9,),
        "magmoms": (1,),
    }
    weights = LossWeights(energy=2, forces=3, stress=5, magmoms=7)
    huber = 2 * 0.5 * 0.05**2 + 3 * 0.1 * (0.5 - 0.05) + 0 + 7 * 0.1 * (0.3 - 0.05)
    assert loss(found, weights).item() == pytest.approx(huber, rel=1e-5)
    assert task(batch) == "efsm"
    assert task(batch[:1]) == "ef"
    assert task([synthetic(magmoms=torch.tensor([0.0]))]) == "em"


def test_absent_moments_change_nothing_and_give_no_gradient(surrogate_examples):
    model = MultiFidelityCHGNet.from_pretrained("0.3.0").train()
    full = surrogate_examples[-1]
    assert full.magmoms is not None

    def step(example, weights):
        model.zero_grad()
        prediction = model([example.graph], fidelity=example.fidelity, task="efsm")
        value = loss(residuals(prediction, [example]), weights)
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


def fitted(data):
    model = MultiFidelityCHGNet.from_pretrained("0.3.0")
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
    assert logs[0][0].keys() == {"epoch", "loss", "energy", "forces", "stress", "magmoms"}
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not models[0].training
    changed = {name for name, value in models[0].named_parameters() if not torch.equal(value, start[name])}
    assert changed >= {name for name in models[0].fidelity_parameters() if not name.startswith("composition_model")}
    assert not any(name.startswith("composition_model") for name in changed)
    # The graphs are shared between examples, and take no gradients along.
    assert all(example.graph.atom_frac_coord.grad is None for example in surrogate_examples)


def test_another_seed_is_another_order(surrogate_examples):
    losses = [
        train(fitted(surrogate_examples), surrogate_examples, Training(epochs=1, **CPU), seed=seed)[0]["loss"]
        for seed in (1, 2)
    ]
    assert losses[0] != losses[1]


def test_a_loss_that_is_not_finite_names_the_frame(surrogate_examples):
    bad = replace(surrogate_examples[0], stress=torch.full((3, 3), math.nan))
    model = MultiFidelityCHGNet.from_pretrained("0.3.0")
    with pytest.raises(FloatingPointError, match=rf"loss is not finite.*{bad.frame_id} \(nonmagnetic\)"):
        train(model, [bad], Training(epochs=1, **CPU), seed=0)


def test_what_cannot_be_trained_on_is_refused(surrogate_examples):
    model = MultiFidelityCHGNet.from_pretrained("0.3.0")
    with pytest.raises(ValueError, match="nothing to train on"):
        train(model, [], Training(epochs=1, **CPU), seed=0)
    short = CrystalGraphConverter(atom_graph_cutoff=5)(frame().structure)
    with pytest.raises(ValueError, match=rf"graph of {surrogate_examples[0].frame_id} ends at 5 Å"):
        train(model, [replace(surrogate_examples[0], graph=short)], Training(epochs=1, **CPU), seed=0)


def test_a_longer_graph_gives_the_same_predictions():
    model = MultiFidelityCHGNet.from_pretrained("0.2.0").eval()
    graphs = [CrystalGraphConverter(atom_graph_cutoff=cutoff)(frame().structure) for cutoff in (5, 6)]
    assert len(graphs[1].atom_graph) > len(graphs[0].atom_graph)
    short, long = (model([graph], task="efsm") for graph in graphs)
    assert short["e"].item() == pytest.approx(long["e"].item(), abs=1e-5)
    assert torch.allclose(short["f"][0], long["f"][0], atol=5e-4)
    assert torch.allclose(short["s"][0], long["s"][0], atol=5e-3)


def test_device():
    assert device("cpu") == torch.device("cpu")
    assert device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
