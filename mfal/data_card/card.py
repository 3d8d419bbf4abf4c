"""The card of a data set, in Markdown: what somebody has to know who finds the folder and nobody to ask."""

from __future__ import annotations

import json
from datetime import date
from importlib.metadata import version

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from mfal.data_card import costs, facts, markdown
from mfal.data_card.data_set import DataSet
from mfal.data_card.settings_table import settings_rows
from mfal.frames import WORDS


def render(data: DataSet, *, licence: str, made: date) -> str:
    """
    Args:
        licence: an SPDX identifier or a sentence; empty where none is given.
    """
    environment = Environment(
        loader=PackageLoader("mfal", "data_card"),
        # with `finalize`: a value is text unless it says that it is Markdown
        autoescape=True,
        finalize=markdown.text,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(table=markdown.table)
    environment.filters.update(number=markdown.number)
    frames = list(data.published.values())
    elements = facts.elements(frames)
    gate = data.campaign.engine.gate(data.campaign.magnetism)
    days = sorted(label.finished_at[:10] for label in data.good if label.started_at)
    return environment.get_template("card.md.j2").render(
        data=data,
        campaign=data.campaign.campaign,
        kind=data.campaign.engine.kind,
        frames=frames,
        elements=elements,
        sizes=facts.sizes(frames),
        origins=facts.origins(frames),
        fidelities=WORDS,
        magnetic=any(label.fidelity == "magnetic" for label in data.labels),
        words=[WORDS[fidelity] for fidelity in data.present],
        labels=[f"{WORDS[fidelity]} labels" for fidelity in data.present],
        outcomes=costs.outcomes(data),
        reasons=costs.reasons(data.attempts),
        courses=costs.courses(data),
        spent=costs.spent(data),
        free=sum(not label.core_hours for label in data.good),
        ratio=costs.ratio(data),
        ratio_of_prices=costs.ratio_of_prices(data),
        other_hours=sum(label.core_hours for label in data.others),
        splits=facts.splits(data),
        rounds=len({score.round for score in data.scores}),
        ranges=facts.ranges(data),
        difference=facts.difference(data),
        moments=facts.moments(data),
        gate=gate,
        ordering=gate.ordering if isinstance(gate.ordering, str) else json.dumps(gate.ordering),
        judged=[element for element in elements if element in gate.moments],
        accepted=[facts.accepted(gate, element) for element in elements if element in gate.moments],
        judges_strays=np.isfinite(gate.stray),
        sanity=data.campaign.sanity,
        settings=settings_rows(data),
        digest=data.promised("magnetic").get("data"),
        days=" to ".join(dict.fromkeys((days[0], days[-1]))) if days else "",
        version=version("mfal"),
        licence=licence,
        made=made.isoformat(),
    )
