"""Small campaigns, what is done to them, and somebody who looks on and forgets nothing (for benchmarks/chaos.py)."""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jobflow import JobStore
from pymongo.errors import PyMongoError

from mfal.config import Campaign
from mfal.config_file import load
from stores.campaign import open_stores
from tests.conftest import small_campaign

OUTPUT = ["uuid", "index", "completed_at", "metadata.kind", "metadata.campaign", "output.energy", "output.forces"]
#: Of an output: the store it was seen in, the uuid of its job, and its index.
Key = tuple[str, str, int]


@dataclass
class Kill:
    """What was done to whom, and whose output is awaited since; any of the campaigns' if it was no single job."""

    kind: str
    campaigns: tuple[str, ...]
    at: float
    how: str = ""
    job: str | None = None


@dataclass
class Small:
    """A campaign: its file is in its folder."""

    file: Path
    campaign: Campaign
    begun: float
    ended: float | None = None

    @classmethod
    def made(cls, folder: Path, name: str, seed: int, **changes: Any) -> Small:
        folder.mkdir(parents=True, exist_ok=True)
        content = small_campaign(folder / f"{name}-home") | {"campaign": name, "seed": seed} | changes
        content["explore"]["frames"] = 3  # eleven calculations in two rounds
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(content))
        return cls(file, load(file), time.time())

    @property
    def name(self) -> str:
        return self.campaign.campaign

    def is_done(self) -> bool:
        """Its own store has the round that says so."""
        if not self.campaign.directory.is_dir():
            return False
        with suppress(ValueError), open_stores(self.campaign) as stores:
            rounds = stores.all_rounds(self.name)
            return bool(rounds) and rounds[-1].stop
        return False


class Observer(threading.Thread):
    """Looks at all stores again and again, and remembers each label that it has ever seen there, and what came when."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.stores: dict[str, Callable[[], JobStore]] = {}
        #: By the place, the job's uuid and its index: energy and forces; of which campaign; when it was first seen, and
        #: when it was seen to have been put out anew.
        self.labels: dict[Key, str] = {}
        self.owners: dict[Key, str] = {}
        self.came: dict[Key, list[float]] = {}
        self._latest: dict[str, str] = {}  # by the place, when its last output was made
        self.errors: list[str] = []
        self.stopped = threading.Event()

    def run(self) -> None:
        opened: dict[str, JobStore] = {}
        while not self.stopped.wait(0.5):
            for place, opens in list(self.stores.items()):
                try:
                    if place not in opened:
                        opened[place] = opens()
                    self._look(place, opened[place])
                except (PyMongoError, ValueError):  # it is down, or not there yet
                    continue
                except Exception:
                    self.errors.append(f"{place}: {traceback.format_exc()}")

    def _look(self, place: str, store: JobStore) -> None:
        known = [uuid for where, uuid, _ in self.came if where == place]
        new = [{"uuid": {"$nin": known}}, {"completed_at": {"$gt": self._latest.get(place, "")}}]
        for document in list(store.docs_store.query({"$or": new}, OUTPUT)):
            key = (place, document["uuid"], document["index"])
            if document["metadata"]["kind"] == "label":
                self.labels.setdefault(key, _numbers(document))
            self.owners[key] = document["metadata"]["campaign"]
            self.came.setdefault(key, []).append(time.time())
            self._latest[place] = max(document["completed_at"], self._latest.get(place, ""))

    def lost(self) -> dict[Key, str]:
        """The labels that were seen and are not there as they were, and of which campaign they are."""
        found: dict[Key, str] = {}
        for place, opens in self.stores.items():
            store = opens()
            documents = store.docs_store.query({"metadata.kind": "label"}, OUTPUT)
            there = {(place, d["uuid"], d["index"]): _numbers(d) for d in documents}
            store.close()
            for key, numbers in self.labels.items():
                if key[0] == place and there.get(key) != numbers:
                    found[key] = self.owners[key]
        return found

    def went_on(self, kill: Kill) -> float | None:
        """Seconds from a kill to what came next of what it had hit; of a job, to what it puts out in the end."""
        own = [at for (_, uuid, _), times in self.came.items() for at in times if uuid == kill.job and at > kill.at]
        hit = [key for key, owner in self.owners.items() if owner in kill.campaigns]
        after = [at for key in hit for at in self.came[key] if at > kill.at]
        return max(own) - kill.at if own else min(after) - kill.at if after else None


def _numbers(document: dict[str, Any]) -> str:
    output = document["output"]
    return json.dumps([output["energy"], output["forces"]])
