"""What a campaign file says of the engine: a section for each, and what of it makes labels comparable."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from mfal.dataset_files import files, sha256, versions
from mfal.dft.magnetism import Magnetism
from mfal.frames import Fidelity
from mfal.section import ExistingPath, Section

Bad = Literal["unconverged", "other_state", "collapsed", "failed"]


class Retry(Section):
    """One rung of the retry ladder: another way to the same result. The rungs are tried in their order, each for the
    statuses that it says it is for."""

    after: list[Bad] = Field(min_length=1)
    #: Factor on the initial moments.
    moments: PositiveFloat = 1.0


class EngineSection(Section):
    """What every engine has: limits on one attempt, and a ladder of further attempts."""

    #: Settings that say how long a calculation may take, and how it is tried: whether something comes out, not what.
    LIMITS: ClassVar[frozenset[str]] = frozenset({"timeout", "max_iterations", "retries"})
    #: Settings that say where and how a calculation runs.
    PLACE: ClassVar[frozenset[str]] = frozenset({"processes"})

    @property
    def cores(self) -> int:
        """That one calculation keeps busy; its cost is booked by them."""
        return 1

    @property
    def ladder(self) -> list[Retry]:
        return list(getattr(self, "retries", []))

    def gate(self, magnetism: Magnetism) -> Magnetism:
        """What its moments are judged by."""
        return magnetism

    def limits(self) -> dict[str, Any]:
        """What a calculation that came to nothing may have run into: with others it is worth another attempt."""
        return self.model_dump(mode="json", include=set(self.LIMITS))

    def promised(self, fidelity: Fidelity) -> dict[str, Any]:  # noqa: ARG002  (some engines differ by it)
        """Code, functional, pseudopotentials, cutoff, k-points: whatever changes the numbers, spin and U apart."""
        return self.model_dump(mode="json", exclude=set(self.LIMITS | self.PLACE))


class ProgramSection(EngineSection):
    """Of an engine that is a program of its own."""

    #: Cores that one calculation keeps busy.
    processes: PositiveInt = 1
    timeout: PositiveFloat = 240.0  # minutes of one attempt, a program's restarts by custodian included

    @property
    def cores(self) -> int:
        return self.processes


class Mixer(Section):
    """GPAW's density mixing. `pulay` is quick, and ends in another state than the lowest with Fe2+: measured on three
    strained FeO cells, twice, by 56 and 177 meV/atom."""

    backend: Literal["msr1", "pulay"] = "msr1"
    nmaxold: PositiveInt = 5  # steps that are remembered


class GpawRetry(Retry):
    mixer: Mixer | None = None
    #: Inner steps of Davidson's eigensolver, which then takes the place of GPAW's own.
    davidson: PositiveInt | None = None
    #: Factor on the number of bands.
    bands: float | None = Field(None, gt=1)
    max_iterations: PositiveInt | None = None


class Gpaw(ProgramSection):
    """GPAW in plane waves: open, real DFT on this machine. A preset gives values to the settings left out."""

    PRESETS: ClassVar[dict[str, dict[str, float]]] = {
        # Against 700 eV and 4.0 on rock salt: forces within 40 meV/Å, stress 6 GPa, energies of a frame 4 meV/atom.
        "fast": {"cutoff": 500.0, "kpoint_density": 2.0},
        # 7 meV/Å, 3 GPa, 0.3 meV/atom, for two to four times the time.
        "production": {"cutoff": 600.0, "kpoint_density": 3.0},
    }

    kind: Literal["gpaw"] = "gpaw"
    preset: Literal["fast", "production"] = Field("production", exclude=True)
    functional: Literal["PBE"] = "PBE"
    cutoff: PositiveFloat = 600.0  # eV
    kpoint_density: PositiveFloat = 3.0  # points per 1/Å
    #: Without it, even meshes are shifted by half a step: fewer points differ, as time reversal pairs them all. Not for
    #: hexagonal cells, whose symmetry the shift breaks.
    gamma_centred: bool = True
    smearing: PositiveFloat = 0.1  # eV, Fermi-Dirac
    energy_convergence: PositiveFloat = 5e-4  # eV per valence electron
    density_convergence: PositiveFloat = 1e-4  # electrons per valence electron
    eigenstates_convergence: PositiveFloat = 1e-6  # eV2 per valence electron
    max_iterations: PositiveInt = 150
    processes: PositiveInt = 2  # MPI ranks of one calculation
    #: Measured on Fe2+ in rock salt that GPAW's own settings do not converge in 150 iterations: the first takes 99, the
    #: second 53, to the same state.
    retries: list[GpawRetry] = [
        GpawRetry(after=["unconverged"], davidson=3),
        GpawRetry(after=["unconverged"], davidson=3, mixer=Mixer()),
        GpawRetry(after=["collapsed", "other_state"], moments=1.2),
    ]

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return cls.PRESETS.get(values.get("preset", "production"), {}) | values
        return values

    def promised(self, fidelity: Fidelity) -> dict[str, Any]:
        settings = super().promised(fidelity) | {"setups": "gpaw-data PAW", "stress": "Pulay-corrected"}
        if self.gamma_centred:
            del settings["gamma_centred"]  # as in the fingerprints of labels from before there was a choice
        return settings


#: INCAR keys that say how VASP gets to the ground state, and not to which: custodian and retries may change them.
# fmt: off
NUMERICS = frozenset({
    "ALGO", "AMIN", "AMIX", "AMIX_MAG", "BMIX", "BMIX_MAG", "ICHARG", "IMIX", "INIMIX", "ISTART", "ISYM", "KPAR",
    "LMAXMIX", "LPLANE", "LSCALAPACK", "MAXMIX", "MIXPRE", "NBANDS", "NCORE", "NELM", "NELMDL", "NELMIN", "NPAR",
    "NSIM", "SYMPREC", "TIME", "WC",
})
# fmt: on
#: INCAR keys that the fidelity or another setting decides, with where it is decided.
DECIDED = {
    **dict.fromkeys(("ISPIN", "NUPDOWN", "LNONCOLLINEAR", "LSORBIT", "SAXIS"), "the fidelity decides it"),
    "MAGMOM": "magnetism.ordering and magnetism.moments decide it",
    **dict.fromkeys(("LDAU", "LDAUTYPE", "LDAUU", "LDAUJ", "LDAUL"), "magnetism.hubbard_u decides it"),
    "ENCUT": "write engine.cutoff",
    "NELM": "write engine.max_iterations",
    "KSPACING": "write engine.kpoints",
    **dict.fromkeys(("NSW", "IBRION", "ISIF"), "a label is a single point with its stress"),
}


def _incar(settings: dict[str, Any]) -> dict[str, Any]:
    settings = {key.upper(): value for key, value in settings.items()}
    for key in settings:
        if key in DECIDED:
            raise ValueError(f"{key} = {settings[key]}: {DECIDED[key]}; take it out here")
    return settings


def _numerics(settings: dict[str, Any]) -> dict[str, Any]:
    settings = {key.upper(): value for key, value in settings.items()}
    for key in settings:
        if key not in NUMERICS:
            raise ValueError(
                f"{key} = {settings[key]}: changes what is calculated, so a retry cannot have it; write it into"
                f" engine.incar, or use one of {', '.join(sorted(NUMERICS))}"
            )
    return settings


Numerics = Annotated[dict[str, Any], BeforeValidator(lambda value: value or {}), AfterValidator(_numerics)]


class VaspRetry(Retry):
    incar: Numerics = {}


LINEAR_MIXING = {"AMIX": 0.2, "BMIX": 1e-4, "AMIX_MAG": 0.8, "BMIX_MAG": 1e-4}


class Vasp(ProgramSection):
    """VASP through atomate2's StaticMaker and custodian."""

    PLACE: ClassVar[frozenset[str]] = frozenset(
        {"processes", "command", "gamma_command", "handlers", "max_errors", "potcar_spec"}
    )

    kind: Literal["vasp"] = "vasp"
    #: As in a shell, e.g. `srun vasp_std`; environment variables are expanded.
    command: str = Field("vasp_std", min_length=1)
    gamma_command: str = Field("vasp_gam", min_length=1)
    cutoff: PositiveFloat = 520.0  # eV
    max_iterations: PositiveInt = 200
    #: On top of mfal's own, at both fidelities.
    incar: Annotated[dict[str, Any], AfterValidator(_incar)] = {}
    #: pymatgen's user_kpoints_settings.
    kpoints: dict[str, Any] = {"reciprocal_density": 100}
    #: pymatgen's user_potcar_settings, e.g. `{Fe: Fe_pv}`, and the POTCAR release.
    potcars: dict[str, str] = {}
    potcar_functional: str = "PBE_54"
    #: Write POTCAR.spec in place of POTCAR: for a stand-in without a licence.
    potcar_spec: bool = False
    #: Names of custodian.vasp.handlers; atomate2's own by default.
    handlers: list[str] | None = None
    #: Corrections by custodian, over all handlers.
    max_errors: PositiveInt = 5
    #: Functions of atomate2.vasp.powerups with their arguments, applied to the Maker in their order.
    powerups: list[dict[str, dict[str, Any]]] = []
    retries: list[VaspRetry] = [
        # custodian has tried other algorithms by then
        VaspRetry(after=["unconverged"], incar=LINEAR_MIXING),
        VaspRetry(after=["collapsed", "other_state"], moments=1.2, incar=LINEAR_MIXING),
    ]


class Cp2kRetry(Retry):
    mixing: float | None = Field(None, gt=0, le=1)
    max_iterations: PositiveInt | None = None


class Cp2k(ProgramSection):
    """CP2K through atomate2's StaticMaker: open DFT with Gaussian basis sets, at the gamma point of a repeated cell."""

    LIMITS: ClassVar[frozenset[str]] = EngineSection.LIMITS | {"mixing"}
    PLACE: ClassVar[frozenset[str]] = frozenset({"processes", "command"})

    kind: Literal["cp2k"] = "cp2k"
    #: As in a shell, e.g. `mpirun -np 8 cp2k.psmp`; environment variables are expanded.
    command: str = Field("cp2k.psmp", min_length=1)
    functional: Literal["PBE"] = "PBE"
    #: Of BASIS_MOLOPT, for every element.
    basis: str = "DZVP-MOLOPT-SR-GTH"
    cutoff: PositiveFloat = 400.0  # Ry, of the finest grid
    rel_cutoff: PositiveFloat = 50.0  # Ry, of the grid that a Gaussian of exponent 1 goes to
    eps_default: PositiveFloat = 1e-10  # of every integral
    #: Å; a cell is repeated until its lattice planes are so far apart, and the result folded back: CP2K has no +U with
    #: k-points.
    length: PositiveFloat = 8.0
    smearing: PositiveFloat = 0.05  # eV, Fermi-Dirac
    eps_scf: PositiveFloat = 1e-5  # change of the density matrix
    mixing: float = Field(0.3, gt=0, le=1)
    max_iterations: PositiveInt = 150
    retries: list[Cp2kRetry] = []

    def promised(self, fidelity: Fidelity) -> dict[str, Any]:
        return super().promised(fidelity) | {"potentials": "GTH", "xc_grid": "finer", "moments": "Hirshfeld"}


class Surrogate(EngineSection):
    """Pretrained CHGNets in place of DFT: a campaign rehearsed in a minute. Its numbers are not DFT and never a label
    of one: the fingerprint says so."""

    kind: Literal["surrogate"] = "surrogate"
    nonmagnetic: Literal["0.2.0", "0.3.0", "r2scan"] = "0.2.0"
    magnetic: Literal["0.2.0", "0.3.0", "r2scan"] = "r2scan"

    def gate(self, magnetism: Magnetism) -> Magnetism:
        """CHGNet's moments do not add up: a third of the frames of data/rocksalt-gpaw would fail on it."""
        return magnetism.model_copy(update={"check_valence": False, "stray": float("inf")})

    def promised(self, fidelity: Fidelity) -> dict[str, Any]:
        return {"kind": self.kind, "checkpoint": getattr(self, fidelity)}


def _with_files(path: Path) -> Path:
    files(path)  # refuses a folder that has none
    return path


class Table(EngineSection):
    """Labels of a finished data set in place of DFT: a campaign rehearsed, with the costs that were booked."""

    kind: Literal["table"] = "table"
    #: Extended XYZ with both labels on a frame: a file, or a folder of files, as `mfal export` writes them.
    data: Annotated[ExistingPath, AfterValidator(_with_files)]
    #: Core-hours of a calculation where the file has none.
    core_hours: dict[Fidelity, PositiveFloat] = {}

    def promised(self, fidelity: Fidelity) -> dict[str, Any]:
        digest = _digest(self.data, versions(self.data))
        return {"kind": self.kind, "data": digest, "fidelity": fidelity}


# A rehearsal asks once a label; the files are read once, and again when one has changed.
@lru_cache(maxsize=2)
def _digest(path: Path, _: tuple[tuple[Path, int], ...]) -> str:
    return sha256(path)[:12]


Engine = Annotated[Gpaw | Vasp | Cp2k | Surrogate | Table, Field(discriminator="kind")]
#: Their tags in the file.
KINDS = tuple(section.model_fields["kind"].default for section in get_args(get_args(Engine)[0]))
