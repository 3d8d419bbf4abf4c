"""Whether VASP's input files say what the fidelity promises. Only the standard library; see `launch`."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any


def broken(folder: Path, promise: dict[str, Any]) -> list[str]:
    """What stands in INCAR, POSCAR and KPOINTS otherwise than promised, a phrase each.

    Args:
        promise: `incar`: keys and values, of which None is one that must not be there; `by_element`: keys that have an
            entry for each species of the POSCAR, and the entry of each element; `sites`: element and moment of each
            site (moments None where there must be no MAGMOM), in the order of the structure that was given;
            `kpoints`: the scheme and the divisions, or None where the INCAR has a KSPACING.
    """
    incar = read_incar((folder / "INCAR").read_text())
    species, order = _poscar((folder / "POSCAR").read_text())
    found = []
    for key, wanted in promise["incar"].items():
        kept = _same(incar.get(key), wanted)
        if key == "EDIFF" and isinstance(incar.get(key), float):  # a tighter one keeps the promise
            kept = incar[key] <= wanted * (1 + 1e-9)
        if not kept:
            found.append(f"INCAR has {_text(key, incar)} where {_wanted(key, wanted)} is promised")
    for key, entries in promise["by_element"].items():
        wanted = [entries[element] for element in species]
        if not _same(incar.get(key), wanted):
            found.append(
                f"INCAR has {_text(key, incar)} where {_wanted(key, wanted)} is promised for {' '.join(species)}"
            )
    elements, moments = promise["sites"]
    if order != elements:
        found.append(f"POSCAR has the sites {' '.join(order)} where {' '.join(elements)} is promised")
    elif not _same(incar.get("MAGMOM"), moments):
        found.append(f"INCAR has {_text('MAGMOM', incar)} where {_wanted('MAGMOM', moments)} is promised, site by site")
    if promise["kpoints"] and (kpoints := _kpoints((folder / "KPOINTS").read_text())) != promise["kpoints"]:
        found.append(f"KPOINTS has {kpoints} where {promise['kpoints']} is promised")
    return found


def read_incar(text: str) -> dict[str, Any]:
    """Keys in capitals; values as bool, number, text, or a list of numbers (`2*5.0` counted out)."""
    found = {}
    for line in re.split(r"[\n;]", text):
        key, equals, value = line.split("#")[0].split("!")[0].partition("=")
        if equals:
            found[key.strip().upper()] = _value(value.split())
    return found


def _value(words: list[str]) -> Any:
    if len(words) == 1 and "*" not in words[0]:
        return _scalar(words[0])
    numbers: list[Any] = []
    for word in words:
        count, times, number = word.partition("*")
        numbers += [_scalar(number)] * int(count) if times else [_scalar(word)]
    return numbers


def _scalar(word: str) -> Any:
    if word.strip(".").upper() in ("T", "TRUE", "F", "FALSE"):
        return word.strip(".").upper().startswith("T")
    try:
        return float(word)
    except ValueError:
        return word


def _poscar(text: str) -> tuple[list[str], list[str]]:
    """The species and the element of each site of a POSCAR of VASP 5."""
    lines = text.splitlines()
    species, counts = lines[5].split(), [int(count) for count in lines[6].split()]
    return species, [element for element, count in zip(species, counts, strict=True) for _ in range(count)]


def _kpoints(text: str) -> list[Any]:
    """Scheme (G or M) and divisions of an automatic KPOINTS."""
    lines = text.splitlines()
    return [lines[2].strip()[:1].upper(), *map(int, lines[3].split())]


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        listed = found if isinstance(found, list) else [found]
        return len(listed) == len(wanted) and all(_same(f, w) for f, w in zip(listed, wanted, strict=True))
    if wanted is None or found is None:
        return found is None and wanted is None
    if isinstance(wanted, bool) or isinstance(found, bool):
        return found is wanted
    if isinstance(wanted, int | float):
        return isinstance(found, float) and math.isclose(
            found, wanted, rel_tol=1e-3, abs_tol=1e-3 * (abs(wanted) < 1e-6)
        )
    # VASP reads the beginning of a word: A, Acc and Accurate are one
    return str(found)[:2].upper() == str(wanted)[:2].upper()


def _text(key: str, incar: dict[str, Any]) -> str:
    return f"{key} = {incar[key]}" if key in incar else f"no {key}"


def _wanted(key: str, value: Any) -> str:
    return f"no {key}" if value is None else f"{key} = {value}"
