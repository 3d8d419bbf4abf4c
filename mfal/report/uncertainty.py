"""The chapter on what the committee is unsure of, where, and what a sigma is worth."""

from __future__ import annotations

from mfal.committee.calibrate import Calibration, Kind
from mfal.report import routing
from mfal.report.material import Chapter, Material
from mfal.report.standalone import Plot, number
from mfal.report.text import decided

#: What each kind of sigma is the uncertainty of.
SIGMAS: dict[Kind, str] = {
    "nonmagnetic": "non-magnetic forces",
    "delta": "what magnetism changes (Δ)",
    "magnetic": "magnetic forces",
    "conditional": "magnetic forces, once the non-magnetic label is known",
}


def chapter(material: Material) -> Chapter:
    last = material.last
    figure = routing.uncertainty(material.scored, material.frames, last.thresholds, cheap=last.cheap)
    alt = (
        "Scatter of the two uncertainties of each frame of the round, non-magnetic against delta. Thresholds: "
        + ", ".join(f"{kind} {number(value)} eV/Å" for kind, value in last.thresholds.items())
        + f". Decisions: {decided(last.decisions)}"
    )
    calibration = {
        words: Calibration.model_validate(last.calibration[kind])
        for kind, words in SIGMAS.items()
        if kind in last.calibration
    }
    return Chapter(
        plots=[] if figure is None else [Plot("uncertainty", figure, alt)],
        content={"last": last, "first": len(material.rounds) == 1, "calibration": calibration},
    )
