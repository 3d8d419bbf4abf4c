"""Training of one model: plain torch, as many labels an epoch as there are, never lost when it is killed."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mfal.config import Training
from mfal.model.engine import predict
from mfal.model.multifidelity import MultiFidelityCHGNet
from mfal.model.subnormal import subnormal_is_zero
from mfal.training import checkpoint
from mfal.training.checkpoint import Entry, Progress
from mfal.training.compiled import shared_gradients
from mfal.training.examples import Example
from mfal.training.loss import QUANTITIES, UNITS, Heads, Loss, loss, weight_table
from mfal.training.packed import PackedExamples
from mfal.training.references import fit_reference_energies
from mfal.training.shares import shares
from mfal.training.step import gradients

#: Share of the steps in which the learning rate rises; the first steps from a pretrained model are the rough ones.
WARM_UP = 0.05
#: What is left of the learning rate at the end.
FLOOR = 0.01
#: Learning rate of the deltas over that of the rest. At the same rate the fidelity with most labels drags what the two
#: share along, and the other one gets worse: measured in docs/acquisition.md.
DELTA_RATE = 10.0
#: On the deltas alone: where the labels say nothing, the fidelities go back to what they share.
DECAY = 1e-2
#: Steps between looks at whether the loss is finite. A look waits for the device.
LOOK = 20
#: Seconds between checkpoints.
CHECKPOINT = 30.0

OnEpoch = Callable[[int, Entry], None]


def device(setting: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Where to train: `auto` is the GPU where there is one."""
    if setting == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(setting)


def train(
    model: MultiFidelityCHGNet,
    examples: Sequence[Example],
    settings: Training,
    *,
    seed: int,
    hold_out: Sequence[Example] = (),
    directory: Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> list[Entry]:
    """Train a model in place; it stays on the device it was trained on, in evaluation mode.

    The reference energies are fitted to the labels before the first step, and gradient descent leaves them alone.
    Every fidelity is seen equally often (`mfal.training.shares`). On a CPU the result is determined by the
    arguments, also when the training was killed on the way and went on.

    A model with several heads trains them on one trunk: the energies of all, each example weighing differently for
    each head (a Bayesian bootstrap, Rubin 1981), and the forces and stress of one that is drawn for each graph.

    Args:
        hold_out: never trained on; its errors go into the log, and with `patience` into the choice of the epoch.
        directory: for the checkpoint, from which the same training goes on, and the log as a table.
        on_epoch: called after each epoch; for a training that goes on, first with the epochs that it already has.

    Returns:
        One entry an epoch: `epoch`, `learning_rate`, `loss` and the mean absolute errors `energy` (meV/atom), `forces`
        (meV/Å), `stress` (GPa) and `magmoms` (µB) of the training set as the epoch went by, then the same of the
        hold-out as `hold_out_...`; those without a label are left out.

    Raises:
        ValueError: no examples, graphs with shorter cutoffs than the model's, or a directory of another training.
        FloatingPointError: a loss or gradient that is not finite; names the frames.
    """
    if not examples:
        raise ValueError("there is nothing to train on: no good labels")
    if settings.patience is not None and not hold_out:
        raise ValueError("training.patience needs a hold-out to be patient about: give one, or leave patience out")
    _check_cutoffs(model, [*examples, *hold_out])
    with _tf32(settings.tf32), subnormal_is_zero():
        return _Run(model, examples, hold_out, settings, seed, directory, on_epoch).finish()


class _Run:
    """One training from its start, or from its checkpoint, to its end."""

    def __init__(
        self,
        model: MultiFidelityCHGNet,
        examples: Sequence[Example],
        hold_out: Sequence[Example],
        settings: Training,
        seed: int,
        directory: Path | None,
        on_epoch: OnEpoch | None,
    ) -> None:
        # Before anything is computed, which another machine may round in another way.
        self.fingerprint = checkpoint.fingerprint(model, examples, hold_out, settings, seed) if directory else ""
        place = device(settings.device)
        self.model, self.settings, self.seed = model.to(place), settings, seed
        self.directory, self.on_epoch = directory, on_epoch
        dtype = model.site_wise.weight.dtype
        self.examples = PackedExamples(examples, model.fidelities, device=place, dtype=dtype)
        self.hold_out = PackedExamples(hold_out, model.fidelities, device=place, dtype=dtype) if hold_out else None
        self.weights = weight_table(settings, model.fidelities).to(self.examples.device, dtype)
        self.bootstrap = _bootstrap(examples, model.heads).to(place, dtype) if model.heads > 1 else None
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.gradients = shared_gradients(self.model, settings.loss) if settings.compile else gradients
        self.optimizer = _optimizer(model, settings.learning_rate)
        self.averaged = (
            AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema)) if settings.ema is not None else None
        )
        self.batches = math.ceil(len(examples) / settings.batch_size)
        self.best: checkpoint.State = {}
        self.best_loss, self.best_epoch = math.inf, 0
        self.epoch, self.batch = 1, 0
        self.sums = self._zeros()
        self.log: list[Entry] = []
        #: Since the last look: the examples of a step, what each added to the loss, and the norm of the gradient.
        self.unseen: list[tuple[np.ndarray, Tensor, Tensor]] = []
        self.saved_at = time.monotonic()
        self.finished = False

    def finish(self) -> list[Entry]:
        """Train to the end."""
        if not self._go_on():
            fit_reference_energies(self.model, self.examples.examples)
        while not self.finished:
            self._one_epoch()
            self._end_epoch()
        if self.settings.patience is not None:
            self.model.load_state_dict(self.best)
        elif self.averaged is not None:
            self.model.load_state_dict(self.averaged.module.state_dict())
        self.model.eval()
        return self.log

    def _one_epoch(self) -> None:
        """The batches of the epoch that are left; their order is a function of the seed and the epoch alone."""
        generator = np.random.default_rng([self.seed, self.epoch])
        fidelities = [example.fidelity for example in self.examples.examples]
        order = generator.permutation(shares(fidelities, seed=self.seed, epoch=self.epoch))
        drawn = torch.as_tensor(generator.integers(self.model.heads, size=len(order)), device=self.examples.device)
        self.model.train()
        for start in range(self.batch * self.settings.batch_size, len(order), self.settings.batch_size):
            picks = order[start : start + self.settings.batch_size]
            self._step(picks, drawn[start : start + len(picks)])
            if len(self.unseen) >= LOOK:
                self._look()
            # At the end of an epoch its entry of the log comes first.
            if time.monotonic() - self.saved_at > CHECKPOINT and self.batch < self.batches:
                self._save()

    def _step(self, picks: np.ndarray, drawn: Tensor) -> None:
        step = (self.epoch - 1) * self.batches + self.batch
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(step) * group["rate"]
        batch, targets = self.examples.batch(picks)
        heads = None
        if self.bootstrap is not None:
            heads = Heads(self.bootstrap[torch.as_tensor(picks, device=self.bootstrap.device)], drawn)
        value = self.gradients(
            self.model, self.parameters, batch, targets, self.weights, kind=self.settings.loss, heads=heads
        )
        norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.gradient_clip)
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        self.sums += _sums(value)
        self.unseen.append((picks, value.by_graph, norm))
        self.batch += 1

    def _end_epoch(self) -> None:
        self._look()
        entry = {"epoch": float(self.epoch), "learning_rate": self.optimizer.param_groups[0]["lr"]}
        entry |= _entry(self.sums, self.batches)
        if self.hold_out is not None:
            entry |= {f"hold_out_{name}": value for name, value in self._hold_out_errors(self.hold_out).items()}
        self.log.append(entry)
        if self.settings.patience is not None and entry["hold_out_loss"] < self.best_loss:
            self.best_loss, self.best_epoch = entry["hold_out_loss"], self.epoch
            self.best = copy.deepcopy(self._current().state_dict())
        waited = self.settings.patience is not None and self.epoch - self.best_epoch >= self.settings.patience
        self.finished = waited or self.epoch == self.settings.epochs
        self.epoch, self.batch, self.sums = self.epoch + 1, 0, self._zeros()
        if self.directory is not None:
            checkpoint.write_log(self.directory, self.log)
        if self.finished or time.monotonic() - self.saved_at > CHECKPOINT:
            self._save()
        if self.on_epoch is not None:
            self.on_epoch(self.epoch - 1, entry)

    @torch.no_grad()
    def _look(self) -> None:
        """Stop at the first step whose loss or gradient was not finite. The checkpoint is from before it."""
        bad = [
            (picks, by_graph)
            for picks, by_graph, norm in self.unseen
            if not (torch.isfinite(by_graph).all() and torch.isfinite(norm))
        ]
        self.unseen = []
        if not bad:
            return
        picks, by_graph = bad[0]
        at_fault = picks[~torch.isfinite(by_graph).cpu().numpy()]
        what = "loss" if len(at_fault) else "gradient"
        chosen = [self.examples.examples[i] for i in (at_fault if len(at_fault) else picks)]
        frames = ", ".join(f"{example.frame_id} ({example.fidelity})" for example in chosen)
        raise FloatingPointError(
            f"the {what} is not finite in epoch {self.epoch} for {frames}: look at these labels, or lower"
            f" training.learning_rate (now {self.settings.learning_rate:g})"
        )

    def _hold_out_errors(self, hold_out: PackedExamples) -> Entry:
        model = self._current().eval()
        sums = self._zeros()
        everything = np.arange(len(hold_out))
        batches = np.split(everything, range(self.settings.batch_size, len(hold_out), self.settings.batch_size))
        for picks in batches:
            batch, targets = hold_out.batch(picks)
            sums += _sums(loss(predict(model, batch), targets, batch, self.weights, kind=self.settings.loss))
        return _entry(sums, len(batches))

    def _current(self) -> MultiFidelityCHGNet:
        """The model as it would be if the training ended here."""
        return self.model if self.averaged is None else cast(MultiFidelityCHGNet, self.averaged.module)

    def _learning_rate(self, step: int) -> float:
        """A linear rise, then half a cosine down to the floor."""
        steps = self.settings.epochs * self.batches
        warm_up = max(1, round(WARM_UP * steps))
        if step < warm_up:
            share = (step + 1) / (warm_up + 1)
        else:
            progress = (step - warm_up) / max(1, steps - warm_up)
            share = FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * progress)) / 2
        return self.settings.learning_rate * share

    def _zeros(self) -> Tensor:
        return torch.zeros(1 + 2 * len(QUANTITIES), device=self.weights.device, dtype=torch.float64)

    def _save(self) -> None:
        self._look()
        self.saved_at = time.monotonic()
        if self.directory is None:
            return
        progress = Progress(
            model=self.model.state_dict(),
            # A training that is over needs no momenta.
            optimizer={} if self.finished else self.optimizer.state_dict(),
            averaged={} if self.averaged is None else self.averaged.state_dict(),
            best=self.best,
            best_loss=self.best_loss,
            best_epoch=self.best_epoch,
            epoch=self.epoch,
            batch=self.batch,
            sums=self.sums,
            log=self.log,
            finished=self.finished,
        )
        checkpoint.write(self.directory, self.fingerprint, progress)

    def _go_on(self) -> bool:
        """Take up the checkpoint, if there is one."""
        progress = checkpoint.read(self.directory, self.fingerprint) if self.directory else None
        if progress is None:
            return False
        self.model.load_state_dict(progress.model)
        if progress.optimizer:
            self.optimizer.load_state_dict(progress.optimizer)
        if self.averaged is not None:
            self.averaged.load_state_dict(progress.averaged)
        self.best, self.best_loss, self.best_epoch = progress.best, progress.best_loss, progress.best_epoch
        self.epoch, self.batch, self.finished = progress.epoch, progress.batch, progress.finished
        self.sums, self.log = progress.sums.to(self.sums), progress.log
        for entry in self.log if self.on_epoch is not None else []:
            self.on_epoch(int(entry["epoch"]), entry)  # type: ignore[misc]
        return True


def _optimizer(model: MultiFidelityCHGNet, learning_rate: float) -> torch.optim.Optimizer:
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    deltas = [parameter for name, parameter in trained.items() if name.endswith(".delta")]
    shared = [parameter for name, parameter in trained.items() if not name.endswith(".delta")]
    groups: list[dict[str, Any]] = [
        {"params": shared, "weight_decay": 0.0, "rate": 1.0},
        # The decay of a step is the rate times this: the same pull for any rate.
        {"params": deltas, "weight_decay": DECAY / DELTA_RATE, "rate": DELTA_RATE},
    ]
    # Fused: one kernel in place of ten for each of the 200 tensors.
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate, fused=True)


def _bootstrap(examples: Sequence[Example], heads: int) -> Tensor:
    """[examples, heads] exponential weights with mean 1. A label keeps its weights from one training to the next, so
    that the heads go on disagreeing about the same labels."""

    def seed(example: Example) -> int:
        return int.from_bytes(hashlib.sha256(f"{example.frame_id} {example.fidelity}".encode()).digest()[:8])

    draws = [np.random.default_rng(seed(example)).exponential(size=heads) for example in examples]
    return torch.as_tensor(np.stack(draws))


def _sums(value: Loss) -> Tensor:
    return torch.cat([value.by_graph.detach().sum()[None], value.errors, value.counts]).double()


def _entry(sums: Tensor, batches: int) -> Entry:
    """The mean loss of a batch and the mean absolute errors."""
    total, *rest = sums.tolist()
    errors, counts = rest[: len(QUANTITIES)], rest[len(QUANTITIES) :]
    return {"loss": total / batches} | {
        name: error / count * UNITS[name]
        for name, error, count in zip(QUANTITIES, errors, counts, strict=True)
        if count
    }


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _check_cutoffs(model: MultiFidelityCHGNet, examples: Sequence[Example]) -> None:
    """A graph may reach further than the model, which gives the bonds beyond its cutoff no weight, but not less far."""
    converter = model.graph_converter
    for example in examples:
        graph = example.graph
        if graph.atom_cutoff < converter.atom_graph_cutoff or graph.bond_cutoff < converter.bond_graph_cutoff:
            raise ValueError(
                f"the graph of {example.frame_id} ends at {graph.atom_cutoff} Å ({graph.bond_cutoff} Å for"
                f" angles), before the model ({converter.atom_graph_cutoff} and {converter.bond_graph_cutoff} Å)"
            )
