"""Is the cheap fidelity worth its core-hours here? Measured on random frames with labels at both fidelities.

Labels of two fidelities are used like a control variate: what the model gets wrong at the non-magnetic fidelity
predicts what it gets wrong at the magnetic one, as far as the two errors correlate. What the cheap labels then save is
given by multifidelity Monte Carlo for two models (Ng & Willcox, Int. J. Numer. Meth. Eng. 100, 746 (2014);
Peherstorfer, Willcox & Gunzburger, SIAM J. Sci. Comput. 38, A3163 (2016)). Its formula is about the estimate of a mean,
not about learning a force field: it says whether the correlation and the prices allow a saving, and no more.

With correlation rho, a magnetic label at the cost of w non-magnetic ones, and r >= 1 non-magnetic labels for each
magnetic one (every magnetic frame has its non-magnetic label, too), the cost at equal variance is, relative to magnetic
labels alone,

    R(r) = (1 + r / w) (1 - rho2 + rho2 / r)

with its minimum at r* = sqrt(w rho2 / (1 - rho2)), where R = (sqrt(1 - rho2) + sqrt(rho2 / w))^2. For r* <= 1, that is
w rho2 <= 1 - rho2, the minimum lies at the edge r = 1, where the cheap labels teach nothing that the magnetic ones on
the same frames do not, and R = 1 + 1 / w is a loss. Even for r* > 1 there is a saving only if
w > (1 + sqrt(1 - rho2)) / (1 - sqrt(1 - rho2)); R never rises with |rho|.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mfal.acquire.saving import RESAMPLES, percentiles
from mfal.frames import Document

#: Frames below which there is no verdict.
MIN_PAIRS = 6


class Probe(Document):
    """How the errors at the two fidelities hang together, and what follows for the loop."""

    #: Frames with both labels.
    pairs: int
    #: Of the force errors, with its 95% interval; None with too few pairs, or where an error is zero throughout.
    correlation: float | None
    low: float | None
    high: float | None
    #: Core-hours per good label, magnetic over non-magnetic.
    cost_ratio: float
    #: Predicted share of the core-hours that the cheap fidelity saves; negative: it costs more than it saves.
    saving: float | None
    #: None: not known yet.
    worth: bool | None
    message: str


def relative_cost(correlation: float, cost_ratio: float) -> float:
    """Core-hours of both fidelities over those of magnetic labels alone, at equal variance and the best r >= 1."""
    shared = correlation**2
    if cost_ratio * shared <= 1 - shared:
        return 1 + 1 / cost_ratio
    return float((np.sqrt(1 - shared) + np.sqrt(shared / cost_ratio)) ** 2)


def probe(pairs: Sequence[tuple[np.ndarray, np.ndarray]], cost_ratio: float) -> Probe:
    """The verdict after some random frames: given up only where even the upper end of |correlation| saves nothing.

    The correlation is that of the pooled components about zero, which is their mean over all orientations of a
    crystal, so it does not depend on how the cells lie. Its interval is by bootstrap over frames, as the components of
    one frame are not independent.

    Args:
        pairs: per frame the force residuals [N, 3] at the non-magnetic and at the magnetic fidelity, label minus
            prediction of a committee that had not seen the frame, eV/Å.
        cost_ratio: core-hours per good label, magnetic over non-magnetic.

    Raises:
        ValueError: a cost ratio that is not positive, or residuals that do not pair.
    """
    if not cost_ratio > 0:
        raise ValueError(f"a cost ratio of {cost_ratio} makes no sense: both fidelities cost something")
    for cheap, costly in pairs:
        if cheap.shape != costly.shape:
            raise ValueError(f"residuals of shapes {cheap.shape} and {costly.shape} do not pair")
    unknown = {"pairs": len(pairs), "cost_ratio": cost_ratio, "correlation": None, "low": None, "high": None}
    if len(pairs) < MIN_PAIRS:
        message = (
            f"{len(pairs)} random frames with good labels at both fidelities are too few to say yet whether the"
            f" non-magnetic ones pay ({MIN_PAIRS} are needed)"
        )
        return Probe(**unknown, saving=None, worth=None, message=message)
    # [frames, 3]: the sums that a correlation is made of
    products = np.array([[np.sum(a * b), np.sum(a * a), np.sum(b * b)] for a, b in pairs])
    correlation = float(_correlation(products.sum(axis=0)))
    if np.isnan(correlation):
        message = (
            "the force errors at one fidelity are zero throughout, so they have no correlation and nothing can be"
            " said yet"
        )
        return Probe(**unknown, saving=None, worth=None, message=message)
    rng = np.random.default_rng(0)
    resampled = _correlation(products[rng.integers(len(pairs), size=(RESAMPLES, len(pairs)))].sum(axis=1))
    low, high = (float(bound) for bound in np.nanpercentile(resampled, percentiles(len(pairs))))
    saving = 1 - relative_cost(correlation, cost_ratio)
    best = 1 - relative_cost(max(abs(low), abs(high)), cost_ratio)
    found = (
        f"the force errors at the two fidelities correlate by {correlation:.2f} (95%: {low:.2f} to {high:.2f}), and a"
        f" magnetic label costs {cost_ratio:.1f} times a non-magnetic one:"
    )
    if best <= 0:
        verdict = "the cheap labels cost more than they can save"
    elif saving <= 0:
        verdict = (
            f"the cheap labels are predicted to cost more than they save, but up to {best:.0%} saved is still possible"
        )
    else:
        verdict = f"the cheap labels are predicted to save {saving:.0%} of the core-hours"
    return Probe(
        pairs=len(pairs),
        correlation=correlation,
        low=low,
        high=high,
        cost_ratio=cost_ratio,
        saving=saving,
        worth=best > 0,
        message=f"{found} {verdict}",
    )


def _correlation(products: np.ndarray) -> np.ndarray:
    """From sums of ab, aa and bb in the last axis; nan where aa or bb is zero."""
    with np.errstate(invalid="ignore"):
        correlation = products[..., 0] / np.sqrt(products[..., 1] * products[..., 2])
    return np.clip(correlation, -1, 1)  # rounding
