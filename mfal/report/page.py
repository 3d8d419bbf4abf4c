"""The report of a campaign's last round: one HTML page, the figures on it, and the numbers behind it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mfal.frames import WORDS, Label
from mfal.report import standalone
from mfal.report.answer.chapter import chapter as answer
from mfal.report.explorer.chapter import chapter as explorer
from mfal.report.labelled.chapter import chapter as labelled
from mfal.report.material import Material
from mfal.report.standalone import Plot
from mfal.report.uncertainty.chapter import chapter as uncertainty

#: In the order of the page.
CHAPTERS = {
    "answer": answer,
    "uncertainty": uncertainty,
    "labelled": labelled,
    "explorer": explorer,
}


@dataclass(frozen=True)
class Report:
    html: str
    plots: list[Plot]
    #: By chapter, as JSON has it.
    numbers: dict[str, Any]


def render(material: Material, *, live: bool = False) -> Report:
    """The report on the last round of the material, with all that the campaign did so far behind it.

    Args:
        live: with a panel that follows the campaign, for `mfal serve`.
    """
    chapters = {name: chapter(material) for name, chapter in CHAPTERS.items()}
    plots = [plot for chapter in chapters.values() for plot in chapter.plots]
    page = standalone.render(
        "page.html.j2",
        {plot.name: plot for plot in plots},
        styles=["explorer/explorer.css"],
        scripts=[f"explorer/{name}.js" for name in ("structures", "viewer", "filter", "frame", "explorer")],
        live=live,
        campaign=material.campaign,
        last=material.last,
        fidelities=WORDS,
        fingerprints=_fingerprints(material.labels),
        chapters={name: chapter.content for name, chapter in chapters.items()},
    )
    own = {"campaign": material.campaign, "round": material.last.round}
    return Report(page, plots, own | {name: chapter.numbers for name, chapter in chapters.items()})


def waiting(campaign: str) -> str:
    """What `mfal serve` shows before the first round is finished."""
    return standalone.render("waiting.html.j2", {}, live=True, campaign=campaign)


def _fingerprints(labels: list[Label]) -> list[dict[str, Any]]:
    """Each fidelity fingerprint with its settings and how many labels carry it."""
    found: dict[tuple[str, str], list[Label]] = {}
    for label in labels:
        found.setdefault((label.fidelity, label.fingerprint), []).append(label)
    return [
        {
            "fidelity": fidelity,
            "fingerprint": fingerprint,
            "labels": len(members),
            "settings": json.dumps(members[0].settings, indent=2, ensure_ascii=False, default=str),
        }
        for (fidelity, fingerprint), members in sorted(found.items(), reverse=True)
    ]
