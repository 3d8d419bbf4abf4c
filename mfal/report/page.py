"""The report of a campaign's last round as one HTML page: no network, no server, one file to mail to a colleague."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from mfal.frames import FIDELITIES, WORDS, Errors, Fidelity, Frame, Label, Round, Score, Status
from mfal.report import figures, style

FOLDER = Path(__file__).parent
#: With fewer frames than this behind an error, the page says how little that proves.
FEW = 30


@dataclass(frozen=True)
class Plot:
    """A figure on the page. `alt` says in a sentence what someone who cannot see it would miss."""

    name: str
    figure: go.Figure
    alt: str
    title: str = ""
    square: bool = False

    @property
    def height(self) -> int:
        return int(self.figure.layout.height)

    @property
    def legend(self) -> list[tuple[str, str, str]]:
        return style.legend(self.figure)

    @property
    def json(self) -> Markup:
        return island(self.figure.to_json())


@dataclass(frozen=True)
class Row:
    """One frame of the round in the table."""

    frame_id: str
    frame: Frame | None
    score: Score | None
    attempts: list[Label]  # every label of the frame, in the order of the attempts

    @property
    def labels(self) -> dict[Fidelity, Label]:
        """The last attempt at each fidelity."""
        return {label.fidelity: label for label in self.attempts}

    @property
    def core_hours(self) -> float:
        return sum(label.core_hours for label in self.attempts)

    @property
    def formula(self) -> str:
        return figures.formula(self.frame)

    @property
    def route(self) -> str:
        return "" if self.score is None else figures.route(self.score)

    def energy(self, fidelity: Fidelity) -> float | None:
        label = self.labels.get(fidelity)
        if label is None or label.energy is None or self.frame is None:
            return None
        return label.energy / len(self.frame.structure)

    def largest_force(self, fidelity: Fidelity) -> float | None:
        label = self.labels.get(fidelity)
        return None if label is None or not label.forces else float(np.linalg.norm(label.forces, axis=1).max())


def render(
    *,
    campaign: str,
    rounds: list[Round],
    frames: dict[str, Frame],
    labels: list[Label],
    scores: list[Score],
    parity: list[dict[str, Any]],
) -> str:
    """The report on the last of `rounds`, with all that the campaign did so far behind it.

    Args:
        rounds: every finished round; at least one.
        frames: by frame id; those of the last round, and of the labels whose moments are to be shown.
        labels: every label of the campaign, good or not.
        scores: every score of the campaign, or only those of the last round.
        parity: one item a label that was predicted: frame_id, fidelity, set (`train` or `hold_out`), energy
            [true, predicted] in eV/atom, forces [[true...], [predicted...]] in eV/Å, flattened, magmoms or None.

    Raises:
        ValueError: there is no finished round.
    """
    if not rounds:
        raise ValueError(f"campaign {campaign!r} has no finished round to report on: run `mfal run` first")
    rounds = sorted(rounds, key=lambda r: r.round)
    last = rounds[-1]
    scored = [s for s in scores if s.round == last.round]
    rows = _rows(scored, frames, labels)
    plots = _plots(rounds, scored, frames, labels, parity)
    environment = Environment(
        loader=PackageLoader("mfal", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, hours=hours, when=when)
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    return environment.get_template("page.html.j2").render(
        campaign=campaign,
        rounds=rounds,
        last=last,
        numbers=headline(rounds, scores),
        few=FEW,
        plots=plots,
        rows=rows,
        unused=[label for row in rows for label in row.attempts if not label.good],
        statuses=get_args(Status),
        tally={
            (f, s): (last.counts.get(f, {}).get(s, 0), _count(rounds, f, s))
            for f in FIDELITIES
            for s in get_args(Status)
        },
        fidelities=WORDS,
        expected=figures.EXPECTED_MOMENTS,
        fingerprints=_fingerprints(labels),
        style=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hashes=[_hash(script), _hash(get_plotlyjs())],
        plotly=_plotly() if plots else "",
    )


def headline(rounds: list[Round], scores: list[Score]) -> dict[str, Any]:
    """The few numbers on top of the page: of the whole campaign, and of its last round."""
    last = rounds[-1]
    scored = [s for s in scores if s.round == last.round]
    return {
        "labels": {f: _good(rounds, f) for f in FIDELITIES},
        "labels_last": {f: _good([last], f) for f in FIDELITIES},
        "core_hours": {f: sum(r.core_hours.get(f, 0.0) for r in rounds) for f in FIDELITIES},
        "core_hours_last": sum(last.core_hours.values()),
        "hold_out": last.errors.get("hold_out", {}).get("magnetic", Errors()),
        "before": last.errors.get("hold_out_before", {}).get("magnetic", Errors()),
        "skipped": sum(s.decision == "skip" for s in scored),
        "skipped_all": sum(s.decision == "skip" for s in scores),
        "scored": len(scored),
        "trained_on": {f: last.trained_on.get(f, 0) for f in FIDELITIES},
    }


def number(value: float | None, digits: int = 3, *, sign: bool = False) -> str:
    """`digits` significant figures without exponents, a real minus sign, and a dash for what is absent."""
    if value is None or not np.isfinite(value):
        return "–"
    decimals = 0 if value == 0 else max(0, digits - 1 - int(np.floor(np.log10(abs(value)))))
    return f"{value:{'+' if sign else ''},.{decimals}f}".replace("-", "−")


def hours(value: float) -> str:
    """Core-hours: two figures when few, whole when many."""
    return f"{value:,.0f}" if value >= 100 else number(value, 3 if value >= 1 else 2)


def when(timestamp: str) -> str:
    """`21 November 2025, 02:40 UTC`; what is no ISO timestamp stays as it is."""
    try:
        moment = datetime.fromisoformat(timestamp)
    except ValueError:
        return timestamp
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".strip()


def island(text: str) -> Markup:
    """JSON that is safe inside `<script>`: nothing in it can close the element or open a comment."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _plots(
    rounds: list[Round],
    scored: list[Score],
    frames: dict[str, Frame],
    labels: list[Label],
    parity: list[dict[str, Any]],
) -> dict[str, Plot]:
    numbers = ", ".join(f"round {r.round}: {hours(sum(r.core_hours.values()))}" for r in rounds[-6:])
    errors = [(r.round, r.errors.get("hold_out", {}).get("magnetic", Errors()).forces) for r in rounds[-6:]]
    candidates = [
        Plot(
            "errors",
            figures.errors_by_round(rounds),
            "Line chart of force errors by round. Magnetic, hold-out, meV/Å: "
            + ", ".join(f"round {n}: {number(e)}" for n, e in errors),
        ),
        Plot("cost", figures.core_hours(rounds), f"Stacked bars of core-hours by round and fidelity. {numbers}"),
        Plot(
            "uncertainty",
            figures.uncertainty(scored, frames, rounds[-1].threshold),
            "Scatter of the committee's spread for each frame of the round, non-magnetic against delta; threshold"
            f" {number(rounds[-1].threshold)} eV/Å. Decisions: "
            + ", ".join(f"{n} {k.replace('_', '-')}" for k, n in Counter(map(figures.route, scored)).items()),
        ),
        Plot(
            "moments",
            figures.moments(labels, frames),
            "Strip chart of absolute magnetic moments by element in the magnetic labels, over the expected values.",
        ),
    ]
    for quantity in ("forces", "energy"):
        for fidelity in FIDELITIES:
            name = WORDS[fidelity]
            what = "Forces" if quantity == "forces" else "Energies"
            figure = figures.parity(parity, fidelity, quantity)
            legend = "" if figure is None else "; ".join(trace.name for trace in figure.data)
            alt = f"Parity plot of {name} {what.lower()}, model against DFT. {legend}"
            candidates.append(Plot(f"parity-{quantity}-{fidelity}", figure, alt, f"{what}, {name}", square=True))
    return {plot.name: plot for plot in candidates if plot.figure is not None}


def _rows(scored: list[Score], frames: dict[str, Frame], labels: list[Label]) -> list[Row]:
    """The frames of the round; without scores, all that are known."""
    by_id = {s.frame_id: s for s in scored}
    attempts: dict[str, list[Label]] = defaultdict(list)
    for label in sorted(labels, key=lambda label: label.attempt):
        attempts[label.frame_id].append(label)
    return [Row(i, frames.get(i), by_id.get(i), attempts[i]) for i in by_id or frames]


def _good(rounds: list[Round], fidelity: Fidelity) -> tuple[int, int]:
    """(good, all) labels that these rounds asked for."""
    return _count(rounds, fidelity, "ok"), sum(_count(rounds, fidelity, s) for s in get_args(Status))


def _count(rounds: list[Round], fidelity: Fidelity, status: Status) -> int:
    return sum(r.counts.get(fidelity, {}).get(status, 0) for r in rounds)


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


@functools.cache
def _plotly() -> str:
    """plotly.js, gzip and base64: a third of its size; the same bytes each time."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _hash(script: str) -> str:
    """A script as the page's content security policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
