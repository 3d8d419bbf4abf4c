"""The state of a campaign as a table, from the stores only."""

from __future__ import annotations

from collections import Counter, defaultdict

from rich.console import RenderableType
from rich.table import Table

from mfal.config import MAGNETIC_ELEMENTS, Campaign
from mfal.frames import FIDELITIES, Errors, Round
from stores.campaign import CampaignStores


def table(stores: CampaignStores, campaign: Campaign) -> list[RenderableType]:
    """One row a round, the unfinished one last; below it what the moments look like."""
    rounds = stores.all_rounds(campaign.campaign)
    out = Table(title=f"campaign {campaign.campaign}", title_justify="left")
    for heading in ("round", "candidates"):
        out.add_column(heading, justify="right")
    for heading in ("non-magnetic labels", "magnetic labels"):
        out.add_column(heading)
    for heading in ("core-h\nnon-mag / mag", "hold-out F\nnon-mag / mag", "random arm F\nnon-mag / mag", "frames in\nhold-out / arm"):
        out.add_column(heading, justify="right")
    out.add_column("then")
    for summary in rounds:
        out.add_row(
            str(summary.round),
            str(summary.candidates),
            *(_statuses(summary.counts.get(f, {})) for f in FIDELITIES),
            " / ".join(f"{summary.core_hours.get(f, 0.0):.3f}" for f in FIDELITIES),
            _pair(summary, "hold_out"),
            _pair(summary, "control_before"),
            f"{_frames(summary, 'hold_out')} / {_frames(summary, 'control_before')}",
            summary.next_step,
        )
    running = len(rounds)
    unfinished: dict[str, Counter[str]] = defaultdict(Counter)
    hours: Counter[str] = Counter()
    for label in stores.labels.query({"round": running, "campaign": campaign.campaign}):
        unfinished[label["fidelity"]][label["status"]] += 1
        hours[label["fidelity"]] += label["core_hours"]
    if unfinished:
        out.add_row(
            str(running),
            "",
            *(_statuses(unfinished[f]) for f in FIDELITIES),
            " / ".join(f"{hours[f]:.3f}" for f in FIDELITIES),
            "",
            "",
            "",
            "not finished",
        )
    footer = "F: mean absolute force error, meV/Å. Random arm: drawn at random, predicted before training on it."
    return [out, footer, *([line] if (line := moments_line(stores)) else [])]


def moments_line(stores: CampaignStores) -> str:
    """The range of |moment| by element over the good magnetic labels."""
    found: dict[str, list[float]] = defaultdict(list)
    structures = {doc["frame_id"]: doc["structure"]["sites"] for doc in stores.frames.query(properties=["frame_id", "structure"])}
    for label in stores.labels.query({"fidelity": "magnetic", "status": "ok"}):
        for site, moment in zip(structures[label["frame_id"]], label["magmoms"], strict=True):
            if site["label"] in MAGNETIC_ELEMENTS:
                found[site["label"]].append(abs(moment))
    ranges = [f"{el} {min(m):.2f} to {max(m):.2f} µB ({len(m)} ions)" for el, m in sorted(found.items())]
    return f"Moments of the good magnetic labels: {', '.join(ranges)}" if ranges else ""


def _statuses(counts: dict[str, int]) -> str:  # type: ignore[type-arg]
    return ", ".join(f"{n} {status}" for status, n in counts.items()) or "-"


def _errors(summary: Round, which: str) -> dict[str, Errors]:
    return summary.errors.get(which, {})  # type: ignore[call-overload,no-any-return]


def _pair(summary: Round, which: str) -> str:
    errors = [_errors(summary, which).get(f) for f in FIDELITIES]
    return " / ".join(f"{e.forces:.0f}" if e and e.forces is not None else "-" for e in errors)


def _frames(summary: Round, which: str) -> int:
    return max((e.frames for e in _errors(summary, which).values()), default=0)
