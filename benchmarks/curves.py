"""From plays to figures: what a rule needs to reach a target, how good it is on the way, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from benchmarks.play import Play
from mfal.frames import FIDELITIES

#: What every other rule is compared with.
BASELINE = "random"
HEADER = (
    "rule",
    "labels n + m",
    "core-hours",
    "MAE at the end",
    "mean MAE",
    "of random's",
    "core-hours to target",
    "of random's",
    "magnetic to target",
    "of random's",
)
NOTES = (
    "Brackets: 95% over seeds. Labels: non-magnetic + magnetic. MAE: magnetic forces of the test set, meV/Å; the mean"
    " is geometric, over the core-hours that all rules have a curve for. Of random's: geometric mean of the ratios seed"
    " by seed; a tie's interval contains 1. A play that never reaches the target counts with all it spent: > and ≥ are"
    " lower bounds, ≤ is an upper one, and open is what they do not decide."
)


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95% interval by Student's t; nan with fewer than two seeds."""

    mean: float
    low: float = np.nan
    high: float = np.nan

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        mean = float(np.mean(values))
        if len(values) < 2:
            return cls(mean)
        width = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
        return cls(mean, mean - width, mean + width)

    def exp(self) -> Interval:
        return Interval(*(float(np.exp(x)) for x in (self.mean, self.low, self.high)))

    def __str__(self) -> str:
        return f"{self.mean:.3g}" + ("" if np.isnan(self.low) else f" ({self.low:.3g}–{self.high:.3g})")


@dataclass(frozen=True)
class Reach:
    """Core-hours at which one play reaches a target; `reached` is False where these were all it spent."""

    core_hours: float
    reached: bool


def reach(core_hours: Sequence[float], errors: Sequence[float], target: float) -> Reach:
    """The first crossing, with the logarithm of the error linear between two rounds."""
    for i, error in enumerate(errors):
        if error > target:
            continue
        if i == 0:
            return Reach(core_hours[0], True)
        share = np.log(errors[i - 1] / target) / np.log(errors[i - 1] / error)
        return Reach(float(core_hours[i - 1] + share * (core_hours[i] - core_hours[i - 1])), True)
    return Reach(core_hours[-1], False)


def mean_error(core_hours: Sequence[float], errors: Sequence[float], low: float, high: float) -> float:
    """The geometric mean of the error over a range of core-hours: the area under the logarithm of the curve; nan where
    the range is empty, because a rule has spent next to nothing."""
    if high <= low:
        return np.nan
    inside = [h for h in core_hours if low < h < high]
    x = np.array([low, *inside, high])
    y = np.interp(x, core_hours, np.log(errors))
    return float(np.exp(np.trapezoid(y, x) / (high - low)))


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """The ratio of positive numbers that pair by seed: geometric mean and the interval of the log ratios."""
    return Interval.of(np.log(np.array(ours) / np.array(theirs)).tolist()).exp()


@dataclass(frozen=True)
class Table:
    """The plays of the seeds that every rule has finished, by rule and in the order of the seeds."""

    plays: Mapping[str, Sequence[Play]]
    #: meV/Å, of each seed.
    targets: Sequence[float]

    @classmethod
    def of(cls, plays: Sequence[Play], target: float | None) -> Table:
        """Without a target, that of a seed is the error that random ends with on the seed's own test set."""
        rules = list(dict.fromkeys(play.rule for play in plays))
        found = {(play.rule, play.seed): play for play in plays}
        seeds = sorted(seed for seed in {play.seed for play in plays} if all((rule, seed) in found for rule in rules))
        by_rule = {rule: [found[rule, seed] for seed in seeds] for rule in rules}
        ends = [play.points[-1].force_error for play in by_rule.get(BASELINE, [])]
        if target is None and not ends:
            raise ValueError(f"without the rule {BASELINE!r} there is no target: give one")
        return cls(by_rule, ends if target is None else [target] * len(seeds))

    def rows(self) -> list[tuple[str, ...]]:
        return [self._row(rule) for rule in self.plays]

    def _row(self, rule: str) -> tuple[str, ...]:
        own = self.plays[rule]
        counts = [np.mean([play.points[-1].labels[fidelity] for play in own]) for fidelity in FIDELITIES]
        areas = self._areas()
        cells = [
            rule,
            " + ".join(f"{count:.1f}" for count in counts),
            f"{np.mean([play.points[-1].total for play in own]):.3g}",
            str(Interval.of([play.points[-1].force_error for play in own])),
            str(Interval.of(areas[rule])),
            self._ratio(rule, paired(areas[rule], areas[BASELINE])) if BASELINE in areas else "",
        ]
        for kind in ("total", "magnetic"):
            found = self._reached(rule, kind)
            count = sum(item.reached for item in found)
            hours = Interval.of([item.core_hours for item in found])
            cells.append(str(hours) if count == len(found) else f"> {hours.mean:.3g} ({count} of {len(found)})")
            if BASELINE not in self.plays:
                cells.append("")
                continue
            theirs = self._reached(BASELINE, kind)
            ratio = paired([item.core_hours for item in found], [item.core_hours for item in theirs])
            cells.append(self._ratio(rule, ratio, bound=_bound(found, theirs)))
        return tuple(cells)

    def _ratio(self, rule: str, ratio: Interval, bound: str = "") -> str:
        if rule == BASELINE:
            return ""
        if bound and not np.isnan(ratio.low):
            # What did not end in time can be called worse, but not better, and a tie neither.
            sure = (bound == "≥ " and ratio.low > 1) or (bound == "≤ " and ratio.high < 1)
            return f"{bound}{ratio}" + ("" if sure else " open")
        return f"{bound}{ratio}" + (" tie" if ratio.low <= 1 <= ratio.high else "")

    def _reached(self, rule: str, kind: str) -> list[Reach]:
        return [reach(*curve(play, kind), target) for play, target in zip(self.plays[rule], self.targets, strict=True)]

    def _areas(self) -> dict[str, list[float]]:
        """Of each seed over the core-hours that all rules have a curve for."""
        areas: dict[str, list[float]] = {rule: [] for rule in self.plays}
        for of_seed in zip(*self.plays.values(), strict=True):
            curves = [curve(play, "total") for play in of_seed]
            low, high = max(hours[0] for hours, _ in curves), min(hours[-1] for hours, _ in curves)
            for rule, (hours, errors) in zip(self.plays, curves, strict=True):
                areas[rule].append(mean_error(hours, errors, low, high))
        return areas


def curve(play: Play, kind: str) -> tuple[list[float], list[float]]:
    """Core-hours, of all calculations (`total`) or of the magnetic ones, and the errors."""
    hours = [point.total if kind == "total" else point.core_hours["magnetic"] for point in play.points]
    return hours, [point.force_error for point in play.points]


def _bound(ours: Sequence[Reach], theirs: Sequence[Reach]) -> str:
    """A play that does not reach the target counts with all it spent, so the ratio is a bound only."""
    above = any(not item.reached for item in ours)
    below = any(not item.reached for item in theirs)
    return "≷ " if above and below else "≥ " if above else "≤ " if below else ""
