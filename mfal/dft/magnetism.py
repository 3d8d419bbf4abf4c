"""What a campaign file says of the magnetic fidelity: U, initial moments and their order, and what is accepted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat

from mfal.section import Section, Symbol

#: d elements that can carry a moment in an oxide or phosphate: the magnetic fidelity needs a U and a moment for each,
#: given here as the values of the Materials Project (eV; U - J) and high spin (µB), to suggest in an error.
MAGNETIC_ELEMENTS = {
    "V": (3.25, 3.0),
    "Cr": (3.7, 4.0),
    "Mn": (3.9, 5.0),
    "Fe": (5.3, 4.0),
    "Co": (3.32, 3.0),
    "Ni": (6.2, 2.0),
    "Cu": (0.0, 1.0),
}

Policy = Literal["ferromagnetic", "antiferromagnetic", "random-collinear"]


def _both_signs(signs: list[int]) -> list[int]:
    if any(sign not in (1, -1) for sign in signs):
        raise ValueError(f"{signs}: must be 1 (up) or -1 (down) for each magnetic site of the parent")
    return signs


Signs = Annotated[list[int], AfterValidator(_both_signs), Field(min_length=1)]


def _rising(window: tuple[float, float]) -> tuple[float, float]:
    if window[0] >= window[1]:
        raise ValueError(f"{list(window)}: must be the lower and the upper end of a window")
    return window


Window = Annotated[tuple[NonNegativeFloat, PositiveFloat], AfterValidator(_rising)]


class Magnetism(Section):
    """What the magnetic fidelity adds to the non-magnetic one, and which of its labels are good."""

    hubbard_u: dict[Symbol, NonNegativeFloat]  # eV, Dudarev's U - J on d
    #: µB, size of the initial moment: one number, or one for each valence, such as `{2: 4, 3: 5}`.
    moments: dict[Symbol, PositiveFloat | Annotated[dict[int, PositiveFloat], Field(min_length=1)]]
    #: Where the size of the initial moment comes from: what the committee predicts (once there is one), or `moments`.
    start: Literal["committee", "table"] = "committee"
    #: Sign of the initial moments: all up; up and down over the magnetic sites of the parent such that near ones
    #: differ; drawn at random, ion by ion; or given, one for each magnetic site of the parent's unit cell in the order
    #: of its file (for several parents, by their names).
    ordering: Policy | Signs | dict[str, Signs] = "ferromagnetic"
    #: A magnetic ion below this (µB), or below half of its element's smallest moment, has collapsed.
    collapsed_below: NonNegativeFloat = 1.0
    #: µB that a moment may lie outside the range of its element's valences before the label counts as another state.
    tolerance: PositiveFloat = 0.6
    #: µB that an ion may have that should have none.
    stray: PositiveFloat = 0.4
    #: µB, of an element: moments outside all of its windows are of another state, e.g. `{Fe: [[3.5, 3.7], [4.0, 4.4]]}`
    #: to refuse Fe2+ whose sixth d electron is smeared over two orbitals (in GPAW 3.75 in place of 3.64, and higher in
    #: energy). What a window is depends on the program's spheres.
    windows: dict[Symbol, list[Window]] = {}
    #: Compare the valences that the moments tell with what the charges of the other ions (Li content) demand.
    check_valence: bool = True
    #: Train on labels that converged in another magnetic state, too.
    train_on_other_state: bool = False

    @classmethod
    def of(cls, elements: Iterable[str]) -> Magnetism:
        """The usual U and moments of these elements, everything else by default."""
        known = {element: MAGNETIC_ELEMENTS[element] for element in sorted(set(elements) & MAGNETIC_ELEMENTS.keys())}
        return cls(
            hubbard_u={element: u for element, (u, _) in known.items()},
            moments={element: moment for element, (_, moment) in known.items()},
        )
