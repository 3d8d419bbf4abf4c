"""The four strategies, and shallow committees, on labels whose answer is known."""

import numpy as np
import pytest
import torch
from chgnet.model import CHGNet
from pymatgen.core import Lattice, Structure

from mfal.committee.decompose import decompose
from mfal.committee.evaluate import errors
from mfal.committee.members import train_committee
from mfal.committee.predict import predict
from mfal.committee.strategies import STAGES, train_strategy
from mfal.config import Committee, Training
from mfal.frames import FIDELITIES, Frame, Label
from mfal.model.delta import DeltaCHGNet
from mfal.model.multifidelity import MultiFidelityCHGNet, silence
from mfal.model.weights import from_bytes, to_bytes
from mfal.training.examples import examples

TRAINING = Training(epochs=25, batch_size=3, learning_rate=3e-3, device="cpu")
SURROGATES = {"nonmagnetic": "0.2.0", "magnetic": "r2scan"}


def frame(cation: str, seed: int) -> Frame:
    lattice = Lattice([[0, 2.15, 2.15], [2.15, 0, 2.15], [2.15, 2.15, 0]])
    positions = np.array([[0, 0, 0], [2.15, 2.15, 2.15]]) + np.random.default_rng(seed).normal(0, 0.1, (2, 3))
    structure = Structure(lattice, [cation, "O"], positions, coords_are_cartesian=True)
    return Frame.of(structure, parent="rock salt", source="rattle")


@pytest.fixture(scope="module")
def frames():
    return [frame("Mn" if seed % 2 else "Fe", seed) for seed in range(6)]


@pytest.fixture(scope="module")
def data(frames):
    """Labels of two pretrained CHGNets; three of the six frames have a magnetic one."""
    labels = []
    for fidelity, name in SURROGATES.items():
        with silence():
            model = CHGNet.load(model_name=name, use_device="cpu", verbose=False)
        for of in frames if fidelity == "nonmagnetic" else frames[:3]:
            values = model.predict_structure(of.structure)
            labels.append(
                Label(
                    frame_id=of.frame_id,
                    fidelity=fidelity,
                    fingerprint="surrogate",
                    status="ok",
                    energy=values["e"].item() * 2,
                    forces=values["f"].tolist(),
                    stress=values["s"].tolist(),
                    magmoms=values["m"].tolist() if fidelity == "magnetic" else None,
                )
            )
    return examples(frames, labels)


@pytest.mark.parametrize("strategy", STAGES)
def test_a_strategy_learns_what_it_is_given(strategy, data, tmp_path):
    seen = []
    (model,) = train_strategy(
        strategy,
        data,
        Committee(members=1),
        TRAINING,
        seed=1,
        directory=tmp_path,
        on_epoch=lambda member, stage, epoch, _: seen.append((member, stage, epoch)),
    )
    stages = STAGES[strategy]
    assert seen == [(0, stage, epoch) for stage in stages for epoch in range(1, TRAINING.epochs + 1)]
    assert sorted(path.name for path in (tmp_path / "member-0").iterdir()) == sorted(stages)
    magnetic = [example for example in data if example.fidelity == "magnetic"]
    before = errors([MultiFidelityCHGNet.from_pretrained("0.3.0")], magnetic)["magnetic"]
    after = errors([model], magnetic)["magnetic"]
    assert after.forces < 0.8 * before.forces
    assert after.energy < 50
    assert isinstance(model, DeltaCHGNet) == (strategy == "delta")
    expected = FIDELITIES if strategy in ("multi-fidelity", "delta") else ("magnetic",)
    assert tuple(model.fidelities) == expected
    again = from_bytes(to_bytes(model))
    assert errors([again], magnetic)["magnetic"] == after
    if strategy == "delta":
        low = [example for example in data if example.fidelity == "nonmagnetic"]
        assert errors([model], low)["nonmagnetic"] == errors([model.low], low)["nonmagnetic"]


def test_the_stages_of_a_strategy_go_on(data, tmp_path):
    def run():
        seen = []
        (model,) = train_strategy(
            "delta",
            data,
            Committee(members=1),
            TRAINING.model_copy(update={"epochs": 1}),
            seed=1,
            directory=tmp_path,
            on_epoch=lambda *call: seen.append(call),
        )
        return model.state_dict(), seen

    first, log = run()
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("checkpoint.pt")}
    second, again = run()
    assert len(stamps) == 2
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("checkpoint.pt")} == stamps
    assert again == log
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_a_strategy_lacks_is_named(data):
    low = [example for example in data if example.fidelity == "nonmagnetic"]
    for strategy in ("high-only", "transfer", "delta"):
        with pytest.raises(ValueError, match=f"'{strategy}' needs magnetic labels"):
            train_strategy(strategy, low, Committee(members=1), TRAINING, seed=0)
    shallow = Committee(kind="shallow", members=3)
    with pytest.raises(ValueError, match=r"committee.kind = 'shallow'.*take kind: deep"):
        train_strategy("delta", data, shallow, TRAINING, seed=0)


def test_a_shallow_committee_is_one_model_of_many_members(frames, data):
    settings = Committee(kind="shallow", members=4)
    (trained,) = train_committee(None, data, settings, TRAINING, seed=2)
    assert trained.model.heads == 4
    again = from_bytes(to_bytes(trained.model))
    (prediction,) = predict([again], [frames[4].structure])
    assert prediction.forces.shape == (4, 2, 2, 3)
    sigma = decompose(prediction)
    assert 1e-4 < sigma.nonmagnetic < 1
    assert 1e-4 < sigma.delta < 1
    (more,) = train_committee([trained.model], data, settings, TRAINING, seed=3)
    assert more.log[-1]["loss"] < trained.log[0]["loss"]
    with pytest.raises(ValueError, match="start a new campaign"):
        train_committee([trained.model], data, Committee(members=4), TRAINING, seed=3)
