"""What the loop passes around: frames, their labels at two fidelities, and the scores that route them.

Units everywhere: energy eV (total), forces eV/Å, stress GPa with CHGNet's sign (dE/dstrain / V, so a compressed cell
is negative: minus VASP's), moments µB, cost core-hours.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, field_validator
from pymatgen.core import Lattice, Structure

Fidelity = Literal["nonmagnetic", "magnetic"]
#: In the order of their cost; the index is the model's index of the fidelity.
FIDELITIES: tuple[Fidelity, ...] = ("nonmagnetic", "magnetic")
#: As people read them.
WORDS: dict[Fidelity, str] = {"nonmagnetic": "non-magnetic", "magnetic": "magnetic"}

Status = Literal["ok", "unconverged", "other_state", "collapsed", "failed"]
#: What a committee is unsure of: of nothing, of the non-magnetic forces, of the difference, or of both.
Case = Literal["low", "nonmagnetic", "delta", "both"]
#: What is calculated; `wild` frames are set aside.
Decision = Literal["skip", "nonmagnetic", "magnetic", "both", "wild"]
#: Why a frame is where it is: drawn at random for the hold-out or the control arm, or chosen by the committee.
Arm = Literal["hold_out", "control", "committee"]

#: Decimals (Å) that a frame keeps: far below any force that matters, far above float noise between machines.
DECIMALS = 6


def canonical(structure: Structure) -> Structure:
    """The same crystal in the form that is hashed and calculated: sites grouped by element, wrapped, rounded.

    Site properties and oxidation states are dropped: what a fidelity adds (moments, say) is not part of a frame.
    """
    lattice = np.round(structure.lattice.matrix, DECIMALS) + 0.0
    symbols = [site.specie.symbol for site in structure]
    order = sorted(range(len(symbols)), key=lambda i: (structure[i].specie.Z, i))
    fractional = structure.frac_coords % 1.0
    fractional[fractional > 1 - 10.0**-DECIMALS] = 0.0  # rounding must not leave an atom on the far face
    positions = np.round(fractional @ lattice, DECIMALS) + 0.0
    return Structure(Lattice(lattice), [symbols[i] for i in order], positions[order], coords_are_cartesian=True)


def frame_id(structure: Structure) -> str:
    """The content hash of a canonical structure: 12 hexadecimal digits of species, lattice and positions.

    With all decimals that a canonical structure has: float noise is far from the middle between two such numbers. With
    one less, every tenth number would lie there, and a frame that is read from a file would have another name.
    """
    content = [
        [site.specie.symbol for site in structure],
        (np.round(structure.lattice.matrix, DECIMALS) + 0.0).tolist(),
        (np.round(structure.cart_coords, DECIMALS) + 0.0).tolist(),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


class Document(BaseModel):
    """A document of a store: no unknown keys, JSON in and out."""

    model_config = ConfigDict(extra="forbid")


class Frame(Document):
    """One candidate structure and where it came from."""

    frame_id: str
    structure: Structure
    #: Name of the parent structure and the way that led here: `ordering`, `rattle`, `md 600 K`.
    parent: str
    source: str

    @field_validator("structure", mode="before")
    @classmethod
    def _quickly(cls, given: Any) -> Any:
        """Of nothing but elements on sites, as frames are, in half of the time that pymatgen takes over every site."""
        sites = given.get("sites", ()) if isinstance(given, dict) else ()
        species = [site["species"][0] for site in sites if len(site["species"]) == 1 and not site["properties"]]
        plain = [one["element"] for one in species if one.keys() == {"element", "occu"} and one["occu"] == 1]
        if not sites or len(plain) < len(sites) or given.get("charge"):
            return given
        return Structure(Lattice(given["lattice"]["matrix"]), plain, [site["abc"] for site in sites])

    @classmethod
    def of(cls, structure: Structure, *, parent: str, source: str) -> Frame:
        """The frame of any ordered structure; its sites come out in canonical order."""
        structure = canonical(structure)
        return cls(frame_id=frame_id(structure), structure=structure, parent=parent, source=source)


class Label(Document):
    """What one calculation of one frame at one fidelity gave, good or not. Absent numbers are None, never zero."""

    frame_id: str
    fidelity: Fidelity
    fingerprint: str
    attempt: int = 1
    status: Status
    reason: str = ""
    energy: float | None = None
    forces: list[list[float]] | None = None
    stress: list[list[float]] | None = None
    magmoms: list[float] | None = None
    core_hours: float = 0.0
    #: What earlier attempts at the same label cost.
    earlier_core_hours: float = 0.0
    #: Those of the same job, bad ones all, each with its own cost.
    earlier: list[Label] = []
    #: µB, signed: the initial moments.
    asked: list[float] | None = None
    #: Name and version of the program.
    code: str = ""
    #: Why it is held back although it converged; said by whoever uses the label, from all of them (`mfal.dft.sanity`).
    flag: str = ""
    #: Everything that makes labels comparable; `fingerprint` is its hash.
    settings: dict[str, Any] = {}
    directory: str = ""
    started_at: str = ""
    finished_at: str = ""

    @property
    def good(self) -> bool:
        return self.status == "ok" and not self.flag

    def trainable(self, other_states: bool = False) -> bool:
        """Whether a model may learn from it; with `other_states` also where it converged in another magnetic state."""
        return self.good or (other_states and self.status == "other_state" and not self.flag)


class Score(Document):
    """What the committee said of a frame, and what was decided about its labels.

    The sigmas are calibrated: eV/Å, as large as the error of the frame's worst atom is expected to be. Each has a scale
    of its own, so `Var(magnetic) = Var(nonmagnetic) + Var(delta) + 2 Cov` holds before the calibration only.
    """

    campaign: str
    round: int
    frame_id: str
    sigma_nonmagnetic: float | None = None
    sigma_delta: float | None = None
    sigma_magnetic: float | None = None
    #: Of the magnetic forces once the non-magnetic label is known: expected before there is one, then with it.
    sigma_conditional: float | None = None
    #: eV/Å, of each site, by the kind of sigma.
    sigma_atoms: dict[Literal["nonmagnetic", "delta"], list[float]] = {}
    #: eV/Å, of the sigmas, by their names above.
    thresholds: dict[str, float] = {}
    case: Case | None = None
    arm: Arm | None = None
    decision: Decision
    #: µB, size at each site as the committee predicts it: where a magnetic calculation starts.
    magmoms: list[float] | None = None
    #: eV/Å that the last calculation decided on is expected to take off the frame's error.
    gain: float | None = None
    #: Expected core-hours of a good label at both fidelities, failures included.
    core_hours: dict[Fidelity, float] = {}
    reason: str

    def gets(self, fidelity: Fidelity) -> bool:
        """Whether the decision is to calculate the frame at this fidelity."""
        return self.decision in (fidelity, "both")


class Errors(Document):
    """Mean absolute errors over the labels that are there; None where there is none."""

    energy: float | None = None  # meV/atom
    forces: float | None = None  # meV/Å
    stress: float | None = None  # GPa
    magmoms: float | None = None  # µB
    frames: int = 0


class Round(Document):
    """The summary of one finished round."""

    campaign: str
    round: int
    candidates: int
    #: Frames refused or dropped in exploration, by reason.
    dropped: dict[str, int] = {}
    #: counts[fidelity][status] and core_hours[fidelity] of the labels this round asked for.
    counts: dict[Fidelity, dict[Status, int]] = {}
    core_hours: dict[Fidelity, float] = {}
    #: errors[set][fidelity]; `hold_out` after training; `hold_out_before` and `control_before` by the committee that
    #: the round began with, which had seen neither.
    errors: dict[Literal["hold_out", "hold_out_before", "control_before"], dict[Fidelity, Errors]] = {}
    #: Labels that converged and were held back, a sentence each.
    flagged: list[str] = []
    #: Labels in the training set, by fidelity.
    trained_on: dict[Fidelity, int] = {}
    #: eV/Å, that decided in this round what is uncertain; empty where nothing was scored.
    thresholds: dict[str, float] = {}
    #: Whether non-magnetic labels were to be had but for the random frames.
    cheap: bool = True
    #: How many frames were decided on how.
    decisions: dict[Decision, int] = {}
    #: What this round's random frames taught, for the next: keys are the kinds of sigma.
    calibration: dict[str, dict[str, Any]] = {}
    #: Whether the non-magnetic fidelity pays, and what choosing has saved: one sentence each.
    probe: str = ""
    saving: str = ""
    stop: bool = False
    next_step: str = ""
    finished_at: str = ""


class Member(Document):
    """One trained committee member."""

    member: int
    seed: int
    #: Base64 of a safetensors file (`mfal.model.weights`); empty in the collection, where they are a blob.
    weights: str = ""
    #: One entry an epoch: epoch, loss, and the MAEs on the training set.
    log: list[dict[str, float]] = []


class TrainedCommittee(Document):
    """The committee after a round and the data that it saw."""

    campaign: str
    round: int
    members: list[Member]
    data_fingerprint: str
    trained_on: dict[Fidelity, int] = {}
    #: The label jobs whose labels were there; None, from before there was a queue: all.
    seen: list[str] | None = None
    device: str = "cpu"
    seconds: float = 0.0
