"""The experiments of arXiv 2511.11361 on a data set of ours: which trainings each of them is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.trainings import Run
from mfal.frames import Fidelity

Axis = Literal["magnetic", "nonmagnetic"]
#: Of all labels that there are.
SHARES = (1 / 8, 1 / 4, 1 / 2, 1)
#: Of the magnetic labels, where something else is varied: few, where the cheap ones should help most.
FEW = 1 / 4
#: Where the fidelity enters: nowhere, everywhere, each part alone, each left out.
PARTS = ("", "CEMR", "C", "E", "M", "R", "EMR", "CMR", "CER", "CEM")
#: As in the paper: N for none, F for full, a minus for what is left out.
NAMES = {"": "N", "CEMR": "F"} | {"CEMR".replace(part, ""): f"−{part}" for part in "CEMR"}


@dataclass(frozen=True)
class Series:
    """A line of a figure, or a row of an ablation: runs of all seeds, by what is on the axis."""

    name: str
    points: Mapping[int, Sequence[Run]]


@dataclass(frozen=True)
class Experiment:
    """A figure."""

    name: str
    title: str
    #: What the points of a line differ in; None where each line is one point.
    axis: Axis | None
    series: Sequence[Series]
    #: The line that the others are compared with, at the same point and seed.
    baseline: str

    @property
    def runs(self) -> Iterator[Run]:
        for series in self.series:
            for runs in series.points.values():
                yield from runs


def experiments(labels: Mapping[Fidelity, int], seeds: int, shares: Sequence[float] = SHARES) -> list[Experiment]:
    """
    Args:
        labels: that there are to learn from, at each fidelity.
        shares: of them, along the axes.
    """
    low, high = labels["nonmagnetic"], labels["magnetic"]

    def every(**run: object) -> list[Run]:
        return [Run.model_validate({"seed": seed, "nonmagnetic": low, "magnetic": high} | run) for seed in range(seeds)]

    numbers = some(high, shares)
    few = some(high, [FEW])[0]

    def line(name: str, **run: object) -> Series:
        alone = run["strategy"] in ("high-only", "as pretrained")
        points = {n: every(magnetic=n, **({"nonmagnetic": 0} if alone else {}), **run) for n in numbers}
        return Series(name, points)

    def of_weights(weights: str, start: str) -> Experiment:
        return Experiment(
            f"fig-2-{weights}",
            f"Errors against the number of magnetic labels, {start}; multi-fidelity with all {low} non-magnetic ones",
            "magnetic",
            [
                line("magnetic only", strategy="high-only", weights=weights),
                line("multi-fidelity", strategy="multi-fidelity", weights=weights),
                # As many steps as multi-fidelity has: what of the difference is theirs.
                line("magnetic only, twice as long", strategy="high-only", weights=weights, times=2),
                # What there is without any training: the least that a training must better.
                *([line("as pretrained", strategy="as pretrained")] if weights == "pretrained" else []),
            ],
            "magnetic only",
        )

    def of_cheap(magnetic: int) -> Series:
        points = {0: every(strategy="high-only", magnetic=magnetic, nonmagnetic=0)}
        points |= {n: every(strategy="multi-fidelity", magnetic=magnetic, nonmagnetic=n) for n in some(low, shares)}
        return Series(f"{magnetic} magnetic labels", points)

    def of_parts(parts: str) -> Series:
        return Series(NAMES.get(parts, parts), {few: every(strategy="multi-fidelity", magnetic=few, parts=parts)})

    return [
        of_weights("pretrained", "from pretrained weights"),
        of_weights("random", "from random weights"),
        Experiment(
            "fig-3",
            "Errors against the number of non-magnetic labels, at two numbers of magnetic ones",
            "nonmagnetic",
            [of_cheap(number) for number in dict.fromkeys((few, high))],
            "",
        ),
        Experiment(
            "fig-4",
            f"Where the fidelity enters: {few} magnetic and {low} non-magnetic labels",
            None,
            [of_parts(parts) for parts in PARTS],
            "N",
        ),
        Experiment(
            "fig-5",
            f"Four ways to use the labels of two fidelities; all {low} non-magnetic ones",
            "magnetic",
            [
                line("magnetic only", strategy="high-only"),
                line("multi-fidelity", strategy="multi-fidelity"),
                line("transfer learning", strategy="transfer"),
                line("delta learning", strategy="delta"),
            ],
            "magnetic only",
        ),
    ]


def some(labels: int, shares: Sequence[float]) -> list[int]:
    """Shares of the labels, at least one, each number once."""
    return list(dict.fromkeys(max(1, round(share * labels)) for share in shares))
