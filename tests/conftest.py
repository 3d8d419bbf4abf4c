"""What the tests share: a small campaign file, and one whole run of it on the surrogate engine."""

from __future__ import annotations

import os

# Before torch is imported; see flows/cli.py. One thread is also fastest for cells this small.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import numpy as np
import pytest
import yaml
from pymatgen.core import Lattice, Structure
from typer.testing import CliRunner

STRUCTURES = Path(__file__).parent.parent / "configs" / "structures"


def rock_salt() -> Structure:
    """The 4-atom tetragonal cell of MnO with its four sites a little off their places."""
    structure = Structure.from_file(STRUCTURES / "rocksalt-4.cif")
    shifts = np.random.default_rng(0).normal(0, 0.02, (4, 3))
    return Structure(structure.lattice, structure.species, structure.cart_coords + shifts, coords_are_cartesian=True)


def mno() -> Structure:
    """The 2-atom cell of MnO, oxygen a little off its place, so that there is a force."""
    cell = Lattice(4.445 / 2 * (1 - np.eye(3)))
    return Structure(cell, ["Mn", "O"], [[0, 0, 0], [0.51, 0.5, 0.5]])


def small_campaign(directory: Path) -> dict[str, Any]:
    """A campaign of two rounds on the surrogate engine, small enough to run in half a minute."""
    return {
        "campaign": "small",
        "seed": 3,
        "directory": str(directory),
        "parents": [
            {
                "name": "rock salt",
                "structure": str(STRUCTURES / "rocksalt-4.cif"),
                "sublattices": [
                    {"element": "Mn", "compositions": [{"Li": 0.5, "Mn": 0.5}, {"Li": 0.5, "Fe": 0.5}, {"Mn": 1}]}
                ],
            }
        ],
        "explore": {
            "frames": 5,
            "orderings": 3,
            "relax_steps": 1,
            "perturbations": 2,
            "md": {"temperatures": [600], "steps": 2, "snapshots": 1},
        },
        "engine": {"kind": "surrogate"},
        "magnetism": {"hubbard_u": {"Mn": 3.9, "Fe": 5.3}, "moments": {"Mn": 5.0, "Fe": 4.0}},
        "acquire": {"magnetic_per_round": 2, "threshold": 0.0, "control_share": 0.5, "hold_out": 1},
        "committee": {"members": 2},
        "training": {"epochs": 2, "batch_size": 4},
        "stop": {"rounds": 2},
    }


def write_campaign(folder: Path, **changes: Any) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(small_campaign(folder / "run") | changes))
    return path


@pytest.fixture
def mfal():
    """Runs the command in this process: `mfal("run", path)` gives exit code and output."""
    from flows.cli import app

    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def finished_campaign(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    from flows.cli import app

    folder = tmp_path_factory.mktemp("finished")
    path = write_campaign(folder, directory="run")  # relative to where the command runs, as people write it
    before = Path.cwd()
    os.chdir(folder)
    try:
        result = CliRunner().invoke(app, ["run", str(path)], catch_exceptions=False)
    finally:
        os.chdir(before)
    assert result.exit_code == 0, result.output
    return path, result.output


@pytest.fixture
def finished(finished_campaign, monkeypatch):
    """A campaign that ran to its end, and its folder to stand in: its file and what `mfal run` printed."""
    monkeypatch.chdir(finished_campaign[0].parent)
    return finished_campaign


def in_database(uri: str, name: str) -> str:
    """The URI of this database on that server, with its options."""
    parts = urlsplit(uri)
    options = parts.query
    if "@" in parts.netloc and "authsource=" not in options.lower():
        # the users are where they were: without this a driver would look for them in the new database
        options += f"{'&' if options else ''}authSource={parts.path.strip('/') or 'admin'}"
    return parts._replace(path=f"/{name}", query=options).geturl()


@pytest.fixture(scope="session")
def mongo() -> Iterator[str]:
    """The URI of a MongoDB: the real one that MONGO_URI names, else the stand-in."""
    if uri := os.environ.get("MONGO_URI"):
        yield uri
        return
    from wire_server import WireServer

    with WireServer() as server:
        yield server.uri


@pytest.fixture
def mongo_database(mongo: str) -> Iterator[str]:
    """The URI of an empty database for one test, dropped afterwards."""
    from pymongo import MongoClient

    name = f"mfal-test-{uuid4().hex}"
    yield in_database(mongo, name)
    with MongoClient(mongo) as client:
        client.drop_database(name)
