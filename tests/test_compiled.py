"""The compiled training step against the one that it was compiled from."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from mfal.config import LossWeights, Training
from mfal.frames import FIDELITIES
from mfal.model.engine import predict
from mfal.model.graph import Graph
from mfal.model.multifidelity import MultiFidelityCHGNet
from mfal.training import compiled
from mfal.training.compiled import CompiledGradients, CompiledPredict, shared_gradients
from mfal.training.examples import Example
from mfal.training.loss import weight_table
from mfal.training.packed import PackedExamples
from mfal.training.step import gradients
from mfal.training.trainer import _tf32, train


def example(seed: int, *, atoms: int = 2) -> Example:
    """A rattled rock salt with made-up labels; every other one is non-magnetic, every third lacks something."""
    rng = np.random.default_rng(seed)
    lattice = Lattice([[0, 2.15, 2.15], [2.15, 0, 2.15], [2.15, 2.15, 0]])
    structure = Structure(lattice, ["Mn", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]) * (1, 1, atoms // 2)
    positions = structure.cart_coords + rng.normal(0, 0.06, (atoms, 3))
    structure = Structure(structure.lattice, structure.species, positions, coords_are_cartesian=True)
    complete = Example(
        str(seed),
        FIDELITIES[seed % 2],
        Graph.of(structure),
        energy=float(rng.normal(-8, 0.1)),
        forces=torch.tensor(rng.normal(size=(atoms, 3)), dtype=torch.float32),
        stress=torch.tensor(rng.normal(size=(3, 3)), dtype=torch.float32),
        magmoms=torch.tensor(rng.uniform(0, 5, atoms), dtype=torch.float32),
    )
    return complete if seed % 3 else replace(complete, stress=None, magmoms=None)


@pytest.mark.slow
def test_compiled_as_eager(monkeypatch):
    """One compilation for batches of every size; what cannot be compiled (one graph alone) takes the other way."""
    examples = [example(seed, atoms=2 + 2 * (seed % 3)) for seed in range(7)]
    packed = PackedExamples(examples, FIDELITIES)
    settings = Training(weights_by_fidelity={"magnetic": LossWeights(forces=2)})
    weights = weight_table(settings, FIDELITIES)
    model = MultiFidelityCHGNet.from_pretrained("0.3.0").train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    compilations, program = [], CompiledGradients()
    compile_ = compiled._compiled
    monkeypatch.setattr(compiled, "_compiled", lambda *a: compilations.append(1) or compile_(*a))
    for picks in (np.arange(5), np.array([6, 1]), np.array([3]), np.arange(7)):
        found = []
        for step in (gradients, program):
            batch, targets = packed.batch(picks)
            value = step(model, parameters, batch, targets, weights, kind="huber", heads=None)
            derived = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
            found.append((value, derived))
        (eager, expected), (quick, gradient) = found
        for one, other in zip(quick, eager, strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)
        assert any(of.abs().max() > 1e-2 for of in expected)
        for one, other in zip(gradient, expected, strict=True):
            assert (one - other).abs().max() <= 1e-3 * max(other.abs().max().item(), 1e-2)

    # Another model of the same kind takes the same program, and gets its own gradients.
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.mlp.parameters():
            parameter += 0.01
    parameters = [parameter for parameter in other.parameters() if parameter.requires_grad]
    found = []
    for step in (gradients, program):
        batch, targets = packed.batch(np.arange(5))
        step(other, parameters, batch, targets, weights, kind="huber", heads=None)
        found.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters])
    for gradient, expected in zip(*found, strict=True):
        assert (gradient - expected).abs().max() <= 1e-3 * max(expected.abs().max().item(), 1e-2)
    assert len(compilations) == 1
    unlike = MultiFidelityCHGNet.from_pretrained("0.3.0", parts="E")
    with pytest.raises(ValueError, match="take a new one"):
        program(unlike, parameters, batch, targets, weights, kind="huber", heads=None)


@pytest.mark.slow
def test_trainings_of_one_kind_compile_once(monkeypatch):
    compilations, compile_ = [], compiled._compiled
    monkeypatch.setattr(compiled, "_compiled", lambda *a: compilations.append(1) or compile_(*a))
    compiled._shared.cache_clear()
    settings = Training(compile=True, epochs=3, batch_size=3, learning_rate=1e-3, device="cpu")
    for seed in range(2):
        model = MultiFidelityCHGNet.from_pretrained("0.3.0")
        log = train(model, [example(seed) for seed in range(7)], settings, seed=seed)
        assert log[-1]["loss"] < log[0]["loss"]
    assert len(compilations) == 1


def test_a_program_is_not_shared_with_what_is_rounded_otherwise():
    model = MultiFidelityCHGNet.from_pretrained("0.3.0")
    exact = shared_gradients(model, "huber")
    assert shared_gradients(model, "huber") is exact
    with _tf32(True):
        assert shared_gradients(model, "huber") is not exact


@pytest.mark.slow
def test_compiled_predictions_are_those_of_each_model():
    models = [MultiFidelityCHGNet.from_pretrained("0.3.0").eval() for _ in range(2)]
    with torch.no_grad():
        for parameter in models[1].mlp.parameters():
            parameter += 0.01
    program = CompiledPredict()
    packed = PackedExamples([example(seed) for seed in range(4)], FIDELITIES)
    for model in models:
        batch, _ = packed.batch(np.arange(4))
        expected, found = predict(model, batch), program(model, batch)
        for one, other, tolerance in zip(found, expected, (1e-5, 1e-3, 5e-3, 1e-5, 1e-4), strict=True):
            assert torch.allclose(one, other, atol=tolerance)
    with pytest.raises(ValueError, match="take a new one"):
        program(MultiFidelityCHGNet.from_pretrained("0.3.0", parts="E"), packed.batch(np.arange(4))[0])


def test_without_a_compiler_the_setting_is_named(monkeypatch):
    monkeypatch.setattr(compiled.shutil, "which", lambda _: None)
    compiled._shared.cache_clear()
    settings = Training(compile=True, epochs=1, device="cpu")
    with pytest.raises(ValueError, match=r"training.compile: true needs a C\+\+ compiler.*or take training.compile"):
        train(MultiFidelityCHGNet.from_pretrained("0.3.0"), [example(1), example(2)], settings, seed=0)
