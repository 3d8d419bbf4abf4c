"""`mfal fold`: one fidelity of a model as the file of a stock CHGNet."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from flows.refuse import refuse, refusing

if TYPE_CHECKING:
    from mfal.model.multifidelity import MultiFidelityCHGNet


def fold(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="A .safetensors file, or a folder with one member.", show_default=False),
    ],
    fidelity: Annotated[str, typer.Option(help="The fidelity to keep.")] = "magnetic",
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("folded.pth.tar"),
) -> None:
    """Write one fidelity of a model as a stock CHGNet, which needs no mfal.

    What is written is loaded again as CHGNet loads it, and must predict what the model does.
    """
    from mfal import atomic
    from mfal.committee.files import load, member_files
    from mfal.model.delta import DeltaCHGNet

    with refusing():
        files = member_files(model)
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            refuse(f"{model}: holds {len(files)} members, and a CHGNet is one model: give one of {names}")
        (whole,) = load(files[0])
        if isinstance(whole, DeltaCHGNet):
            refuse(
                f"{files[0]}: is a delta-learning model, the sum of two, which no stock CHGNet is: fold a model of"
                " another strategy, or use this one through mfal.committee.calculator.MfalCalculator"
            )
        whole.index(fidelity)
        content = _folded(whole, fidelity)
        atomic.replace(out, content)
    console = Console(highlight=False)
    console.print(f"{escape(str(out))}: a stock CHGNet of the fidelity {escape(fidelity)}", soft_wrap=True)
    line = f"from chgnet.model import CHGNetCalculator; calculator = CHGNetCalculator.from_file({str(out)!r})"
    console.print(escape(line), soft_wrap=True)


def _folded(model: MultiFidelityCHGNet, fidelity: str) -> bytes:
    """The file of the folded model, once it is sure that CHGNet makes the same model of it."""
    import numpy as np
    import torch
    from chgnet.model import CHGNet
    from pymatgen.core import Lattice, Structure

    from mfal.committee.predict import predict
    from mfal.model.multifidelity import silence

    buffer = io.BytesIO()
    torch.save({"model": model.fold(fidelity).as_dict()}, buffer)
    content = buffer.getvalue()
    # Any crystal does: low in symmetry, so that forces and stress are there, and with bonds short enough for angles.
    lattice = Lattice([[3.0, 0.2, 0.0], [0.0, 3.1, 0.1], [0.1, 0.0, 4.4]])
    crystal = Structure(lattice, ["Mn", "O"], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.4]])
    with silence():
        found = CHGNet.from_file(io.BytesIO(content)).predict_structure(crystal)
    (expected,) = predict([model], [crystal], [fidelity])
    pairs = {
        "e": expected.energy.mean(),
        "f": expected.forces.mean(axis=(0, 1)),
        "s": expected.stress.mean(axis=(0, 1)),
        "m": expected.magmoms.mean(axis=(0, 1)),
    }
    for key, value in pairs.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-3, atol=1e-3, err_msg=f"folded model: {key}")
    return content
