"""The machine itself: jobs reach the partition they are sent to, and every part of it may die."""

from __future__ import annotations

from pathlib import Path

import pytest
from jobflow import Flow
from jobflow_remote import set_run_config, submit_flow
from jobflow_remote.jobs.jobcontroller import JobController
from jobflow_remote.jobs.state import FlowState, JobState

from .machine import Machine, until
from .placed import placed


@pytest.fixture
def two_jobs(controller: JobController, tmp_path: Path) -> Flow:  # noqa: ARG001
    """One on each partition, submitted; the first waits for `tmp_path / "gate"`. The runner does not run yet."""
    diary = str(tmp_path / "diary")
    first = placed(diary, gate=str(tmp_path / "gate"))
    second = placed(diary, after=first.output)
    second = set_run_config(second, worker="gpu", resources={"partition": "gpu", "gres": "gpu:1"})
    flow = Flow([first, second], output=[first.output, second.output])
    submit_flow(flow, worker="cpu")
    return flow


def states(controller: JobController) -> list[JobState]:
    return [info.state for info in controller.get_jobs_info(sort=[("db_id", 1)])]


def is_running(controller: JobController, folder: Path) -> bool:
    """The first job runs, and the runner knows and holds nothing."""
    known = states(controller)[0] == JobState.RUNNING and not controller.get_jobs_info(locked=True)
    return known and (folder / "diary").exists()


def is_finished(controller: JobController) -> bool:
    [flow] = controller.get_flows_info()
    assert flow.state not in (FlowState.FAILED, FlowState.STOPPED), controller.get_jobs_doc()
    return flow.state == FlowState.COMPLETED


def outputs(controller: JobController, flow: Flow) -> list[dict]:
    return [controller.jobstore.get_output(job.uuid) for job in flow.jobs]


def test_jobs_run_where_they_are_sent_and_outlive_their_runner(
    machine: Machine, controller: JobController, two_jobs: Flow, tmp_path: Path
) -> None:
    machine.runner.start()
    until(lambda: is_running(controller, tmp_path), "the first job runs")
    machine.runner.kill()
    (tmp_path / "gate").touch()
    until(lambda: not machine.slurm.queue(), "the job ends while no runner is there")
    assert states(controller) == [JobState.RUNNING, JobState.WAITING]
    machine.runner.start()
    until(lambda: is_finished(controller), "another runner goes on")

    first, second = outputs(controller, two_jobs)
    assert (first["SLURM_JOB_PARTITION"], first["CUDA_VISIBLE_DEVICES"]) == ("cpu", None)
    assert (second["SLURM_JOB_PARTITION"], second["CUDA_VISIBLE_DEVICES"]) == ("gpu", "0")
    ran = (tmp_path / "diary").read_text().splitlines()
    assert ran == [f"{first['SLURM_JOB_ID']} first", f"{second['SLURM_JOB_ID']} second"]


def test_a_batch_worker_runs_many_jobs_as_one_of_slurms(
    machine: Machine, controller: JobController, tmp_path: Path
) -> None:
    jobs = [placed(str(tmp_path / "diary")) for _ in range(4)]
    flow = Flow(jobs)
    submit_flow(flow, worker="batch")
    machine.runner.start()
    until(lambda: is_finished(controller), "four jobs run")
    # two at a time in each
    assert len({told["SLURM_JOB_ID"] for told in outputs(controller, flow)}) <= 2


def test_a_node_that_comes_back_runs_its_jobs_again(
    machine: Machine, controller: JobController, two_jobs: Flow, tmp_path: Path
) -> None:
    machine.runner.start()
    until(lambda: is_running(controller, tmp_path), "the first job runs")
    machine.slurm.kill_node()
    assert not machine.slurm.job_processes()
    (tmp_path / "gate").touch()
    machine.slurm.start_node()
    until(lambda: is_finished(controller), "the flow ends on the node that came back")
    first = outputs(controller, two_jobs)[0]["SLURM_JOB_ID"]
    # the same job of Slurm, twice: nobody but Slurm has noticed
    assert (tmp_path / "diary").read_text().splitlines()[:2] == [f"{first} first"] * 2


def test_a_runner_waits_for_a_database_that_does_not_answer(
    machine: Machine, controller: JobController, two_jobs: Flow, tmp_path: Path
) -> None:
    if machine.mongo.given:
        pytest.skip("the MongoDB that MONGO_URI names is not this test's to stop")
    machine.runner.start()
    until(lambda: is_running(controller, tmp_path), "the first job runs")
    machine.mongo.part.freeze()
    (tmp_path / "gate").touch()
    until(lambda: not machine.slurm.queue(), "the job ends while the database is away")
    machine.mongo.part.thaw()
    until(lambda: is_finished(controller), "the runner goes on")
    assert len(outputs(controller, two_jobs)) == 2
