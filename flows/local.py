"""A campaign in this process: jobflow's local manager, the SQLite stores, and the news of every job."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jobflow import Flow, run_locally

from flows.ahead import Ahead
from flows.calculation import failures, forget
from flows.campaign import campaign_flow
from flows.engines import engine
from flows.jobs import Event
from flows.jobs import logger as job_logger
from mfal.config import Campaign
from mfal.config_file import ConfigError
from mfal.dft import table
from mfal.dft.engines import Table
from mfal.frames import Frame
from stores.builder import CampaignBuilder
from stores.campaign import CampaignStores, open_stores


class AlreadyRunningError(RuntimeError):
    """Another process runs the same campaign."""


def check(campaign: Campaign) -> None:
    """Whether this machine can calculate what the campaign asks for.

    Raises:
        ConfigError: it cannot; nothing has been written.
    """
    if isinstance(campaign.engine, Table):
        found = table.problems(campaign.engine, campaign.acquire.hold_out + campaign.acquire.magnetic_per_round)
    else:
        found = engine(campaign.engine, campaign.magnetism).problems(campaign.elements())
    if found:
        raise ConfigError(found)


def run(
    campaign: Campaign,
    on_event: Callable[[Event, CampaignStores], None],
    *,
    retry_failed: bool = False,
    at_a_time: int = 1,
) -> None:
    """Run the campaign to its end, or on from where it stopped.

    Args:
        retry_failed: attempt failed and unconverged calculations once more.
        at_a_time: calculations that run side by side, each on as many cores as the engine's section says.
        on_event: called after every start and end of a job, when the collections already hold its output.

    Raises:
        ConfigError: this machine cannot calculate it, or the store in the campaign's directory is not one of mfal.
        AlreadyRunningError: another process is at it.
    """
    check(campaign)
    run_flow(campaign_flow(campaign), campaign, on_event, retry_failed=retry_failed, at_a_time=at_a_time)


def run_flow(
    flow: Flow,
    place: Campaign | Path,
    on_event: Callable[[Event, CampaignStores], None],
    *,
    retry_failed: bool = False,
    at_a_time: int = 1,
    frames: Sequence[Frame] = (),
) -> None:
    """Run a flow of mfal's jobs in this process, with the store and the directory of a campaign, or in a folder.

    Args:
        frames: those that no job of the flow puts out; the flow has the name of their campaign.

    Raises:
        ConfigError: the directory cannot be made, or holds a store that is not one of mfal.
        AlreadyRunningError: another process is at it.
    """
    directory = place if isinstance(place, Path) else place.directory
    folder = directory / "calculations"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError([f"directory = {str(directory)!r}: cannot be made ({error}): give another"]) from error
    with _alone(directory / "run.lock"):
        try:
            stores = open_stores(place, make=True)
        except ValueError as error:
            raise ConfigError([str(error)]) from error
        try:
            if retry_failed:
                forget(stores.jobs, failures(stores.jobs, flow.name, "failed", "unconverged"))
            stores.add_frames(flow.name, frames)
            with (
                Ahead(at_a_time, folder, stores.jobs) as ahead,
                _listening(lambda event: _tell(event, stores, on_event, ahead)),
            ):
                ahead.begin(flow.jobs)
                # A calculation that goes wrong is a label, not an error; any other error ends the run where it happens.
                run_locally(flow, store=stores.jobs, root_dir=folder, log=False, raise_immediately=True)
        finally:
            stores.close()


def _tell(
    event: Event, stores: CampaignStores, on_event: Callable[[Event, CampaignStores], None], ahead: Ahead
) -> None:
    if event.what in ("finished", "kept"):
        # Also for kept jobs: a process may have died between saving the output and building from it.
        CampaignBuilder.of(stores, [event.job.uuid]).build()
    ahead.begin(event.born)
    on_event(event, stores)
    if event.what == "started":
        ahead.wait_for(event.job)


@contextmanager
def _listening(listener: Callable[[Event], None]) -> Iterator[None]:
    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            listener(record.event)  # type: ignore[attr-defined]

    handler, level, propagate = Listener(), job_logger.level, job_logger.propagate
    job_logger.addHandler(handler)
    job_logger.setLevel(logging.INFO)
    job_logger.propagate = False
    try:
        yield
    finally:
        job_logger.removeHandler(handler)
        job_logger.setLevel(level)
        job_logger.propagate = propagate


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the campaign for this process; the kernel lets go of it however the process ends."""
    with open(path, "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise AlreadyRunningError(f"another 'mfal run' (process {lock.read().strip() or '?'}) is at it") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
