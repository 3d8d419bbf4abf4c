"""What a campaign file may say: one tree of settings with their units, bounds and defaults."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    model_validator,
)
from pymatgen.core import Structure

from mfal.cluster import Cluster
from mfal.dft.engines import Engine
from mfal.dft.magnetism import MAGNETIC_ELEMENTS, Magnetism
from mfal.dft.ordering import Host, misfit
from mfal.dft.sanity import Sanity
from mfal.frames import Fidelity
from mfal.section import VACANCY, Section, Symbol, existing
from mfal.storage import Storage


def _read_structure(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str):
        return value
    path = existing(value, info)
    try:
        return Structure.from_file(path)
    except Exception as error:
        raise ValueError(
            f"{path} is not a structure that pymatgen reads ({type(error).__name__}): give a CIF, a POSCAR or a"
            " pymatgen JSON"
        ) from error


def _whole(composition: dict[str, float]) -> dict[str, float]:
    if any(fraction < 0 for fraction in composition.values()) or abs(sum(composition.values()) - 1) > 1e-6:
        raise ValueError(f"the fractions of {composition} must be at least 0 and add up to 1")
    return composition


Composition = Annotated[dict[Symbol, float], AfterValidator(_whole)]


class Sublattice(Section):
    """The sites of one element in the parent, and what may sit on them."""

    element: Symbol
    compositions: list[Composition] = Field(min_length=1)


class Parent(Section):
    """An ordered structure whose sublattices are reoccupied."""

    name: str = Field(min_length=1)
    structure: Annotated[
        Structure,
        BeforeValidator(_read_structure),
        PlainSerializer(lambda structure: structure.as_dict(), when_used="json"),
    ]
    supercell: tuple[PositiveInt, PositiveInt, PositiveInt] = (1, 1, 1)
    sublattices: list[Sublattice] = []

    @model_validator(mode="after")
    def _sublattices_fit(self) -> Parent:
        if not self.structure.is_ordered:
            raise ValueError(
                "the parent must be ordered: name one element a site, and put the mixing under sublattices"
            )
        present = {element.symbol for element in self.structure.elements}
        for sublattice in self.sublattices:
            if sublattice.element not in present:
                raise ValueError(
                    f"sublattice {sublattice.element} is not in the parent, which has {', '.join(sorted(present))}"
                )
            sites = int(self.structure.composition[sublattice.element]) * _product(self.supercell)
            for composition in sublattice.compositions:
                for species, fraction in composition.items():
                    if abs(fraction * sites - round(fraction * sites)) > 1e-6:
                        raise ValueError(
                            f"{species}: {fraction} of {sites} {sublattice.element} sites is not a whole number:"
                            " change the fraction or the supercell"
                        )
        return self

    def elements(self) -> set[str]:
        """Every element that a frame of this parent can hold."""
        replaced = {sublattice.element for sublattice in self.sublattices}
        kept = {element.symbol for element in self.structure.elements} - replaced
        return kept | {
            symbol
            for s in self.sublattices
            for c in s.compositions
            for symbol, x in c.items()
            if x and symbol != VACANCY
        }

    def host(self, magnetic: Iterable[str]) -> Host:
        """The supercell, and its sites that one of these elements can sit on."""
        cell = self.structure.copy()
        cell.make_supercell(self.supercell)
        offered = {
            s.element: {symbol for c in s.compositions for symbol, x in c.items() if x} for s in self.sublattices
        }
        magnetic = set(magnetic)
        sites = [i for i, site in enumerate(cell) if magnetic & offered.get(site.specie.symbol, {site.specie.symbol})]
        return Host(cell, sites, cells=_product(self.supercell))


def _product(factors: tuple[int, ...]) -> int:
    product = 1
    for factor in factors:
        product *= factor
    return product


class MolecularDynamics(Section):
    """Langevin runs with the current committee's first member, at the magnetic fidelity."""

    temperatures: list[PositiveFloat] = [300.0, 600.0, 1000.0]  # K
    steps: PositiveInt = 200
    timestep: PositiveFloat = 2.0  # fs
    snapshots: PositiveInt = 4  # frames kept of one run


class Explore(Section):
    """Where candidates come from. `frames` of them, diverse and new, come back each round."""

    frames: PositiveInt = 8
    orderings: PositiveInt = 6  # distinct occupations tried a round
    relax_steps: NonNegativeInt = 30  # of each ordering with the current model, cell included
    perturbations: NonNegativeInt = 2  # strained and rattled copies of each ordering; 0: the orderings as they are
    strain: NonNegativeFloat = Field(0.03, lt=0.5)  # standard deviation of each component
    rattle: NonNegativeFloat = 0.08  # Å, standard deviation of each coordinate
    md: MolecularDynamics | None = MolecularDynamics()
    #: Atoms closer than this share of the sum of their covalent radii are unphysical.
    closest: float = Field(0.7, gt=0, lt=1)
    #: Volume an atom (Å3) outside these bounds is unphysical.
    volume_per_atom: tuple[PositiveFloat, PositiveFloat] = (6.0, 25.0)
    #: Two frames whose normalised CHGNet crystal features differ by less are near-duplicates.
    duplicate: NonNegativeFloat = 0.005


class Acquire(Section):
    """Which frames get which calculation."""

    #: At most; the control arm is part of them.
    magnetic_per_round: PositiveInt = 3
    #: At most; in the first round drawn at random. No limit by default: all frames of the first round get one.
    nonmagnetic_per_round: PositiveInt | None = None
    #: Expected cost of a round's calculations, failures included, that is not to be passed; no limit by default.
    core_hours_per_round: PositiveFloat | None = None
    #: eV/Å: the force error of a frame's worst atom above which a calculation is worth its cost. By default it follows
    #: the committee: what it is typically wrong by on frames drawn at random.
    threshold: NonNegativeFloat | None = None
    #: eV/Å: frames that the committee expects to be so wrong about are set aside, as no physics.
    wild: PositiveFloat = 10.0
    #: From the atoms to the frame: the worst atom, their root mean square, or a quantile such as 0.95.
    reduce: Literal["max", "mean"] | Annotated[float, Field(gt=0, le=1)] = "max"
    #: Share of the magnetic calculations drawn at random whatever the committee says; at least one a round. They get
    #: both labels, and teach what a sigma is worth and what choosing saves.
    control_share: float = Field(0.1, gt=0, le=1)
    #: Frames drawn at random in the first round, labelled at both fidelities and never trained on.
    hold_out: PositiveInt = 2
    #: Whether non-magnetic calculations are run beside the random frames': `auto` stops them where the random frames
    #: show that they do not pay.
    nonmagnetic: Literal["auto", "always", "never"] = "auto"


class Committee(Section):
    #: `deep`: each member is a model of its own. `shallow`: one model with a readout for each member, for about what
    #: one member costs; its members agree on the moments, which do not come from the readout.
    kind: Literal["deep", "shallow"] = "deep"
    members: PositiveInt = 2
    pretrained: Literal["0.2.0", "0.3.0", "r2scan"] = "0.3.0"
    #: Where the fidelity enters: Composition, Embedding, Message passing, Readout.
    parts: Annotated[str, Field(pattern="^C?E?M?R?$", min_length=1)] = "CEMR"

    @property
    def models(self) -> int:
        return self.members if self.kind == "deep" else 1

    @property
    def heads(self) -> int:
        """Of each model."""
        return self.members if self.kind == "shallow" else 1


class LossWeights(Section):
    """Of the Huber losses in eV/atom, eV/Å, GPa and µB. The fidelities differ by tens of GPa in stress: with CHGNet's
    own 0.1 it drowns the forces (measured on rock salt: held-out magnetic forces get worse instead of better)."""

    energy: NonNegativeFloat = 5.0
    forces: NonNegativeFloat = 1.0
    stress: NonNegativeFloat = 0.01
    magmoms: NonNegativeFloat = 0.1


class Training(Section):
    #: Each of as many labels as there are, of both fidelities equally many.
    epochs: PositiveInt = 30
    batch_size: PositiveInt = 8
    learning_rate: PositiveFloat = 3e-3
    gradient_clip: PositiveFloat = 10.0
    loss: Literal["huber", "mse"] = "huber"
    weights: LossWeights = LossWeights()
    #: In place of `weights`, for one fidelity.
    weights_by_fidelity: dict[Fidelity, LossWeights] = {}
    #: Decay of an exponential moving average of the weights (0.99, say), which is then the model.
    ema: float | None = Field(None, gt=0, lt=1)
    #: Stop after so many epochs without a better loss on the hold-out, and keep the best epoch. The errors on that
    #: hold-out are then a little too good to be true.
    patience: PositiveInt | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    #: On a GPU: matrix products in TF32, faster and about 1 meV/Å less exact in training.
    tf32: bool = False
    #: Compile the training step: minutes of waiting, then nearly twice as fast. For long trainings.
    compile: bool = False

    def weights_of(self, fidelity: str) -> LossWeights:
        return self.weights_by_fidelity.get(fidelity, self.weights)  # type: ignore[call-overload]


class Stop(Section):
    """The campaign ends when any of these holds."""

    rounds: PositiveInt = 2
    core_hours: PositiveFloat | None = None
    force_error: PositiveFloat | None = None  # meV/Å, magnetic MAE on the hold-out


class TrainingFile(Section):
    """What `mfal train --config` needs; a campaign file has it, too."""

    seed: NonNegativeInt = 0
    committee: Committee = Committee(members=1)
    training: Training = Training()


class Campaign(TrainingFile):
    """The whole campaign file."""

    campaign: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    #: Everything is written below this folder; relative to where the command runs. Absolute once loaded, because jobs
    #: change the working directory.
    directory: Annotated[Path, AfterValidator(Path.absolute)]
    #: `sqlite:///file`, `mongodb://host/database`, a maggma store as jobflow's settings have it, or `jobflow` for the
    #: store of those; by default a SQLite file in the directory. Passwords as `${NAME}` of the environment.
    store: Storage = None
    #: For `mfal submit`; `mfal run` does not look at it.
    cluster: Cluster = Cluster()
    parents: list[Parent] = Field(min_length=1)
    explore: Explore = Explore()
    engine: Engine
    magnetism: Magnetism
    sanity: Sanity = Sanity()
    acquire: Acquire = Acquire()
    committee: Committee = Committee()
    stop: Stop = Stop()

    @model_validator(mode="after")
    def _parts_fit(self) -> Campaign:
        for element in sorted(self.elements() & MAGNETIC_ELEMENTS.keys()):
            u, moment = MAGNETIC_ELEMENTS[element]
            if element not in self.magnetism.hubbard_u:
                raise ValueError(f"magnetism.hubbard_u has no entry for {element}: add e.g. '{element}: {u}' (eV)")
            if element not in self.magnetism.moments:
                raise ValueError(f"magnetism.moments has no entry for {element}: add e.g. '{element}: {moment}' (µB)")
        names = [parent.name for parent in self.parents]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"parents: {twice[0]!r} is the name of two: a frame names its parent, so give each its own"
            )
        for parent in self.parents:
            if problem := misfit(self.magnetism, parent.name, parent.host(self.magnetism.moments)):
                raise ValueError(problem)
        if self.committee.members < 2:
            raise ValueError("committee.members = 1: one member has no spread to choose frames by; take 2 or more")
        if self.acquire.hold_out >= self.explore.frames:
            raise ValueError(
                f"acquire.hold_out = {self.acquire.hold_out} leaves nothing of explore.frames ="
                f" {self.explore.frames} to train on: make hold_out smaller"
            )
        return self

    def elements(self) -> set[str]:
        """Every element that the campaign can calculate."""
        return set().union(*(parent.elements() for parent in self.parents))
