"""Every engine keeps the contract, and an engine that does not is found out. VASP's twin of this is in test_vasp.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import mno, rock_salt

from flows.engines import engine
from flows.engines.contract import validate
from flows.engines.surrogate import SurrogateEngine
from mfal.dft.engines import Gpaw, Surrogate
from mfal.dft.magnetism import Magnetism

MAGNETISM = Magnetism(hubbard_u={"Mn": 3.9}, moments={"Mn": 5.0})


def moments(structure):
    return [5.0 if site.specie.symbol == "Mn" else 0.0 for site in structure]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_surrogate_keeps_the_contract(tmp_path):
    cell = rock_salt()
    assert validate(engine(Surrogate(), MAGNETISM), cell, moments(cell), tmp_path / "s") == []


@pytest.mark.slow
def test_gpaw_keeps_the_contract(tmp_path):
    """Eight real calculations. The cutoff is high, because the Pulay correction of the stress is an estimate."""
    section = Gpaw(preset="production", cutoff=550, kpoint_density=2.0, processes=1)
    cell = mno()
    assert validate(engine(section, MAGNETISM), cell, moments(cell), tmp_path / "g") == []


class Wrong(SurrogateEngine):
    """A fake that breaks the contract in one way."""

    def __init__(self, how):
        super().__init__(Surrogate(), MAGNETISM)
        self.how = how

    def result(self, document, structure, fidelity):
        right = super().result(document, structure, fidelity)
        forces, stress = np.array(right.forces), np.array(right.stress)
        by_element = np.argsort([site.specie.symbol for site in structure], kind="stable")
        changes = {
            "sign of the stress": {"stress": (-stress).tolist()},
            "kBar": {"stress": (10 * stress).tolist()},
            "order of the sites": {"forces": forces[by_element].tolist()},
            "moments missing": {"magmoms": None},
            "moments everywhere": {"magmoms": [0.0] * len(forces)},
            "drift": {"forces": (forces + 0.5).tolist()},
            "no program": {"code": ""},
        }
        return replace(right, **changes[self.how])


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("sign of the stress", "dE/dV"),
        ("kBar", "dE/dV"),
        ("order of the sites", "order of the sites"),
        ("moments missing", "moments are for the magnetic fidelity"),
        ("moments everywhere", "moments are for the magnetic fidelity"),
        ("drift", "do not add up to zero"),
        ("no program", "which program"),
    ],
)
def test_an_engine_that_breaks_the_contract_is_found_out(tmp_path, how, words):
    cell = rock_salt()
    assert any(words in problem for problem in validate(Wrong(how), cell, moments(cell), tmp_path / "w"))
