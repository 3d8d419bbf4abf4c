"""What became of the calculations of a data set, why some of them were for nothing, and what all of them cost."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

from mfal.data_card.data_set import DataSet
from mfal.data_card.markdown import number
from mfal.frames import FIDELITIES, WORDS, Fidelity, Label


def outcomes(data: DataSet) -> list[tuple[str, str, int, int, str]]:
    """Fidelity, how it ended, how many labels, how many attempts, and the core-hours of those."""
    rows = []
    for fidelity in FIDELITIES:
        last, every = _at(data.labels, fidelity), _at(data.attempts, fidelity)
        for ending in sorted({_ending(label) for label in every}, key=lambda ending: (ending != "ok", ending)):
            tries = [label for label in every if _ending(label) == ending]
            labels = sum(_ending(label) == ending for label in last)
            rows.append((WORDS[fidelity], ending, labels, len(tries), number(_hours(tries))))
    return rows


def courses(data: DataSet) -> list[tuple[str, str, int]]:
    """Fidelity, how one attempt after another ended, and how many labels went that way; of those attempted again."""
    ends: dict[tuple[Fidelity, str], list[str]] = defaultdict(list)
    for label in sorted(data.attempts, key=lambda label: label.attempt):
        ends[label.fidelity, label.frame_id].append(_ending(label))
    found = Counter((WORDS[f], " → ".join(ends[f, name])) for f, name in ends if len(ends[f, name]) > 1)
    return [(*course, count) for course, count in sorted(found.items())]


def spent(data: DataSet) -> list[tuple[str, str, int, str]]:
    """Fidelity, core-hours of all attempts, how many good labels, and what one of them cost."""
    return [
        (
            WORDS[fidelity],
            number(_hours(_at(data.attempts, fidelity))),
            len(data.of_fidelity(fidelity)),
            number(price(data, fidelity)),
        )
        for fidelity in FIDELITIES
    ]


def price(data: DataSet, fidelity: Fidelity) -> float | None:
    """Core-hours of all attempts for each good label, but those whose cost nobody booked."""
    booked = sum(label.core_hours > 0 for label in data.of_fidelity(fidelity))
    return _hours(_at(data.attempts, fidelity)) / booked if booked else None


def ratio(data: DataSet) -> str:
    """How many times a non-magnetic label a magnetic one cost, on the frames that have both, which are of one size."""
    low, high = (_hours(label for pair in data.pairs for label in pair if label.fidelity == f) for f in FIDELITIES)
    return number(high / low) if low and high else ""


def ratio_of_prices(data: DataSet) -> str:
    """How many times a good non-magnetic label a good magnetic one cost, with all that came to nothing."""
    low, high = (price(data, fidelity) for fidelity in FIDELITIES)
    return number(high / low) if low and high else ""


def _at(labels: Iterable[Label], fidelity: Fidelity) -> list[Label]:
    return [label for label in labels if label.fidelity == fidelity]


def _hours(labels: Iterable[Label]) -> float:
    return sum(label.core_hours for label in labels)


def _ending(label: Label) -> str:
    return "ok, but flagged" if label.status == "ok" and label.flag else label.status


def reasons(labels: Iterable[Label]) -> list[tuple[str, str, str, int]]:
    """Fidelity, how it ended, why, and how many alike, of what is not good; the most frequent first."""
    found = Counter((WORDS[label.fidelity], _ending(label), reason(label)) for label in labels if not label.good)
    return [(*what, count) for what, count in found.most_common()]


def reason(label: Label) -> str:
    """Why a label is not good, without what differs from one label to the next and what is nobody's business."""
    said = label.flag or label.reason
    if label.status in ("failed", "unconverged"):
        # behind the colon are a program's own words, which may hold paths, hosts and users
        said = said.split(": ")[0]
    else:
        # a number is of the one label, but a limit, in brackets, of all
        said = re.sub(r"\([^)]*\)|[+-]?\d+(\.\d+)?", _general, re.sub(r" \(site \d+\)", "", said))
    return re.sub(r"(?<!\w)~?(/[\w.+~-]+){2,}/?|\S+@\S+", "…", said)


def _general(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith("(") else "…"
