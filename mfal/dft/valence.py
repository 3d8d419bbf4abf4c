"""Valences of the transition-metal ions: what charge neutrality demands, where they sit, and what the moments tell.

Taking Li out of LiMnPO4 oxidises an ion for each Li. Which one is told by its surroundings (the oxidised ion draws its
oxygens in) and, after a magnetic calculation, by its moment.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pymatgen.core import Structure

#: |moment| (µB) inside an ion's sphere by valence, high spin, PBE+U. Of Mn and Fe seen in rock salt and olivine with
#: GPAW: Mn2+ 4.4 to 4.6, Mn3+ 3.6 to 4.0, Fe2+ 3.6 to 3.7, Fe3+ 4.1 to 4.3; the others are as the Materials Project
#: has them in oxides.
MOMENTS: dict[str, dict[int, float]] = {
    "V": {2: 2.7, 3: 1.9, 4: 1.0},
    "Cr": {2: 3.7, 3: 2.9, 4: 2.1},
    "Mn": {2: 4.5, 3: 3.85, 4: 3.0},
    "Fe": {2: 3.65, 3: 4.2},
    "Co": {2: 2.7, 3: 3.1},
    "Ni": {2: 1.7, 3: 1.1},
    "Cu": {1: 0.0, 2: 0.7},
}
#: Charges of ions that do not change theirs in a cathode.
CHARGES = {
    **dict.fromkeys(("Li", "Na", "K"), 1),
    **dict.fromkeys(("Mg", "Ca", "Zn"), 2),
    **dict.fromkeys(("Al", "B", "Sc", "Y"), 3),
    **dict.fromkeys(("Si", "Ti", "Zr", "Ge"), 4),
    **dict.fromkeys(("P", "Nb", "Ta"), 5),
    **dict.fromkeys(("S", "Mo", "W"), 6),
    "O": -2,
    "F": -1,
}
#: In the order of their voltages against Li in phosphates and oxides: who gives up an electron first.
OXIDATION = [
    *(("V", 2), ("Cr", 2), ("Cu", 1), ("Fe", 2), ("V", 3), ("Mn", 2), ("Mn", 3)),
    *(("Co", 2), ("Ni", 2), ("Cr", 3)),
]
#: The lowest valence of each element that is redox-active.
LOWEST = {element: min(moments) for element, moments in MOMENTS.items()}
#: Neighbours whose mean distance tells the valence of an ion.
NEIGHBOURS = 6
#: By how much an element's sum of valences, interpolated between the moments of neighbouring valences, may be off.
SUM_TOLERANCE = 0.5


def demanded(structure: Structure) -> int | None:
    """The sum of the valences of the redox-active ions that neutrality demands; None if there is no such ion, or the
    charge of another is not known."""
    total, active = 0, 0
    for element, count in structure.composition.get_el_amt_dict().items():
        if element in LOWEST:
            active += 1
        elif element in CHARGES:
            total -= CHARGES[element] * round(count)
        else:
            return None
    return total if active else None


def assign(structure: Structure) -> list[int | None]:
    """The valence of each site's ion, None where it is fixed or cannot be told.

    Electrons are taken in the order of the voltages; of one element, from the ions with the shortest mean distance to
    their nearest anions.
    """
    sites: list[int | None] = [LOWEST.get(site.specie.symbol) for site in structure]
    total = demanded(structure)
    if total is None:
        return [None] * len(sites)
    missing = total - sum(valence for valence in sites if valence is not None)
    for element, valence in OXIDATION:
        ions = [i for i, v in enumerate(sites) if v == valence and structure[i].specie.symbol == element]
        for i in sorted(ions, key=lambda i: _distance(structure, i))[: max(missing, 0)]:
            sites[i] = valence + 1
            missing -= 1
    return sites if missing == 0 else [None] * len(sites)


def disagreement(structure: Structure, moments: Sequence[float]) -> str:
    """Empty where the moments fit the charges, element by element; else a sentence that tells both sums.

    Which element is oxidised first is part of the demand: half-charged LiMn0.5Fe0.5PO4 with Mn3+ and Fe2+ has the right
    sum, and is another state than Mn2+ and Fe3+. Two readings are tried, and one that fits is enough: each ion's
    nearest valence (electrons sit on ions), and interpolation between them (an electron shared by several). Nothing is
    said where the charges cannot be told, or no known valences add up to them.
    """
    valences = assign(structure)
    symbols = [site.specie.symbol for site in structure]
    for element in sorted(MOMENTS.keys() & set(symbols)):
        ions = [i for i, symbol in enumerate(symbols) if symbol == element]
        demand = [valence for i in ions if (valence := valences[i]) is not None]
        if len(demand) < len(ions):
            return ""
        known, sizes = MOMENTS[element], [abs(moments[i]) for i in ions]
        whole = sum(min(known, key=lambda valence: abs(known[valence] - size)) for size in sizes)
        smooth = sum(_interpolated(known, size) for size in sizes)
        if whole != sum(demand) and abs(smooth - sum(demand)) > SUM_TOLERANCE:
            return f"the moments of {element} tell valences that add up to {smooth:.1f}, and the charges {sum(demand)}"
    return ""


def _interpolated(known: dict[int, float], moment: float) -> float:
    valences = sorted(known, key=lambda valence: known[valence])
    return float(np.interp(moment, [known[v] for v in valences], valences))


def _distance(structure: Structure, ion: int) -> float:
    """Å, the mean over the nearest anions."""
    near = structure.get_neighbors(structure[ion], 4.0)
    distances = sorted(n.nn_distance for n in near if CHARGES.get(n.specie.symbol, 0) < 0)[:NEIGHBOURS]
    return float(np.mean(distances)) if distances else np.inf
