"""What a label costs is learned from the calculations, failures included."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import rock_salt
from pymatgen.core import Lattice, Structure

from mfal.acquire.cost import MAGNETIC_RATIO, PRIOR_GOOD, Calculation, CostModel
from mfal.frames import FIDELITIES, Frame, Label


def crystal(atoms: int, magnetic: int, element: str = "Mn") -> Structure:
    symbols = [element] * magnetic + ["O"] * (atoms - magnetic)
    return Structure(Lattice.cubic(20), symbols, np.zeros((atoms, 3)))


def calculation(core_hours=1.0, *, atoms=28, magnetic=7, element="Mn", fidelity="magnetic", good=True) -> Calculation:
    elements = [element] if magnetic else []
    return Calculation(
        fidelity=fidelity, atoms=atoms, elements=elements, magnetic_atoms=magnetic, core_hours=core_hours, good=good
    )


def planted(atoms: int, magnetic: int) -> float:
    return 0.01 * atoms**2.5 * (1 + magnetic) ** 0.5


@pytest.mark.parametrize("broken", [0.0, 0.1])
def test_a_planted_law_is_recovered_at_new_sizes(broken):
    rng = np.random.default_rng(0)
    data = []
    for _ in range(300):
        atoms = int(rng.choice([8, 16, 28, 32, 56]))
        magnetic = int(rng.integers(1, atoms // 2))
        cost = planted(atoms, magnetic) * rng.lognormal(0, 0.2) * (rng.random() >= broken)
        data.append(calculation(cost, atoms=atoms, magnetic=magnetic))
    model = CostModel.fit(data)
    for atoms, magnetic in ((12, 2), (24, 6), (48, 12)):
        mean = planted(atoms, magnetic) * np.exp(0.2**2 / 2) * (1 - broken)
        assert model.core_hours("magnetic", crystal(atoms, magnetic)) == pytest.approx(mean, rel=0.1 + broken)


def test_one_size_says_nothing_of_the_exponents_and_the_prior_stays():
    model = CostModel.fit([calculation(cost) for cost in (1.0, 2.0, 4.0)])
    assert model.core_hours("magnetic", crystal(28, 7)) == pytest.approx(7 / 3, rel=0.1)
    doubled = model.core_hours("magnetic", crystal(56, 7)) / model.core_hours("magnetic", crystal(28, 7))
    assert doubled == pytest.approx(4, rel=0.1)


def test_priors_without_data():
    empty = CostModel.fit([])
    assert empty.core_hours("nonmagnetic", crystal(28, 0)) == pytest.approx(1)
    assert empty.core_hours("nonmagnetic", crystal(56, 7)) == pytest.approx(4)
    assert empty.core_hours("magnetic", crystal(28, 7)) == pytest.approx(MAGNETIC_RATIO)
    assert empty.probability("magnetic", crystal(28, 7)) == PRIOR_GOOD


@pytest.mark.parametrize("known", FIDELITIES)
def test_a_fidelity_without_data_is_scaled_from_the_other(known):
    model = CostModel.fit([calculation(cost, fidelity=known) for cost in (4.0, 6.0)])
    assert model.core_hours(known, crystal(28, 7)) == pytest.approx(5, rel=0.05)
    cheap, costly = (model.core_hours(fidelity, crystal(28, 7)) for fidelity in FIDELITIES)
    assert costly == pytest.approx(MAGNETIC_RATIO * cheap)


def test_failures_make_a_label_dearer():
    good = CostModel.fit([calculation() for _ in range(20)])
    half = CostModel.fit([calculation(good=k % 2 == 0) for k in range(20)])
    assert half.core_hours("magnetic", crystal(28, 7)) == good.core_hours("magnetic", crystal(28, 7))
    assert half.per_label("magnetic", crystal(28, 7)) == pytest.approx(2, rel=0.1)
    assert good.per_label("magnetic", crystal(28, 7)) == pytest.approx(1, rel=0.1)


def test_a_group_that_always_fails_costs_more_and_an_unknown_one_lies_between():
    data = [calculation() for _ in range(10)] + [calculation(element="Co", good=False) for _ in range(10)]
    model = CostModel.fit(data)
    mn, ni, co = (model.per_label("magnetic", crystal(28, 7, element)) for element in ("Mn", "Ni", "Co"))
    assert mn < 0.7 * ni
    assert ni < 0.3 * co
    assert np.isfinite(co)


@pytest.mark.parametrize("cost", [0.0, -1.0])
def test_calculations_that_cost_nothing_break_nothing(cost):
    alone = CostModel.fit([calculation(cost), calculation(cost, atoms=4, magnetic=0)])
    assert 0 < alone.per_label("magnetic", crystal(28, 7)) < 0.01
    among = CostModel.fit([calculation(cost)] + [calculation(2.0) for _ in range(9)])
    assert among.core_hours("magnetic", crystal(28, 7)) == pytest.approx(1.8, rel=0.1)


def test_a_label_and_its_frame_give_a_calculation():
    frame = Frame.of(rock_salt(), parent="p", source="s")
    label = Label(frame_id=frame.frame_id, fidelity="magnetic", fingerprint="x", status="collapsed", core_hours=2.0)
    found = Calculation.of(label.model_copy(update={"earlier_core_hours": 0.5}), frame)
    assert found == calculation(2.5, atoms=4, magnetic=2, good=False)
