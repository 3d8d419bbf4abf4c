"""A stand-in for VASP: reads the inputs of a single point, writes the outputs that custodian, pymatgen and emmet read.

`vasp_std` and `vasp_gam` beside this file run it; nothing but the standard library is imported, so that it starts
quickly under any Python. The physics is a toy, but a consistent one: forces and stress are derivatives of the energy,
moments follow from the composition and MAGMOM.

The environment variable VASP_STAND_IN may name a JSON file that makes it misbehave: a mapping from a text in the
working directory's path to the list of what happens at the first, second, ... launch there; the last repeats, and of
several texts that match the longest counts. Launches are counted in a file beside it, its name with `.launches`.

    ok               12 electronic steps, or NELM if that is less (it is unconverged, then)
    unconverged      NELM electronic steps with energies still changing; exit code 0, as VASP does
    crash            exit code 139, OUTCAR and vasprun.xml end in the middle
    hang             writes the head of OUTCAR, then sleeps for an hour
    flipped          the last Mn or Fe has the opposite sign
    wrong_size       the first Mn or Fe has a moment of 1.9
    collapsed        all moments are zero
    one_collapsed    the first Mn or Fe has no moment
    wrong_valence    one Mn or Fe has an electron more than the composition demands (one less if all are 2+ already)
    truncated        vasprun.xml ends in the middle, exit code 0
    nan_forces       all forces are NaN in vasprun.xml
    huge_force       one force of 80 eV/Å
    shifted_energy   the energy is too low by 3 eV an atom
    edddav, zbrent   VASP's error message on stdout, which custodian's VaspErrorHandler corrects; exit code 1
    error_then_ok    the same as edddav, unless custodian has corrected an error in this directory already

The traps of real VASP are always there: an ionic step's e_0_energy in vasprun.xml is the entropy term and no energy;
OUTCAR has "magnetization (x)" twice for one block of forces, and the first is too small.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import re
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn

VERSION = "6.4.2"
ELECTRONIC_STEPS = 12
KBAR = 1602.1766208  # in an eV/Å³

# Of the usual PBE potentials; anything else has 8.
VALENCE_ELECTRONS = {"Li": 3, "Na": 7, "Mn": 13, "Fe": 14, "O": 6, "F": 7, "P": 5, "S": 6, "Si": 4}
MASSES = {"Li": 6.94, "Na": 22.99, "Mn": 54.938, "Fe": 55.845, "O": 16.0, "F": 18.998, "P": 30.974, "S": 32.06}

# What the other elements leave to Mn and Fe to compensate, and the moments of those by their charge.
CHARGES = {"Li": 1, "Na": 1, "O": -2, "F": -1, "P": 5, "S": 6, "Si": 4}
MOMENTS = {"Mn": {2: 4.6, 3: 3.8, 4: 3.0}, "Fe": {2: 3.7, 3: 4.2}}
OXIDATION_ORDER = (("Fe", 3), ("Mn", 3), ("Mn", 4))

# VASP's defaults. A tag's value in INCAR is read as what its default is: logical, integer, real, or text in quotes.
DEFAULTS = """
SYSTEM = 'unknown system'; PREC = 'Normal'; ALGO = 'Normal'; GGA = 'PE'; METAGGA = '--'; IALGO = 38; ISEARCH = 0
ENMAX = 520.; EDIFF = 1.E-4; NELM = 60; NELMIN = 2; NELMDL = -5; ISMEAR = 1; SIGMA = 0.2; ISTART = 0; ICHARG = 2
ISPIN = 1; ISYM = 2; NSW = 0; IBRION = -1; ISIF = 2; POTIM = 0.5; EDIFFG = 0.; KSPACING = 0.5; KGAMMA = T; NEDOS = 301
LREAL = F; LASPH = F; LORBIT = 0; LMAXMIX = 2; LDAU = F; LDAUTYPE = 2; LDAUPRINT = 0; LHFCALC = F; LSORBIT = F
LNONCOLLINEAR = F; LEPSILON = F; LOPTICS = F; LCHARG = T; LWAVE = T; LUSE_VDW = F; IVDW = 0; LDIPOL = F; IDIPOL = 0
EFIELD = 0.; ADDGRID = F; LMONO = F; NGX = 24; NGY = 24; NGZ = 24; NCORE = 1; NPAR = 1; KPAR = 1; NSIM = 4; NWRITE = 2
IMIX = 4; INIMIX = 1; MAXMIX = -45
"""
VECTORS = ("DIPOL", "LDAUJ", "LDAUL", "LDAUU", "MAGMOM", "QUAD_EFG", "RWIGS")

MESSAGES = {
    "edddav": " Error EDDDAV: Call to ZHEGV failed. Returncode =  15 1  16",
    "zbrent": " ZBRENT: fatal error in bracketing\n     please rerun with smaller EDIFF, or copy CONTCAR to POSCAR",
}
MODES = (
    *("ok", "unconverged", "crash", "hang", "flipped", "wrong_size", "collapsed", "one_collapsed", "wrong_valence"),
    *("truncated", "nan_forces", "huge_force", "shifted_energy", "error_then_ok", *MESSAGES),
)

Vector = list[float]
Value = bool | int | float | str | list[float] | list[int]


def refuse(message: str) -> NoReturn:
    """What is wrong with the input, as VASP says it: on stdout, with exit code 1."""
    line = "-" * 79
    print(f" {line}\n |  ERROR: {message}\n {line}", flush=True)
    sys.exit(1)


# --- Input -----------------------------------------------------------------------------------------------------------


@dataclass
class Cell:
    """A POSCAR. Sites are in its order; `kinds` and `counts` are its species, which may name an element twice."""

    comment: str
    lattice: list[Vector]
    kinds: list[str]
    counts: list[int]
    fractional: list[Vector]

    @property
    def elements(self) -> list[str]:
        return [kind for kind, count in zip(self.kinds, self.counts, strict=True) for _ in range(count)]

    @property
    def reciprocal(self) -> list[Vector]:
        """Rows are reciprocal lattice vectors, without 2π."""
        a, b, c = self.lattice
        return [[x / self.volume for x in row] for row in (cross(b, c), cross(c, a), cross(a, b))]

    @property
    def volume(self) -> float:
        return dot(self.lattice[0], cross(self.lattice[1], self.lattice[2]))

    @property
    def positions(self) -> list[Vector]:
        return [self.cartesian(row) for row in self.fractional]

    def cartesian(self, fractional: Sequence[float]) -> Vector:
        return [sum(fractional[k] * self.lattice[k][i] for k in range(3)) for i in range(3)]


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Sequence[float], b: Sequence[float]) -> Vector:
    return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]


def read_poscar(text: str) -> Cell:
    lines = text.splitlines()
    scale = float(lines[1].split()[0])
    lattice = [[float(x) for x in line.split()[:3]] for line in lines[2:5]]
    if scale < 0:  # a volume
        scale = (-scale / abs(dot(lattice[0], cross(lattice[1], lattice[2])))) ** (1 / 3)
    lattice = [[scale * x for x in row] for row in lattice]
    matches = [re.match(r"[A-Z][a-z]?", word) for word in lines[5].split()]
    kinds = [match[0] for match in matches if match]
    counts = [int(word) for word in lines[6].split()] if len(kinds) == len(matches) > 0 else []
    if not kinds or len(kinds) != len(counts):
        refuse("POSCAR names no species, or not as many as it counts")
    start = 8 if lines[7].strip().lower().startswith("s") else 7  # selective dynamics
    rows = [[float(x) for x in line.split()[:3]] for line in lines[start + 1 : start + 1 + sum(counts)]]
    if len(rows) != sum(counts) or any(len(row) != 3 for row in rows):
        refuse("POSCAR has fewer positions than it counts")
    cell = Cell(lines[0].strip(), lattice, kinds, counts, rows)
    if cell.volume <= 0:
        refuse("the triple product of the basis vectors is negative exchange two basis vectors")
    if lines[start].strip()[:1].lower() in ("c", "k"):
        reciprocal = cell.reciprocal
        cell.fractional = [[dot([scale * x for x in row], reciprocal[i]) for i in range(3)] for row in rows]
    return cell


def read_incar(text: str) -> dict[str, Value]:
    tags: dict[str, Value] = {}
    for line in text.splitlines():
        for part in re.split(r"[#!]", line)[0].split(";"):
            name, equals, value = part.partition("=")
            if equals:
                tags[name.strip().upper()] = value_of(name.strip().upper(), value.strip())
    return tags


def value_of(name: str, text: str) -> Value:
    """A value of INCAR in the type that VASP gives the tag; a text where it is of no such type, as in LREAL = Auto."""
    default = default_texts().get(name, "")
    try:
        if name in VECTORS:
            numbers = [float(x) for x in repeated(text)]
            return [int(x) for x in numbers] if name == "LDAUL" else numbers
        if re.fullmatch(r"-?\d+", default):
            return int(text)
        if default.startswith("'"):
            return text.strip("'")
        if text.strip(".").upper() in ("T", "F", "TRUE", "FALSE"):
            return text.strip(".").upper().startswith("T")
        return float(text)
    except ValueError:
        return text


@cache
def default_texts() -> dict[str, str]:
    return dict(re.findall(r"(\w+) = ([^;\n]+)", DEFAULTS))


def repeated(text: str) -> Iterable[str]:
    """`4*5.0 8*0.6` number by number."""
    for word in text.split():
        times, star, number = word.partition("*")
        yield from [number] * int(times) if star else [word]


def read_mesh(text: str | None) -> tuple[str, list[int]]:
    """Style and divisions of KPOINTS. Where it is another kind or missing (KSPACING), Γ alone stands in."""
    lines = text.splitlines() if text else []
    if len(lines) > 3 and lines[1].split()[0] == "0" and lines[2].strip()[:1].lower() in ("g", "m"):
        style = "Gamma" if lines[2].strip().lower().startswith("g") else "Monkhorst-Pack"
        return style, [int(float(x)) for x in lines[3].split()[:3]]
    return "Gamma", [1, 1, 1]


def read_potentials(kinds: list[str]) -> list[str]:
    """The TITEL of each species, from POTCAR or made of what POTCAR.spec names."""
    if Path("POTCAR").exists():
        titles = re.findall(r"TITEL\s*=\s*(.+?)\s*$", Path("POTCAR").read_text(), re.MULTILINE)
    elif Path("POTCAR.spec").exists():
        titles = [f"PAW_PBE {symbol} 01Jan2000" for symbol in Path("POTCAR.spec").read_text().split()]
    else:
        refuse("No POTCAR")
    if [title.split()[1].partition("_")[0] for title in titles] != kinds:
        refuse(f"POTCAR is for {titles}, POSCAR has {kinds}")
    return titles


def check(tags: dict[str, Value], cell: Cell) -> None:
    sites = len(cell.fractional)
    magmom = tags.get("MAGMOM")
    if tags.get("ISPIN", 1) == 2 and magmom is not None and not (isinstance(magmom, list) and len(magmom) == sites):
        refuse(f"MAGMOM is {magmom}, but POSCAR has {sites} sites")
    if tags.get("LDAU"):
        for name in ("LDAUU", "LDAUJ", "LDAUL"):
            entries = tags.get(name, [])
            if not isinstance(entries, list) or len(entries) != len(cell.kinds):
                refuse(f"{name} is {entries}, but POSCAR has the species {cell.kinds}")
    for name, value in tags.items():
        if isinstance(value, str) and re.fullmatch(r"-?\d+", default_texts().get(name, "")):
            refuse(f"Error reading item '{name}' from file INCAR.")
    if number(tags, "NSW", 0) > 0:
        refuse("The stand-in does single points only, but NSW is more than 0")


def number(tags: dict[str, Value], name: str, default: float) -> float:
    value = tags.get(name, default)
    if not isinstance(value, int | float):
        refuse(f"{name} is no number")
    return value


# --- Toy physics -----------------------------------------------------------------------------------------------------


def moments_of(cell: Cell, magmom: Sequence[float], mode: str) -> Vector:
    """The moment of each site; its sign is MAGMOM's, its size that of the ion's charge, give or take a little."""
    elements = cell.elements
    ions = [i for i, element in enumerate(elements) if element in MOMENTS]
    scatter = [
        unit_noise(f"{i} {' '.join(f'{round(x, 4) + 0.0}' for x in row)}") for i, row in enumerate(cell.positions)
    ]
    moments = [0.02 * x for x in scatter]
    charges = ion_charges(elements, mode == "wrong_valence")
    for i in ions:
        moments[i] = math.copysign(MOMENTS[elements[i]][charges[i]] + 0.05 * scatter[i], magmom[i] or 1.0)
    if mode == "collapsed":
        return [0.0] * len(moments)
    if ions and mode == "flipped":
        moments[ions[-1]] *= -1
    if ions and mode == "wrong_size":
        moments[ions[0]] = math.copysign(1.9, moments[ions[0]])
    if ions and mode == "one_collapsed":
        moments[ions[0]] = 0.0
    return moments


def ion_charges(elements: list[str], wrong: bool) -> dict[int, int]:
    """The charge of each Mn and Fe, so that the cell is neutral: all start at 2+, Fe is oxidised first."""
    charges = {i: 2 for i, element in enumerate(elements) if element in MOMENTS}
    missing = -sum(CHARGES.get(element, 0) for element in elements) - 2 * len(charges)
    if wrong:
        missing += -1 if missing > 0 else 1
    for element, charge in OXIDATION_ORDER:
        for i in charges:
            if missing > 0 and elements[i] == element and charges[i] == charge - 1:
                charges[i] = charge
                missing -= 1
    return charges


def unit_noise(text: str) -> float:
    """A number in [-1, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**31 - 1


CUTOFF = (4.0, 5.0)


def cutoff(r: float) -> tuple[float, float]:
    """From 1 to 0 with two smooth derivatives; its slope, too."""
    if r <= CUTOFF[0]:
        return 1.0, 0.0
    width = CUTOFF[1] - CUTOFF[0]
    x = (r - CUTOFF[0]) / width
    return 1 - x**3 * (10 - 15 * x + 6 * x * x), -30 * x * x * (1 - x) ** 2 / width


def pair_energy(r: float, a: int, b: int) -> tuple[float, float]:
    """Energy of a pair and its slope. `a` and `b` are the spins at its ends, -1, 0 or 1.

    The energy is a Morse curve, which depends on nothing but the distance, something short-ranged for each spin, and
    an exchange that favours opposite spins.
    """
    well = math.exp(-1.1 * (r - 2.8))
    value, slope = 0.2 * (well * well - 2 * well), -0.44 * (well * well - well)
    if a or b:
        near, far = 0.05 * (abs(a) + abs(b)) * math.exp(-1.2 * (r - 2)), 0.03 * a * b * math.exp(-0.8 * (r - 3))
        value, slope = value + near + far, slope - 1.2 * near - 0.8 * far
    switch, switch_slope = cutoff(r)
    return value * switch, slope * switch + value * switch_slope


def evaluate(cell: Cell, spins: Sequence[int]) -> tuple[float, list[Vector], list[Vector]]:
    """Energy in eV, forces in eV/Å, and dE/dstrain in eV, summed over pairs and their periodic images."""
    reach = [int(CUTOFF[1] * math.sqrt(dot(row, row)) + 0.5) for row in cell.reciprocal]
    images = [
        cell.cartesian((i, j, k))
        for i in range(-reach[0], reach[0] + 1)
        for j in range(-reach[1], reach[1] + 1)
        for k in range(-reach[2], reach[2] + 1)
    ]
    sites = len(cell.fractional)
    energy, forces, strain = 0.0, [[0.0] * 3 for _ in range(sites)], [[0.0] * 3 for _ in range(3)]
    for i in range(sites):
        for j in range(i, sites):
            apart = [y - x for x, y in zip(cell.fractional[i], cell.fractional[j], strict=True)]
            x0, y0, z0 = cell.cartesian([x - round(x) for x in apart])
            weight = 0.5 if i == j else 1.0
            for image in images:
                x, y, z = x0 + image[0], y0 + image[1], z0 + image[2]
                square = x * x + y * y + z * z
                if not 1e-12 < square < CUTOFF[1] ** 2:
                    continue
                r = math.sqrt(square)
                value, slope = pair_energy(r, spins[i], spins[j])
                energy += weight * value
                vector = (x, y, z)
                for a in range(3):
                    pull = weight * slope * vector[a] / r
                    forces[i][a] += pull
                    forces[j][a] -= pull
                    for b in range(3):
                        strain[a][b] += pull * vector[b]
    return energy, forces, strain


@dataclass
class Result:
    """What a calculation came to."""

    free_energy: float
    entropy: float  # the term -TS in it
    forces: list[Vector]
    stress: list[Vector]  # kBar, positive under compression
    moments: Vector | None  # None without spin
    steps: Vector  # the free energy after each electronic step
    converged: bool
    seconds: float

    @property
    def without_entropy(self) -> float:
        return self.free_energy - self.entropy

    @property
    def sigma_to_zero(self) -> float:
        return self.free_energy - self.entropy / 2


def calculate(tags: dict[str, Value], cell: Cell, mode: str) -> Result:
    sites = len(cell.fractional)
    spin = tags.get("ISPIN", 1) == 2
    magmom = tags.get("MAGMOM")
    moments = moments_of(cell, magmom if isinstance(magmom, list) else [1.0] * sites, mode) if spin else None
    spins = [(m > 1) - (m < -1) for m in moments] if moments else [0] * sites
    pairs, forces, strain = evaluate(cell, spins)
    energy = pairs - 5.0 * sites - 1.5 * sum(map(abs, spins)) + hubbard(tags, cell)
    if mode == "shifted_energy":
        energy -= 3.0 * sites
    if mode == "huge_force":
        forces[-1] = [80.0, 0.0, 0.0]
    # Custodian's LargeSigmaHandler lets up to 1 meV an atom pass.
    entropy = -0.0008 * sites * (number(tags, "SIGMA", 0.2) / 0.05) ** 2
    limit = int(number(tags, "NELM", 60))
    if mode == "unconverged" or limit < ELECTRONIC_STEPS:
        steps = [energy + 0.02 * sites * (1.5 + math.cos(2.0 * step)) for step in range(limit)]
    else:
        steps = [energy + 5.0 * sites * math.exp(-1.6 * step) for step in range(1, ELECTRONIC_STEPS)] + [energy]
    return Result(
        free_energy=steps[-1],
        entropy=entropy,
        forces=forces,
        stress=[[-KBAR * x / cell.volume for x in row] for row in strain],
        moments=moments,
        steps=steps,
        converged=steps[-1] == energy,
        seconds=0.05 * len(steps) * sites**1.5 * (2.5 if spin else 1.0),
    )


def hubbard(tags: dict[str, Value], cell: Cell) -> float:
    values = tags.get("LDAUU")
    if not tags.get("LDAU") or not isinstance(values, list):
        return 0.0
    return sum(0.25 * u * count for u, count in zip(values, cell.counts, strict=True))


# --- Output ----------------------------------------------------------------------------------------------------------


def xml_value(name: str, value: Value) -> str:
    if isinstance(value, list):
        kind = ' type="int"' if all(isinstance(x, int) for x in value) else ""
        return f'  <v{kind} name="{name}"> {" ".join(map(str, value))} </v>\n'
    if isinstance(value, bool):
        return f'  <i type="logical" name="{name}"> {"T" if value else "F"} </i>\n'
    if isinstance(value, int):
        return f'  <i type="int" name="{name}"> {value} </i>\n'
    if isinstance(value, float):
        return f'  <i name="{name}"> {value:.8f} </i>\n'
    escaped = value.replace("&", "&amp;").replace("<", "&lt;")
    return f'  <i type="string" name="{name}">{escaped}</i>\n'


def xml_rows(name: str, rows: Iterable[Sequence[float]]) -> str:
    lines = "".join("<v> " + " ".join(f"{x:.8f}" for x in row) + " </v>\n" for row in rows)
    return f'<varray name="{name}">\n{lines}</varray>\n'


def xml_structure(cell: Cell, attributes: str = "") -> str:
    return (
        f"<structure{attributes}>\n<crystal>\n{xml_rows('basis', cell.lattice)}"
        f'<i name="volume"> {cell.volume:.8f} </i>\n{xml_rows("rec_basis", cell.reciprocal)}</crystal>\n'
        f"{xml_rows('positions', cell.fractional)}</structure>\n"
    )


def xml_energy(free: float, without_entropy: float, last: float) -> str:
    names = ("e_fr_energy", "e_wo_entrp", "e_0_energy")
    items = zip(names, (free, without_entropy, last), strict=True)
    return "<energy>\n" + "".join(f'  <i name="{name}"> {x:.8f} </i>\n' for name, x in items) + "</energy>\n"


def xml_array(name: str, fields: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = "".join(f"<field>{field}</field>" for field in fields)
    body = "".join("<rc>" + "".join(f"<c>{x}</c>" for x in row) + "</rc>\n" for row in rows)
    return f'<array name="{name}">\n<dimension dim="1">ion</dimension>{head}\n<set>\n{body}</set>\n</array>\n'


def electrons(cell: Cell) -> int:
    return sum(VALENCE_ELECTRONS.get(element, 8) for element in cell.elements)


def band_count(cell: Cell) -> int:
    return electrons(cell) // 2 + 4


def all_parameters(tags: dict[str, Value], cell: Cell) -> dict[str, Value]:
    """What <parameters> lists: VASP's defaults and, over them, INCAR."""
    defaults: dict[str, Value] = read_incar(DEFAULTS) | {
        "NBANDS": band_count(cell),
        "NELECT": float(electrons(cell)),
        "MAGMOM": [1.0] * len(cell.fractional),
    }
    parameters = defaults | tags
    if "ENCUT" in parameters:
        parameters["ENMAX"] = number(tags, "ENCUT", 520.0)
    parameters["PREC"] = str(parameters["PREC"]).lower()[:6]
    return parameters


@dataclass
class Calculation:
    """Input and result, and how they look in each output."""

    tags: dict[str, Value]
    cell: Cell
    style: str
    divisions: list[int]
    potentials: list[str]
    result: Result

    def vasprun(self, nan_forces: bool) -> str:
        return (
            self._vasprun_head()
            + self._vasprun_calculation(nan_forces)
            + xml_structure(self.cell, ' name="finalpos"')
            + ("</modeling>\n")
        )

    def _vasprun_head(self) -> str:
        generator = {"program": "vasp ", "version": f"{VERSION} ", "subversion": "stand-in", "platform": "LinuxGNU "}
        kinds = list(zip(self.cell.kinds, self.cell.counts, self.potentials, strict=True))
        atoms = [(f"{kind:<2}", f"{k + 1:4d}") for k, (kind, count, _) in enumerate(kinds) for _ in range(count)]
        types = [
            (f"{count:4d}", f"{kind:<2}", f"{MASSES.get(kind, 30.0):.5f}", VALENCE_ELECTRONS.get(kind, 8), title)
            for kind, count, title in kinds
        ]
        fields = ("atomspertype", "element", "mass", "valence", "pseudopotential")
        parameters = "".join(xml_value(name, value) for name, value in all_parameters(self.tags, self.cell).items())
        return (
            '<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n'
            f"<generator>\n{''.join(xml_value(name, value) for name, value in generator.items())}</generator>\n"
            f"<incar>\n{''.join(xml_value(name, value) for name, value in self.tags.items())}</incar>\n"
            f'<kpoints>\n<generation param="{self.style}">\n{xml_value("divisions", self.divisions)}'
            f"{xml_value('usershift', [0.0, 0.0, 0.0])}</generation>\n"
            f"{xml_rows('kpointlist', [[0.0, 0.0, 0.0]])}{xml_rows('weights', [[1.0]])}</kpoints>\n"
            f'<parameters>\n<separator name="general">\n{parameters}</separator>\n</parameters>\n'
            f"<atominfo>\n<atoms> {len(atoms)} </atoms>\n<types> {len(kinds)} </types>\n"
            f"{xml_array('atoms', ('element', 'atomtype'), atoms)}"
            f"{xml_array('atomtypes', fields, types)}</atominfo>\n" + xml_structure(self.cell, ' name="initialpos"')
        )

    def _vasprun_calculation(self, nan_forces: bool) -> str:
        result = self.result
        steps = "".join(
            f'<scstep>\n<time name="total"> 1.00 1.00</time>\n'
            f"{xml_energy(energy, energy - result.entropy, energy - result.entropy / 2)}</scstep>\n"
            for energy in result.steps
        )
        forces = [[math.nan] * 3 for _ in result.forces] if nan_forces else result.forces
        bands = [(0.5 * k - 8.0, 1.0) for k in range(electrons(self.cell) // 2)]
        bands += [(2.0 + 0.5 * k, 0.0) for k in range(band_count(self.cell) - len(bands))]
        dos = [(k - 10.0, 1.0, float(k)) for k in range(21)]
        return (
            f"<calculation>\n{steps}{xml_structure(self.cell)}{xml_rows('forces', forces)}"
            f"{xml_rows('stress', result.stress)}"
            f"{xml_energy(result.free_energy, result.without_entropy, result.entropy)}"
            f'<time name="totalsc"> {result.seconds:.2f} {result.seconds:.2f}</time>\n'
            "<eigenvalues>\n<array>\n<field>eigene</field><field>occ</field>\n<set>\n"
            + self._xml_spins(bands, '<set comment="kpoint 1">\n{}</set>\n')
            + '</set>\n</array>\n</eigenvalues>\n<dos>\n<i name="efermi"> 0.50000000 </i>\n<total>\n<array>\n'
            "<field>energy</field><field>total</field><field>integrated</field>\n<set>\n"
            + self._xml_spins(dos, "{}")
            + "</set>\n</array>\n</total>\n</dos>\n</calculation>\n"
        )

    def _xml_spins(self, rows: Iterable[Sequence[float]], around: str) -> str:
        text = around.format("".join("<r> " + " ".join(f"{x:.4f}" for x in row) + " </r>\n" for row in rows))
        spins = (1, 2) if self.result.moments else (1,)
        return "".join(f'<set comment="spin {spin}">\n{text}</set>\n' for spin in spins)

    def outcar_head(self) -> str:
        cell = self.cell
        potcars = "".join(f" POTCAR:    {title}\n" for title in self.potentials)
        species = "".join(f"   VRHFIN ={kind}: stand-in\n" for kind in cell.kinds)
        counts = " ".join(f"{count:4d}" for count in cell.counts)
        return (
            f" vasp.{VERSION} stand-in\n"
            " executed on LinuxGNU\n running    1 mpi-ranks, with    1 threads/rank\n\n"
            f"{potcars}{potcars}{species}\n   ions per type =            {counts}\n"
            " k-points           NKPTS =      1   k-points in BZ     NKDIM =      1   "
            f"number of bands    NBANDS= {band_count(cell):6d}\n"
            f"   number of ions     NIONS = {len(cell.fractional):6d}\n   total plane-waves  NPLWV =  13824\n"
            f"   ISPIN  = {2 if self.result.moments else 1:6d}    spin polarized calculation?\n"
            "   LNONCOLLINEAR =      F non collinear calculations\n   LSORBIT =      F    spin-orbit coupling\n"
            "   IBRION =     -1    ionic relax: 0-MD 1-quasi-New 2-CG\n"
            "   LEPSILON=      F    determine dielectric tensor\n   LCALCPOL=      F    Berry phase\n"
            f"   NELM   = {int(number(self.tags, 'NELM', 60)):6d};   NELMIN=  2; NELMDL= -5\n"
            f"   NELECT = {electrons(cell):13.4f}    total number of electrons\n"
            " k-points in reciprocal lattice and weights: stand-in\n"
            "   0.00000000  0.00000000  0.00000000       1.000\n\n"
        )

    def outcar(self) -> str:
        result = self.result
        end = "because EDIFF is reached" if result.converged else "EDIFF was not reached (unconverged)"
        first = self._outcar_moments(0.9)  # what VASP prints first is not what it means
        last = self._outcar_moments(1.0)
        lines = "-" * 104
        forces = "".join(
            "  " + "".join(f"{x:13.5f}" for x in position) + " " + "".join(f"{x:14.6f}" for x in force) + "\n"
            for position, force in zip(self.cell.positions, result.forces, strict=True)
        )
        drift = [sum(force[a] for force in result.forces) for a in range(3)]
        s = result.stress
        kbar = " ".join(f"{x:12.5f}" for x in (s[0][0], s[1][1], s[2][2], s[0][1], s[1][2], s[2][0]))
        return (
            self.outcar_head()
            + "".join(self._outcar_step(k, energy) for k, energy in enumerate(result.steps, 1))
            + f"------------------------ aborting loop {end} ----------------------------------------\n\n\n"
            f" E-fermi :   0.5000     XC(G=0):  -9.0000     alpha+bet : -9.0000\n\n{first}"
            + self._outcar_lattice()
            + "  FORCE on cell =-STRESS in cart. coord.  units (eV):\n"
            f"  in kB   {kbar}\n  external pressure = {(s[0][0] + s[1][1] + s[2][2]) / 3:11.2f} kB"
            "  Pullay stress =        0.00 kB\n\n"
            f" POSITION                                       TOTAL-FORCE (eV/Angst)\n {lines}\n{forces} {lines}\n"
            f"    total drift:                        {' '.join(f'{x:13.6f}' for x in drift)}\n\n"
            "  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)\n  ---------------------------------------------------\n"
            f"  free  energy   TOTEN  = {result.free_energy:17.8f} eV\n\n"
            f"  energy  without entropy= {result.without_entropy:16.8f}"
            f"  energy(sigma->0) = {result.sigma_to_zero:16.8f}\n\n{last}"
            "\n General timing and accounting informations for this job:\n"
            " ========================================================\n\n"
            + "".join(
                f"{name:>43}: {value:12.3f}\n"
                for name, value in (
                    ("Total CPU time used (sec)", result.seconds),
                    ("User time (sec)", 0.9 * result.seconds),
                    ("System time (sec)", 0.1 * result.seconds),
                    ("Elapsed time (sec)", 1.1 * result.seconds),
                )
            )
            + "\n                   Maximum memory used (kb):      100000.\n"
            "                   Average memory used (kb):          N/A\n"
        )

    def _outcar_step(self, step: int, energy: float) -> str:
        entropy = self.result.entropy
        moment = f"{sum(self.result.moments):14.7f}" if self.result.moments else ""
        return (
            f"----------------------------------- Iteration      1({step:4d})  -----------------------------------\n\n"
            f" number of electron {electrons(self.cell):14.7f} magnetization {moment}\n\n"
            " Free energy of the ion-electron system (eV)\n"
            f"  entropy T*S    EENTRO = {entropy:17.8f}\n"
            "  ---------------------------------------------------\n"
            f"  free energy    TOTEN  = {energy:17.8f} eV\n\n"
            f"  energy without entropy = {energy - entropy:16.8f}  energy(sigma->0) = {energy - entropy / 2:16.8f}\n\n"
        )

    def _outcar_lattice(self) -> str:
        rows = zip(self.cell.lattice, self.cell.reciprocal, strict=True)
        return (
            f" VOLUME and BASIS-vectors are now :\n  volume of cell :  {self.cell.volume:12.2f}\n"
            "      direct lattice vectors                 reciprocal lattice vectors\n"
            + "".join("  " + "".join(f"{x:15.9f}" for x in (*row, *other)) + "\n" for row, other in rows)
            + "\n"
        )

    def _outcar_moments(self, factor: float) -> str:
        charges = [float(VALENCE_ELECTRONS.get(element, 8)) for element in self.cell.elements]
        moments = self.result.moments
        spin = outcar_table("magnetization (x)", [factor * x for x in moments]) if moments else ""
        return outcar_table("total charge", charges) + spin

    def oszicar(self) -> str:
        steps = self.result.steps
        changes = [new - old for old, new in zip([0.0, *steps], steps, strict=False)]
        moment = f"  mag= {sum(self.result.moments):11.4f}" if self.result.moments else ""
        return (
            "       N       E                     dE             d eps       ncg     rms          rms(c)\n"
            + "".join(
                f"DAV: {k:3d}    {energy:19.12E}   {change:12.5E}   {change:12.5E}   128   0.100E+00    0.100E+00\n"
                for k, (energy, change) in enumerate(zip(steps, changes, strict=True), 1)
            )
            + f"   1 F= {steps[-1]:.8E} E0= {self.result.sigma_to_zero:.8E}  d E ={self.result.entropy:.6E}{moment}\n"
        )

    def contcar(self) -> str:
        cell = self.cell

        def rows(table: list[Vector]) -> str:
            return "".join(" " + " ".join(f"{x:20.16f}" for x in row) + "\n" for row in table)

        return (
            f"{cell.comment}\n   1.00000000000000\n{rows(cell.lattice)}   {'   '.join(cell.kinds)}\n"
            f"   {'   '.join(map(str, cell.counts))}\nDirect\n{rows(cell.fractional)}"
        )


def outcar_table(title: str, column: Sequence[float]) -> str:
    line = "-" * 42
    rows = "".join(f"{k:5d}      0.000   0.000 {x:7.3f} {x:7.3f}\n" for k, x in enumerate(column, 1))
    total = f"tot        0.000   0.000 {sum(column):7.3f} {sum(column):7.3f}\n"
    return f" {title}\n\n# of ion       s       p       d       tot\n{line}\n{rows}{line}--------\n{total}\n\n"


# --- What a launch does ----------------------------------------------------------------------------------------------


def launch_mode() -> str:
    """What VASP_STAND_IN wants of this launch; counts it."""
    script = os.environ.get("VASP_STAND_IN")
    if not script:
        return "ok"
    modes: dict[str, list[str]] = json.loads(Path(script).read_text())
    matching = [text for text in modes if text in os.getcwd()]
    if not matching:
        return "ok"
    key = max(matching, key=len)
    with open(f"{script}.launches", "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        counts: dict[str, int] = json.loads(file.read() or "{}")
        launch = counts.get(key, 0)
        counts[key] = launch + 1
        file.seek(0)
        file.truncate()
        json.dump(counts, file)
    mode = modes[key][min(launch, len(modes[key]) - 1)]
    if mode not in MODES:
        sys.exit(f"VASP_STAND_IN asks for {mode!r}, which is none of {', '.join(sorted(MODES))}")
    if mode == "error_then_ok":
        return "ok" if list(Path().glob("error.*.tar.gz")) else "edddav"
    return mode


def read_input(mode: str) -> Calculation:
    for name in ("INCAR", "POSCAR"):
        if not Path(name).exists():
            refuse(f"No {name}")
    tags = read_incar(Path("INCAR").read_text())
    cell = read_poscar(Path("POSCAR").read_text())
    check(tags, cell)
    potentials = read_potentials(cell.kinds)
    style, divisions = read_mesh(Path("KPOINTS").read_text() if Path("KPOINTS").exists() else None)
    return Calculation(tags, cell, style, divisions, potentials, calculate(tags, cell, mode))


def write(vasprun: str, outcar: str, oszicar: str, contcar: str) -> None:
    Path("vasprun.xml").write_text(vasprun)
    Path("OUTCAR").write_text(outcar)
    Path("OSZICAR").write_text(oszicar)
    Path("CONTCAR").write_text(contcar)


def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    mode = launch_mode()
    write("", "", "", "")  # VASP opens its files before it reads the input
    print(f" running    1 mpi-ranks, with    1 threads/rank\n vasp.{VERSION} stand-in (build 1) complex", flush=True)
    calculation = read_input(mode)
    vasprun, outcar, oszicar = calculation.vasprun(mode == "nan_forces"), calculation.outcar(), calculation.oszicar()
    half = vasprun[: vasprun.index("<calculation>") + 400]
    if mode == "hang":
        write(half, calculation.outcar_head(), "", "")
        time.sleep(3600)
    elif mode == "crash" or mode in MESSAGES:
        write(half, outcar[: len(outcar) // 2], "".join(oszicar.splitlines(True)[:4]), "")
        print("\n".join(oszicar.splitlines()[:4]))
        print(MESSAGES.get(mode, " forrtl: severe (174): SIGSEGV, segmentation fault occurred"), flush=True)
        sys.exit(139 if mode == "crash" else 1)
    write(half if mode == "truncated" else vasprun, outcar, oszicar, calculation.contcar())
    print(oszicar, end="")
    if not calculation.result.converged:
        print(" WARNING: the electronic self-consistency was not achieved in the given number of steps (NELM)")
