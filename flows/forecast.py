"""`mfal forecast`: what a budget would buy."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from flows.opened import opened
from flows.refuse import refusing
from flows.rehearse import FILE as REHEARSAL
from flows.rehearse import rehearsal_directory
from mfal.config_file import load
from mfal.frames import FIDELITIES, WORDS


def forecast(
    config: Annotated[Path, typer.Argument(help="The campaign file, or that of its rehearsal.", show_default=False)],
    core_hours: Annotated[float, typer.Option(help="The budget, from the start of the campaign.", show_default=False)],
) -> None:
    """Print what a budget would buy: the magnetic force error on the hold-out, with its 95% interval, and the labels.

    From the rounds of the campaign's rehearsal ('mfal rehearse') if there is one, else from its own. An error falls as
    a power of the core-hours; the forecast is for cells that cost what those of the rounds did.
    """
    from mfal.acquire.forecast import budget_for
    from mfal.acquire.forecast import forecast as foresee

    console = Console(highlight=False, soft_wrap=True)
    with refusing():
        campaign = load(config)
        rehearsed = rehearsal_directory(campaign) / REHEARSAL
        if rehearsed.is_file():
            campaign = load(rehearsed)
        with opened(campaign) as stores:
            rounds = stores.all_rounds(campaign.campaign)
        spent = list(accumulate(sum(r.core_hours.values()) for r in rounds))
        measured = [(r, r.errors.get("hold_out", {}).get("magnetic")) for r in rounds]
        points = [
            (hours, found.forces)
            for hours, (_, found) in zip(spent, measured, strict=True)
            if found is not None and found.forces is not None
        ]
        good = {f: sum(r.counts.get(f, {}).get("ok", 0) for r in rounds) for f in FIDELITIES}
        rates = {f: count / spent[-1] for f, count in good.items()} if spent and spent[-1] > 0 else {}
        found = foresee(points, core_hours, labels_per_core_hour=rates)
        target = campaign.stop.force_error
        needed = budget_for(points, target) if target else None
    labels = ", ".join(f"{count} {WORDS[fidelity]}" for fidelity, count in found.labels.items())
    console.print(
        f"{core_hours:g} core-hours: magnetic force MAE [bold]{found.force_error:.0f} meV/Å[/]"
        f" (95%: {found.low:.0f} to {found.high:.0f}), about {labels} labels"
    )
    held = max((errors.frames for _, errors in measured if errors is not None), default=0)
    law = f"falls as core-hours^-{found.exponent:.2f}" if found.exponent > 0 else "does not fall"
    console.print(
        f"From {found.rounds} rounds of {escape(campaign.campaign)} ({spent[-1]:.3g} core-hours, {held} held out):"
        f" the error {law}"
    )
    if found.extrapolated:
        console.print(f"[yellow]Beyond twice the {spent[-1]:.3g} core-hours that were observed: an extrapolation.[/]")
    if target:
        words = f"{needed:.3g} core-hours" if needed else "no budget that can be foreseen"
        console.print(f"stop.force_error = {target:g} meV/Å: {words}")
