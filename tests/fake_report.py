"""A campaign of made-up numbers, for tests of the report."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections import Counter
from typing import Any

import numpy as np
from pymatgen.core import Lattice, Structure

from mfal.acquire.cost import Calculation
from mfal.acquire.experience import Experience
from mfal.acquire.saving import saving
from mfal.committee.calibrate import KINDS, Calibration
from mfal.frames import FIDELITIES, Arm, Case, Decision, Errors, Fidelity, Frame, Label, Round, Score, Status
from mfal.report.material import Material
from mfal.report.page import render

EVIL = "</script><script>alert(1)</script>{{ 7*7 }}"


def page_of(campaign: dict[str, Any]) -> str:
    return render(Material(**campaign)).html


def islands(page: str) -> dict[str, Any]:
    """The figures on the page by their names."""
    found = re.search(r'id="figures">(.*?)</script>', page)
    return json.loads(gzip.decompress(base64.b64decode(found.group(1)))) if found else {}


def shown(page: str, name: str) -> str:
    """The text of a headline number, with its unit."""
    found = re.search(rf'data-number="{name}">(.*?)</dd>', page)
    assert found, name
    return re.sub("<[^>]+>", "", found.group(1))


def fake_frame(index: int, source: str = "fake rattle") -> Frame:
    """Not an olivine: six atoms on a line of no physical meaning."""
    species = ["Li", "P", "O", "O", "Mn", "Fe"]
    points = [[(i + 0.01 * index) / 6, 0.3, 0.1 * i] for i in range(6)]
    return Frame.of(Structure(Lattice.cubic(6), species, points), parent="fake-parent", source=source)


def fake_label(frame: Frame, fidelity: Fidelity, status: Status = "ok", **changes: Any) -> Label:
    """Numbers drawn from a generator seeded by the frame, not from any calculation."""
    rng = np.random.default_rng(int(frame.frame_id, 16))
    content: dict[str, Any] = {
        "frame_id": frame.frame_id,
        "fidelity": fidelity,
        "fingerprint": f"fake-{fidelity}",
        "status": status,
        "energy": -40 + rng.normal(),
        "forces": rng.normal(size=(6, 3)).tolist(),
        "core_hours": 2.5,
        "magmoms": [0, 0, 0, 0, 4.5, -3.7] if fidelity == "magnetic" else None,
        "settings": {"engine": "fake"},
    }
    return Label(**(content | changes))


#: Of the six frames of a round: in the first, without a committee, and in later ones, where each decision occurs.
FIRST: list[tuple[Arm | None, Decision]] = [
    ("hold_out", "both"),
    ("control", "both"),
    (None, "nonmagnetic"),
    (None, "nonmagnetic"),
    (None, "nonmagnetic"),
    (None, "skip"),
]
LATER: list[tuple[Arm | None, Decision]] = [
    ("control", "both"),
    ("committee", "both"),
    ("committee", "magnetic"),
    (None, "nonmagnetic"),
    (None, "skip"),
    (None, "wild"),
]
CASES: dict[Decision, Case] = {"skip": "low", "nonmagnetic": "nonmagnetic", "magnetic": "delta", "both": "both"}


def fake_calibration(frames: int, **numbers: float) -> dict[str, dict[str, Any]]:
    return {
        kind: Calibration(kind=kind, scale=1.5 + i, frames=frames, typical=0.111 + i, **numbers).model_dump()
        for i, kind in enumerate(KINDS)
    }


def fake_campaign(rounds: int = 2) -> dict[str, Any]:
    """What `Material` takes, of made-up numbers; from round 1 on with a failed magnetic calculation."""
    rng = np.random.default_rng(0)
    campaign: dict[str, Any] = {
        "campaign": "fake-lmfp",
        "rounds": [],
        "frames": {},
        "labels": [],
        "scores": [],
        "parity": [],
        "experience": Experience(),
    }
    for n in range(rounds):
        counts: dict[Fidelity, Counter[Status]] = {f: Counter() for f in FIDELITIES}
        for i, (arm, decision) in enumerate(LATER if n else FIRST):
            frame = fake_frame(10 * n + i)
            campaign["frames"][frame.frame_id] = frame
            sigma = {f"sigma_{k}": float(rng.gamma(3, 0.03)) for k in ("nonmagnetic", "delta", "magnetic")} if n else {}
            score = Score(
                campaign="fake-lmfp",
                round=n,
                frame_id=frame.frame_id,
                case=CASES.get(decision) if n else None,
                arm=arm,
                reason="fake reason",
                decision=decision,
                core_hours={"nonmagnetic": 2.25, "magnetic": 7.5} if n else {},
                **sigma,
            )
            campaign["scores"].append(score)
            for fidelity in filter(score.gets, FIDELITIES):
                label = fake_label(frame, fidelity)
                if decision == "magnetic":
                    label = fake_label(
                        frame, fidelity, "failed", energy=None, forces=None, magmoms=None, reason="fake crash"
                    )
                campaign["labels"].append(label)
                counts[fidelity][label.status] += 1
                if label.good:
                    forces, stress = np.asarray(label.forces).ravel(), rng.normal(size=9)
                    sizes = np.abs(label.magmoms) if label.magmoms else None
                    campaign["parity"].append(
                        {
                            "frame_id": frame.frame_id,
                            "fidelity": fidelity,
                            "set": "hold_out" if arm == "hold_out" else "train",
                            "energy": [label.energy / 6, label.energy / 6 + rng.normal() / 50],
                            "forces": [forces.tolist(), (forces + rng.normal(size=forces.size) / 10).tolist()],
                            "stress": [stress.tolist(), (stress + rng.normal(size=9) / 5).tolist()],
                            "magmoms": None if sizes is None else [sizes.tolist(), (sizes + 0.02).tolist()],
                        }
                    )
        error = {
            f: Errors(energy=9.5, forces=(150 if f == "magnetic" else 60) / (n + 1.2), frames=2) for f in FIDELITIES
        }
        before = {f: Errors(energy=20, forces=(190 if f == "magnetic" else 95) / (n + 1), frames=2) for f in FIDELITIES}
        campaign["rounds"].append(
            Round(
                campaign="fake-lmfp",
                round=n,
                candidates=40,
                dropped={"near-duplicates": 30},
                counts=counts,
                core_hours={"nonmagnetic": 15.0, "magnetic": 41.0 + n},
                errors={"hold_out": error, "hold_out_before": before, "control_before": before},
                trained_on={"nonmagnetic": 5 * n + 5, "magnetic": 2 * n + 2},
                thresholds={"nonmagnetic": 0.05, "delta": 0.06} if n else {},
                decisions=Counter(s.decision for s in campaign["scores"] if s.round == n),
                calibration=fake_calibration(5),
                probe="fake probe: it pays",
                saving="fake saving: twice" if n else "",
                next_step="go on with round 2.",
                finished_at="2025-11-21T02:40:00+00:00",
            )
        )
    campaign["experience"] = fake_experience(campaign) if rounds > 1 else Experience()
    return campaign


def fake_experience(campaign: dict[str, Any]) -> Experience:
    """Of made-up gains: with three random frames, of which one has no magnetic label."""
    chosen, drawn, alone = [(0.4, 5.0), (0.5, 5.0), (0.1, 2.5)], [(0.2, 5.0), (0.1, 5.0), (0.3, 5.0)], [2.5, 2.5, None]
    magnetic = [(error, hours) for (error, _), hours in zip(drawn, alone, strict=True) if hours]
    return Experience(
        calculations=[Calculation.of(label, campaign["frames"][label.frame_id]) for label in campaign["labels"]],
        chosen=chosen,
        drawn=drawn,
        drawn_magnetic=alone,
        saving=saving(chosen, drawn),
        saving_all_magnetic=saving(chosen, magnetic, against="a fake frame"),
    )
