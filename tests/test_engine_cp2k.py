"""CP2K keeps the contract of an engine, for real where it is installed; what it is asked without it."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from conftest import mno, rock_salt
from pymatgen.core import Structure

from flows.engines.contract import validate
from mfal.dft.engines import Cp2k, Cp2kRetry
from mfal.dft.fidelity import fingerprint, settings
from mfal.dft.label import CalculationError
from mfal.dft.magnetism import Magnetism

cp2k = pytest.importorskip("flows.engines.cp2k", reason="atomate2.cp2k cannot be imported")

MAGNETISM = Magnetism(hubbard_u={"Mn": 3.9, "Fe": 5.3}, moments={"Mn": 5.0, "Fe": 4.0})
PROGRAM = next((name for name in ("cp2k.psmp", "cp2k.ssmp", "cp2k") if shutil.which(name)), None)
needs_cp2k = pytest.mark.skipif(PROGRAM is None, reason="CP2K is not on the PATH: apt-get install cp2k cp2k-data")


def written(structure: Structure, fidelity: str, section: Cp2k, retry: Cp2kRetry | None = None) -> str:
    maker = cp2k.Cp2kEngine(section, MAGNETISM).maker(structure, fidelity, retry)
    return str(maker.input_set_generator.get_input_set(structure.copy(), optional_files=False).cp2k_input)


def test_the_input_says_the_fidelity():
    magnetic = mno()
    magnetic.add_site_property("magmom", [-5.0, 0.0])
    plain = written(mno(), "nonmagnetic", Cp2k(length=4))
    retry = Cp2kRetry(after=["unconverged"], mixing=0.05, max_iterations=7)
    spin = written(magnetic, "magnetic", Cp2k(length=4), retry)
    assert "UKS False" in plain
    assert "DFT_PLUS_U" not in plain
    assert "UKS True" in spin
    # the majority is up, whichever way the frame has it; 2 x 2 x 2 cells of 5 µB
    assert "MAGNETIZATION 5.0" in spin
    assert "MULTIPLICITY 41" in spin
    assert spin.count("&DFT_PLUS_U") == 1
    assert "MAX_SCF 7\n" in spin
    assert "ALPHA 0.05" in spin


def test_an_odd_cell_gets_a_multiplicity_that_its_electrons_can_have():
    structure = mno()  # 21 electrons
    structure.add_site_property("magmom", [4.4, 0.0])
    assert "MULTIPLICITY 4\n" in written(structure, "magnetic", Cp2k(length=2))
    structure.add_site_property("magmom", [0.2, 0.0])
    assert "MULTIPLICITY 2\n" in written(structure, "magnetic", Cp2k(length=2))


def test_how_it_is_tried_is_not_in_the_fingerprint():
    def prints(section: Cp2k) -> str:
        return fingerprint(settings(section, MAGNETISM, "magnetic"))

    assert prints(Cp2k()) == prints(Cp2k(command="mpirun -np 8 cp2k.psmp", processes=8, mixing=0.1, timeout=1))
    for change in ({"cutoff": 500}, {"basis": "SZV-MOLOPT-SR-GTH"}, {"length": 10}, {"eps_scf": 1e-6}):
        assert prints(Cp2k()) != prints(Cp2k(**change))


def test_no_program_is_a_problem_of_the_machine():
    (problem,) = cp2k.Cp2kEngine(Cp2k(command="no-such-cp2k"), MAGNETISM).problems(["Mn"])
    assert "no-such-cp2k" in problem


@needs_cp2k
def test_what_goes_wrong_is_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {"command": PROGRAM, "cutoff": 100, "eps_default": 1e-6, "length": 2}
    for change, status, words in (
        ({"max_iterations": 2}, "unconverged", "self-consistency"),
        ({"basis": "NO-SUCH-BASIS"}, "failed", "NO-SUCH-BASIS"),
        ({"timeout": 0.001}, "failed", "engine.timeout"),
    ):
        with pytest.raises(CalculationError, match=words) as caught:
            cp2k.Cp2kEngine(Cp2k(**small | change), MAGNETISM).calculate(mno(), "nonmagnetic")
        assert caught.value.status == status
        assert caught.value.wall_seconds > 0


@needs_cp2k
@pytest.mark.slow
def test_cp2k_keeps_the_contract(tmp_path):
    """On the cubic cell of MnO, as gamma alone is too little for the small one."""
    structure = mno().make_supercell([[-1, 1, 1], [1, -1, 1], [1, 1, -1]], in_place=False)
    assert [site.specie.symbol for site in structure] == ["Mn"] * 4 + ["O"] * 4
    section = Cp2k(command=PROGRAM, cutoff=400, eps_default=1e-8, eps_scf=1e-4, length=4)
    engine = cp2k.Cp2kEngine(section, MAGNETISM)
    assert validate(engine, structure, [5.0] * 4 + [0.0] * 4, tmp_path) == []


@needs_cp2k
@pytest.mark.slow
def test_a_repeated_cell_is_folded_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    section = Cp2k(
        command=PROGRAM, cutoff=200, basis="SZV-MOLOPT-SR-GTH", eps_default=1e-8, eps_scf=1e-4, smearing=0.2, length=4
    )
    engine = cp2k.Cp2kEngine(section, MAGNETISM)
    cell = Structure.from_sites([rock_salt()[i] for i in (2, 0, 3, 1)])  # not grouped by element
    repeated = cell.make_supercell((2, 2, 1), in_place=False)
    assert (engine._repeats(cell), engine._repeats(repeated)) == ((2, 2, 1), (1, 1, 1))
    small, large = engine.calculate(cell, "nonmagnetic"), engine.calculate(repeated, "nonmagnetic")
    assert small.energy == pytest.approx(large.energy / 4, abs=0.01)
    np.testing.assert_allclose(small.forces, np.array(large.forces)[::4], atol=0.05)
    np.testing.assert_allclose(small.stress, large.stress, atol=0.5)
