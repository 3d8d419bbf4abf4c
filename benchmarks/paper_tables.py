"""What the trainings of an experiment got wrong, as the rows of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from benchmarks.curves import Interval, paired
from benchmarks.experiments import Experiment, Series
from benchmarks.trainings import HIGH, Result, Run

Results = Mapping[Run, Result]
#: Names of `mfal.frames.Errors`, and how the columns are headed.
QUANTITIES = {"energy": "E, meV/atom", "forces": "F, meV/Å", "stress": "S, GPa", "magmoms": "M, µB"}
AXES = {"magnetic": "magnetic labels", "nonmagnetic": "non-magnetic labels"}


def missed(runs: Sequence[Run], results: Results, quantity: str) -> list[float]:
    """The magnetic errors of the seeds that are done."""
    return [getattr(results[run].errors[HIGH], quantity) for run in runs if run in results]


def interval(runs: Sequence[Run], results: Results, quantity: str) -> Interval:
    """The geometric mean over the seeds, as errors differ by factors, with its 95% interval."""
    return Interval.of(np.log(missed(runs, results, quantity)).tolist()).exp()


def header(experiment: Experiment) -> list[str]:
    axis = [AXES[experiment.axis]] if experiment.axis else []
    against = f"F, of {experiment.baseline}'s" if experiment.baseline else "F, of that without"
    return ["", *axis, *QUANTITIES.values(), against]


def rows(experiment: Experiment, results: Results) -> Iterator[list[str]]:
    """A row for each point of each line: geometric means over the seeds with their 95% intervals."""
    for series in experiment.series:
        for point, runs in series.points.items():
            axis = [str(point)] if experiment.axis else []
            errors = (interval(runs, results, quantity) for quantity in QUANTITIES)
            yield [series.name, *axis, *map(str, errors), ratio(experiment, series, point, results)]


def ratio(experiment: Experiment, series: Series, point: int, results: Results) -> str:
    """The force error over that of the baseline, seed by seed, as a geometric mean; a tie's interval contains 1, and
    one seed has none."""
    if experiment.baseline:
        (baseline,) = (line for line in experiment.series if line.name == experiment.baseline)
        theirs = baseline.points[point]
    else:
        theirs = next(iter(series.points.values()))
    ours = series.points[point]
    if ours == theirs:
        return ""
    found = paired(missed(ours, results, "forces"), missed(theirs, results, "forces"))
    if np.isnan(found.low):
        return f"{found}, one seed"
    return f"{found}" + (" tie" if found.low <= 1 <= found.high else "")
