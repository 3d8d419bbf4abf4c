"""The calculator against CHGNet's own, finite differences, and a relaxation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.optimize import FIRE
from chgnet.model import CHGNetCalculator
from conftest import mno, rock_salt

from mfal.committee.calculator import MfalCalculator
from mfal.committee.files import save
from mfal.committee.members import start_committee
from mfal.committee.predict import predict
from mfal.config import Committee
from mfal.model.delta import DeltaCHGNet
from mfal.model.multifidelity import MultiFidelityCHGNet, pretrained, silence

PROPERTIES = ("energy", "free_energy", "forces", "stress", "magmoms")


def atoms_of(structure) -> Atoms:
    symbols = [site.specie.symbol for site in structure]
    return Atoms(symbols, positions=structure.cart_coords, cell=structure.lattice.matrix, pbc=True)


def differing(**arguments) -> MultiFidelityCHGNet:
    """A model whose fidelities, and heads, differ in every part."""
    model = MultiFidelityCHGNet.from_pretrained("0.3.0", **arguments)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.fidelity_parameters().values():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def test_a_model_that_saw_nothing_is_chgnet():
    with silence():
        theirs = CHGNetCalculator(pretrained("0.3.0"), use_device="cpu")
    ours = MfalCalculator(MultiFidelityCHGNet.from_pretrained("0.3.0"))
    for structure in (mno(), rock_salt()):
        atoms = atoms_of(structure)
        theirs.calculate(atoms)
        ours.calculate(atoms)
        assert ours.results.keys() == set(PROPERTIES)
        for name, tolerance in {"energy": 1e-4, "forces": 2e-4, "magmoms": 1e-4}.items():
            np.testing.assert_allclose(ours.results[name], theirs.results[name], rtol=0, atol=tolerance, err_msg=name)
        stress = theirs.results["stress"]
        voigt = [stress[i, j] for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))]
        np.testing.assert_allclose(ours.results["stress"], voigt, rtol=0, atol=2e-5)
        assert np.abs(stress).max() > 1e-3


@pytest.mark.parametrize("fidelity", ["nonmagnetic", "magnetic"])
def test_forces_and_stress_are_derivatives_of_the_energy(fidelity):
    atoms = atoms_of(rock_salt())
    atoms.calc = MfalCalculator([differing().double(), differing(heads=2).double()], fidelity=fidelity)
    forces, stress = atoms.get_forces(), atoms.get_stress()
    assert np.abs(forces).max() > 0.1
    np.testing.assert_allclose(forces, calculate_numerical_forces(atoms, eps=1e-4), atol=1e-5)
    np.testing.assert_allclose(stress, calculate_numerical_stress(atoms, eps=1e-5), atol=1e-6)


def test_the_fidelity_is_the_last_unless_one_is_named():
    model, atoms = differing(), atoms_of(mno())
    found = {}
    for fidelity in ("nonmagnetic", "magnetic", None):
        calculator = MfalCalculator(model, fidelity=fidelity)
        found[fidelity] = calculator.get_potential_energy(atoms)
        expected = predict([model], [mno()], [fidelity or "magnetic"])[0]
        assert found[fidelity] == pytest.approx(2 * float(expected.energy[0, 0]), abs=1e-5)
    assert found[None] == found["magnetic"]
    assert abs(found["nonmagnetic"] - found["magnetic"]) > 1e-3


@pytest.mark.parametrize("kind", ["deep", "shallow"])
def test_a_committee_gives_its_mean_and_its_spread(kind):
    models = start_committee(Committee(kind=kind, members=3), seed=0)
    calculator = MfalCalculator(models)
    calculator.calculate(atoms_of(rock_salt()))
    expected = predict(models, [rock_salt()], ["magnetic"])[0]
    energies, forces = 4 * expected.energy[:, 0], expected.forces[:, 0]
    assert len(energies) == 3
    assert calculator.results["energy"] == pytest.approx(energies.mean(), abs=1e-4)
    assert calculator.results["energy_std"] == pytest.approx(energies.std(ddof=1), abs=1e-4)
    assert calculator.results["energy_std"] > 1e-3
    np.testing.assert_allclose(calculator.results["forces"], forces.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(calculator.results["forces_std"], forces.std(axis=0, ddof=1), atol=1e-5)


def test_delta_learning_adds_the_difference():
    low = MultiFidelityCHGNet.from_pretrained("0.3.0", fidelities=["nonmagnetic"], parts="").eval()
    difference = MultiFidelityCHGNet.from_pretrained("0.2.0", fidelities=["magnetic"], parts="").eval()
    atoms = atoms_of(mno())
    parts = [MfalCalculator(model).get_forces(atoms) for model in (low, difference)]
    both = DeltaCHGNet(low, difference)
    np.testing.assert_allclose(MfalCalculator(both).get_forces(atoms), sum(parts), atol=1e-5)
    np.testing.assert_allclose(MfalCalculator(both, fidelity="nonmagnetic").get_forces(atoms), parts[0], atol=1e-6)


def test_a_relaxation_goes_down():
    atoms = atoms_of(rock_salt())
    atoms.rattle(0.1, seed=0)
    atoms.calc = MfalCalculator(MultiFidelityCHGNet.from_pretrained("0.3.0"))
    before, force = atoms.get_potential_energy(), np.abs(atoms.get_forces()).max()
    FIRE(atoms, logfile=None).run(fmax=0.1, steps=60)
    assert atoms.get_potential_energy() < before - 0.01
    assert np.abs(atoms.get_forces()).max() < 0.1 < force


def test_from_files_and_folders(tmp_path):
    models = start_committee(Committee(members=2), seed=0)
    save(tmp_path, models)
    atoms = atoms_of(mno())
    expected = MfalCalculator(models, fidelity="nonmagnetic").get_forces(atoms)
    files = [tmp_path / "member-0.safetensors", str(tmp_path / "member-1.safetensors")]
    for paths in (tmp_path, files):
        found = MfalCalculator.from_files(paths, fidelity="nonmagnetic", device="cpu")
        np.testing.assert_allclose(found.get_forces(atoms), expected, atol=1e-6)
        assert "energy_std" in found.results
    assert "energy_std" not in MfalCalculator.from_files(files[0], device="cpu").results


def test_what_cannot_be_is_named(tmp_path):
    with pytest.raises(ValueError, match="'hybrid' is not one of this model's: nonmagnetic, magnetic"):
        MfalCalculator(differing(), fidelity="hybrid")
    with pytest.raises(ValueError, match="at least one model"):
        MfalCalculator([])
    with pytest.raises(ValueError, match="set three cell vectors"):
        MfalCalculator(differing()).get_potential_energy(Atoms("MnO", [[0, 0, 0], [0, 0, 2]]))
    with pytest.raises(ValueError, match="is not there: give a file that"):
        MfalCalculator.from_files(tmp_path / "nothing.safetensors")
    with pytest.raises(ValueError, match=r"holds no member-0\.safetensors"):
        MfalCalculator.from_files(tmp_path)
    (tmp_path / "member-0.safetensors").write_bytes(b"shopping list")
    with pytest.raises(ValueError, match=r"member-0\.safetensors: these bytes are not"):
        MfalCalculator.from_files(tmp_path)
