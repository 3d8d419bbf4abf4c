"""One training of the paper's experiments: what it learns from, how, and what it gets wrong afterwards."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from chgnet.model import CHGNet
from pydantic import BaseModel, ConfigDict

from mfal.committee.evaluate import errors
from mfal.committee.strategies import Strategy, train_strategy
from mfal.config import Committee, Training
from mfal.dataset import read_splits
from mfal.dataset_files import sha256, splits
from mfal.frames import FIDELITIES, Errors, Fidelity
from mfal.model.delta import Model
from mfal.model.multifidelity import MultiFidelityCHGNet, pretrained, silence
from mfal.training.examples import Example, examples
from mfal.training.references import fit_reference_energies

_, HIGH = FIDELITIES
#: Random weights have more to learn than pretrained ones.
LONGER = {"pretrained": 1, "random": 3}


class Run(BaseModel):
    """Which labels are learned from, how, and from which weights."""

    model_config = ConfigDict(frozen=True)

    #: Or none: the pretrained model, of which the reference energies alone are fitted.
    strategy: Strategy | Literal["as pretrained"]
    magnetic: int
    nonmagnetic: int
    seed: int
    parts: str = "CEMR"
    weights: Literal["pretrained", "random"] = "pretrained"
    #: So many times the labels that the settings say are seen.
    times: int = 1


class Result(BaseModel):
    """Mean absolute errors on the test frames, at each fidelity that the model knows."""

    fingerprint: str
    run: Run
    errors: dict[Fidelity, Errors]
    seconds: float


class Settings(BaseModel):
    """What all trainings have in common."""

    #: That a training sees for each fidelity that it learns, in one stage or in two; the same for all, so that more
    #: labels do not mean more steps.
    labels_seen: int
    batch_size: int
    device: Literal["auto", "cpu", "cuda"] = "auto"
    #: Twice as fast after a minute or two, for each kind of model that there is.
    compile: bool = False

    def training(self, labels: int, weights: Literal["pretrained", "random"], *, times: int) -> Training:
        """Of one stage."""
        seen = self.labels_seen * times * LONGER[weights]
        epochs = max(1, round(seen / labels))
        return Training(epochs=epochs, batch_size=self.batch_size, device=self.device, compile=self.compile)


@dataclass(frozen=True)
class Data:
    """The labels to learn from by their fidelity, and the test frames' of both, which no run sees."""

    train: dict[Fidelity, list[Example]]
    test: list[Example]
    #: Of the files that it was read from.
    digest: str

    @classmethod
    def read(cls, folder: Path) -> Data:
        """A folder that `mfal export` wrote.

        Raises:
            ValueError: a fidelity is missing, or no frames are held out.
        """
        parts = read_splits(folder)
        train, test = (examples(*parts[split]) for split in ("train", "hold_out"))
        for fidelity in FIDELITIES:
            if not any(label.fidelity == fidelity for label in train):
                raise ValueError(f"{folder}: has no {fidelity} label to learn from: give a folder of 'mfal export'")
        if not any(label.fidelity == HIGH for label in test):
            raise ValueError(f"{folder}: holds no magnetic label out: there is nothing to test on")
        named = f"{sha256(folder)} {sorted(splits(folder).items())}"
        return cls(
            {fidelity: sorted_by_name(train, fidelity) for fidelity in FIDELITIES},
            test,
            hashlib.sha256(named.encode()).hexdigest()[:12],
        )

    def drawn(self, run: Run) -> list[Example]:
        """The labels of a run: of each fidelity the first of an order that the seed decides, so that a larger run of
        the same seed has all labels of a smaller one."""
        found = []
        for number, (fidelity, count) in enumerate(zip(FIDELITIES, (run.nonmagnetic, run.magnetic), strict=True)):
            there = self.train[fidelity]
            if count > len(there):
                raise ValueError(f"{run}: there are {len(there)} {fidelity} labels to learn from, and not {count}")
            order = np.random.default_rng([run.seed, number]).permutation(len(there))
            found += [there[i] for i in order[:count]]
        return found


def sorted_by_name(labels: Sequence[Example], fidelity: Fidelity) -> list[Example]:
    """In an order that does not change when the file is written anew."""
    return sorted((label for label in labels if label.fidelity == fidelity), key=lambda label: label.frame_id)


def fingerprint(data: Data, settings: Settings) -> str:
    """Of what decides a result beside the run."""
    content: dict[str, Any] = settings.model_dump(include={"labels_seen", "batch_size"})
    content |= {"data": data.digest, "longer": LONGER}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def trained(run: Run, data: Data, settings: Settings) -> Result:
    """Train one model, and test it."""
    begin = time.perf_counter()
    model = learned(run, data.drawn(run), settings)
    test = [example for example in data.test if example.fidelity in model.fidelities]
    found = {fidelity: missed for fidelity, missed in errors([model], test).items() if missed.frames}
    return Result(fingerprint=fingerprint(data, settings), run=run, errors=found, seconds=time.perf_counter() - begin)


def learned(run: Run, labels: Sequence[Example], settings: Settings) -> Model:
    """The model, on the CPU and in evaluation mode."""
    if run.strategy == "as pretrained":
        model = MultiFidelityCHGNet.from_pretrained("0.3.0", fidelities=[HIGH]).eval()
        fit_reference_energies(model, labels)
        return model
    together = run.strategy == "multi-fidelity"
    (trained,) = train_strategy(
        run.strategy,
        labels,
        # Not checked: a model without any part is one that takes both fidelities for the same.
        Committee(members=1).model_copy(update={"parts": run.parts}),
        settings.training(len(labels) if together else run.magnetic, run.weights, times=run.times * (1 + together)),
        seed=run.seed,
        start=blank(run.seed) if run.weights == "random" else None,
        low=settings.training(run.nonmagnetic, run.weights, times=run.times) if run.nonmagnetic else None,
    )
    return trained


def blank(seed: int) -> CHGNet:
    """CHGNet as it is pretrained from: the same layers, with random weights."""
    with silence():
        torch.manual_seed(seed)
        return CHGNet(**pretrained("0.3.0").model_args)
