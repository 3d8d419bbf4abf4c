"""When the campaign ends."""

from __future__ import annotations

from mfal.config import Stop
from mfal.frames import Errors


def reason_to_stop(
    settings: Stop, *, rounds_done: int, frames: int, core_hours: float, hold_out: Errors | None
) -> str | None:
    """The first rule that ends the campaign, as what comes next, or None.

    Args:
        frames: that exploration found in the round.
        core_hours: spent by all labels of the campaign, failures included.
        hold_out: magnetic errors on the hold-out after the round.
    """
    if rounds_done >= settings.rounds:
        return f"stop, as all {settings.rounds} rounds are done (stop.rounds)"
    if not frames:
        return "stop, as exploration found no new frame (explore, or the end of the data set)"
    if settings.core_hours is not None and core_hours >= settings.core_hours:
        return f"stop, as {core_hours:.1f} core-hours are spent of {settings.core_hours:g} (stop.core_hours)"
    if (
        settings.force_error is not None
        and hold_out is not None
        and hold_out.forces is not None
        and hold_out.forces <= settings.force_error
    ):
        return (
            f"stop, as the magnetic force error on the hold-out is {hold_out.forces:.0f} meV/Å, at or below"
            f" {settings.force_error:g} (stop.force_error)"
        )
    return None
