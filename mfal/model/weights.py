"""A model as the bytes of a safetensors file, which can hold numbers and text but no code (a pickle can)."""

from __future__ import annotations

import json
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from mfal.model.delta import DeltaCHGNet, Model
from mfal.model.multifidelity import MultiFidelityCHGNet

#: Name the layout of the metadata; a change of it gets a new number.
FORMAT = "mfal multi-fidelity CHGNet 1"
DELTA = "mfal delta-learning CHGNet 1"
#: Of the metadata.
KEY = "mfal"


def to_bytes(model: Model) -> bytes:
    """The weights, with the arguments that make the model again in the metadata of the file."""
    arguments = (
        {"low": model.low.model_args, "difference": model.difference.model_args}
        if isinstance(model, DeltaCHGNet)
        else model.model_args
    )
    about = {"format": DELTA if isinstance(model, DeltaCHGNet) else FORMAT, "arguments": arguments}
    try:
        # One entry: safetensors writes several in an order that differs from call to call.
        text = json.dumps(about, sort_keys=True)
    except TypeError as error:
        raise ValueError(f"the model's arguments cannot be kept as JSON: {error}") from error
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return safetensors.torch.save(tensors, metadata={KEY: text})


def from_bytes(data: bytes) -> Model:
    """The model of `to_bytes`, on the CPU and in evaluation mode.

    Raises:
        ValueError: the bytes are not those of such a model.
    """
    about = _about(data)
    if about.get("format") not in (FORMAT, DELTA):
        raise ValueError(f"the file says format {about.get('format')!r}; this version reads {FORMAT!r} and {DELTA!r}")
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
        arguments = about["arguments"]
        model: Model = (
            DeltaCHGNet(
                MultiFidelityCHGNet(**arguments["low"]).to(tensors["low.site_wise.weight"]),
                MultiFidelityCHGNet(**arguments["difference"]).to(tensors["difference.site_wise.weight"]),
            )
            if about["format"] == DELTA
            else MultiFidelityCHGNet(**arguments).to(tensors["site_wise.weight"])
        )
        model.load_state_dict(tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"the weights are damaged or of another model: {error}") from error
    return model.eval()


def _about(data: bytes) -> dict[str, Any]:
    """Our entry in the metadata of a safetensors file, which the library reads from a file only.

    The file begins with the length of its header (8 bytes, little-endian) and the header, which is JSON.
    """
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
        return dict(json.loads(header["__metadata__"][KEY]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError("these bytes are not a safetensors file with the metadata of a model") from error
