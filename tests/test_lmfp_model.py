"""The model in models/: what its card says is so."""

import re
from pathlib import Path

import pytest
import torch
from pymatgen.core import Structure

ROOT = Path(__file__).parents[1]
FILE = ROOT / "models" / "lmfp-magnetic.pth.tar"


def test_it_is_small_and_nothing_but_numbers():
    assert FILE.stat().st_size < 5e6
    state = torch.load(FILE, weights_only=True)
    assert state["model"]["state_dict"]


def test_the_example_of_its_card_relaxes_half_iron_half_manganese(monkeypatch):
    """Against experiments, with room for PBE+U's longer bonds: LiFePO4 has 10.33, 6.01 and 4.69 Å, LiMnPO4 10.45, 6.10
    and 4.74 Å.
    """
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "models" / "README.md").read_text(), re.DOTALL)
    assert len([line for line in example.splitlines() if line]) == 5  # ruff wants an empty one below the imports
    monkeypatch.chdir(ROOT)
    names: dict = {}
    exec(example, names)
    relaxed: Structure = names["relaxed"]
    assert relaxed.composition.reduced_formula == "Li2MnFe(PO4)2"
    assert relaxed.lattice.abc == pytest.approx((10.39, 6.05, 4.72), rel=0.03)
    assert relaxed.lattice.angles == pytest.approx((90, 90, 90), abs=1)
    moments = {"Mn": (4.3, 4.8), "Fe": (3.4, 3.9)}  # µB, both 2+
    for site, moment in zip(relaxed, relaxed.site_properties["magmom"], strict=True):
        low, high = moments.get(site.specie.symbol, (-0.2, 0.2))
        assert low < moment < high
