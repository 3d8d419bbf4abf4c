"""Labels that were made elsewhere, as those of mfal are: on canonical frames, of one fingerprint a fidelity, judged."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mfal.dataset import QUANTITIES, count_images, read
from mfal.dataset_files import files, name_of, sha256
from mfal.dft.fidelity import fingerprint
from mfal.dft.label import CalculationError, gated, order
from mfal.dft.magnetism import Magnetism
from mfal.frames import Fidelity, Frame, Label

#: Numbers of one calculation that went through different files differ by less: eV, eV/Å, GPa, µB.
SAME = {"energy": 1e-4, "forces": 1e-3, "stress": 1e-2, "magmoms": 1e-2}
#: eV/Å, the mean over the atoms: more than the grid of a plane-wave code leaves (0.01 in data/rocksalt-gpaw).
DRIFT = 0.02
#: Å, of a lattice vector; a cell in another unit would keep the search for neighbours busy for ever.
EDGES = (0.5, 1000.0)
#: What is taken over from a file as a fingerprint; any other text is not one of mfal.
FINGERPRINT = re.compile(r"[0-9a-f]{6,64}")
#: Calculations that gave no number.
NOTHING = ("unconverged", "failed")


@dataclass(frozen=True)
class Image:
    """A label of a data set with its frame, and where it is: the file, and the image in it."""

    place: str
    frame: Frame
    label: Label


@dataclass(frozen=True)
class Origin:
    """What the labels of a file at one fidelity are comparable with."""

    fingerprint: str
    settings: dict[str, Any]
    #: The settings of the campaign, those that the file names, or nobody knows which.
    of: Literal["campaign", "file", "unknown"]


def images(path: Path, fidelity: Fidelity | None = None) -> Iterator[Image]:
    """The labels of a data set, in its order, each on its canonical frame: that which mfal would make of the crystal.

    Args:
        fidelity: of the images that name none.

    Raises:
        ValueError: something in the data set cannot be used; names the file, the image, the field and the mend.
    """
    frames, labels = read(path, fidelity=fidelity)
    given = {frame.frame_id: frame for frame in frames}
    placed: dict[str, tuple[Frame, list[int]]] = {}
    numbered = [(file, number) for file in files(path) for number in range(1, count_images(file) + 1)]
    for (file, number), label in zip(numbered, labels, strict=True):  # `read` refuses an image without a label
        place, named = f"{file}: image {number}", given[label.frame_id]
        structure = named.structure
        if label.frame_id not in placed:
            if odd := [edge for edge in structure.lattice.abc if not EDGES[0] <= edge <= EDGES[1]]:
                raise ValueError(f"{place}: Lattice: has a vector of {odd[0]:.3g} Å: is it in Å?")
            try:
                frame = Frame.of(structure, parent=named.parent, source=named.source)
                placed[label.frame_id] = frame, order(frame.structure, structure)
            except CalculationError:
                raise ValueError(f"{place}: has two atoms at one place: take the image out") from None
        frame, sites = placed[label.frame_id]
        yield Image(place, frame, _on(frame, label, sites))


def _on(frame: Frame, label: Label, sites: list[int]) -> Label:
    """The label with its numbers in the order of the frame's sites."""
    forces, magmoms = label.forces, label.magmoms
    # A spin-restricted calculation has no moments; zeros in a file are not a measurement.
    if label.fidelity == "nonmagnetic":
        magmoms = None
    return label.model_copy(
        update={
            "frame_id": frame.frame_id,
            "forces": forces and [forces[i] for i in sites],
            "magmoms": magmoms and [magmoms[i] for i in sites],
        }
    )


def origin(
    path: Path, fidelity: Fidelity, written: str, own: dict[str, Any] | None = None, *, same_settings: bool = False
) -> Origin:
    """Of the labels of a data set at one fidelity.

    Args:
        written: the fingerprint in the file.
        own: the settings of the campaign that they are brought into, if there is one.
        same_settings: a person says that these are the settings of the labels.

    Raises:
        ValueError: the file says that they are others.
    """
    named = written if FINGERPRINT.fullmatch(written) else ""
    ours = fingerprint(own) if own is not None else ""
    if same_settings and named and named != ours:
        raise ValueError(
            f"{path}: fingerprint = {named}: its {fidelity} labels are not of the campaign's settings, which are"
            f" {ours}: leave --same-settings out, or take the fingerprint out of the file if it is wrong"
        )
    if own is not None and (same_settings or named == ours):
        return Origin(ours, own, "campaign")
    source = {"sha256": sha256(path)}
    if named:
        return Origin(named, source | {"source": name_of(path)}, "file")
    # Not of the name: a file that was moved is the same file.
    unknown = fingerprint(source | {"fidelity": fidelity})
    return Origin(unknown, source | {"source": name_of(path)}, "unknown")


def judged(image: Image, origin: Origin, gate: Magnetism) -> Image:
    """The image with its label as it is kept: with settings, and the status that its numbers and moments give it."""
    label = image.label.model_copy(update={"fingerprint": origin.fingerprint, "settings": origin.settings})
    needed = [name for name in QUANTITIES if name != "magmoms" or label.fidelity == "magnetic"]
    missing = [name for name in needed if getattr(label, name) is None]
    if missing and origin.of != "unknown":  # it stands for a calculation, and a campaign relies on what those give
        reason = f"has no {' and no '.join(missing)}, which a calculation of these settings gives"
        label = label.model_copy(update={"status": "failed", "reason": reason})
    elif "magmoms" in missing:
        reason = "has no moments, so its magnetic state cannot be told"
        label = label.model_copy(update={"status": "other_state", "reason": reason})
    return replace(image, label=gated(label, image.frame.structure, gate))


def drifts(label: Label) -> bool:
    """Whether the forces do not add up to zero, so that something of them is missing."""
    return label.forces is not None and bool(np.linalg.norm(np.mean(label.forces, axis=0)) > DRIFT)


def unique(found: Iterable[Image]) -> list[Image]:
    """Without the images that say the same of the same frame as an earlier one.

    Raises:
        ValueError: two say something else of it.
    """
    first: dict[tuple[str, Fidelity], Image] = {}
    for image in found:
        before = first.setdefault((image.frame.frame_id, image.label.fidelity), image)
        if before is not image and (other := difference(before.label, image.label)):
            raise ValueError(
                f"{image.place}: is a {image.label.fidelity} label of the same crystal as {before.place}, and the two"
                f" differ, {other}: take one out"
            )
    return list(first.values())


def merged(image: Image, stored: Label | None) -> Label | None:
    """The label to keep in the place of the stored one of the same frame and settings; None where that stays.

    What came to nothing makes way, and its cost is carried on.

    Raises:
        ValueError: the two differ.
    """
    label = image.label
    if stored is None:
        return label
    if stored.fidelity != label.fidelity:
        raise ValueError(
            f"{image.place}: fingerprint = {label.fingerprint}: is of {stored.fidelity} labels in the"
            " store: take it out of the file"
        )
    if stored.status in NOTHING and label.status not in NOTHING:
        spent = stored.core_hours + stored.earlier_core_hours
        return label.model_copy(update={"attempt": stored.attempt + 1, "earlier_core_hours": spent})
    if stored.status not in NOTHING and (other := difference(stored, label)):
        raise ValueError(
            f"{image.place}: frame {label.frame_id} has a {label.fidelity} label of the same settings"
            f" ({label.fingerprint}) already, and the two differ, {other}: take the image out, or give the file the"
            " fingerprint that is right"
        )
    return None


def difference(one: Label, other: Label) -> str:
    """Empty where two labels have the same numbers; else both energies, and by what else they differ."""
    found = []
    for name, tolerance in SAME.items():
        a, b = getattr(one, name), getattr(other, name)
        # Of moments the size: all of them turned over is the same state.
        size = np.abs if name == "magmoms" else np.asarray
        if (a is None) != (b is None):
            found.append(f"{name} of one only")
        elif a is not None and (most := float(np.abs(size(a) - size(b)).max())) > tolerance:
            found.append(f"{name} by up to {most:.2g}")
    energies = " and ".join("none" if label.energy is None else f"{label.energy:.4f}" for label in (one, other))
    return f"with energies of {energies} eV ({', '.join(found)})" if found else ""
