"""`mfal train`: a committee from a file or a published folder of labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from flows.device import Setting, ready
from flows.evaluate import accuracies, predictions, table
from flows.refuse import errors, refusing, resumable
from mfal import atomic
from mfal.config import TrainingFile
from mfal.config_file import load_training
from mfal.dataset_files import SPLITS, name_of
from mfal.frames import FIDELITIES, WORDS, Fidelity, Frame, Label

#: As `mfal.committee.strategies.Strategy`, whose module imports torch.
Strategy = Literal["multi-fidelity", "high-only", "transfer", "delta"]
SETTINGS, HOLD_OUT = "training.yaml", "hold-out.extxyz"
#: Of the frames, where neither a person nor the data set says what to hold out.
SHARE = "0.1"


def train(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="The labels: an extended XYZ file, or a folder that 'mfal export' wrote.",
            show_default=False,
        ),
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            help="seed, committee and training: configs/training.yaml shows them; or a campaign file.",
            show_default=False,
        ),
    ] = None,
    strategy: Annotated[
        Strategy,
        typer.Option(
            help="multi-fidelity: one model of all labels. To compare with it: high-only, of the magnetic labels alone;"
            " transfer, of the non-magnetic and then of the magnetic ones; delta, of the non-magnetic ones and another"
            " of the difference."
        ),
    ] = "multi-fidelity",
    hold_out: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE|FILE",
            help="Never trained on: a share of the frames, drawn by the seed, with all their labels; or another extxyz"
            f" file. By default the hold-out of the folder, or {SHARE} where it has none. What the folder holds out is"
            " not trained on either way: a share is drawn from the other frames.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The folder to write to: runs/train-DATASET-STRATEGY by default.", show_default=False),
    ] = None,
    device: Annotated[
        Setting | None, typer.Option(help="Where to train, instead of training.device.", show_default=False)
    ] = None,
) -> None:
    """Train a committee on labels of one or two fidelities, and print its errors on frames that it never saw.

    It can be interrupted and repeated at will: the same command goes on. In the folder are member-N.safetensors,
    hold-out.extxyz, training.yaml, and below member-N/ the checkpoints and the logs.
    """
    from mfal import dataset as extxyz
    from mfal.committee.files import save
    from mfal.committee.strategies import train_strategy
    from mfal.training.examples import examples

    console = Console(highlight=False)
    name = name_of(dataset)
    directory = out or Path("runs") / f"train-{name if dataset.is_dir() else dataset.stem}-{strategy}"
    with refusing():
        settings = load_training(config) if config else TrainingFile()
        if device:
            settings = settings.model_copy(update={"training": settings.training.model_copy(update={"device": device})})
        place = ready(settings.training.device)
        split = _split(dataset, hold_out, settings.seed)
        to_train, held = examples(split.frames, split.labels), examples(split.held_frames, split.held)
        about = _settings(strategy, settings)
        _must_be_ours(directory / SETTINGS, about)
        console.print(
            f"{escape(name)}: {_counts(split.labels)} labels; held out: {_counts(split.held)} ({escape(split.how)})",
            soft_wrap=True,
        )
        if split.unused:
            console.print(f"Left out: {_counts(split.unused)}, which {SPLITS} holds out", soft_wrap=True)
        try:
            with resumable(), TrainingProgress(console, settings.training.epochs) as progress:
                models = train_strategy(
                    strategy,
                    to_train,
                    settings.committee,
                    settings.training,
                    seed=settings.seed,
                    hold_out=held,
                    directory=directory,
                    on_epoch=progress.on_epoch,
                )
        except FloatingPointError as error:
            errors.print(f"[red]{escape(str(error))}[/]")
            raise typer.Exit(1) from None
        atomic.replace(directory / SETTINGS, about.encode())
        save(directory, models)
        if held:
            extxyz.write(directory / HOLD_OUT, split.held_frames, split.held)
    if held:
        console.print(table({"hold-out": accuracies(predictions([model.to(place) for model in models], held))}))
    console.print(f"Model:  {escape(str(directory))}", soft_wrap=True)


@dataclass(frozen=True)
class Split:
    """What is trained on, what is held out and how that came about."""

    frames: list[Frame]
    labels: list[Label]
    held_frames: list[Frame]
    held: list[Label]
    how: str
    #: Of the folder's hold-out, where another was asked for.
    unused: Sequence[Label] = ()


def _split(dataset: Path, hold_out: str | None, seed: int) -> Split:
    from mfal.dataset import read, read_splits
    from mfal.training.hold_out import draw

    parts = read_splits(dataset)
    (frames, labels), (published_frames, published) = parts["train"], parts["hold_out"]
    if hold_out is None and published:
        return Split(frames, labels, published_frames, published, how=f"the hold-out of {SPLITS}")
    hold_out = SHARE if hold_out is None else hold_out
    try:
        share = float(hold_out)
    except ValueError:
        if not Path(hold_out).is_file():
            raise ValueError(f"--hold-out {hold_out}: is neither a share such as 0.1 nor a file") from None
        held_frames, held = read(hold_out)
        shared = sorted({frame.frame_id for frame in frames} & {frame.frame_id for frame in held_frames})
        if shared:
            raise ValueError(
                f"--hold-out {hold_out}: {len(shared)} of its frames are in {dataset}, too ({', '.join(shared[:3])}"
                f"{', ...' if len(shared) > 3 else ''}): take them out of one of the two"
            ) from None
        return Split(frames, labels, held_frames, held, how=hold_out, unused=published)
    drawn = draw(labels, share, seed=seed)
    return Split(
        frames=[frame for frame in frames if frame.frame_id not in drawn],
        labels=[label for label in labels if label.frame_id not in drawn],
        held_frames=[frame for frame in frames if frame.frame_id in drawn],
        held=[label for label in labels if label.frame_id in drawn],
        how=f"a share of {hold_out}, drawn",
        unused=published,
    )


def _settings(strategy: Strategy, settings: TrainingFile) -> str:
    """What decides the training beside the labels, as a file for --config. Where it runs does not."""
    content = settings.model_dump(
        mode="json", include=set(TrainingFile.model_fields), exclude={"training": {"device", "tf32", "compile"}}
    )
    return f"# mfal train --strategy {strategy}\n{yaml.safe_dump(content, sort_keys=False)}"


def _must_be_ours(path: Path, about: str) -> None:
    """Refuse a folder that another training has finished in. That the labels are the same, the checkpoints tell."""
    if path.exists() and path.read_text() != about:
        raise ValueError(f"{path}: is of a training with other settings or strategy: give another --out")


def _counts(labels: Iterable[Label]) -> str:
    counts: Counter[Fidelity] = Counter(label.fidelity for label in labels)
    return ", ".join(f"{counts[fidelity]} {WORDS[fidelity]}" for fidelity in FIDELITIES)


class TrainingProgress(Progress):
    """A bar for each stage of each member, with the latest errors beside it."""

    def __init__(self, console: Console, epochs: int) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console,
        )
        self._epochs = epochs
        self._bars: dict[tuple[int, str], TaskID] = {}

    def on_epoch(self, member: int, stage: str, epoch: int, entry: dict[str, float]) -> None:
        if (member, stage) not in self._bars:
            name = f"member {member}, {stage}"
            self._bars[member, stage] = self.add_task(name, total=self._epochs, numbers="")
        numbers = f"loss {entry['loss']:.3g}"
        if "forces" in entry:
            numbers += f"  F {entry['forces']:.3g} meV/Å"
        if "hold_out_forces" in entry:
            numbers += f", hold-out {entry['hold_out_forces']:.3g}"
        self.update(self._bars[member, stage], completed=epoch, numbers=numbers)
