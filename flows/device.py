"""Where a command computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    import torch

Setting = Literal["auto", "cpu", "cuda"]
Device = Annotated[Setting, typer.Option(help="Where to compute; auto: on the GPU where there is one.")]


def ready(setting: Setting) -> torch.device:
    """The device of a setting.

    Raises:
        ValueError: it is not there.
    """
    import torch

    from mfal.training.trainer import device

    if setting == "cuda" and not torch.cuda.is_available():
        raise ValueError("device = cuda: PyTorch finds no CUDA device here: take cpu or auto")
    return device(setting)
