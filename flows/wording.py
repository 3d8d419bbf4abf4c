"""Times, costs and what others wrote, as a line on a terminal has them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta


def span(time: timedelta) -> str:
    """`45 s`, `12 min`, `2 h 05 min`, `3 d 4 h`."""
    seconds = round(time.total_seconds())
    minutes, hours = seconds // 60, seconds // 3600
    if not minutes:
        return f"{seconds} s"
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60:02} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def clock(time: datetime, now: datetime) -> str:
    """Where this runs, and no longer than needed: `14:05`, `Tue 14:05`, `12 Mar 14:05`."""
    local = time.astimezone()
    days = abs((local.date() - now.astimezone().date()).days)
    return local.strftime("%H:%M" if not days else "%a %H:%M" if days < 7 else "%d %b %H:%M")


def cost(core_hours: float) -> str:
    return f"{core_hours:.3g} core-h" if core_hours >= 0.1 else f"{3600 * core_hours:.3g} core-s"


def short(name: str, width: int) -> str:
    """A name that is too long, without its middle: the last word tells jobs apart."""
    if len(name) <= width:
        return name
    end = name.rpartition(" ")[2][-max(width // 2, 1) :]
    return f"{name[: max(width - len(end) - 1, 0)].rstrip()}…{end}"[-width:]


def clean(text: str) -> str:
    """On one line, without what a terminal might take for a command, and without the address of a database."""
    text = re.sub(r"(pymongo\.errors\.\w+):.*", r"\1", text)
    text = re.sub(r"\w+://\S*@\S*|\bmongodb(\+srv)?://\S*", "...", text)
    return "".join(sign if sign.isprintable() else " " for sign in text)


def last_line(error: str | None) -> str:
    """Of a traceback: what went wrong."""
    lines = [line.strip() for line in (error or "").splitlines() if line.strip()]
    return clean(lines[-1]) if lines else "nothing says why"
