"""200 labels with 40 wrong ones of every kind, through the commands that a person uses: none of the wrong ones passes
and none of the good ones is lost. VASP is the stand-in of tests/stand_in, all around it is real."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from conftest import STRUCTURES, write_campaign
from pymatgen.core import Structure

from mfal.dataset import read
from mfal.frames import Frame
from stores.campaign import open_stores

STAND_IN = Path(__file__).parent / "stand_in"
#: How many labels of a fidelity go wrong in what way.
WRONG = {
    "magnetic": {
        "flipped": 4,
        "wrong_size": 4,
        "collapsed": 4,
        "one_collapsed": 3,
        "wrong_valence": 4,
        "unconverged": 3,
        "crash": 2,
        "truncated": 2,
        "hang": 1,
        "nan_forces": 2,
        "huge_force": 2,
        "shifted_energy": 2,
    },
    "nonmagnetic": {
        "unconverged": 2,
        "crash": 1,
        "truncated": 1,
        "nan_forces": 1,
        "huge_force": 1,
        "shifted_energy": 1,
    },
}
CATIONS = [("Mn", "Mn"), ("Li", "Mn"), ("Li", "Fe"), ("Mn", "Fe"), ("Fe", "Fe")]


def frames() -> list[Frame]:
    """100 rattled and strained 4-atom rock salts of five compositions."""
    rng = np.random.default_rng(5)
    parent = Structure.from_file(STRUCTURES / "rocksalt-4.cif")
    result = []
    for number in range(100):
        cations = iter(CATIONS[number % len(CATIONS)])
        symbols = [next(cations) if site.specie.symbol == "Mn" else "O" for site in parent]
        lattice = parent.lattice.matrix @ (np.eye(3) + rng.normal(0, 0.02, (3, 3)))
        structure = Structure(lattice, symbols, parent.frac_coords)
        places = structure.cart_coords + rng.normal(0, 0.05, (4, 3))
        shaken = Structure(structure.lattice, symbols, places, coords_are_cartesian=True)
        result.append(Frame.of(shaken, parent="planted", source=str(number)))
    return result


def test_of_200_labels_the_40_wrong_ones_are_found_and_no_other(tmp_path, mfal, monkeypatch):
    monkeypatch.setenv("PATH", f"{STAND_IN}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("VASP_STAND_IN", str(tmp_path / "plan.json"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    pool = frames()
    rng = np.random.default_rng(2)
    planted: dict[tuple[str, str], str] = {}
    for fidelity, kinds in WRONG.items():
        # of a single magnetic ion, the opposite sign is the same state: those frames come last
        order = sorted(rng.permutation(len(pool)), key=lambda i: bool(pool[i].structure.composition["Li"]))
        names = iter([pool[i].frame_id for i in order])
        planted |= {(str(next(names)), fidelity): kind for kind, count in kinds.items() for _ in range(count)}
    assert len(planted) == 40
    plan = {f"{name}-{fidelity}-": [kind] for (name, fidelity), kind in planted.items()}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    images = [
        Atoms(
            [s.specie.symbol for s in f.structure], f.structure.cart_coords, cell=f.structure.lattice.matrix, pbc=True
        )
        for f in pool
    ]
    ase.io.write("pool.extxyz", images)
    config = write_campaign(
        tmp_path,
        engine={"kind": "vasp", "potcar_spec": True, "timeout": 0.5, "retries": []},
        magnetism={"hubbard_u": {"Mn": 3.9, "Fe": 5.3}, "moments": {"Mn": 5.0, "Fe": 4.0}},
    )
    result = mfal("label", "pool.extxyz", "--config", config, "--out", "planted")
    assert result.exit_code == 0, result.output
    _, passed = read("planted/labels.extxyz")
    passed_as = {(label.frame_id, label.fidelity) for label in passed}
    assert not passed_as & planted.keys(), "wrong labels passed"
    assert len(passed_as) == 160, "good labels were lost"
    # every label is in the store with its cost, the wrong ones with their reasons
    stores = open_stores(tmp_path / "planted")
    labels = {(label.frame_id, label.fidelity): label for label in stores.all_labels()}
    stores.close()
    assert len(labels) == 200
    assert all(label.core_hours > 0 for label in labels.values())
    assert all(labels[key].reason for key, kind in planted.items() if kind not in ("huge_force", "shifted_energy"))
    checked = mfal("check", "planted")
    assert checked.exit_code == 1
    for (name, _), kind in planted.items():
        assert name in checked.output, kind
    assert checked.output.count(" eV/atom from the campaign's median") == 3
    assert checked.output.count("a force of 80.0 eV/Å") == 3
