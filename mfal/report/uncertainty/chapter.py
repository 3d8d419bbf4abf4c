"""The chapter on what the committee is unsure of, where, and what a sigma is worth."""

from __future__ import annotations

from typing import Any

import numpy as np

from mfal.committee.calibrate import Calibration, Kind
from mfal.report.material import Chapter, Material
from mfal.report.routing import by_route
from mfal.report.standalone import Plot, number
from mfal.report.text import decided
from mfal.report.uncertainty import calibration, groups
from mfal.report.uncertainty.alone import alone
from mfal.report.uncertainty.plane import plane
from mfal.report.uncertainty.where import where
from mfal.report.uncertainty.worst import by_element, worst

#: What each kind of sigma is the uncertainty of.
SIGMAS: dict[Kind, str] = {
    "nonmagnetic": "non-magnetic forces",
    "delta": "what magnetism changes (Δ)",
    "magnetic": "magnetic forces",
    "conditional": "magnetic forces, once the non-magnetic label is known",
}


def chapter(material: Material) -> Chapter:
    last, scored = material.last, material.scored
    sits = where(scored, material.frames)
    listed, elements = worst(scored, material.frames), by_element(scored, material.frames)
    scales = {k: Calibration.model_validate(last.calibration[k]) for k in SIGMAS if k in last.calibration}
    pairs = _pairs(material, scales)
    panels = [
        Plot(
            f"calibration-{kind}",
            calibration.figure(found, scales[kind]),
            calibration.words(found, scales[kind], SIGMAS[kind]),
            SIGMAS[kind][:1].upper() + SIGMAS[kind][1:],
            square=True,
        )
        for kind, found in pairs.items()
    ]
    plots = [*_decided(material), *sits.plots, *panels]
    if elements:
        medians = "; ".join(f"{group.name} {number(float(np.median(group.delta)))}" for group in elements)
        alt = f"Medians and quartiles of the uncertainties of atoms by element. Median of σ Δ in eV/Å: {medians}"
        plots.append(Plot("elements", groups.spread(elements, of="atom"), alt, "Atoms by element"))
    return Chapter(
        plots=plots,
        content={
            "last": last,
            "first": len(material.rounds) == 1,
            "calibration": {SIGMAS[kind]: found for kind, found in scales.items()},
            "panels": [plot.name for plot in panels],
            "drawn": max((len(found.sigmas) for found in pairs.values()), default=0),
            "binned": any(found.bins for found in pairs.values()),
            "where": [plot.name for plot in sits.plots],
            "alike": sits.alike,
            "worst": listed,
        },
        numbers={
            "thresholds_ev_per_angstrom": dict(last.thresholds),
            "decisions": {key: len(chosen) for key, chosen in by_route(scored).items()},
            "sigmas_ev_per_angstrom": {
                kind: _quantiles([s for score in scored if (s := getattr(score, f"sigma_{kind}")) is not None])
                for kind in SIGMAS
            },
            "calibration": {
                kind: found.model_dump(exclude={"kind"}) | (pairs[kind].numbers() if kind in pairs else {})
                for kind, found in scales.items()
            },
            "where": {key: [group.numbers() for group in found] for key, found in sits.groups.items()},
            "elements": [group.numbers() for group in elements],
            "most_uncertain": [item.numbers() for item in listed],
        },
    )


def _decided(material: Material) -> list[Plot]:
    """What decided: sigma_magnetic alone where the cheap labels do not pay, before the plane of the other two."""
    last, scored = material.last, material.scored
    decisions = f"Decisions: {decided(last.decisions)}"
    limits = {kind: f"{kind} {number(value)} eV/Å" for kind, value in last.thresholds.items()}
    both = ", ".join(limits[kind] for kind in ("nonmagnetic", "delta") if kind in limits)
    strip = None if last.cheap else alone(scored, material.frames, last.thresholds.get("magnetic"))
    found = [
        (
            "alone",
            strip,
            "Strip chart of the uncertainty of each frame's magnetic forces by decision. Threshold:"
            f" {limits.get('magnetic', 'none')}. {decisions}",
        ),
        (
            "uncertainty",
            plane(scored, material.frames, last.thresholds, cheap=last.cheap),
            "Scatter of the two uncertainties of each frame of the round, non-magnetic against delta. Thresholds:"
            f" {both or 'none'}. {decisions}",
        ),
    ]
    return [Plot(name, figure, alt) for name, figure, alt in found if figure is not None]


def _pairs(material: Material, scales: dict[Kind, Calibration]) -> dict[Kind, calibration.Pairs]:
    found = {}
    for kind, scale in scales.items():
        if items := [item for item in material.experience.evidence if item.kind == kind]:
            found[kind] = calibration.pairs(items, scale.scale, material.acquire.reduce)
    return found


def _quantiles(values: list[float]) -> dict[str, Any] | None:
    if not values:
        return None
    shares = {"min": 0, "p25": 25, "median": 50, "p75": 75, "p95": 95, "max": 100}
    found = np.percentile(values, list(shares.values()))
    return {"frames": len(values), **dict(zip(shares, found.tolist(), strict=True))}
