"""How long what is left of a round takes, if it takes what the same took before."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from statistics import median

Span = tuple[datetime, datetime]


def left(ran: Sequence[Span], running: Sequence[datetime], to_come: int, now: datetime) -> timedelta | None:
    """How long some jobs of a kind take; None where none of that kind has ended yet.

    Args:
        ran: from when to when jobs of the kind ran.
        running: since when others do.
        to_come: how many have not begun.
    """
    if not running and not to_come:
        return timedelta()
    if not ran:
        return None
    typical = timedelta(seconds=median((end - start).total_seconds() for start, end in ran))
    each = [max(typical - (now - start), timedelta()) for start in running] + [typical] * to_come
    at_once = most_at_once([*ran, *((start, now) for start in running)])
    return max(sum(each, timedelta()) / at_once, *each)


def most_at_once(spans: Sequence[Span]) -> int:
    changes = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    count = most = 0
    for _, change in changes:
        count += change
        most = max(most, count)
    return max(most, 1)
