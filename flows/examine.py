"""What mfal, and a campaign, need of this machine: a line each, and the mend of what is not there.

It only looks. jobflow-remote's projects hold passwords: names and types of their workers are all that is ever printed.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mfal.config import Campaign
from mfal.dft import engines, table
from mfal.dft.magnetism import Magnetism
from stores import filesystem
from stores.connect import address, reach, sqlite_file
from stores.database import APPLICATION_ID, FORMAT


class Line(NamedTuple):
    name: str
    state: str
    detail: str
    mend: str = ""


def examine(campaign: Campaign | None) -> Iterator[Line]:
    """The lines of all checks. It never raises: a check that breaks is a line itself."""
    for name, check in CHECKS.items():
        try:
            yield from check(campaign)
        except Exception as error:
            # An address may hold a password, and pydantic repeats what it was given.
            words = re.sub(r"\S+://\S+|input_value=.*", "...", " ".join(str(error).split()))[:300]
            yield Line(name, "broken", f"{type(error).__name__}: {words}", "report it, with what --json prints")


def _line(name: str, fine: str, problem: str, mend: str, needed: Any = True, bad: str = "broken") -> Line:
    return Line(name, bad if needed else "not there", problem, mend) if problem else Line(name, "ok", fine)


def _told(name: str, fine: str, problems: list[str], needed: bool) -> Iterator[Line]:
    """Sentences of the form `what: is wrong: the mend`."""
    for problem in problems:
        what, wrong, mend = [*problem.split(": ", 2), "", ""][:3]
        yield _line(name, "", f"{what}: {wrong}", mend or f"another {what}", needed, "missing")
    if not problems:
        yield Line(name, "ok", fine)


def _packages(_: Campaign | None, extra: str = "", needed: bool = True) -> Iterator[Line]:
    """What mfal's own metadata demand: always, or for an extra alone."""
    if not extra:
        found, demanded = ".".join(map(str, sys.version_info[:3])), metadata.metadata("mfal")["Requires-Python"]
        problem = "" if found in SpecifierSet(demanded) else f"{found} is not {demanded}"
        yield _line("Python", f"{found} ({demanded}), {sys.executable}", problem, "make PYTHON=python3.12 install")
    for one in map(Requirement, metadata.requires("mfal") or []):
        always, asked = (one.marker is None or one.marker.evaluate({"extra": name}) for name in ("", extra))
        if not asked or (extra and always):
            continue
        mend = f"pip install '{one.name}{one.specifier}'"
        try:
            found = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            yield _line(one.name, "", f"not installed ({one.specifier})", mend, needed, "missing")
            continue
        problem = "" if one.specifier.contains(found, prereleases=True) else f"{found} is not {one.specifier}"
        yield _line(one.name, f"{found} ({one.specifier})", problem, mend, needed)


def _training(campaign: Campaign | None) -> Iterator[Line]:
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"
    yield Line("PyTorch", "ok", f"{torch.__version__}, built for {build}")
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    found = ", ".join(f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)" for gpu in gpus)
    needed = campaign is not None and campaign.training.device == "cuda"
    mend = "training.device: auto; or a GPU, its driver, and a torch built for CUDA"
    yield _line("GPU", found, "" if gpus else "none", mend, needed, "missing")
    compiler = shutil.which(os.environ.get("CXX", "g++"))  # as torch chooses it
    needed = campaign is not None and campaign.training.compile
    mend = "apt-get install g++; or training.compile: false"
    yield _line("C++ compiler", str(compiler), "" if compiler else "none to compile training", mend, needed, "missing")


def _engine(kind: type[engines.EngineSection], campaign: Campaign | None) -> Iterator[Line]:
    from flows.engines import engine

    name, needed = kind.__name__.upper(), campaign is not None and isinstance(campaign.engine, kind)
    section: Any = campaign.engine if campaign and needed else kind()
    elements = sorted(campaign.elements()) if campaign else ["Fe", "Li", "Mn", "O", "P"]
    sections = [section]
    if kind is engines.Gpaw:
        yield from _packages(campaign, "gpaw", needed)
        fine = f"setups for {' '.join(elements)}"
    else:
        fine = str(shutil.which(next(iter(shlex.split(os.path.expandvars(section.command))), "")))
    if kind is engines.Vasp and not section.potcar_spec:
        fine += f", POTCARs for {' '.join(elements)}"
        # It looks for POTCARs only where all else is right, and what is missing should be said at once.
        right = dict.fromkeys(("command", "gamma_command"), "true")
        sections.append(section.model_copy(update=right | {"handlers": None, "powerups": []}))
    magnetism = campaign.magnetism if campaign else Magnetism.of(elements)
    problems = [problem for one in sections for problem in engine(one, magnetism).problems(elements)]
    yield from _told(name, fine, list(dict.fromkeys(problems)), needed)
    if kind is engines.Gpaw and section.processes > 1 and not problems and (needed or not campaign):
        mend = "apt-get install openmpi-bin libopenmpi-dev; pip install --force-reinstall --no-cache-dir --no-deps gpaw"
        yield _line("GPAW with MPI", f"{shutil.which('mpirun')}", _apart(), mend, needed)


def _apart() -> str:
    """What keeps two processes of GPAW from being one calculation: no MPI, or another one than mpirun's."""
    command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", "2", sys.executable, "-c"]
    command.append("from gpaw.mpi import world; print(world.size)")
    # as mfal.dft.gpaw starts it
    environment = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "GPAW_MPI_BACKEND": "cgpaw"}
    try:
        # Two seconds are usual.
        ended = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return "two processes under mpirun do not end"
    met = "".join(ended.stdout.split()) == "22"  # they print into each other's lines
    return "" if met else f"two processes do not meet (exit code {ended.returncode})"


def _labels(campaign: Campaign | None) -> Iterator[Line]:
    if campaign and isinstance(campaign.engine, engines.Table):
        first = campaign.acquire.hold_out + campaign.acquire.magnetic_per_round
        yield from _told("labels", str(campaign.engine.data), table.problems(campaign.engine, first), True)


def _store(campaign: Campaign | None) -> Iterator[Line]:
    if not campaign:
        return
    folder, another = campaign.directory, "directory: another one"
    there = _nearest(folder)
    writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    yield _line("directory", str(folder), "" if writable else f"{there} is no folder that can be written to", another)
    free = shutil.disk_usage(there).free / 2**30
    # A campaign of some hundred frames writes some hundred megabytes.
    yield _line("room", f"{free:.1f} GiB", "" if free > 1 else f"{free:.1f} GiB", f"free some; or {another}")
    if file := sqlite_file(campaign.store, folder):
        yield from _file(file, "directory: one on a local disk" if campaign.store is None else "store: on a local disk")
    else:
        problems = []
        try:
            reach(campaign.store, folder)
        except ValueError as error:
            problems = [str(error)]
        yield from _told("store", address(campaign.store, folder), problems, True)
    lock = folder / "run.lock"
    if lock.is_file():
        with open(lock) as held:
            try:
                fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
                yield Line("run.lock", "ok", "no run holds it")
            except BlockingIOError:
                yield Line("run.lock", "ok", f"process {held.read().strip()} runs the campaign")


def _nearest(folder: Path) -> Path:
    """The folder, or what there is of the way to it."""
    return next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))


def _file(file: Path, another: str) -> Iterator[Line]:
    kind = filesystem.kind(_nearest(file.parent))
    problem = f"{kind}: SQLite wants a local disk" if filesystem.shared(_nearest(file.parent)) else ""
    yield _line("file system", kind, problem, another)
    if file.exists():
        yield _line(file.name, str(file), _foreign(file), f"move it away; or {another}")
    else:
        yield Line(file.name, "not there", "nothing has run", "mfal run")


def _foreign(file: Path) -> str:
    """What `stores.sqlite` would refuse it for; nothing when it would not. Makes no file, not even SQLite's own."""
    # A log is there while somebody writes, or was killed; without one, nothing changes under our eyes.
    written = all(file.with_name(f"{file.name}-{part}").exists() for part in ("wal", "shm"))
    mode = "mode=ro" if written else "immutable=1"
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?{mode}", uri=True)) as db:
            queries = ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
            application, version, tables = (db.execute(query).fetchone()[0] for query in queries)
    except sqlite3.DatabaseError as error:
        return f"{file} cannot be read as SQLite ({error})"
    if application != APPLICATION_ID and (application or tables):
        return f"{file} is of another program"
    return f"{file} is of a newer mfal: format {version}, not {FORMAT}" if version > FORMAT else ""


def _jobflow(_: Campaign | None) -> Iterator[Line]:
    settings = Path(os.environ.get("JOBFLOW_CONFIG_FILE", "~/.jobflow.yaml")).expanduser().is_file()
    yield _line("jobflow's settings", "there", "" if settings else "none", "not needed: mfal has its own store", False)
    installed = importlib.util.find_spec("jobflow_remote") is not None
    problem, mend = "" if installed else "not installed", "pip install jobflow-remote, for queues of other machines"
    yield _line("jobflow-remote", "installed", problem, mend, False)
    folder = Path(os.environ.get("JFREMOTE_PROJECTS_FOLDER", "~/.jfremote")).expanduser()
    for file in sorted([*folder.glob("*.yaml"), *folder.glob("*.json")]) if installed else []:
        found: list[str] = []
        try:
            for name, worker in yaml.safe_load(file.read_text())["workers"].items():
                # An address or a password that stands where a name or a type should be stays unsaid.
                known = "?" if re.search("[@:/]", str(name)) else name
                found.append(f"{known} ({worker['type'] if worker['type'] in ('local', 'remote') else '?'})")
            yield Line("project", "ok", f"{file.stem}: {', '.join(found) or 'no workers'}")
        except Exception as error:  # whose text may quote the file
            yield Line("project", "not there", f"{file.stem}: {type(error).__name__}", "jf project check --errors")


def _machine(_: Campaign | None) -> Iterator[Line]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Line("machine", "ok", f"{cores} cores, {memory:.0f} GiB of memory")
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    if threads != "1":
        yield Line("OMP_NUM_THREADS", "ok", f"{threads}; not for GPAW, which mfal gives 1: more make it slower")


CHECKS: dict[str, Callable[[Campaign | None], Iterator[Line]]] = {
    "packages": _packages,
    "PyTorch": _training,
    "GPAW": partial(_engine, engines.Gpaw),
    "VASP": partial(_engine, engines.Vasp),
    "CP2K": partial(_engine, engines.Cp2k),
    "labels": _labels,
    "store": _store,
    "jobflow": _jobflow,
    "machine": _machine,
}
