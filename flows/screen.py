"""The table of `mfal watch`: a view of a campaign, drawn for 80 columns and more. No colour says what no word says."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.view import Row, State, View, name_of, since, what_ails, word
from flows.wording import clean, clock, cost, short, span
from mfal.frames import WORDS

#: Rows of the jobs that run, and of the events, where there is room for them.
MOST, LAST = 12, 5
STYLES: dict[State, str] = {"running": "green", "paused": "yellow", "stands still": "red", "cancelled": "yellow"}


def drawn(view: View, width: int, height: int | None = None) -> RenderableType:
    """For a terminal of so many columns and, if there is an end to them, rows."""
    head, rows, estimates = _head(view), _rows(view, width), _estimates(view)
    most, last = min(len(view.running), MOST), min(len(view.events), LAST)
    if height:
        room = height - len(Console(width=width).render_lines(Group(*head, rows, estimates), pad=False))
        last = max(min(last, room // 3 - 1), 0)  # below a gap
        most = max(min(most, room - last - 5), 0)  # below two gaps and a heading, above how many more there are
    running = [_running(view, width, most)] if most else []
    recent = [_recent(view, width, last)] if last else []
    return Group(*head, rows, *running, *recent, estimates)


def _head(view: View) -> list[RenderableType]:
    state = f"bold {STYLES.get(view.state, '')}".strip()
    where = f"  round {view.round} ({view.round + 1} of at most {view.rounds})  project {clean(view.project)}"
    line = Text.assemble((view.campaign, "bold"), "  ", (view.state, state), where)
    ails = [Text(f"! round {job.round}  {name_of(job)}: {what_ails(job)}", style="red") for job in view.in_the_way[:3]]
    notes = [Text(f"! {note.text}", style="yellow") for note in view.notes]
    spent = Table("calculated so far", "good", "bad", "core-h", "a good one costs", box=None, pad_edge=False)
    for column in spent.columns[1:]:
        column.justify = "right"
    for fidelity in view.spent:
        each = cost(fidelity.core_hours / fidelity.good) if fidelity.good else ""
        counts = (str(fidelity.good), str(fidelity.bad), f"{fidelity.core_hours:.3f}")
        spent.add_row(WORDS[fidelity.fidelity], *counts, each)
    return [line, *ails, *notes, Text(), spent, Text()]


def _rows(view: View, width: int) -> Table:
    titles = (f"round {view.round}", "waiting", "queue", "runs", "done", "bad", "given up", "", "left")
    rows = []
    for row in view.rows:
        counts = (row.waiting, row.queued, row.running, row.done, row.bad, row.given_up)
        rest = ""
        if row.left is not None and view.state == "running" and row.waiting + row.queued + row.running:
            rest = f"~{span(row.left)}" if row.left else "soon"
        bar = _bar(row, 6 if width < 100 else 24)
        rows.append([word(row.step), *(str(count) if count else "" for count in counts), bar, rest])
    return _table(titles, rows, (0, 7), width)


def _bar(row: Row, width: int) -> str:
    """What is done, under way, and to come."""
    done, way = row.done + row.bad, row.queued + row.running
    if not (total := done + way + row.waiting + row.given_up):
        return ""
    full, open_ = width * done // total, width * (done + way) // total
    return f"{'━' * full}{'─' * (open_ - full)}{'·' * (width - open_)} {done}/{total}"


def _running(view: View, width: int, most: int) -> RenderableType:
    rows = []
    for job in view.running[:most]:
        times = clock(since(job), view.now), span(view.now - since(job))
        again = f"{job.attempts} of {view.attempts}" if job.attempts else ""
        rows.append([name_of(job), short(clean(job.worker), 12), *times, again, job.db_id])
    titles = ("runs now", "worker", "since", "for", "again", "jf job info")
    others = sum(max(map(len, column)) + _gap(width) for column in list(zip(titles, *rows, strict=True))[1:])
    for row in rows:
        row[0] = short(row[0], max(width - others, 12))
    more = len(view.running) - most
    return Group(Text(), _table(titles, rows, (0, 1, 2), width), *([Text(f"and {more} more")] if more else []))


def _recent(view: View, width: int, last: int) -> RenderableType:
    lines = []
    for event in view.events[-last:]:
        line = Text(f"{clock(event.when, view.now)}  {event.text.removeprefix(f'round {view.round}  ')}")
        line.truncate(width, overflow="ellipsis")
        lines.append(line)
    return Group(Text(), *lines)


def _estimates(view: View) -> RenderableType:
    if view.state != "running":
        return Text()
    lines = [Text()]
    for what, end, most in (("round", view.round_end, ""), ("campaign", view.campaign_end, " at the latest")):
        when = f"{clock(end, view.now)}{most}, in {span(end - view.now)}" if end else "no estimate yet"
        lines.append(Text(f"Estimated end of the {what:<9} {when}"))
    return Group(*lines)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int], width: int) -> Table:
    padding = (0, _gap(width) - 1, 0, 0)  # beside the box's own
    out = Table(box=SIMPLE_HEAD, padding=padding, pad_edge=False, show_edge=False)
    for i, title in enumerate(titles):
        out.add_column(title, justify="left" if i in left else "right", no_wrap=True)
    for row in rows:
        out.add_row(*map(Text, row))  # which take nothing for markup
    return out


def _gap(width: int) -> int:
    """Between columns."""
    return 1 if width < 100 else 2
