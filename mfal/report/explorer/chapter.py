"""The chapter on the frames of the round: every one with its numbers, its decision and why, and what it looks like.

The page carries columns, from which `explorer.js` makes the rows that are in view and `frame.js` the view of a frame.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np

from mfal.frames import FIDELITIES, WORDS, Frame, Label, Score
from mfal.report import routing
from mfal.report.explorer import structures
from mfal.report.material import Chapter, Material
from mfal.report.standalone import packed
from mfal.report.text import formula

#: Characters of the page that the chapter may fill: structures take what the table leaves.
BUDGET = 2_200_000
#: Rows on paper, as `explorer.js` has it.
PRINTED = 200
#: In the order of the columns.
SIGMAS = ("sigma_nonmagnetic", "sigma_delta", "sigma_magnetic", "sigma_conditional")


def chapter(material: Material) -> Chapter:
    scores = {score.frame_id: score for score in material.scored}
    # without scores, all that are known
    ids = sorted(scores or material.frames, key=lambda i: _interest(material.attempts.get(i), scores.get(i)))
    columns: dict[str, list[Any]] = defaultdict(list)
    for i in ids:
        attempts = material.attempts.get(i, [])
        for name, value in _row(i, material.frames.get(i), scores.get(i), attempts).items():
            columns[name].append(value)
    labels = [_label(row, label) for row, i in enumerate(ids) for label in material.attempts.get(i, [])]
    table = packed(
        {
            "columns": columns,
            "labels": labels,
            "routes": routing.ROUTES,
            "thresholds": material.last.thresholds,
            "words": WORDS,
        }
    )
    known = {row: material.frames[i] for row, i in enumerate(ids) if i in material.frames}
    drawn = structures.pack(known, {row: scores.get(ids[row]) for row in known}, max(0, BUDGET - len(table)))
    statuses = {f: Counter(x["status"] for x in labels if x["fidelity"] == f) for f in FIDELITIES}
    return Chapter(
        content={
            "fidelities": FIDELITIES,
            "printed": PRINTED,
            "table": table,
            "structures": drawn.text,
            "frames": len(ids),
            "routes": [route for key, route in routing.ROUTES.items() if key in columns["route"]],
            "statuses": sorted(set().union(*statuses.values())),
        },
        numbers={
            "frames": len(ids),
            "calculated": sum(bool(material.attempts.get(i)) for i in ids),
            "in_3d": drawn.frames,
            "by_decision": dict(Counter(columns["route"])),
            "labels_by_status": {f: dict(found) for f, found in statuses.items()},
            "spent_core_hours": sum(label.core_hours for i in ids for label in material.attempts.get(i, [])),
        },
    )


def _interest(attempts: list[Label] | None, score: Score | None) -> tuple[bool, float]:
    """What was calculated first, then by sigma, downwards."""
    return not attempts, -(score.sigma_magnetic or 0.0) if score else 0.0


def _row(frame_id: str, frame: Frame | None, score: Score | None, attempts: list[Label]) -> dict[str, Any]:
    """One frame in the table. Sigmas in eV/Å, costs in core-hours, volume in Å³ per atom; None for what is absent."""
    structure = frame.structure if frame else None
    return {
        "frame_id": frame_id,
        "formula": formula(frame),
        "source": frame.source if frame else "",
        "parent": frame.parent if frame else "",
        "route": routing.route(score) if score else "",
        "reason": score.reason if score else "",
        **{name: _rounded(getattr(score, name, None)) for name in SIGMAS},
        "gain": _rounded(score.gain if score else None),
        "expected": _rounded(_expected(score)),
        "spent": _rounded(sum(label.core_hours for label in attempts)),
        "atoms": len(structure) if structure else None,
        "volume": _rounded(structure.volume / len(structure), 4) if structure else None,
    }


def _expected(score: Score | None) -> float | None:
    """Core-hours that the calculations decided on were expected to cost; None where there are none."""
    costs = [cost for f, cost in score.core_hours.items() if score.gets(f)] if score else []
    return sum(costs) if costs else None


def _label(row: int, label: Label) -> dict[str, Any]:
    """One attempt at a label of the frame in this row: energy in eV, the largest force in eV/Å, moments in µB."""
    force = float(np.linalg.norm(label.forces, axis=1).max()) if label.forces else None
    return {
        "row": row,
        "fidelity": label.fidelity,
        "attempt": label.attempt,
        "good": label.good,
        "status": "good" if label.good else "held back" if label.status == "ok" else label.status.replace("_", " "),
        "reason": label.flag or label.reason,
        "energy": _rounded(label.energy, 8),
        "force": _rounded(force),
        "core_hours": _rounded(label.core_hours),
        "directory": label.directory,
        "finished": label.finished_at,
        "moments": [round(m, 2) for m in label.magmoms] if label.magmoms else None,
    }


def _rounded(value: float | None, digits: int = 3) -> float | None:
    """To as many significant digits; None for what is no number."""
    return float(f"{value:.{digits}g}") if value is not None and np.isfinite(value) else None
