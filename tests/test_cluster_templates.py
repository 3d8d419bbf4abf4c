"""The project files for jobflow-remote that users copy: it takes them, and Slurm's header is what they say."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from string import Template
from typing import Any

import pytest
import yaml
from jobflow_remote.config.base import ExecutionConfig, Project
from jobflow_remote.remote.queue import QueueManager
from maggma.stores import GridFSStore, MongoStore
from ruamel.yaml import YAML

from mfal.cluster import Cluster

ROOT = Path(__file__).parent.parent
TEMPLATES = sorted((ROOT / "configs" / "jobflow-remote").glob("*.yaml"))
NAMES = {
    "WORK_DIR": "/scratch/me",
    "VENV": "/home/me/venv",
    "MONGO_URI": "mongodb://db.example.org:27017/?tls=true",
    "MONGO_PASSWORD": "sesame",
    "CLUSTER_HOST": "cluster.example.org",
    "CLUSTER_USER": "me",
}


def project(template: Path) -> Project:
    """As jobflow-remote reads it (`ConfigManager`), by a newer YAML than PyYAML's."""
    return Project.model_validate(YAML().load(Template(template.read_text()).substitute(NAMES)))


@pytest.fixture(params=TEMPLATES, ids=lambda path: path.stem)
def template(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_jobflow_remote_takes_the_template(template: Path) -> None:
    found = project(template)
    assert list(found.workers) == ["cpu", "gpu", "batch"]
    assert {worker.type for worker in found.workers.values()} == {"remote" if template.stem == "cluster" else "local"}
    queue, store = found.get_queue_store(), found.get_jobstore()
    assert type(queue) is MongoStore
    assert type(store.docs_store) is MongoStore
    assert type(store.additional_stores["data"]) is GridFSStore
    for one in (queue, store.docs_store, store.additional_stores["data"]):
        assert (one.host, one.database) == (NAMES["MONGO_URI"], "mfal")


def test_there_is_no_password_in_it(template: Path) -> None:
    def keys(value: Any) -> list[str]:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
        return [*(value if isinstance(value, dict) else []), *(key for part in inner for key in keys(part))]

    known = keys(yaml.safe_load(template.read_text()))
    assert "collection_name" in known
    assert not {"password", "passphrase"}.intersection(known)


def test_every_worker_writes_a_script_for_slurm(template: Path) -> None:
    for name, worker in project(template).workers.items():
        script = worker.get_scheduler_io().get_submission_script(["true"], worker.resources)
        # 24:00:00 without quotes is a number of seconds for YAML, and one of minutes for Slurm
        assert re.search(r"^#SBATCH --time=\d\d:00:00$", script, re.MULTILINE), script
        assert ("--gres=gpu:1" in script) == (name == "gpu")
        command = worker.execution_cmd.format("/a/folder")
        assert command.startswith("python -c ")
        assert 'run_remote_job("/a/folder")' in command
        if worker.batch:
            # without max_jobs the runner fails each time that it looks after the batches
            assert worker.max_jobs
            assert worker.batch.max_time < 24 * 3600


def test_exports_are_what_the_shell_makes_of_them() -> None:
    vasp = project(ROOT / "configs" / "jobflow-remote" / "cluster.yaml").exec_config["vasp"]
    assert isinstance(vasp, ExecutionConfig)
    lines = QueueManager(None, None).get_export(vasp.export)
    shell = subprocess.run(
        ["bash", "-ec", f'{lines}\necho "$VASP_COMMAND"'], capture_output=True, text=True, check=True
    )
    assert shell.stdout == "srun --ntasks 16 vasp_std\n"


def test_the_example_of_a_campaign_names_what_the_templates_have() -> None:
    text = (ROOT / "docs" / "cluster.md").read_text()
    found = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(cluster:.*?)```", text, re.DOTALL)]
    assert len(found) >= 2
    templates = [project(path) for path in TEMPLATES]
    for example in found:
        places = Cluster.model_validate(example["cluster"]).jobs.values()
        assert places
        assert any(
            all(place.worker in one.workers and place.exec_config in (None, *one.exec_config) for place in places)
            for one in templates
        ), example
