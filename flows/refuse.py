"""How a command says that it cannot do what was asked: a red line for each thing that is wrong, and exit code 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

errors = Console(stderr=True, soft_wrap=True, highlight=False)


def refuse(*lines: str) -> NoReturn:
    for line in lines:
        errors.print(f"[red]{escape(line)}[/]")
    raise typer.Exit(2)


@contextmanager
def resumable() -> Iterator[None]:
    """Around work that the same command goes on with after an interruption."""
    try:
        yield
    except KeyboardInterrupt:
        errors.print("Interrupted. The same command goes on from here.")
        raise typer.Exit(130) from None


@contextmanager
def refusing() -> Iterator[None]:
    """Around what reads something that a person gave: its ValueErrors and OSErrors name the file and the mend."""
    try:
        yield
    except (ValueError, OSError) as error:
        refuse(*str(error).splitlines())
