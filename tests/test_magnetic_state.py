"""Where a magnetic calculation starts (size and sign of each moment), and what the gate says of where it ended."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from conftest import STRUCTURES
from pymatgen.core import Lattice, Structure

from mfal.config import Parent
from mfal.dataset import read
from mfal.dft.magnetism import MAGNETIC_ELEMENTS, Magnetism
from mfal.dft.moments import initial_moments, magnetic_state
from mfal.dft.ordering import EXHAUSTIVE, Host, antiferromagnetic, signs
from mfal.dft.valence import MOMENTS, assign, demanded, disagreement
from mfal.explore.orderings import orderings
from mfal.explore.perturb import perturb
from mfal.frames import Frame

MAGNETISM = Magnetism(hubbard_u={"Mn": 3.9, "Fe": 5.3}, moments={"Mn": 5.0, "Fe": 4.0})
LABELS = Path(__file__).parent.parent / "data" / "rocksalt-gpaw" / "labels.extxyz"
MIXED = {"element": "Mn", "compositions": [{"Mn": 0.5, "Fe": 0.5}]}


def policy(ordering, **details):
    return MAGNETISM.model_copy(update={"ordering": ordering, **details})


def frame_of(structure, parent="p"):
    return Frame.of(structure, parent=parent, source="s")


def parent_of(name, *sublattices, supercell=(1, 1, 1)):
    structure = Structure.from_file(STRUCTURES / name)
    return Parent(name=name, structure=structure, sublattices=list(sublattices), supercell=supercell)


def olivine(metals="Fe Fe Fe Fe", lithium=4):
    """Sites 0 to `lithium` - 1 are Li, the metals follow, then 4 P and 16 O; all metals have the same bonds."""
    structure = Structure.from_file(STRUCTURES / "olivine-limnpo4.cif")
    for i, metal in enumerate(metals.split(), start=4):
        structure[i] = metal
    structure.remove_sites(range(lithium, 4))
    return structure


def contracted(structure, ion, by=0.05):
    """The six oxygens around an ion drawn in, as around an oxidised one."""
    result = structure.copy()
    near = [n for n in structure.get_neighbors(structure[ion], 3.2) if n.specie.symbol == "O"]
    for n in sorted(near, key=lambda n: n.nn_distance)[:6]:
        result.translate_sites([n.index], -by * (n.coords - structure[ion].coords), frac_coords=False)
    return result


def metals_of(structure, values):
    return [value for site, value in zip(structure, values, strict=True) if site.specie.symbol in ("Mn", "Fe")]


# The gate

ROCK_SALT = Structure(Lattice.cubic(4), ["Mn", "Fe", "O", "O"], np.eye(4)[:, :3] / 2)  # 2+ both
ASKED = [5.0, -4.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("found", "status", "words"),
    [
        ([4.5, -3.7, 0.1, 0.0], "ok", ""),
        ([4.5, -0.4, 0.0, 0.0], "collapsed", "Fe (site 1) has -0.40 µB of the -4.0 asked for"),
        ([4.5, 3.7, 0.0, 0.0], "other_state", "Fe (site 1) turned over: +3.70 µB where -4.0 was asked for"),
        ([4.5, -1.9, 0.0, 0.0], "other_state", "Fe (site 1) has -1.90 µB, which is none of its valences"),
        ([4.5, -3.7, 0.0, -0.8], "other_state", "O (site 3) has -0.80 µB and should have none"),
        ([3.85, -3.6, 0.0, 0.0], "other_state", "moments of Mn tell valences that add up to 3.0, and the charges 2"),
        (None, "failed", "no moments"),
    ],
)
def test_the_gate_says_which_site_is_in_another_state(found, status, words):
    got, reason = magnetic_state(ROCK_SALT, ASKED, found, MAGNETISM)
    assert got == status
    assert words in reason
    assert (got == "ok") == (not reason)


def test_what_is_not_known_or_not_wanted_is_not_judged():
    assert magnetic_state(ROCK_SALT, None, [-4.5, -3.7, 0.0, 0.0], MAGNETISM) == ("ok", "")
    status, reason = magnetic_state(ROCK_SALT, None, [-4.5, 0.4, 0.0, 0.0], MAGNETISM)
    assert status == "collapsed"
    assert "asked" not in reason
    unchecked = policy("ferromagnetic", check_valence=False)
    assert magnetic_state(ROCK_SALT, ASKED, [3.9, -3.7, 0.0, 0.0], unchecked) == ("ok", "")


@pytest.mark.parametrize("element", sorted(MAGNETIC_ELEMENTS))
def test_the_usual_settings_take_an_ion_in_each_of_its_valences_for_good(element):
    magnetism = Magnetism.of([element]).model_copy(update={"check_valence": False})
    for moment in filter(None, MOMENTS[element].values()):
        found = [0.0] * 4 + [moment] * 4 + [0.0] * 20
        assert magnetic_state(olivine(" ".join([element] * 4)), None, found, magnetism) == ("ok", "")
        for site in (0, 8):  # Li, P
            strange = [*found[:site], -0.7, *found[site + 1 :]]
            assert magnetic_state(olivine(" ".join([element] * 4)), None, strange, magnetism)[0] == "other_state"


def electron_moved(element, moment):
    return max({"Mn": (3.9, 4.5), "Fe": (4.22, 3.65)}[element], key=lambda other: abs(other - moment))


def test_real_labels_are_good_and_no_longer_so_with_one_ion_in_another_state():
    frames, labels = read(LABELS)
    by_id = {frame.frame_id: frame for frame in frames}
    magnetic = [label for label in labels if label.fidelity == "magnetic"]
    assert len(magnetic) == 64
    changes = [lambda _, moment: -moment, lambda *_: 0.1, lambda *_: 1.9, electron_moved]
    for label in magnetic:
        frame, found = by_id[label.frame_id], label.magmoms
        asked = initial_moments(frame, MAGNETISM)
        assert magnetic_state(frame.structure, asked, found, MAGNETISM) == ("ok", ""), label.frame_id
        for i in range(len(found)):
            for change in changes if asked[i] else []:
                end = change(frame.structure[i].specie.symbol, found[i])
                if end == -found[i] and sum(map(bool, asked)) == 1:
                    continue  # all of one ion turned over: the same state
                status, _ = magnetic_state(frame.structure, asked, [*found[:i], end, *found[i + 1 :]], MAGNETISM)
                assert status == ("collapsed" if end == 0.1 else "other_state"), (label.frame_id, i, end)


# Valences


@pytest.mark.parametrize(("lithium", "valence"), [(4, 2), (0, 3)])
def test_the_ends_of_an_olivine_have_one_valence(lithium, valence):
    for metals in ("Mn Mn Mn Mn", "Fe Fe Fe Fe", "Mn Fe Fe Mn"):
        structure = olivine(metals, lithium)
        assert demanded(structure) == 4 * valence
        assert assign(structure) == [None] * lithium + [valence] * 4 + [None] * 20


def test_iron_is_oxidised_first_and_of_one_element_the_ion_with_the_short_bonds():
    half = contracted(contracted(olivine(lithium=2), 3), 5)
    assert demanded(half) == 10
    assert metals_of(half, assign(half)) == [2, 3, 2, 3]
    mixed = contracted(contracted(olivine("Mn Fe Mn Fe", lithium=3), 5, by=0.08), 6)  # at the second Mn, too
    assert metals_of(mixed, assign(mixed)) == [2, 2, 2, 3]
    mixed.remove_sites([0, 1])
    assert metals_of(mixed, assign(mixed)) == [2, 3, 3, 3]


def test_what_cannot_be_told_is_none():
    strange, reduced = olivine(), olivine()
    strange[8] = "N"  # in place of P; its charge is anybody's guess
    reduced.remove_sites([27])
    assert demanded(strange) is demanded(olivine("Mg Mg Mg Mg")) is None
    assert disagreement(strange, [0.0] * 28) == ""
    for structure in (strange, reduced, olivine("Fe Mg Mg Mg", lithium=0)):  # Fe would have to be 6+
        assert assign(structure) == [None] * len(structure)


def test_moments_are_not_compared_with_charges_that_no_known_valences_can_have():
    """Sulphur is 6+ in a sulphate alone, and of Ni4+ no moment is known."""
    for symbols, moments in (("Fe S", [3.6, 0.0]), ("Li Ni Ni O O O O", [0, 0.9, 1.2, 0, 0, 0, 0])):
        structure = Structure(Lattice.cubic(9), symbols.split(), np.random.default_rng(0).random((len(moments), 3)))
        assert disagreement(structure, moments) == "", symbols


def test_a_shared_electron_agrees_and_a_missing_one_does_not():
    for moments in ([3.7, -4.2, 3.65, -4.25], [3.93] * 4):
        assert disagreement(olivine(lithium=2), [0.0] * 2 + moments + [0.0] * 20) == ""
    for moments in ([3.7, 4.2, 4.2, 4.2], [3.7, 3.7, 3.65, 4.2]):
        assert "and the charges 10" in disagreement(olivine(lithium=2), [0.0] * 2 + moments + [0.0] * 20)


# Signs


def differing(structure, sites, pattern, within):
    """For each pair of neighbours among `sites`, whether their signs differ."""
    sign = dict(zip(sites, pattern, strict=True))
    near = {site: structure.get_neighbors(structure[site], within) for site in sites}
    return [sign[site] != sign[n.index] for site in sites for n in near[site] if n.index in sign]


@pytest.mark.parametrize("supercell", [(1, 1, 1), (2, 1, 1), (2, 2, 1), (1, 3, 2)])
def test_nearest_neighbours_in_an_olivine_are_antiparallel(supercell):
    host = parent_of("olivine-limnpo4.cif", supercell=supercell).host(["Mn"])
    sites = np.random.default_rng(0).permutation(host.magnetic_sites).tolist()  # no order of theirs is right by chance
    pattern = antiferromagnetic(host.structure, sites)
    assert differing(host.structure, sites, pattern, within=4.2) == [True] * 16 * np.prod(supercell)
    assert sum(pattern) == 0


def test_many_sites_have_as_many_up_as_down_to_one():
    host = parent_of("rocksalt-8.cif", supercell=(2, 2, 1)).host(["Mn"])
    shuffled = np.random.default_rng(0).permutation(host.magnetic_sites).tolist()
    for sites in (shuffled, shuffled[1:]):
        assert len(sites) > EXHAUSTIVE
        pattern = antiferromagnetic(host.structure, sites)
        assert abs(sum(pattern)) == len(sites) % 2
        assert np.mean(differing(host.structure, sites, pattern, within=3.1)) > 0.6  # frustrated: at best 8 of 12


GIVEN = [1, 1, -1, -1]
VACANCIES = {"element": "Li", "compositions": [{"Li": 0.25, "vacancy": 0.75}]}
CATIONS = {"element": "Mn", "compositions": [{"Li": 0.5, "Mn": 0.25, "Fe": 0.25}]}


@pytest.mark.parametrize(
    ("ordering", "parent"),
    [
        ("antiferromagnetic", parent_of("olivine-limnpo4.cif", MIXED, VACANCIES, supercell=(2, 1, 1))),
        ("antiferromagnetic", parent_of("rocksalt-8.cif", CATIONS, supercell=(2, 1, 1))),
        (GIVEN, parent_of("olivine-limnpo4.cif", MIXED, VACANCIES)),
        ({"other": [1], "olivine-limnpo4.cif": GIVEN}, parent_of("olivine-limnpo4.cif", MIXED, supercell=(1, 2, 1))),
    ],
)
def test_hot_and_strained_frames_have_the_signs_of_their_parents_sites(ordering, parent):
    host, unit, rng = parent.host(MAGNETISM.moments), parent.structure, np.random.default_rng(0)
    pattern = antiferromagnetic(host.structure, host.magnetic_sites)
    if ordering != "antiferromagnetic":  # a supercell's sites are images of the unit cell's
        places = unit.lattice.get_fractional_coords(host.structure.cart_coords[host.magnetic_sites])
        pattern = [GIVEN[k - 4] for k in np.argmin(unit.lattice.get_all_distances(places, unit.frac_coords), axis=1)]
    for ideal in islice(orderings(parent, rng), 10):
        hot = frame_of(perturb(ideal, strain=0.03, rattle=0.12, rng=rng), parent.name)
        ideal = frame_of(ideal).structure  # the same order of sites
        sites = host.structure.frac_coords[host.magnetic_sites]
        nearest = np.argmin(ideal.lattice.get_all_distances(ideal.frac_coords, sites), axis=1)
        expected = metals_of(ideal, [pattern[k] for k in nearest])
        assert metals_of(hot.structure, signs(hot, policy(ordering), host)) == expected
        assert set(signs(hot, policy("ferromagnetic"), host)) == {1}


def test_a_parents_host_has_every_site_that_a_magnetic_ion_can_sit_on():
    antisite = {"element": "Li", "compositions": [{"Li": 1}, {"Li": 0.75, "Fe": 0.25}]}
    none = {"element": "Mn", "compositions": [{"Mg": 1, "Fe": 0}]}
    name = "olivine-limnpo4.cif"
    assert parent_of(name, VACANCIES, MIXED).host(["Mn", "Fe"]).magnetic_sites == [4, 5, 6, 7]
    assert parent_of(name, antisite).host(["Mn", "Fe"]).magnetic_sites == list(range(8))
    assert parent_of(name, none).host(["Mn", "Fe"]).magnetic_sites == parent_of(name).host(["Fe"]).magnetic_sites == []
    assert parent_of("rocksalt-8.cif", CATIONS, supercell=(2, 1, 1)).host(["Fe"]).magnetic_sites == list(range(8))
    parent = parent_of(name, supercell=(1, 1, 2))
    assert [len(parent.host(["Mn"]).structure), len(parent.structure)] == [56, 28]


@pytest.mark.parametrize("count", [2, 3, 8])
def test_signs_that_do_not_fit_the_parent_are_refused(count):
    frame, host = frame_of(olivine(), "olivine"), parent_of("olivine-limnpo4.cif", MIXED).host(MAGNETISM.moments)
    with pytest.raises(ValueError, match=f"has {count} signs, and the unit cell of 'olivine' has 4 magnetic sites"):
        signs(frame, policy([1] * count), host)
    with pytest.raises(ValueError, match="no signs for parent 'olivine'"):
        signs(frame, policy({"rock salt": GIVEN}), host)
    with pytest.raises(ValueError, match="4 magnetic ions, and its parent 2 sites"):
        signs(frame, policy("antiferromagnetic"), Host(olivine(), [4, 5]))


def test_random_signs_are_those_of_the_frame():
    rng = np.random.default_rng(0)
    frames = [frame_of(perturb(olivine(), strain=0.0, rattle=0.1, rng=rng)) for _ in range(40)]
    drawn = [metals_of(frame.structure, signs(frame, policy("random-collinear"))) for frame in frames]
    assert drawn == [metals_of(frame.structure, signs(frame, policy("random-collinear"))) for frame in frames]
    assert len({tuple(pattern) for pattern in drawn}) > 10  # of 16
    assert 0.3 < np.mean(np.array(drawn) == 1) < 0.7


# Sizes

BY_VALENCE = policy("ferromagnetic", moments={"Mn": {2: 5, 3: 4}, "Fe": {2: 4, 3: 4.8}}, start="table")


def test_sizes_are_those_of_the_element_and_its_valence():
    structure = contracted(contracted(olivine("Mn Fe Mn Fe", lithium=1), 3), 2)  # all iron and the second Mn are 3+
    frame = frame_of(structure)  # Mn, Mn, Fe, Fe
    assert metals_of(frame.structure, initial_moments(frame, MAGNETISM)) == [5, 5, 4, 4]
    assert metals_of(frame.structure, initial_moments(frame, BY_VALENCE)) == [5, 4, 4.8, 4.8]
    given = initial_moments(frame, BY_VALENCE.model_copy(update={"ordering": [1, -1, -1, 1]}), host=None)
    assert metals_of(frame.structure, given) == [5, -4, -4.8, 4.8]
    assert sum(map(abs, given)) == pytest.approx(5 + 4 + 9.6)  # nothing on Li, P and O


def test_predicted_sizes_are_taken_where_they_can_be_right():
    frame = frame_of(olivine("Mn Mn Fe Fe"))
    last = len(frame.structure) - 4  # Li, O and P come before the metals
    sensible = [0.2] * last + [4.4, 3.7, 3.6, 4.3]
    magnetism = policy([1, -1, 1, -1])
    assert initial_moments(frame, magnetism, predicted=sensible) == [0.0] * last + [4.4, -3.7, 3.6, -4.3]
    strange = [9.0] * last + [0.0, float("nan"), 7.0, 1.9]
    assert initial_moments(frame, magnetism, predicted=strange) == [0.0] * last + [5, -5, 4, -4]
    table = magnetism.model_copy(update={"start": "table"})
    assert initial_moments(frame, table, predicted=sensible) == [0.0] * last + [5, -5, 4, -4]


def test_a_prediction_of_nothing_is_not_taken_where_no_valences_are_known():
    frame = frame_of(Structure(Lattice.cubic(4), ["Mo", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]))
    magnetism = policy("ferromagnetic", moments={"Mo": 2.0})
    assert max(initial_moments(frame, magnetism, predicted=[0.0, 1.7])) == 1.7
    assert max(initial_moments(frame, magnetism, predicted=[0.0, 0.0])) == 2.0
