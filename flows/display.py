"""What a person sees while a campaign runs: a line for everything that happened, a bar for what is under way."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from flows.jobs import Event
from flows.report import report_path, write_report
from flows.status import moments_line
from mfal.config import Campaign
from mfal.frames import WORDS, Fidelity
from mfal.report.text import decided
from stores.campaign import CampaignStores


class Display:
    """Follows the events of a run. `failed` holds the jobs that broke."""

    def __init__(self, campaign: Campaign) -> None:
        self.campaign = campaign
        self.console = Console(highlight=False)
        self.calculated: Counter[str] = Counter()
        self.kept = 0
        self.failed: list[str] = []
        self.reports: list[Path] = []
        self.footer = ""
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        self._bars: dict[str, TaskID] = {}
        self._born: Counter[TaskID] = Counter()

    def __enter__(self) -> Display:
        engine = self.campaign.engine.kind.upper()
        self.say(f"[bold]{escape(self.campaign.campaign)}[/]  {engine}, up to {self.campaign.stop.rounds} rounds")
        self._progress.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def on_event(self, event: Event, stores: CampaignStores) -> None:
        """Show what a job did; write the report of a round that is done."""
        kind, round = event.job.metadata["kind"], event.job.metadata["round"]
        if event.what == "failed":
            self.failed.append(event.job.name)
            self.say(f"[red]round {round}  {escape(event.job.name)} broke: {escape(event.error)}[/]")
        elif kind == "label":
            self._label(event, stores)
        elif kind in ("explore", "score", "decide", "train", "evaluate"):
            decisions = self._decisions(stores, round) if event.what == "finished" and kind == "decide" else ""
            self._step(event, kind, round, decisions)
        for job in event.born:
            if job.metadata["kind"] == "label":
                fidelity: Fidelity = job.metadata["fidelity"]
                bar = self._bar(f"round {round}  {WORDS[fidelity]} calculations")
                self._born[bar] += 1
                self._progress.update(bar, total=self._born[bar])
        if event.what in ("finished", "kept") and kind == "evaluate":
            self._round(event, stores, round)

    def _label(self, event: Event, stores: CampaignStores) -> None:
        fidelity: Fidelity = event.job.metadata["fidelity"]
        bar = self._bar(f"round {event.job.metadata['round']}  {WORDS[fidelity]} calculations")
        if event.what == "started":
            return
        self._progress.advance(bar)
        if event.what == "kept":
            self.kept += 1
            return
        self.calculated[fidelity] += 1
        label = stores.output(event.job.uuid)
        mark = "[green]ok[/]" if label.good else f"[yellow]{label.status}[/]"
        detail = f"{3600 * label.core_hours:.0f} core-s" if label.good else escape(label.reason)
        self.say(f"round {event.job.metadata['round']}  {escape(event.job.name)}  {mark}  {detail}")

    def _step(self, event: Event, kind: str, round: int, details: str) -> None:
        bar = self._bar(f"round {round}  {kind}")
        if event.what == "advanced":
            self._progress.update(bar, completed=event.done, total=event.of)
        elif event.what != "started":
            self._progress.remove_task(bar)
            self._bars = {name: task for name, task in self._bars.items() if task != bar}
            if event.what == "finished":
                self.say(f"round {round}  {kind} done{details}")

    def _decisions(self, stores: CampaignStores, round: int) -> str:
        now = {"campaign": self.campaign.campaign, "round": round}
        return f": {decided(Counter(decision for (decision,) in stores.scores.rows(now, ['decision'])))}"

    def _round(self, event: Event, stores: CampaignStores, round: int) -> None:
        path = report_path(self.campaign, round)
        if event.what == "finished" or not path.is_file():
            trouble = write_report(stores, self.campaign, round).trouble
            if trouble and not self.reports:
                self.say(f"[yellow]{escape(trouble)}[/]")
        self.reports.append(path)
        summary = next(s for s in stores.all_rounds(self.campaign.campaign) if s.round == round)
        self.footer = moments_line(stores, self.campaign.campaign)
        if event.what == "finished":
            self.say(f"[bold]round {round}  done[/]; next: {escape(summary.next_step)}; report: {escape(str(path))}")
            for learned in filter(None, (summary.saving, summary.probe)):
                self.say(f"round {round}  {escape(learned)}")

    def _bar(self, name: str) -> TaskID:
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=None)
        return self._bars[name]

    def summary(self, config: Path) -> None:
        """The last lines of a run: what was calculated, what was there already, where to look."""
        total = sum(self.calculated.values())
        if self.failed:
            self.say(f"[red]Stopped: {len(self.failed)} job(s) broke[/]; the same command tries them again")
        elif not total:
            self.say(f"No calculation was started: all {self.kept} that the campaign asks for are in the store")
        if total:
            parts = ", ".join(f"{n} {WORDS[f]}" for f, n in self.calculated.items())  # type: ignore[index]
            self.say(f"{total} calculations run ({parts}), {self.kept} found in the store")
        if self.footer:
            self.say(self.footer)
        if self.reports:
            self.say(f"Report:  {escape(str(self.reports[-1].resolve()))}")
            self.say(f"Status:  mfal status {escape(str(config))}")
