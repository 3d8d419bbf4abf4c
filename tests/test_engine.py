"""The fast way through the model against CHGNet's own, and what any force field owes to physics."""

import numpy as np
import pytest
import torch
from chgnet.graph import CrystalGraphConverter
from chgnet.model import CHGNet
from chgnet.model import model as chgnet_model
from pymatgen.core import Lattice, Structure

from mfal.frames import FIDELITIES
from mfal.model.batch import PackedGraphs
from mfal.model.engine import forces_by_head, predict, predict_energies
from mfal.model.gate import Gate
from mfal.model.graph import Graph
from mfal.model.multifidelity import MultiFidelityCHGNet, silence
from mfal.model.normalize import normalize

OLIVINE = {
    "Li": [0, 0, 0],
    "Fe": [0.2822, 0.25, 0.9747],
    "P": [0.0948, 0.25, 0.4182],
    "O": [0.0968, 0.25, 0.7428],
    "O1": [0.4571, 0.25, 0.2060],
    "O2": [0.1656, 0.0465, 0.2848],
}


def olivine(seed: int = 0, *, lithium: bool = True) -> Structure:
    structure = Structure.from_spacegroup(
        "Pnma",
        Lattice.orthorhombic(10.45, 6.10, 4.75),
        [name.rstrip("12") for name in OLIVINE],
        list(OLIVINE.values()),
    )
    if not lithium:
        structure.remove_species(["Li"])
    return rattled(structure, seed)


def rock_salt(seed: int = 0, cation: str = "Mn") -> Structure:
    lattice = Lattice([[0, 2.15, 2.15], [2.15, 0, 2.15], [2.15, 2.15, 0]])
    return rattled(Structure(lattice, [cation, "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]), seed)


def sparse() -> Structure:
    """Bonds, but none short enough for an angle."""
    return Structure(Lattice.cubic(4.4), ["Li", "F"], [[0, 0, 0], [0.5, 0.5, 0.52]])


def rattled(structure: Structure, seed: int) -> Structure:
    rng = np.random.default_rng(seed)
    lattice = structure.lattice.matrix @ (np.eye(3) + rng.normal(0, 0.01, (3, 3)))
    positions = structure.frac_coords @ lattice + rng.normal(0, 0.06, (len(structure), 3))
    return Structure(lattice, structure.species, positions, coords_are_cartesian=True)


def differing(pretrained: CHGNet | str = "0.3.0", parts: str = "CEMR", heads: int = 1) -> MultiFidelityCHGNet:
    """A model whose fidelities and heads differ in every part."""
    model = MultiFidelityCHGNet.from_pretrained(pretrained, parts=parts, heads=heads)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in model.fidelity_parameters() or name.startswith("mlp."):
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def batch_of(structures, fidelities, dtype=torch.float32, **cutoffs):
    packed = PackedGraphs([Graph.of(structure, **cutoffs) for structure in structures], dtype=dtype)
    return packed.batch(range(len(structures)), torch.tensor([FIDELITIES.index(name) for name in fidelities]))


@pytest.fixture
def double(monkeypatch):
    """CHGNet's own forward in float64, which it has no switch for."""
    monkeypatch.setattr(chgnet_model, "TORCH_DTYPE", torch.float64)
    torch.set_default_dtype(torch.float64)  # of the constants in CHGNet's angular basis

    def prepare(model: MultiFidelityCHGNet):
        assemble = model.composition_model._assemble_graphs
        model.composition_model._assemble_graphs = lambda graphs: assemble(graphs).double()
        return model.double()

    def graph(model: MultiFidelityCHGNet, structure: Structure):
        found = model.graph_converter(structure)
        found.atom_frac_coord = torch.tensor(structure.frac_coords, requires_grad=True)
        found.lattice = torch.tensor(structure.lattice.matrix.copy(), requires_grad=True)
        found.neighbor_image = found.neighbor_image.double()
        return found

    yield prepare, graph
    torch.set_default_dtype(torch.float32)


def random_weights() -> CHGNet:
    torch.manual_seed(0)
    with silence():
        return CHGNet()


@pytest.mark.parametrize(
    ("pretrained", "parts"),
    [
        *(("0.3.0", parts) for parts in ["C", "E", "M", "R"]),
        *((pretrained, parts) for pretrained in ["0.3.0", "0.2.0", "r2scan", "random"] for parts in ["", "CEMR"]),
    ],
)
def test_the_same_numbers_and_gradients_as_the_reference(pretrained, parts, double):
    prepare, graph = double
    model = prepare(differing(random_weights() if pretrained == "random" else pretrained, parts))
    structures = [rock_salt(1), sparse(), olivine(2, lithium=False)]
    fidelities = ["magnetic", "nonmagnetic", "nonmagnetic"]
    expected = model([graph(model, structure) for structure in structures], fidelity=fidelities, task="efsm")
    batch = batch_of(structures, fidelities, torch.float64)
    found = predict(model, batch, create_graph=True)
    pairs = {
        # CHGNet rounds its compositions to float32.
        "energy": (found.energy[:, 0], expected["e"], 2e-6),
        "forces": (found.forces, torch.cat(expected["f"]), 1e-10),
        "stress": (found.stress, torch.stack(list(expected["s"])), 1e-9),
        "magmoms": (found.magmoms, torch.cat(expected["m"]), 1e-10),
    }
    for name, (ours, theirs, tolerance) in pairs.items():
        np.testing.assert_allclose(ours.detach(), theirs.detach(), rtol=0, atol=tolerance, err_msg=name)
    assert torch.allclose(predict_energies(model, batch), found.energy)

    def gradients(energy, forces, stress, magmoms):
        value = energy.pow(2).sum() + forces.pow(2).sum() + stress.pow(2).sum() + magmoms.sum()
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)

    ours = gradients(*(pair[0] for pair in pairs.values()))
    theirs = gradients(*(pair[1] for pair in pairs.values()))
    assert any(gradient.abs().max() > 1 for gradient in theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).abs().max() <= 1e-6 * max(1.0, other.abs().max().item())


def test_in_single_precision_as_stock():
    """To the noise of float32, which is 2e-4 eV/Å in a force."""
    with silence():
        stock = CHGNet.load(model_name="0.3.0", use_device="cpu", verbose=False)
    structures = [olivine(), rock_salt()]
    model = MultiFidelityCHGNet.from_pretrained(stock)
    for fidelity in FIDELITIES:
        found = predict(model, batch_of(structures, [fidelity] * 2))
        for i, expected in enumerate(stock.predict_structure(structures)):
            own = slice(0, 28) if i == 0 else slice(28, 30)
            assert found.energy[i, 0].item() == pytest.approx(expected["e"].item(), abs=1e-5)
            np.testing.assert_allclose(found.forces[own], expected["f"], atol=1e-3)
            np.testing.assert_allclose(found.stress[i], expected["s"], atol=2e-3)
            np.testing.assert_allclose(found.magmoms[own], expected["m"], atol=1e-5)


def test_layer_normalisation_has_both_derivatives():
    rows = torch.randn(5, 2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.allclose(normalize(rows), torch.nn.functional.layer_norm(rows, (7,)), atol=1e-12)
    assert torch.autograd.gradcheck(normalize, rows)
    assert torch.autograd.gradgradcheck(normalize, rows)


def test_a_gate_derived_once_is_the_gate_derived_twice():
    gated = differing().double().atom_conv_layers[0].twoBody_atom
    hidden = torch.randn(6, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    values = [Gate.of(gated, twice=twice).finish(hidden) for twice in (True, False)]
    assert torch.allclose(*values, atol=1e-12)
    cotangent = torch.randn(6, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    once, twice = (torch.autograd.grad(value, hidden, cotangent)[0] for value in reversed(values))
    assert torch.allclose(once, twice, atol=1e-12)
    assert twice.abs().max() > 0.01


@pytest.mark.parametrize("structure", [olivine(), rock_salt(), sparse()], ids=["olivine", "rock salt", "sparse"])
def test_the_graph_is_chgnets(structure):
    stock = CrystalGraphConverter(algorithm="fast")(structure)
    graph = Graph.of(structure)
    assert len(graph.edge_center) == len(stock.atom_graph) == 2 * len(graph.bond_from)
    assert len(graph.angle_center) == len(stock.bond_graph)
    assert sorted(np.bincount(graph.edge_center)) == sorted(np.bincount(stock.atom_graph[:, 0]))
    assert set(np.bincount(graph.edge_bond)) == {2}
    bonds = graph.positions[graph.bond_from] - graph.positions[graph.bond_to] - graph.bond_shift
    assert np.linalg.norm(bonds, axis=1).max() < 6
    # A directed bond joins the atoms of its undirected one.
    ends = np.sort(np.stack([graph.bond_from, graph.bond_to], axis=1)[graph.edge_bond], axis=1)
    assert np.array_equal(ends, np.sort(np.stack([graph.edge_center, graph.edge_neighbor], axis=1), axis=1))


def test_an_atom_without_neighbours_is_refused():
    alone = Structure(Lattice.cubic(20), ["Li", "F", "Na"], [[0, 0, 0], [0.1, 0, 0], [0.5, 0.5, 0.5]])
    with pytest.raises(ValueError, match=r"Li1 F1 Na1|NaLiF|Na1 Li1 F1.*1 of 3 atoms have no neighbour within 6"):
        Graph.of(alone)


def test_a_mixed_batch_equals_one_by_one_in_any_order():
    model = differing().double()
    structures = [olivine(1), sparse(), rock_salt(3), olivine(4, lithium=False)]
    fidelities = ["nonmagnetic", "magnetic", "magnetic", "nonmagnetic"]
    packed = PackedGraphs([Graph.of(structure) for structure in structures], dtype=torch.float64)
    picks = [2, 0, 3, 1, 0]
    index = torch.tensor([FIDELITIES.index(fidelities[i]) for i in picks])
    together = predict(model, packed.batch(picks, index))
    start = 0
    for place, i in enumerate(picks):
        alone = predict(model, batch_of([structures[i]], [fidelities[i]], torch.float64))
        atoms = slice(start, start := start + len(structures[i]))
        assert torch.allclose(together.energy[place], alone.energy[0], atol=1e-10)
        assert torch.allclose(together.forces[atoms], alone.forces, atol=1e-9)
        assert torch.allclose(together.stress[place], alone.stress[0], atol=1e-8)
        assert torch.allclose(together.magmoms[atoms], alone.magmoms, atol=1e-10)
    assert packed.atoms(np.array(picks)) == start


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_invariances(fidelity):
    model = differing().double()
    structure = olivine(5)

    def values(of):
        return predict(model, batch_of([of], [fidelity], torch.float64))

    start = values(structure)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    assert torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))
    turned = values(
        Structure(
            structure.lattice.matrix @ rotation.numpy(),
            structure.species,
            structure.cart_coords @ rotation.numpy(),
            coords_are_cartesian=True,
        )
    )
    assert torch.allclose(turned.energy, start.energy, atol=1e-9)
    assert torch.allclose(turned.forces, start.forces @ rotation, atol=1e-8)
    assert torch.allclose(turned.stress, rotation.T @ start.stress @ rotation, atol=1e-7)
    assert torch.allclose(turned.magmoms, start.magmoms, atol=1e-9)

    moved = structure.copy()
    moved.translate_sites(range(len(moved)), [0.31, 0.27, 0.77])
    assert torch.allclose(values(moved).forces, start.forces, atol=1e-8)
    assert torch.allclose(values(moved).energy, start.energy, atol=1e-9)

    order = np.random.default_rng(0).permutation(len(structure))
    permuted = values(Structure.from_sites([structure[i] for i in order]))
    assert torch.allclose(permuted.forces, start.forces[order], atol=1e-8)
    assert torch.allclose(permuted.magmoms, start.magmoms[order], atol=1e-9)

    double = values(structure * (1, 2, 1))  # each atom is followed by its image
    assert torch.allclose(double.energy, start.energy, atol=1e-9)
    assert torch.allclose(double.forces, start.forces.repeat_interleave(2, dim=0), atol=1e-8)
    assert torch.allclose(double.stress, start.stress, atol=1e-7)
    assert start.forces.abs().max() > 0.1  # there was something to be invariant


@pytest.mark.parametrize("parts", ["CEMR", "EM"])
def test_forces_and_stress_of_every_head_are_derivatives_of_its_energy(parts):
    model = differing(parts=parts, heads=3).double()
    structure = rock_salt(7, "Fe")
    batch = batch_of([structure], ["nonmagnetic"], torch.float64)
    output, forces, stress = forces_by_head(model, batch)
    assert torch.allclose(output.forces, predict(model, batch).forces, atol=1e-10)
    assert (forces[0] - forces[1]).abs().max() > 1e-3
    for head in range(3):
        one = predict(model, batch, head=torch.tensor([head]))
        assert torch.allclose(one.forces, forces[head], atol=1e-10)
        assert torch.allclose(one.stress, stress[head], atol=1e-9)

    def energies(positions, lattice):
        moved = Structure(lattice, structure.species, positions, coords_are_cartesian=True)
        found = predict_energies(model, batch_of([moved], ["nonmagnetic"], torch.float64))[0]
        return found * len(structure)

    positions, lattice, step = structure.cart_coords, structure.lattice.matrix, 2e-5
    rng = np.random.default_rng(0)
    way = rng.normal(size=positions.shape)
    slope = (energies(positions + step * way, lattice) - energies(positions - step * way, lattice)) / (2 * step)
    assert torch.allclose(slope, -(forces * torch.as_tensor(way)).sum(dim=(1, 2)), atol=1e-5)
    way = rng.normal(size=(3, 3))
    up, down = (np.eye(3) + sign * step * way for sign in (1, -1))
    slope = energies(positions @ up, lattice @ up) - energies(positions @ down, lattice @ down)
    slope = slope / (2 * step) / structure.volume * 160.21766208
    assert torch.allclose(slope, (stress[:, 0] * torch.as_tensor(way)).sum(dim=(1, 2)), atol=1e-4)


def test_heads_are_as_many_models_on_one_trunk():
    """The mean of the heads is what the reference, and the folded stock model, predict."""
    model = differing(heads=3)
    structures = [olivine(8), rock_salt(9)]
    for fidelity in FIDELITIES:
        batch = batch_of(structures, [fidelity] * 2)
        found = predict(model, batch)
        assert found.energy.shape == (2, 3)
        for other in (model, folded := model.fold(fidelity)):
            extra = {"fidelity": fidelity} if other is model else {}
            expected = other([model.graph_converter(structure) for structure in structures], task="efs", **extra)
            assert torch.allclose(found.energy.mean(dim=1), expected["e"], atol=1e-5)
            assert torch.allclose(found.forces, torch.cat(expected["f"]), atol=1e-3)
            assert torch.allclose(found.stress, torch.stack(list(expected["s"])), atol=2e-3)
        assert type(folded) is CHGNet
        assert folded.model_args["mlp_hidden_dims"] == [192, 192, 192]
