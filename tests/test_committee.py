"""Members, their predictions, the paired decomposition and the errors."""

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from mfal.committee import predict as predict_module
from mfal.committee.evaluate import errors, parity
from mfal.committee.members import perturb_readouts, start_committee, train_committee
from mfal.committee.predict import predict
from mfal.config import Committee, Training
from mfal.frames import FIDELITIES, Errors, Frame
from mfal.model.graph import Graph
from mfal.model.multifidelity import MultiFidelityCHGNet
from mfal.training.examples import Example


def frame(cation: str = "Mn", *, atoms: int = 2, seed: int = 0) -> Frame:
    lattice = Lattice([[0, 2.15, 2.15], [2.15, 0, 2.15], [2.15, 2.15, 0]])
    structure = Structure(lattice, [cation, "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]) * (atoms // 2, 1, 1)
    noise = np.random.default_rng(seed).normal(0, 0.08, (atoms, 3))
    structure = Structure(
        structure.lattice, structure.species, structure.cart_coords + noise, coords_are_cartesian=True
    )
    return Frame.of(structure, parent="rock salt", source="rattle")


@pytest.fixture(scope="module")
def models():
    return start_committee(Committee(members=2), seed=0)


@pytest.fixture(scope="module")
def frames():
    return [frame("Mn"), frame("Fe", atoms=4, seed=1), frame("Mn", seed=2)]


@pytest.fixture(scope="module")
def predictions(models, frames):
    return predict(models, frames)


def test_members_differ_at_every_fidelity_and_in_its_difference(predictions):
    forces = predictions[0].forces
    spread = np.abs(forces[0] - forces[1]).max(axis=(1, 2))
    assert (spread > 1e-3).all()
    difference = forces[:, 1] - forces[:, 0]
    assert np.abs(difference[0] - difference[1]).max() > 1e-3
    # ... and stay near the pretrained model
    assert np.abs(forces - forces.mean(axis=(0, 1))).max() < 1.0


@pytest.mark.parametrize("parts", ["CEMR", "EM"])
def test_noise_is_two_percent_of_the_readout_and_of_nothing_else(parts):
    start = MultiFidelityCHGNet.from_pretrained("0.3.0", parts=parts)
    noisy = [MultiFidelityCHGNet.from_pretrained("0.3.0", parts=parts) for _ in range(3)]
    for model, seed in zip(noisy, (1, 1, 2), strict=True):
        perturb_readouts(model, seed)
    states = [model.state_dict() for model in noisy]
    for name, before in start.state_dict().items():
        assert torch.equal(states[0][name], states[1][name])
        if name.startswith("mlp.") and before.numel() > 1:
            assert not torch.equal(states[0][name], states[2][name])
            change = (states[0][name] - before).std() / before.std()
            assert change.item() == pytest.approx(0.02, rel=0.35), name
        else:
            assert torch.equal(states[0][name], before), name


def test_predictions_have_a_member_and_a_fidelity_axis(models, frames, predictions):
    for of, prediction in zip(frames, predictions, strict=True):
        atoms = len(of.structure)
        assert prediction.fidelities == FIDELITIES
        assert prediction.energy.shape == (2, 2)
        assert prediction.forces.shape == (2, 2, atoms, 3)
        assert prediction.stress.shape == (2, 2, 3, 3)
        assert prediction.magmoms.shape == (2, 2, atoms)
    graph = models[1].graph_converter(frames[1].structure)
    alone = models[1]([graph], fidelity="nonmagnetic", task="efsm")
    assert predictions[1].energy[1, 0] == pytest.approx(alone["e"].item(), abs=1e-5)
    np.testing.assert_allclose(predictions[1].forces[1, 0], alone["f"][0].detach(), atol=5e-4)
    np.testing.assert_allclose(predictions[1].stress[1, 0], alone["s"][0].detach(), atol=5e-3)
    np.testing.assert_allclose(predictions[1].magmoms[1, 0], alone["m"][0].detach(), atol=1e-5)


def test_batches_change_nothing(models, frames, predictions, monkeypatch):
    monkeypatch.setattr(predict_module, "MOST_ATOMS", 3)
    structures = [of.structure for of in frames]
    again = predict(models, structures, ["magnetic"], batch_size=2)
    assert len(again) == 3
    for one, other in zip(again, predictions, strict=True):
        np.testing.assert_allclose(one.forces[:, 0], other.forces[:, 1], atol=5e-4)
        np.testing.assert_allclose(one.energy[:, 0], other.energy[:, 1], atol=1e-5)


def test_batches_hold_what_they_may(frames, monkeypatch):
    graphs = [Graph.of(of.structure) for of in frames]  # 2, 4 and 2 atoms
    for most, size, expected in [
        (100, 16, [3]),
        (100, 2, [2, 1]),
        (6, 16, [2, 1]),
        (3, 16, [1, 1, 1]),
        (1, 16, [1] * 3),
    ]:
        monkeypatch.setattr(predict_module, "MOST_ATOMS", most)
        slices = list(predict_module._batches(graphs, size))
        assert [len(graphs[s]) for s in slices] == expected
        assert [graph for s in slices for graph in graphs[s]] == graphs
    assert list(predict_module._batches([], 4)) == []


def test_no_model_is_refused(frames):
    with pytest.raises(ValueError, match="at least one model"):
        predict([], frames)


@pytest.fixture(scope="module")
def shifted(frames, predictions):
    """Labels a known way from the committee's mean: complete and magnetic, then forces only and non-magnetic."""
    graphs = [Graph.of(of.structure) for of in frames]
    signs = torch.tensor([1.0, -1.0, 1.0])

    def mean(name, of, fidelity):
        return torch.as_tensor(getattr(predictions[of], name)[:, fidelity].mean(axis=0))

    return [
        Example(
            frames[0].frame_id,
            "magnetic",
            graphs[0],
            energy=mean("energy", 0, 1).item() - 0.01,
            forces=mean("forces", 0, 1) + 0.02 * signs,
            stress=mean("stress", 0, 1) - 0.3 * signs,
            magmoms=mean("magmoms", 0, 1) + 0.5,
        ),
        Example(frames[0].frame_id, "nonmagnetic", graphs[0], forces=mean("forces", 0, 0) + 0.3),
        Example(frames[1].frame_id, "nonmagnetic", graphs[1], forces=mean("forces", 1, 0) - 0.6),
    ]


def test_errors_are_those_of_the_mean_in_the_units_of_the_report(models, shifted):
    found = errors(models, shifted)
    magnetic, nonmagnetic = found["magnetic"], found["nonmagnetic"]
    assert magnetic.energy == pytest.approx(10, abs=0.05)  # meV/atom
    assert magnetic.forces == pytest.approx(20, abs=0.5)  # meV/Å
    assert magnetic.stress == pytest.approx(0.3, abs=0.01)  # GPa
    assert magnetic.magmoms == pytest.approx(0.5, abs=1e-4)  # µB
    assert magnetic.frames == 1
    # 2 atoms at 0.3 and 4 at 0.6: every component counts alike
    assert nonmagnetic.forces == pytest.approx(500, abs=0.5)
    assert (nonmagnetic.energy, nonmagnetic.stress, nonmagnetic.magmoms) == (None, None, None)
    assert nonmagnetic.frames == 2
    assert errors(models, []) == dict.fromkeys(FIDELITIES, Errors())


def test_parity_is_true_beside_predicted(models, shifted):
    rows = parity(models, shifted)
    assert [(row["frame_id"], row["fidelity"]) for row in rows] == [(e.frame_id, e.fidelity) for e in shifted]
    true, predicted = rows[0]["energy"]
    assert true == shifted[0].energy
    assert predicted - true == pytest.approx(0.01, abs=1e-4)
    true, predicted = rows[0]["forces"]
    assert true == pytest.approx(shifted[0].forces.reshape(-1).tolist())
    assert np.subtract(true, predicted) == pytest.approx(np.tile([0.02, -0.02, 0.02], 2), abs=1e-3)
    assert [len(values) for values in rows[0]["magmoms"]] == [2, 2]
    assert (rows[1]["energy"], rows[1]["magmoms"]) == (None, None)


def test_a_committee_is_trained_and_goes_on(frames, predictions):
    settings, training = Committee(members=2), Training(epochs=1, batch_size=2, learning_rate=1e-5, device="cpu")
    # Another code's energies: several eV/atom away
    data = [
        Example(
            of.frame_id,
            fidelity,
            Graph.of(of.structure),
            energy=float(prediction.energy[:, i].mean()) + 4.0 - 7.0 * i,
            forces=torch.as_tensor(prediction.forces[:, i].mean(axis=0)),
        )
        for of, prediction in zip(frames[:2], predictions, strict=False)
        for i, fidelity in enumerate(FIDELITIES)
    ]
    calls = []
    first = train_committee(
        None, data, settings, training, seed=3, on_epoch=lambda member, epoch, _: calls.append((member, epoch))
    )
    assert calls == [(0, 1), (1, 1)]
    assert first[0].seed != first[1].seed
    assert all(len(member.log) == 1 for member in first)
    assert all(error.energy < 100 for error in errors([m.model for m in first], data).values())
    before = [member.model.state_dict()["mlp.1.layers.0.weight"].clone() for member in first]
    assert not torch.equal(before[0], before[1])

    second = train_committee([member.model for member in first], data, settings, training, seed=4)
    for member, old, weight in zip(second, first, before, strict=True):
        assert torch.equal(old.model.state_dict()["mlp.1.layers.0.weight"], weight)
        now = member.model.state_dict()["mlp.1.layers.0.weight"]
        assert not torch.equal(now, weight)
        # From the old weights and not from new noise, which is a hundred times a step.
        assert (now - weight).abs().max() < 1e-4
    with pytest.raises(ValueError, match="start a new campaign"):
        train_committee([first[0].model], data, settings, training, seed=4)
