"""Where the jobs of a campaign run when it is submitted to a queue, and when a round goes on without what is late."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from mfal.section import Section

#: What a place can be given to. `label` jobs go by their fidelity.
JobKind = Literal["default", "explore", "score", "nonmagnetic", "magnetic", "decide", "train", "evaluate"]


class Place(Section):
    """One of the workers of a jobflow-remote project, and what to ask of it."""

    worker: str = Field(min_length=1)
    #: As the worker's scheduler takes them, e.g. `{partition: gpu, gres: "gpu:1", time: "02:00:00"}`; the worker's own
    #: where nothing is said.
    resources: dict[str, Any] | None = None
    #: Name of an `exec_config` of the project: modules, exports, commands before and after.
    exec_config: str | None = None


class Cluster(Section):
    """What `mfal submit` needs beside the campaign."""

    #: Of jobflow-remote; by default the one that it takes itself (`JFREMOTE_PROJECT`, or the only one).
    project: str | None = None
    #: Of a round's calculations at one fidelity that must be in before the round may go on without the rest, ...
    share: float = Field(0.8, gt=0, le=1)
    #: ... which it then does when for so many minutes no other has come in. What is late joins the next round.
    wait: NonNegativeFloat = 60
    #: Of a job that was killed or lost; then it waits for `mfal retry`.
    attempts: PositiveInt = 3
    #: Minutes after which a locked job is taken to be locked by a runner that died.
    stale: PositiveFloat = 15
    #: By the kind of job; `default` is for all that are not named, and is by default the project's first worker.
    jobs: dict[JobKind, Place] = {}

    def place(self, kind: JobKind) -> Place | None:
        return self.jobs.get(kind) or self.jobs.get("default")
