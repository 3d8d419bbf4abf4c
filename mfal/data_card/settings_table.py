"""The settings of both fidelities side by side, with their units."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from mfal.data_card.data_set import DataSet
from mfal.dft.fidelity import fingerprint

#: What the numbers of an engine's settings are in.
UNITS = {
    "gpaw": {
        "cutoff": "eV",
        "kpoint_density": "points per 1/Å, gamma-centred if nothing else is said",
        "smearing": "eV, Fermi-Dirac",
        "energy_convergence": "eV per valence electron",
        "density_convergence": "electrons per valence electron",
        "eigenstates_convergence": "eV² per valence electron",
    },
    "vasp": {"cutoff": "eV"},
    "cp2k": {
        "cutoff": "Ry",
        "rel_cutoff": "Ry",
        "length": "Å, to which a cell is repeated; gamma point",
        "smearing": "eV, Fermi-Dirac",
    },
}
HUBBARD = "eV, Dudarev's U - J on d"


def settings_rows(data: DataSet) -> list[list[str]]:
    """Name, value at each fidelity that is there, and unit, of the programs, the fingerprints and every setting."""
    flat = [
        {
            "program": ", ".join(data.codes(fidelity)) or "not recorded",
            "fingerprint": fingerprint(data.promised(fidelity)),
        }
        | dict(_flat(data.promised(fidelity)))
        for fidelity in data.present
    ]
    units = UNITS.get(data.campaign.engine.kind, {})
    names = dict.fromkeys(name for settings in flat for name in settings)
    return [
        [
            name,
            *(settings.get(name, "–") for settings in flat),
            HUBBARD if "hubbard_u." in name else units.get(name, ""),
        ]
        for name in names
    ]


def _flat(settings: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Nested ones by their names with dots."""
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from ((f"{name}.{inner}", content) for inner, content in _flat(value))
        elif isinstance(value, str):
            yield name, value
        else:
            yield name, f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
