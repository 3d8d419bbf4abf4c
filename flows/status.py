"""The state of a campaign as a table, from the stores only."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from mfal.config import Campaign
from mfal.dft.magnetism import MAGNETIC_ELEMENTS
from mfal.frames import FIDELITIES, WORDS, Errors, Round
from mfal.report.text import decided, sentence
from stores.campaign import CampaignStores


def table(stores: CampaignStores, campaign: Campaign) -> list[RenderableType]:
    """Two rows a round, one for each fidelity; below them the moments and what comes next."""
    out = Table(
        "round",
        "candidates",
        "fidelity",
        "labels",
        "core-h",
        "F hold-out",
        "F random",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    out.title, out.title_justify = f"campaign {campaign.campaign}", "left"
    for column in (out.columns[i] for i in (0, 1, 4, 5, 6)):
        column.justify = "right"
    rounds = stores.all_rounds(campaign.campaign)
    for summary in rounds:
        for fidelity in FIDELITIES:
            first = fidelity == FIDELITIES[0]
            out.add_row(
                str(summary.round) if first else "",
                str(summary.candidates) if first else "",
                WORDS[fidelity],
                _statuses(summary.counts.get(fidelity, {})),
                f"{summary.core_hours.get(fidelity, 0.0):.3f}",
                _force_error(summary.errors["hold_out"].get(fidelity)),
                _force_error(summary.errors["control_before"].get(fidelity)),
                end_section=not first,
            )
    unfinished: dict[str, Counter[str]] = defaultdict(Counter)
    hours: Counter[str] = Counter()
    for label in stores.labels.query({"round": len(rounds), "campaign": campaign.campaign}):
        unfinished[label["fidelity"]][label["status"]] += 1
        hours[label["fidelity"]] += label["core_hours"]
    for fidelity in FIDELITIES if unfinished else ():
        counts, cost = _statuses(unfinished[fidelity]), f"{hours[fidelity]:.3f}"
        out.add_row(str(len(rounds)), "", WORDS[fidelity], counts, cost, "", "")
    state = f"Next: {rounds[-1].next_step}" if rounds and rounds[-1].stop else f"Round {len(rounds)} is not finished"
    notes = [
        "F: mean absolute force error in meV/Å (number of frames). Hold-out: never trained on.",
        "Random: the control arm, drawn at random, predicted before any training on it.",
        *_bad_labels(stores),
        *(escape(f"flagged: {line}") for line in (rounds[-1].flagged if rounds else [])),
        moments_line(stores),
        *(_learned(rounds[-1]) if rounds else []),
        f"{state}.",
    ]
    return [out, *(note for note in notes if note)]


def _learned(summary: Round) -> list[str]:
    """What a finished round decided and taught, a line each."""
    known = [(kind, summary.calibration[kind]) for kind in ("nonmagnetic", "delta") if kind in summary.calibration]
    scales = ", ".join(f"sigma_{kind} x {found['scale']:.3g}" for kind, found in known)
    frames = " and ".join(map(str, dict.fromkeys(found["frames"] for _, found in known)))  # once where they agree
    return [
        f"Decisions of round {summary.round}: {decided(summary.decisions)}" if summary.decisions else "",
        f"Calibration: {scales}, from {frames} random frames" if known else "",
        escape(sentence(summary.saving)),
        escape(sentence(summary.probe)),
    ]


def moments_line(stores: CampaignStores) -> str:
    """The range of |moment| by element over the good magnetic labels."""
    found: dict[str, list[float]] = defaultdict(list)
    for label in stores.labels.query({"fidelity": "magnetic", "status": "ok"}):
        frame = stores.frames.query_one({"frame_id": label["frame_id"]}, properties=["structure"])
        for site, moment in zip(frame["structure"]["sites"], label["magmoms"], strict=True):
            if site["label"] in MAGNETIC_ELEMENTS:
                found[site["label"]].append(abs(moment))
    ranges = [f"{el} {min(m):.2f} to {max(m):.2f} µB ({len(m)} ions)" for el, m in sorted(found.items())]
    return f"Moments of the good magnetic labels: {', '.join(ranges)}" if ranges else ""


def _bad_labels(stores: CampaignStores) -> list[str]:
    """How many labels are bad for what reason, the most frequent first."""
    bad = Counter((doc["status"], doc["reason"]) for doc in stores.labels.query({"status": {"$ne": "ok"}}))
    return [escape(f"{count} x {status}: {reason}") for (status, reason), count in bad.most_common()]


def _statuses(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{n} {status}" for status, n in counts.items()) or "-"


def _force_error(errors: Errors | None) -> str:
    return f"{errors.forces:.0f} ({errors.frames})" if errors and errors.forces is not None else "-"
