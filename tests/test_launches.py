"""How many operations a training step is, which is what it costs on a GPU when frames are small."""

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from benchmarks.launches import count
from mfal.config import Training
from mfal.frames import FIDELITIES
from mfal.model.graph import Graph
from mfal.model.multifidelity import MultiFidelityCHGNet
from mfal.training.examples import Example
from mfal.training.loss import Heads, weight_table
from mfal.training.packed import PackedExamples
from mfal.training.step import gradients


def example(seed: int) -> Example:
    """Rock salt of one to four formula units: no two graphs need be of one size."""
    positions = [[0, 0, 0], [0.51, 0.5, 0.5]]
    structure = Structure(Lattice(4.3 / 2 * (1 - np.eye(3))), ["Mn", "O"], positions) * (1 + seed % 4, 1, 1)
    return Example(
        frame_id=str(seed),
        fidelity=FIDELITIES[seed % 2],
        graph=Graph.of(structure),
        energy=-6.0,
        forces=torch.ones(len(structure), 3),
        magmoms=torch.ones(len(structure)) if seed % 2 else None,
    )


@pytest.fixture(params=[1, 3], ids=["one head", "three heads"])
def step(request):
    """A step of so many examples, from packed examples to gradients."""
    model = MultiFidelityCHGNet.from_pretrained(heads=request.param).train()
    packed = PackedExamples([example(seed) for seed in range(5)], FIDELITIES)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = weight_table(Training(), FIDELITIES)

    def derive(graphs: int) -> None:
        batch, targets = packed.batch(np.arange(graphs))
        heads = None
        if model.heads > 1:
            heads = Heads(torch.ones(graphs, model.heads), torch.zeros(graphs, dtype=torch.int64))
        gradients(model, parameters, batch, targets, weights, kind="huber", heads=heads)

    return derive


def test_a_step_is_the_same_operations_for_any_number_of_graphs_and_waits_for_none(step):
    found = {graphs: count(lambda graphs=graphs: step(graphs)) for graphs in (1, 2, 5)}
    assert found[1].by_name == found[2].by_name == found[5].by_name
    assert 1000 < found[1].by_name.total() <= 3000
    assert not any(launches.waits for launches in found.values())


def test_the_counter_sees_what_it_is_for():
    values = torch.tensor([1.0, 0.0, 2.0])
    found = count(lambda: (values.view(3, 1) + 1, values[values > 0], values.sum().item(), values.nonzero()))
    assert found.by_name["add"] == found.by_name["sum"] == 1
    assert "view" not in found.by_name
    assert found.waits == {"index": 1, "_local_scalar_dense": 1, "nonzero": 1}
