"""How long the report of ten thousand candidates takes to build and to use: `python -m benchmarks.report`.

The campaign is a rehearsal (`report.yaml`) on 20,000 olivine frames with the labels of a surrogate (`candidates.py`).
The first call makes both, which takes about an hour on two cores; they stay in runs/report.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from benchmarks.candidates import build
from benchmarks.measure import Goal, machine
from mfal.config_file import load
from stores.campaign import open_stores
from tests.browser import DRAWN, chromium, opened, until

CAMPAIGN = Path(__file__).with_name("report.yaml")
POOL = Path("runs/report/pool.extxyz")
FRAMES = 20_000
MFAL = [sys.executable, "-m", "flows"]
#: Runs a command and says what it took; ru_maxrss is in kB.
TIMED = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
wall = time.perf_counter() - start
print(json.dumps({"wall": wall, "cpu": used.ru_utime + used.ru_stime, "memory": used.ru_maxrss / 1e3}))
"""
#: Milliseconds from an event until the page has painted what came of it.
PAINTED = """([selector, act, value]) => new Promise((done) => {
  const node = document.querySelector(selector);
  const start = performance.now();
  if (act === "click") node.click();
  if (act === "scroll") node.scrollTop = value;
  if (act === "type") { node.value = value; node.dispatchEvent(new Event("input", { bubbles: true })); }
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
})"""
ACTS = {
    "sort by σ Δ": ("th[data-column=sigma_delta] button", "click", ""),
    "scroll to the middle": (".explorer", "scroll", 200_000),
    "filter: sigma_delta>0.3 source~md": (".filter input", "type", "sigma_delta>0.3 source~md"),
}


def main(
    repeats: Annotated[int, typer.Option(help="The table has medians of so many.", min=1)] = 3,
    markdown: Annotated[Path | None, typer.Option(help="Write the table here, too.")] = None,
) -> None:
    """Time the report of ten thousand candidates, from the store to the browser."""
    if not POOL.is_file():
        POOL.parent.mkdir(parents=True, exist_ok=True)
        build(POOL, FRAMES)
    subprocess.run([*MFAL, "run", str(CAMPAIGN)], check=True)
    campaign = load(CAMPAIGN)
    with open_stores(campaign) as stores:
        candidates = stores.frames.count({"round": stores.all_rounds(campaign.campaign)[-1].round})
    with TemporaryDirectory() as kept:
        page = Path(kept) / "page.html"
        command = [*MFAL, "report", str(CAMPAIGN), "--out", str(page)]
        built = [_child([*command, "--no-figures"]) for _ in range(repeats)]
        drawn = _child(command)
        rows = [
            ("build the page", "s", median(one["wall"] for one in built), Goal("<=", 20)),
            ("  of that, work of processors", "s", median(one["cpu"] for one in built), None),
            ("  memory at most", "MB", max(one["memory"] for one in built), None),
            ("size of the page", "MB", page.stat().st_size / 1e6, Goal("<=", 5)),
            ("build it with its figures as SVG and PNG", "s", drawn["wall"], None),
            *((what, unit, value, None) for what, unit, value in _used(page, repeats)),
        ]
    table = Table("what", "", "unit", "goal", "", title=f"A report of {candidates:,} candidates", title_justify="left")
    for what, unit, value, goal in rows:
        verdict = "" if goal is None else "met" if goal.met(value) else "missed"
        table.add_row(what, f"{value:.3g}", unit, str(goal or ""), verdict)
    Console().print(table)
    Console().print(machine(torch.device("cpu")))
    if markdown:
        table.box = MARKDOWN
        with markdown.open("w") as file:
            Console(file=file, width=120).print(table)


def _child(command: list[str]) -> dict[str, Any]:
    return json.loads(subprocess.run([sys.executable, "-c", TIMED, *command], check=True, capture_output=True).stdout)


def _used(page: Path, repeats: int) -> list[tuple[str, str, float]]:
    """What a person waits for in a browser."""
    seconds: list[float] = []
    taken: dict[str, list[float]] = {what: [] for what in (*ACTS, "open a frame's 3D view")}
    with chromium() as browser:
        for _ in range(repeats):
            start = time.perf_counter()
            view = opened(browser, page).page
            seconds.append(time.perf_counter() - start)
            for what, act in ACTS.items():
                taken[what].append(view.evaluate(PAINTED, list(act)))
            start = time.perf_counter()
            view.locator(".frames tbody button").first.click()
            until(view, DRAWN)
            taken["open a frame's 3D view"].append(1000 * (time.perf_counter() - start))
            view.close()
    return [
        ("open it: all figures drawn, the table filled", "s", median(seconds)),
        *((what, "ms", median(found)) for what, found in taken.items()),
    ]


if __name__ == "__main__":
    typer.run(main)
