"""`mfal why`: what was decided about a frame, from which numbers, and what came of it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

from flows.opened import HELP, everywhere, opened
from flows.refuse import refuse
from mfal.frames import FIDELITIES, WORDS, Decision, Frame, Label, Round, Score
from mfal.report.text import sentence
from stores.campaign import CampaignStores

DECISIONS: dict[Decision, str] = {
    "skip": "no calculation",
    "nonmagnetic": "a non-magnetic calculation",
    "magnetic": "a magnetic calculation",
    "both": "a non-magnetic and a magnetic calculation",
    "wild": "set aside",
}


def why(
    frame_id: Annotated[str, typer.Argument(help="The frame, or the first digits of it.", show_default=False)],
    place: Annotated[
        str | None, typer.Argument(metavar="[STORE]", help=f"{HELP} By default all below runs/.", show_default=False)
    ] = None,
) -> None:
    """Print why a frame was calculated, or was not: the decision, the numbers behind it, and the labels."""
    places = [place] if place else everywhere()
    if not places:
        refuse("no campaign has run here: name its file, its folder or the address of its store")
    console = Console(highlight=False)
    found = 0
    for where in places:
        with opened(where) as stores:
            wanted = {"frame_id": {"$regex": f"^{_digits(frame_id)}"}}
            for campaign, name in stores.frames.rows(wanted, ["campaign", "frame_id"]):
                found += 1
                for part in explain(stores, campaign, name):
                    console.print(part, soft_wrap=isinstance(part, str))
    if not found:
        refuse(f"{frame_id}: is no frame of {', '.join(places)}: 'mfal report' lists the frames of a round")


def explain(stores: CampaignStores, campaign: str, frame_id: str) -> list[RenderableType]:
    """What there is to say about a frame."""
    frame = stores.all_frames(campaign, frame_id=frame_id)[frame_id]
    scores = stores.all_scores(campaign, frame_id=frame_id)
    labels = stores.all_labels(frame_id=frame_id)
    rounds = {summary.round: summary for summary in stores.all_rounds(campaign)}
    parts: list[RenderableType] = [_title(frame, campaign)]
    for score in scores:
        arm = {"control": ", drawn at random", "hold_out": ", never trained on"}.get(score.arm or "", "")
        parts.append(
            f"Round {score.round}: [bold]{DECISIONS[score.decision]}[/]{arm}. {escape(sentence(score.reason))}"
        )
        if score.sigma_delta is not None:
            parts.append(_numbers(score, rounds.get(score.round - 1)))
    return [*parts, *(_label(label) for label in labels)]


def _digits(frame_id: str) -> str:
    if not frame_id.isalnum():
        refuse(f"{frame_id!r}: is not a frame's name, which is made of letters and digits")
    return frame_id


def _title(frame: Frame, campaign: str) -> str:
    formula, atoms = frame.structure.composition.formula.replace(" ", ""), len(frame.structure)
    where = escape(f"{frame.source} of {frame.parent}")
    return f"[bold]{frame.frame_id}[/]  {formula}, {atoms} atoms, {where}; campaign {escape(campaign)}"


def _numbers(score: Score, before: Round | None) -> Table:
    """What the committee expected, beside what it takes for much, and the bound that the random frames give."""
    table = Table(
        "", "expected error\neV/Å", "threshold\neV/Å", "90% below\neV/Å", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for column in table.columns[1:]:
        column.justify = "right"
    rows = [
        ("nonmagnetic", "non-magnetic forces", score.sigma_nonmagnetic),
        ("delta", "what magnetism changes", score.sigma_delta),
        ("magnetic", "magnetic forces", score.sigma_magnetic),
        ("conditional", "magnetic, given the non-magnetic", score.sigma_conditional),
    ]
    for kind, name, sigma in rows:
        quantile = (before.calibration.get(kind) or {}).get("quantile") if before else None
        bound = sigma * quantile if sigma is not None and quantile is not None else None
        numbers = (sigma, score.thresholds.get(kind), bound)
        table.add_row(name, *("-" if value is None else f"{value:.3f}" for value in numbers))
    costs = ", ".join(f"{WORDS[f]} {score.core_hours[f]:.3g}" for f in FIDELITIES if f in score.core_hours)
    gain = "" if score.gain is None else f"; expected gain {score.gain:.3f} eV/Å"
    table.caption, table.caption_justify = f"Expected core-hours of a good label: {costs}{gain}", "left"
    return table


def _label(label: Label) -> str:
    cost = label.core_hours + label.earlier_core_hours
    state = "[green]ok[/]" if label.good else f"[yellow]{label.status}[/] {escape(label.reason)}"
    where = f"  {escape(label.directory)}" if label.directory else ""
    return f"{WORDS[label.fidelity]} label: {state}, {cost:.3g} core-hours{where}"
