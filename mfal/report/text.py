"""What decisions and frames are called on the page and in the status table, and text that is safe in a hover."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Mapping

from mfal.frames import Decision, Frame

#: In the order of what they cost.
DECISIONS: dict[Decision, str] = {
    "skip": "no calculation",
    "nonmagnetic": "non-magnetic",
    "magnetic": "magnetic",
    "both": "both",
    "wild": "set aside",
}


def decided(counts: Mapping[Decision, int]) -> str:
    """`15 no calculation, 2 non-magnetic, 3 both`."""
    return ", ".join(f"{counts[decision]} {word}" for decision, word in DECISIONS.items() if counts.get(decision))


def sentence(text: str) -> str:
    """With a capital at its start and a full stop; the rest stays as it is."""
    return text[:1].upper() + text[1:].rstrip(".") + "." if text else ""


def formula(frame: Frame | None) -> str:
    """`Li₄Mn₂Fe₂P₄O₁₆`: the whole cell, as it was calculated."""
    if frame is None:
        return ""
    digits = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
    parts = frame.structure.composition.formula.split()  # Li4, Mn1, O16
    return "".join(re.sub(r"(?<=[a-zA-Z])1$", "", part) for part in parts).translate(digits)


def lines(value: str) -> str:
    """Text as a hover shows it: broken into short lines, on a phone too."""
    return "<br>".join(map(escaped, textwrap.wrap(value, 44)))


def escaped(value: str) -> str:
    """Text from a campaign before it reaches a hover: plotly reads a little HTML."""
    return html.escape(value, quote=False)
