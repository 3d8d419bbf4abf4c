"""The machine that the tests of this folder share. Every one of them is a `cluster` test, without saying so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .machine import Machine, lacking

if TYPE_CHECKING:
    from jobflow_remote.jobs.jobcontroller import JobController


@pytest.hookimpl(tryfirst=True)  # before `-m` looks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("cluster")


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Slurm, a MongoDB and a project, found by this process and those that it starts; the runner does not run."""
    if reason := lacking():
        # `make test-cluster` installs Slurm: there a skipped test would hide that nothing was tested
        (pytest.fail if os.environ.get("MFAL_CLUSTER") else pytest.skip)(reason)
    with Machine(tmp_path_factory.mktemp("machine")) as machine, machine.entered():
        yield machine


@pytest.fixture
def controller(machine: Machine) -> Iterator[JobController]:
    """The queue of the machine, empty; the runner that the test starts is gone afterwards."""
    machine.reset()
    controller = machine.controller()
    yield controller
    machine.runner.kill()
    controller.close()
