"""`mfal status`: the state of one campaign or of many, from the stores only."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

from flows.opened import HELP, everywhere, opened
from flows.refuse import refuse
from flows.rows import table_text
from mfal.dft.magnetism import MAGNETIC_ELEMENTS
from mfal.frames import FIDELITIES, WORDS, Errors, Round
from mfal.report.text import decided, sentence
from stores.campaign import CampaignStores

OVERVIEW = ("campaign", "rounds", "frames", "labels", "core-h", "F hold-out", "state", "store")


def status(
    places: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STORE]...", help=f"{HELP} By default all below runs/.", show_default=False),
    ] = None,
) -> None:
    """Print where a campaign is, round by round: candidates, labels, core-hours, errors. Of several: a line each."""
    named = places or everywhere()
    if not named:
        refuse("no campaign has run here: name its file, its folder or the address of its store")
    lines: list[list[Any]] = []
    details: list[RenderableType] = []
    for place in named:
        with opened(place) as stores:
            own = [stores.campaign.campaign] if stores.campaign else stores.campaigns()
            if len(named) == len(own) == 1:
                details = table(stores, own[0])
            lines += [_line(stores, name) for name in own]
    if details:
        console = Console(highlight=False)
        for part in details:
            console.print(part)
    else:
        print(table_text(OVERVIEW, lines, len(lines), None), end="")
        print("Labels (good) and core-hours: non-magnetic + magnetic. F: magnetic MAE in meV/Å (frames).")


def _line(stores: CampaignStores, campaign: str) -> list[Any]:
    """A campaign in a line, as OVERVIEW has it."""
    rounds = stores.all_rounds(campaign)
    good: Counter[str] = Counter()
    hours: Counter[str] = Counter()
    for fidelity, status, cost in stores.labels.rows(stores.own_labels(campaign), ["fidelity", "status", "core_hours"]):
        good[fidelity] += status == "ok"
        hours[fidelity] += cost
    last = rounds[-1] if rounds else None
    return [
        campaign,
        len(rounds),
        stores.frames.count({"campaign": campaign}),
        " + ".join(str(good[fidelity]) for fidelity in FIDELITIES),
        " + ".join(f"{hours[fidelity]:.3f}" for fidelity in FIDELITIES),
        _force_error(last.errors["hold_out"].get("magnetic")) if last else "-",
        "finished"
        if has_ended(stores, campaign, rounds)
        else f"round {len(rounds)}"
        if explored(stores, campaign)
        else "",
        stores.address,
    ]


def has_ended(stores: CampaignStores, campaign: str, rounds: list[Round]) -> bool:
    """Whether the last round ended it, and it was not given more since."""
    return bool(rounds) and rounds[-1].stop and not stores.frames.count({"campaign": campaign, "round": len(rounds)})


def explored(stores: CampaignStores, campaign: str) -> bool:
    """Whether it has rounds; otherwise it is of labels that somebody asked for, or brought."""
    return stores.jobs.count({"metadata.kind": "explore", "metadata.campaign": campaign}) > 0


def table(stores: CampaignStores, campaign: str) -> list[RenderableType]:
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
    out.title, out.title_justify = f"campaign {campaign}", "left"
    for column in (out.columns[i] for i in (0, 1, 4, 5, 6)):
        column.justify = "right"
    rounds = stores.all_rounds(campaign)
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
    now = {"round": len(rounds), "campaign": campaign}
    for fidelity, status, cost in stores.labels.rows(now, ["fidelity", "status", "core_hours"]):
        unfinished[fidelity][status] += 1
        hours[fidelity] += cost
    for fidelity in FIDELITIES if unfinished else ():
        counts, cost = _statuses(unfinished[fidelity]), f"{hours[fidelity]:.3f}"
        out.add_row(str(len(rounds)), "", WORDS[fidelity], counts, cost, "", "")
    state = f"Round {len(rounds)} is not finished."
    if has_ended(stores, campaign, rounds):
        state = f"Next: {rounds[-1].next_step}."
    elif not explored(stores, campaign):
        state = ""
    notes = [
        "F: mean absolute force error in meV/Å (number of frames). Hold-out: never trained on.",
        "Random: the control arm, drawn at random, predicted before any training on it.",
        *_bad_labels(stores, campaign),
        *(escape(f"flagged: {line}") for line in (rounds[-1].flagged if rounds else [])),
        moments_line(stores, campaign),
        *(_learned(rounds[-1]) if rounds else []),
        state,
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


def moments_line(stores: CampaignStores, campaign: str) -> str:
    """The range of |moment| by element over the good magnetic labels."""
    found: dict[str, list[float]] = defaultdict(list)
    labels = stores.all_labels(campaign, fidelity="magnetic", status="ok")
    frames = stores.all_frames(campaign, frame_id={"$in": sorted({label.frame_id for label in labels})})
    for label in labels:
        for site, moment in zip(frames[label.frame_id].structure, label.magmoms or (), strict=True):
            if site.specie.symbol in MAGNETIC_ELEMENTS:
                found[site.specie.symbol].append(abs(moment))
    ranges = [f"{el} {min(m):.2f} to {max(m):.2f} µB ({len(m)} ions)" for el, m in sorted(found.items())]
    return f"Moments of the good magnetic labels: {', '.join(ranges)}" if ranges else ""


def _bad_labels(stores: CampaignStores, campaign: str) -> list[str]:
    """How many labels are bad for what reason, the most frequent first."""
    wanted = stores.own_labels(campaign) | {"status": {"$ne": "ok"}}
    bad = Counter((status, reason) for status, reason in stores.labels.rows(wanted, ["status", "reason"]))
    return [escape(f"{count} x {status}: {reason}") for (status, reason), count in bad.most_common()]


def _statuses(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{n} {status}" for status, n in counts.items()) or "-"


def _force_error(errors: Errors | None) -> str:
    return f"{errors.forces:.0f} ({errors.frames})" if errors and errors.forces is not None else "-"
