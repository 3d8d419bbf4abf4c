"""What the loop does next, and what decides it."""

from __future__ import annotations

from typing import Any

from mfal.acquire.experience import cheap_pays
from mfal.committee.calibrate import KINDS, Kind
from mfal.frames import Errors
from mfal.report.material import Material
from mfal.report.standalone import hours, number
from mfal.report.text import sentence

#: What a threshold is of.
SIGMAS: dict[Kind, str] = {
    "nonmagnetic": "σ non-magnetic",
    "delta": "σ Δ",
    "magnetic": "σ magnetic",
    "conditional": "σ left",
}


def grounds(material: Material) -> dict[str, str]:
    """Sentences by what they are about: what comes next, what ends the campaign, and by what the next frames are
    chosen."""
    last = material.last
    found = {"Next": sentence(last.next_step or "not decided"), "What ends the campaign": _end(material)}
    if not last.stop:
        found["Thresholds of the next round"] = _thresholds(material)
    found["Cheap labels"] = " ".join(filter(None, (_cheap(material), sentence(last.probe))))
    return {what: said for what, said in found.items() if said}


def numbers(material: Material) -> dict[str, Any]:
    spent, error = _state(material)
    stop = material.stop
    return {
        "stops": material.last.stop,
        "next_step": material.last.next_step,
        "rounds": {"done": material.last.round + 1, "of": stop.rounds},
        "core_hours": {"spent": spent, "of": stop.core_hours},
        "hold_out_magnetic_force_mae_mev_per_angstrom": {"now": error.forces, "aim": stop.force_error},
        "cheap_labels_next": cheap_pays(material.acquire, material.experience),
        "thresholds_next_at_most_ev_per_angstrom": limits(material),
    }


def limits(material: Material) -> dict[Kind, float]:
    """eV/Å, what the thresholds of the next round are at most; empty where nothing is known of them."""
    if material.acquire.threshold is not None:
        return dict.fromkeys(KINDS, material.acquire.threshold)
    return {kind: found.typical for kind, found in material.experience.calibration.items()}


def _state(material: Material) -> tuple[float, Errors]:
    """Core-hours spent, and the magnetic errors on the hold-out."""
    spent = sum(sum(r.core_hours.values()) for r in material.rounds)
    return spent, material.last.errors.get("hold_out", {}).get("magnetic", Errors())


def _end(material: Material) -> str:
    """Each limit with where the campaign is."""
    stop, (spent, error) = material.stop, _state(material)
    said = [f"{material.last.round + 1} of {stop.rounds} rounds are done (stop.rounds)"]
    if stop.core_hours is None:
        said.append(f"{hours(spent)} core-hours are spent, without a limit (stop.core_hours)")
    else:
        said.append(f"{hours(spent)} of {hours(stop.core_hours)} core-hours are spent (stop.core_hours)")
    now = "not measured yet"
    if error.forces is not None:
        now = f"{number(error.forces)} meV/Å (n = {error.frames} {'frame' if error.frames == 1 else 'frames'})"
    aim = "no aim is set" if stop.force_error is None else f"the aim is {number(stop.force_error)} meV/Å"
    said.append(f"the magnetic force error on the hold-out is {now}, and {aim} (stop.force_error)")
    return " ".join(map(sentence, said))


def _thresholds(material: Material) -> str:
    known = limits(material)
    if not known:
        return "Half of the candidates: no random frame has taught yet what a sigma is worth."
    told = ", ".join(f"{SIGMAS[kind]} {number(known[kind])}" for kind in KINDS if kind in known)
    if material.acquire.threshold is not None:
        return f"{told} eV/Å, as acquire.threshold says."
    return f"{told} eV/Å: what is typical of random frames; or lower, so that half of the candidates are worth a look."


def _cheap(material: Material) -> str:
    when = "If it went on, {} would be run" if material.last.stop else "In the next round, {} are run"
    said = when.format("non-magnetic calculations")
    if material.acquire.nonmagnetic == "never":
        return f"{said} for the random frames alone (acquire.nonmagnetic: never)."
    runs = cheap_pays(material.acquire, material.experience)
    forced = " (acquire.nonmagnetic: always)" if material.acquire.nonmagnetic == "always" else ""
    what = "wherever the committee asks for them" if runs else "for the random frames alone"
    return f"{said} {what}{forced}."
