"""Labels as extended XYZ, what people exchange: one image a label, in one file or in several files of one folder.

The numbers are in the file as ASE has them: `energy` eV (total), `forces` eV/Å, `stress` eV/Å3 (dE/dstrain / V, the
sign of CHGNet), `magmoms` µB. The comment line holds `fidelity`, `frame_id` and `fingerprint` beside them, `parent` and
`source` of the frame, and as `core_hours` what the label cost, earlier attempts included. What a label lacks is not in
the file. In a published file it also says the `units`, and the `split` that the frame is of.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.extxyz import key_val_str_to_dict, read_xyz
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from ase.units import GPa
from pymatgen.core import Lattice, Structure

from mfal import atomic
from mfal.dataset_files import SPLITS, Split, files, splits
from mfal.frames import FIDELITIES, Fidelity, Frame, Label, canonical, frame_id

#: In the comment line, and never a number.
NAMES = ("fidelity", "frame_id", "fingerprint", "parent", "source")
#: As a published file says them, for whoever has nothing but the file.
UNITS = "energy eV, forces eV/Ang, stress eV/Ang^3, magmoms muB"
QUANTITIES = ("energy", "forces", "stress", "magmoms")
#: Of the elements that CHGNet knows, the last.
HEAVIEST = 94
#: Å; the sites of one frame may differ by so much between the images of its labels.
SAME_PLACE = 1e-3


def write(
    path: Path | str, frames: Iterable[Frame], labels: Iterable[Label], *, splits: Mapping[str, str] | None = None
) -> None:
    """Write the good labels; those that are not good are left out.

    Args:
        frames: at least those of the good labels.
        splits: what each of those frames is for (`train`, `hold_out`); with it, each image says that and its units.

    Raises:
        ValueError: no label is good, one has no frame, or a frame has two at the same fidelity.
    """
    by_id = {frame.frame_id: frame for frame in frames}
    good = [label for label in labels if label.good]
    if not good:
        raise ValueError(f"{path}: there is no good label to write")
    for (name, fidelity), count in Counter((label.frame_id, label.fidelity) for label in good).items():
        if name not in by_id:
            raise ValueError(f"{path}: the {fidelity} label of {name} has no frame")
        if count > 1:
            raise ValueError(f"{path}: {name} has {count} good {fidelity} labels: give one of them")
    text = StringIO()
    images = [_image(by_id[label.frame_id], label) for label in good]
    if splits is not None:
        for image, label in zip(images, good, strict=True):
            image.info |= {"split": splits[label.frame_id], "units": UNITS}
    ase.io.write(text, images, format="extxyz")
    atomic.replace(Path(path), text.getvalue().encode())


def read(path: Path | str, *, fidelity: Fidelity | None = None) -> tuple[list[Frame], list[Label]]:
    """The frames and labels of a file, or of all files of a folder, from mfal or made elsewhere.

    There is a label for each image, in the order of the files; atoms stay in the order of the image.

    Without `frame_id`, images of the same crystal (to 6 decimals) are labels of one frame. The keys `REF_energy`,
    `REF_forces` and so on, which other programs write, go before those without `REF_`.

    Args:
        fidelity: of the images that name none.

    Raises:
        ValueError: something in a file cannot be used; names the file, the image, the field and the mend.
    """
    path = Path(path)
    frames: dict[str, Frame] = {}
    labels: dict[tuple[str, Fidelity], tuple[str, Label]] = {}
    first: dict[str, str] = {}
    for file in files(path):
        for number, image in _images(file):
            with _naming(file, number):
                place = f"image {number}" if file == path else f"image {number} of {file.name}"
                origin = {key: str(image.info.get(key, "")) for key in ("parent", "source")}
                frame = _frame(image, origin["parent"] or file.name, origin["source"] or f"image {number}")
                known = frames.setdefault(frame.frame_id, frame)
                if not _same_sites(known.structure, frame.structure):
                    raise ValueError(
                        f"frame_id = {frame.frame_id} is another crystal than in {first[frame.frame_id]}, or has its"
                        " atoms in another order: a frame_id stands for one list of atoms"
                    )
                first.setdefault(frame.frame_id, place)
                label = _label(image, frame.frame_id, fidelity)
                if (label.frame_id, label.fidelity) in labels:
                    raise ValueError(_twice(label, *labels[label.frame_id, label.fidelity]))
                labels[label.frame_id, label.fidelity] = place, label
    found = [label for _, label in labels.values()]
    for name in FIDELITIES:
        prints = sorted({label.fingerprint for label in found if label.fidelity == name})
        if len(prints) > 1:
            raise ValueError(
                f"{path}: the {name} labels are of different settings (fingerprint = {', '.join(map(repr, prints))}),"
                " which do not compare: keep those of one"
            )
    return list(frames.values()), found


def read_splits(path: Path | str) -> dict[Split, tuple[list[Frame], list[Label]]]:
    """As `read`, by what the frames are for: all are for training where no folder says it.

    Raises:
        ValueError: as `read` and `splits`; or the two do not fit together.
    """
    frames, labels = read(path)
    of = splits(path) or {frame.frame_id: "train" for frame in frames}
    if lost := [frame.frame_id for frame in frames if frame.frame_id not in of]:
        raise ValueError(
            f"{path}: {len(lost)} of its frames are in no split ({', '.join(lost[:3])}{', ...' if lost[3:] else ''}):"
            f" write them into train or hold_out of {SPLITS}"
        )
    parts: dict[Split, tuple[list[Frame], list[Label]]] = {
        split: (
            [frame for frame in frames if of[frame.frame_id] == split],
            [label for label in labels if of[label.frame_id] == split],
        )
        for split in get_args(Split)
    }
    if "hold_out" in of.values() and not parts["hold_out"][0]:
        raise ValueError(
            f"{path}: has no label of the frames that {SPLITS} holds out: put the file with them beside it, or name one"
            " file in place of the folder"
        )
    return parts


def iter_frames(path: Path | str, *, skip: int = 0) -> Iterator[Frame]:
    """The crystals of a file, labelled or not, read from the disk as they are needed: one for each image, in the order
    of the file, so one that is there twice comes twice. The `source` of a frame is its image, such as `image 7`.

    Args:
        skip: images to pass over; their atoms are not looked at.

    Raises:
        ValueError: as `read`, once the iteration gets there.
    """
    path = Path(path)
    for number, image in _images(path, skip):
        with _naming(path, number):
            frame = _frame(image, path.name, f"image {number}")
        yield frame


def count_images(path: Path | str) -> int:
    """How many images a file holds, by the numbers of atoms above them: no atom is looked at.

    Raises:
        ValueError: the file cannot be read, holds none, or an image does not begin with its number of atoms.
    """
    if not (count := sum(1 for _ in _texts(Path(path)))):
        raise ValueError(f"{path}: holds no images")
    return count


def bare_image(structure: Structure, name: str) -> Atoms:
    """The crystal with its frame_id, and no label."""
    return Atoms(
        [site.specie.symbol for site in structure],
        positions=structure.cart_coords,
        cell=structure.lattice.matrix,
        pbc=True,
        info={"frame_id": as_text(name)},
    )


def _image(frame: Frame, label: Label) -> Atoms:
    image = bare_image(frame.structure, label.frame_id)
    results = {
        "energy": label.energy,
        "forces": None if label.forces is None else np.array(label.forces),
        "stress": None if label.stress is None else full_3x3_to_voigt_6_stress(np.array(label.stress)) * GPa,
        "magmoms": None if label.magmoms is None else np.array(label.magmoms),
    }
    image.calc = SinglePointCalculator(image, **results)
    named = dict.fromkeys(("parent", "source"), frame) | dict.fromkeys(("fidelity", "frame_id", "fingerprint"), label)
    image.info = {name: as_text(value) for name in NAMES if (value := getattr(named[name], name))}
    if (hours := label.core_hours + label.earlier_core_hours) > 0:
        image.info["core_hours"] = hours
    return image


def as_text(name: str) -> str:
    """A name that ASE reads as text: 12e456789012, a possible frame_id, it would take for a number, and infinite. Line
    breaks and backslashes, which it does not give back, become spaces."""
    name = re.sub(r"[\r\n\\]", " ", name)
    try:
        float(name)
    except ValueError:
        if not re.search(r"^_JSON|^[\d\s.+-]+$", name):
            return name
    return f"_JSON {json.dumps(name)}"


def _comment(line: str) -> dict[str, Any]:
    """A comment line as ASE reads it, but names that look like numbers are text."""
    info: dict[str, Any] = key_val_str_to_dict(line)
    for name in NAMES:
        if name in info and not isinstance(info[name], str):
            written = re.search(rf'\b{name}\s*=\s*["\'{{\[]?([^\s"\'}}\]]*)', line)
            info[name] = written[1] if written else ""
    return info


@contextmanager
def _naming(path: Path, number: int) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: image {number}: {error}") from error


def _images(path: Path, skip: int = 0) -> Iterator[tuple[int, Atoms]]:
    """The images of a file, numbered from 1, as they are asked for; the first `skip` are passed over."""
    number = 0
    for number, text in enumerate(_texts(path), start=1):
        if number <= skip:
            continue
        try:
            (image,) = read_xyz(StringIO(text), properties_parser=_comment)
        except Exception as error:  # whatever ASE stumbles over
            raise ValueError(
                f"{path}: is not extended XYZ that ASE reads{_after(number - 1)} ({type(error).__name__}: {error})"
            ) from error
        yield number, image
    if not number:
        raise ValueError(f"{path}: holds no images")


def _texts(path: Path) -> Iterator[str]:
    """What each image is in the file, which is never held as a whole."""
    number = lines = 0
    try:
        with path.open() as file:
            for head in file:
                if not head.strip():
                    if any(line.strip() for line in file):  # ASE would end here and say nothing
                        raise ValueError(f"{path}: line {lines + 1}: is empty, and images follow: take the line out")
                    return
                if not head.strip().isdecimal() or not (atoms := int(head)):
                    raise ValueError(
                        f"{path}: is not extended XYZ{_after(number)}: line {lines + 1}: must be a number of atoms, not"
                        f" {head.strip()[:40]!r}"
                    )
                yield "".join([head, *islice(file, atoms + 1)])
                number, lines = number + 1, lines + atoms + 2
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error


def _after(number: int) -> str:
    return f", after image {number}" if number else ""


def _frame(image: Atoms, parent: str, source: str) -> Frame:
    if not image.pbc.all() or image.cell.rank < 3:
        raise ValueError('Lattice: the cell is not periodic in three directions: give Lattice="..." and pbc="T T T"')
    if not (np.isfinite(image.cell.array).all() and np.isfinite(image.positions).all()):
        raise ValueError("Lattice or pos: is not finite")
    foreign = sorted({site.symbol for site in image if not 0 < site.number <= HEAVIEST})
    if foreign:
        raise ValueError(f"species = {', '.join(foreign)}: CHGNet knows the elements from H to Pu")
    structure = Structure(
        Lattice(image.cell.array), image.get_chemical_symbols(), image.positions, coords_are_cartesian=True
    )
    name = str(image.info.get("frame_id", "")) or frame_id(canonical(structure))
    return Frame(frame_id=name, structure=structure, parent=parent, source=source)


def _same_sites(one: Structure, other: Structure) -> bool:
    if one is other:
        return True
    if one.species != other.species or not np.allclose(one.lattice.matrix, other.lattice.matrix, atol=SAME_PLACE):
        return False
    shifts = one.frac_coords - other.frac_coords
    return bool(np.abs((shifts - np.round(shifts)) @ one.lattice.matrix).max() < SAME_PLACE)


def _label(image: Atoms, name: str, fidelity: Fidelity | None) -> Label:
    found = image.info.get("fidelity", fidelity)
    if found is None:
        raise ValueError(f"fidelity: is missing: write fidelity={FIDELITIES[0]} or fidelity={FIDELITIES[1]}")
    if found not in FIDELITIES:
        raise ValueError(f"fidelity = {found!r}: must be {' or '.join(FIDELITIES)}")
    atoms = len(image)
    stress = _number(image, "stress", (6,), (9,), (3, 3))
    if stress is not None:
        stress = (voigt_6_to_full_3x3_stress(stress) if stress.size == 6 else stress.reshape(3, 3)) / GPa
    numbers = {
        "energy": _number(image, "energy", ()),
        "forces": _number(image, "forces", (atoms, 3)),
        "stress": stress,
        "magmoms": _number(image, "magmoms", (atoms,)),
    }
    if all(value is None for value in numbers.values()):
        raise ValueError(f"has none of {', '.join(QUANTITIES)}: write what was calculated, or take the image out")
    return Label(
        frame_id=name,
        fidelity=found,
        fingerprint=str(image.info.get("fingerprint", "")),
        status="ok",
        core_hours=_core_hours(image),
        **{quantity: None if value is None else value.tolist() for quantity, value in numbers.items()},
    )


def _number(image: Atoms, quantity: str, *shapes: tuple[int, ...]) -> np.ndarray | None:
    """What an image says about a quantity. ASE moves what it knows into a calculator and leaves the rest."""
    calculated = image.calc.results if image.calc else {}
    for name in (f"REF_{quantity}", quantity):
        for place in (calculated, image.info, image.arrays):
            if name in place:
                return _checked(name, place[name], shapes)
    return None


def _core_hours(image: Atoms) -> float:
    hours = float(_checked("core_hours", image.info.get("core_hours", 0.0), ((),)))
    if hours < 0:
        raise ValueError(f"core_hours = {hours:g}: is less than nothing; leave out what is not known")
    return hours


def _checked(name: str, value: Any, shapes: tuple[tuple[int, ...], ...]) -> np.ndarray:
    try:
        array = np.asarray(value, dtype=float)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} = {value!r}: is not made of numbers; leave out what was not calculated") from error
    if np.asarray(value).dtype == bool:  # a key without a value
        raise ValueError(f"{name} = {value!r}: is not made of numbers; leave out what was not calculated")
    if array.shape not in shapes:
        raise ValueError(f"{name}: has shape {array.shape}, and must have {' or '.join(map(str, shapes))}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: is not finite; leave out what was not calculated")
    return array


def _twice(label: Label, place: str, earlier: Label) -> str:
    what = f"frame {label.frame_id} has a {label.fidelity} label in {place} already"
    if label.fingerprint == earlier.fingerprint:
        return f"{what}: take one of the two out"
    return (
        f"{what}, of other settings (fingerprint = {earlier.fingerprint!r}, here {label.fingerprint!r}): keep the"
        " labels of one"
    )
