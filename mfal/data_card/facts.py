"""What the good labels of a data set span, as rows of tables: structures, energies, forces, pressures and moments."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from mfal.data_card.data_set import DataSet
from mfal.data_card.markdown import between
from mfal.dft.magnetism import Magnetism
from mfal.dft.valence import MOMENTS, assign
from mfal.frames import Fidelity, Frame

#: Compositions that are named one by one.
NAMED = 12
#: What each list of `splits.json` is.
SPLITS = {
    "train": "what a model may learn from",
    "hold_out": "drawn at random in the first round; the campaign never trained on it",
    "control": "the part of train that was drawn at random",
}


def sizes(frames: Iterable[Frame]) -> str:
    """`4 to 8`."""
    atoms = sorted(len(frame.structure) for frame in frames)
    return " to ".join(dict.fromkeys((str(atoms[0]), str(atoms[-1]))))


def elements(frames: Iterable[Frame]) -> list[str]:
    """From the most electropositive to the most electronegative, as in a formula."""
    return [element.symbol for element in sorted({el for frame in frames for el in frame.structure.elements})]


def origins(frames: Iterable[Frame]) -> list[tuple[str, int, str, str, str]]:
    """Of each parent: its name, how many frames, their atoms, compositions and sources."""
    of_parent: dict[str, list[Frame]] = defaultdict(list)
    for frame in frames:
        of_parent[frame.parent].append(frame)
    return [
        (
            parent,
            len(alike),
            sizes(alike),
            _counted(frame.structure.composition.reduced_formula for frame in alike),
            # an image of a file has its number there, too
            _counted(re.sub(r"^(image \d+|extxyz)$", "from a file", frame.source) for frame in alike),
        )
        for parent, alike in sorted(of_parent.items())
    ]


def _counted(names: Iterable[str]) -> str:
    """`6 LiFeO2, 4 LiMnO2`."""
    counts = Counter(names).most_common()
    rest = [f"and {len(counts) - NAMED} others"] if len(counts) > NAMED else []
    return ", ".join([f"{count} {name}" for name, count in counts[:NAMED]] + rest)


def splits(data: DataSet) -> list[list[object]]:
    """Name, how many frames, how many labels at each fidelity that is there, and what it is."""
    named = [[label.frame_id for label in data.of_fidelity(fidelity)] for fidelity in data.present]
    return [
        [split, len(ids), *(len(wanted.intersection(names)) for names in named), SPLITS[split]]
        for split, ids in data.split_lists().items()
        for wanted in [set(ids)]
    ]


def ranges(data: DataSet) -> list[list[str]]:
    """Name, and a range for each fidelity that is there."""
    columns = [_ranges(data, fidelity) for fidelity in data.present]
    return [[name, *(column[name] for column in columns)] for name in columns[0]]


def _ranges(data: DataSet, fidelity: Fidelity) -> dict[str, str]:
    labels = data.of_fidelity(fidelity)
    energies = [
        label.energy / len(data.frames[label.frame_id].structure) for label in labels if label.energy is not None
    ]
    forces = [np.array(label.forces) for label in labels if label.forces]
    pressures = [-float(np.trace(np.array(label.stress))) / 3 for label in labels if label.stress]
    return {
        "energy, eV/atom": between(energies, 3),
        "largest force on an atom, eV/Å": between([np.linalg.norm(array, axis=1).max() for array in forces], 2),
        "component of a force, root mean square, eV/Å": f"{_rms(forces):.2f}" if forces else "–",
        "pressure, GPa (a compressed cell is positive)": between(pressures, 1),
    }


def difference(data: DataSet) -> tuple[float, float] | None:
    """Of the forces at the two fidelities on the frames that have both: the root mean square of the difference of a
    component, eV/Å, and the correlation; None where no frame has both."""
    both = [(low.forces, high.forces) for low, high in data.pairs if low.forces and high.forces]
    if not both:
        return None
    low, high = (np.concatenate([np.ravel(forces) for forces in of_one]) for of_one in zip(*both, strict=True))
    return _rms([high - low]), float(np.corrcoef(low, high)[0, 1])


def _rms(arrays: Sequence[np.ndarray]) -> float:
    return float(np.sqrt(np.mean(np.concatenate([array.ravel() for array in arrays]) ** 2)))


def moments(data: DataSet) -> list[tuple[str, int, str]]:
    """Of each kind of ion: its symbol with the valence that the charges of its frame demand, where they tell one, how
    many there are, and their |moment| (µB)."""
    found: dict[tuple[str, int | None], list[float]] = defaultdict(list)
    for label in data.of_fidelity("magnetic"):
        structure = data.frames[label.frame_id].structure
        for site, valence, moment in zip(structure, assign(structure), label.magmoms or (), strict=False):
            found[site.specie.symbol, valence].append(abs(moment))
    order = elements(data.published.values())
    return [
        (f"{element}{valence}+" if valence else element, len(sizes), between(sizes, 2))
        for (element, valence), sizes in sorted(
            found.items(), key=lambda kind: (order.index(kind[0][0]), kind[0][1] or 0)
        )
    ]


def accepted(gate: Magnetism, element: str) -> str:
    """`Fe 3.05 to 4.80`: what a moment (µB) has to be for a label to be `ok`."""
    if windows := gate.windows.get(element):
        return f"{element} {' or '.join(f'{low:g} to {high:g}' for low, high in windows)}"
    if not (known := MOMENTS.get(element)):
        return f"{element} any"
    lowest, highest = min(known.values()) - gate.tolerance, max(known.values()) + gate.tolerance
    return f"{element} {max(lowest, 0):.2f} to {highest:.2f}"
