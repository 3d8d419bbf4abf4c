"""The model against stock CHGNet, finite differences and its own copies."""

import copy
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from chgnet.graph import CrystalGraphConverter
from chgnet.model import CHGNet
from pymatgen.core import Lattice, Structure

from mfal.committee.predict import members, predict
from mfal.frames import FIDELITIES
from mfal.model.graph import Graph
from mfal.model.multifidelity import MultiFidelityCHGNet, silence
from mfal.model.weights import from_bytes, to_bytes
from mfal.training.examples import Example
from mfal.training.references import fit_reference_energies

PARTS = {"C": "composition_model.", "E": "atom_embedding.", "M": "twoBody", "R": "mlp."}


def rock_salt(*cations: str, seed: int = 0) -> Structure:
    """A rattled rock salt of 2 or 4 atoms."""
    a = 4.3
    if len(cations) == 1:
        lattice = Lattice([[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]])
        positions = [[0, 0, 0], [0.5, 0.5, 0.5]]
    else:
        lattice = Lattice.tetragonal(a / 2**0.5, a)
        positions = [[0, 0, 0], [0.5, 0.5, 0.5], [0, 0, 0.5], [0.5, 0.5, 0]]
    structure = Structure(lattice, [*cations, *("O" for _ in cations)], positions)
    noise = np.random.default_rng(seed).normal(0, 0.05, (len(structure), 3))
    return Structure(lattice, structure.species, structure.cart_coords + noise, coords_are_cartesian=True)


def without_angles() -> Structure:
    """Every distance is above the cutoff of the bond graph."""
    return Structure(Lattice.cubic(3.6), ["Fe"], [[0, 0, 0]])


def with_isolated_atom() -> Structure:
    return Structure(Lattice.cubic(15), ["Fe", "O", "Li"], [[0, 0, 0], [0.12, 0, 0], [0.5, 0.5, 0.5]])


@pytest.fixture(scope="module")
def stock():
    with silence():
        return CHGNet.load(use_device="cpu", verbose=False)


@pytest.fixture(scope="module")
def graphs():
    converter = CrystalGraphConverter(on_isolated_atoms="ignore")
    structures = [rock_salt("Mn"), rock_salt("Li", "Fe", seed=1), without_angles(), with_isolated_atom()]
    return [converter(structure) for structure in structures]


def differing(stock, parts="CEMR"):
    """A model whose fidelities differ in every part."""
    model = MultiFidelityCHGNet.from_pretrained(stock, parts=parts)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.fidelity_parameters().values():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def arrays(output):
    """CHGNet's output, each quantity flat."""
    return {
        key: torch.cat([torch.as_tensor(value).reshape(-1) for value in output[key]]).detach().numpy() for key in "efsm"
    }


def assert_close(one, other):
    for key, tolerance in {"e": 1e-5, "f": 5e-4, "s": 5e-3, "m": 1e-5}.items():
        np.testing.assert_allclose(one[key], other[key], rtol=1e-5, atol=tolerance, err_msg=key)


@pytest.mark.parametrize("parts", ["", "C", "E", "M", "R", "CEMR"])
def test_every_fidelity_begins_as_stock(stock, graphs, parts):
    model = MultiFidelityCHGNet.from_pretrained(stock, parts=parts).eval()
    expected = arrays(stock.eval()(graphs, task="efsm"))
    for fidelity in FIDELITIES:
        found = arrays(model(graphs, fidelity=fidelity, task="efsm"))
        for key in "efsm":
            np.testing.assert_allclose(found[key], expected[key], rtol=0, atol=1e-6)
    own = {part for part, name in PARTS.items() if any(name in key for key in model.fidelity_parameters())}
    assert own == set(parts)
    assert (model.state_dict().keys() == stock.state_dict().keys()) == (parts == "")


def test_messages_of_every_kind_depend_on_the_fidelity(stock):
    model = MultiFidelityCHGNet.from_pretrained(stock, parts="M")
    layers = {name.split(".twoBody")[0] for name in model.fidelity_parameters()}
    # CHGNet has a third angle layer, whose output nothing reads.
    assert layers == {
        *(f"atom_conv_layers.{i}" for i in range(4)),
        *(f"bond_conv_layers.{i}" for i in range(3)),
        *(f"angle_layers.{i}" for i in range(2)),
    }
    gates = [name for name in model.fidelity_parameters() if "mlp_gate" in name]
    assert len(gates) == len(model.fidelity_parameters()) / 2 == 9


def test_without_any_angle_as_stock(stock, graphs):
    model = MultiFidelityCHGNet.from_pretrained(stock).eval()
    assert len(graphs[2].bond_graph) == 0
    found = arrays(model(graphs[2:3], fidelity="nonmagnetic", task="efsm"))
    expected = arrays(stock.eval()(graphs[2:3], task="efsm"))
    for key in "efsm":
        np.testing.assert_allclose(found[key], expected[key], rtol=0, atol=1e-6)


def test_other_fidelities_and_pretrained():
    model = MultiFidelityCHGNet.from_pretrained("0.2.0", fidelities=["a", "b", "c"])
    with silence():
        expected = CHGNet.load(model_name="0.2.0", use_device="cpu", verbose=False).predict_structure(rock_salt("Mn"))
    assert model.composition_model.delta.shape == (3, 94)
    assert np.allclose(model.predict_structure(rock_salt("Mn"))["f"], expected["f"], atol=1e-6)


def test_nothing_is_printed(capsys):
    from_bytes(to_bytes(MultiFidelityCHGNet.from_pretrained("0.3.0"))).fold("magnetic")
    assert capsys.readouterr().out == ""


def test_refuses_what_it_cannot_be(stock, graphs):
    with pytest.raises(ValueError, match="distinct letters of CEMR"):
        MultiFidelityCHGNet.from_pretrained(stock, parts="CX")
    with pytest.raises(ValueError, match="distinct names"):
        MultiFidelityCHGNet.from_pretrained(stock, fidelities=["a", "a"])
    model = MultiFidelityCHGNet.from_pretrained(stock)
    with pytest.raises(ValueError, match="'hybrid' is not one of this model's: nonmagnetic, magnetic"):
        model(graphs[:1], fidelity="hybrid")
    with pytest.raises(ValueError, match="1 fidelities for 2 graphs"):
        model(graphs[:2], fidelity=["magnetic"])
    with pytest.raises(RuntimeError, match="call the whole model"):
        model.composition_model(graphs[:1])


def test_gradients_reach_every_part_of_the_fidelities_in_the_batch(stock, graphs):
    model = MultiFidelityCHGNet.from_pretrained(stock).train()
    assert not model.composition_model.delta.requires_grad
    model.composition_model.delta.requires_grad_(True)

    def gradients(fidelities):
        model.zero_grad()
        output = model(graphs[:2], fidelity=fidelities, task="efsm")
        terms = [output["e"].sum(), torch.cat(output["f"]).pow(2).sum(), torch.stack(list(output["s"])).pow(2).sum()]
        (sum(terms) + torch.cat(output["m"]).sum()).backward()
        by_fidelity = {}
        for name, parameter in model.fidelity_parameters().items():
            if name.startswith("mlp."):
                by_fidelity[name] = {int(name.split(".")[1]): parameter.grad.abs().sum().item()}
            else:
                by_fidelity[name] = dict(enumerate(parameter.grad.abs().flatten(1).sum(dim=1).tolist()))
        return by_fidelity

    for name, sizes in gradients(["nonmagnetic", "magnetic"]).items():
        assert all(size > 0 for size in sizes.values()), name
    for name, sizes in gradients("magnetic").items():
        assert sizes.get(0, 0.0) == 0.0, name
        assert sizes.get(1, 1.0) > 0.0, name


def test_mixed_batch_equals_one_by_one(stock, graphs):
    model = differing(stock)
    fidelities = ["nonmagnetic", "magnetic", "magnetic", "nonmagnetic"]
    together = model(graphs, fidelity=fidelities, task="efsm", return_site_energies=True)
    alone = [model([graph], fidelity=f, task="efsm") for graph, f in zip(graphs, fidelities, strict=True)]
    assert_close(arrays(together), {k: np.concatenate([arrays(one)[k] for one in alone]) for k in "efsm"})
    means = [site.mean().item() for site in together["site_energies"]]
    np.testing.assert_allclose(means, together["e"].detach(), atol=1e-5)
    other = arrays(model(graphs, fidelity="magnetic", task="efsm"))
    assert np.abs(other["f"] - arrays(together)["f"]).max() > 0.01
    assert np.abs(other["m"] - arrays(together)["m"]).max() > 0.01


def test_default_is_the_last_fidelity(stock):
    model = differing(stock)
    structure = rock_salt("Mn")
    expected = model([model.graph_converter(structure)], fidelity="magnetic")["e"].item()
    assert model.predict_structure(structure)["e"].item() == pytest.approx(expected, abs=1e-6)
    assert model([model.graph_converter(structure)], fidelity="nonmagnetic")["e"].item() != pytest.approx(
        expected, abs=1e-3
    )


@pytest.mark.parametrize("parts", ["CEMR", "EM"])
def test_fold_is_a_stock_model(stock, graphs, tmp_path, parts):
    model = differing(stock, parts)
    for fidelity in FIDELITIES:
        folded = model.fold(fidelity)
        assert type(folded) is CHGNet
        assert folded.version == f"0.3.0, {fidelity}"
        found = arrays(folded(graphs, task="efsm"))
        assert_close(found, arrays(model(graphs, fidelity=fidelity, task="efsm")))
        torch.save({"model": folded.as_dict()}, tmp_path / "folded.pt")
        with silence():
            loaded = CHGNet.from_file(str(tmp_path / "folded.pt")).eval()
        for key, value in arrays(loaded(graphs, task="efsm")).items():
            np.testing.assert_array_equal(value, found[key])


def test_copies_are_independent(stock, graphs):
    model = differing(stock)
    before = arrays(model(graphs, fidelity="nonmagnetic", task="efsm"))
    copied = copy.deepcopy(model)
    contexts = {id(module.context) for module in copied.modules() if hasattr(module, "context")}
    assert contexts == {id(copied.context)}
    assert copied.context is not model.context
    with torch.no_grad():
        copied.atom_embedding.embedding.delta += 0.1
    changed = arrays(copied(graphs, fidelity="nonmagnetic", task="efsm"))
    after = arrays(model(graphs, fidelity="nonmagnetic", task="efsm"))
    np.testing.assert_array_equal(after["e"], before["e"])
    assert np.abs(changed["e"] - before["e"]).max() > 1e-3


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_forces_and_stress_are_derivatives_of_the_energy(stock, fidelity):
    model = differing(stock).double()
    graph = model.graph_converter(rock_salt("Li", "Fe", seed=2))
    fractional = graph.atom_frac_coord.detach().double()
    lattice = graph.lattice.detach().double()
    graph.neighbor_image = graph.neighbor_image.double()

    def compute(positions, cell, task="e"):
        graph.atom_frac_coord = (positions @ torch.linalg.inv(cell)).requires_grad_()
        graph.lattice = cell.clone().requires_grad_()
        return model([graph], fidelity=fidelity, task=task)

    def energy(positions, cell):
        return compute(positions, cell)["e"].item() * len(positions)

    cartesian, step = fractional @ lattice, 1e-5
    output = compute(cartesian, lattice, "efs")
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        way = torch.randn(cartesian.shape, generator=generator, dtype=torch.float64)
        slope = (energy(cartesian + step * way, lattice) - energy(cartesian - step * way, lattice)) / (2 * step)
        assert slope == pytest.approx(-(output["f"][0] * way).sum().item(), rel=1e-5, abs=1e-6)
    way = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    ends = [torch.eye(3, dtype=torch.float64) + sign * step * way for sign in (1, -1)]
    up, down = (energy(cartesian @ end, lattice @ end) for end in ends)
    volume = torch.linalg.det(lattice).abs().item()
    slope = (up - down) / (2 * step) / volume * 160.21766208
    assert slope == pytest.approx((output["s"][0] * way).sum().item(), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(("pretrained", "parts"), [("0.2.0", "CEMR"), ("0.3.0", "EM"), ("r2scan", "CEMR")])
def test_weights_come_back(pretrained, parts, graphs):
    model = MultiFidelityCHGNet.from_pretrained(pretrained, parts=parts)
    with torch.no_grad():
        for parameter in model.fidelity_parameters().values():
            parameter += 0.02
    data = to_bytes(model)
    again = from_bytes(data)
    assert (again.fidelities, again.parts) == (FIDELITIES, parts)
    assert to_bytes(again) == data
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    found = again(graphs[:1], fidelity="nonmagnetic")["e"]
    assert torch.equal(found, model.eval()(graphs[:1], fidelity="nonmagnetic")["e"])


def test_other_bytes_are_refused(stock):
    data = to_bytes(MultiFidelityCHGNet.from_pretrained(stock))
    foreign = safetensors.torch.save({"x": torch.zeros(2)})
    for garbage in (b"", b"garbage" * 10, pickle.dumps({"a": 1}), foreign):
        with pytest.raises(ValueError, match="not a safetensors file with the metadata of a model"):
            from_bytes(garbage)
    with pytest.raises(ValueError, match="this version reads"):
        from_bytes(safetensors.torch.save({"x": torch.zeros(2)}, metadata={"mfal": '{"format": "other"}'}))
    with pytest.raises(ValueError, match="damaged or of another model"):
        from_bytes(data[:-100])
    arguments = {"mfal": '{"format": "mfal multi-fidelity CHGNet 1", "arguments": {}}'}
    with pytest.raises(ValueError, match="damaged or of another model"):
        from_bytes(safetensors.torch.save({"x": torch.zeros(2)}, metadata=arguments))


def labelled(model, structures, fidelity, shift):
    """Labels that are the model's own energies plus a shift an element."""
    result = []
    for structure in structures:
        [prediction] = predict([model], [structure], [fidelity])
        offset = np.mean([shift[site.specie.symbol] for site in structure])
        energy = prediction.energy.item() + offset
        result.append(Example(frame_id="x", fidelity=fidelity, graph=Graph.of(structure), energy=energy))
    return result


def missed(model, examples):
    found = members([model], [e.graph for e in examples], [e.fidelity for e in examples])
    return [abs(values["e"].item() - e.energy) for values, e in zip(found, examples, strict=True)]


def test_reference_energies_of_undetermined_elements(stock):
    model = MultiFidelityCHGNet.from_pretrained(stock).eval()
    # Each cation comes with as much oxygen: three elements, rank two.
    structures = [rock_salt("Mn"), rock_salt("Fe"), rock_salt("Mn", "Fe"), rock_salt("Mn", seed=3)]
    examples = labelled(model, structures, "magnetic", {"Mn": 3.0, "Fe": -1.0, "O": 5.0})
    weights = model.composition_model.fc.weight.clone()
    fit_reference_energies(model, examples)
    assert max(missed(model, examples)) < 1e-4
    delta = model.composition_model.delta
    assert torch.equal(delta[0], torch.zeros(94))
    assert torch.equal(model.composition_model.fc.weight, weights)
    # The smallest shift: x + z = 8 and y + z = 4 give z = (x + y) in the row space.
    mn, fe, o = (delta[1, z - 1].item() for z in (25, 26, 8))
    assert (mn, fe, o) == pytest.approx((4.0, 0.0, 4.0), abs=1e-3)
    assert delta[1].count_nonzero() <= 3
    fit_reference_energies(model, examples)
    assert delta[1, 24].item() == pytest.approx(4.0, abs=1e-3)


def test_reference_energies_of_one_label_and_none(stock):
    model = MultiFidelityCHGNet.from_pretrained(stock).eval()
    [example] = labelled(model, [rock_salt("Mn")], "nonmagnetic", {"Mn": 10.0, "O": 0.0})
    fit_reference_energies(model, [example])
    assert missed(model, [example])[0] < 1e-4
    assert model.composition_model.delta[0, [24, 7]].tolist() == pytest.approx([5.0, 5.0], abs=1e-3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fit_reference_energies(model, [])
    fit_reference_energies(model, [Example("x", "magnetic", example.graph, forces=torch.zeros(2, 3))])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_reference_energies_without_part_c_are_shared(stock):
    model = MultiFidelityCHGNet.from_pretrained(stock, parts="EMR").eval()
    examples = [
        *labelled(model, [rock_salt("Mn")], "nonmagnetic", {"Mn": 4.0, "O": 4.0}),
        *labelled(model, [rock_salt("Mn")], "magnetic", {"Mn": 6.0, "O": 6.0}),
    ]
    before = model.composition_model.fc.weight.clone()
    fit_reference_energies(model, examples)
    assert missed(model, examples) == pytest.approx([1.0, 1.0], abs=1e-3)
    shift = model.composition_model.fc.weight - before
    assert shift[0, [24, 7]].tolist() == pytest.approx([5.0, 5.0], abs=1e-3)
