"""The accounts that benchmarks/overhead.py keeps."""

from __future__ import annotations

import os
import subprocess

import pytest

from benchmarks.spent import Spent, in_turn, of_process, of_shell


def test_what_a_shell_says_of_its_times_is_read():
    assert of_shell("0m0.003s 0m0.002s\n1m2.500s 0m0.100s\n") == pytest.approx(62.605)
    said = subprocess.run(["bash", "-c", "times"], capture_output=True, text=True, check=True).stdout
    assert of_shell(said) >= 0


def test_processes_that_were_waited_for_count():
    before = of_process(os.getpid())
    subprocess.run(["bash", "-c", "for ((i = 0; i < 300000; i++)); do :; done"], check=True)
    assert of_process(os.getpid()) > before


def test_a_contestant_that_finds_something_else_ends_the_measurement():
    with pytest.raises(SystemExit, match="wrong: found 2 instead of 1"):
        in_turn({"right": lambda: lambda: 1, "wrong": lambda: lambda: 2}, 1, 1)
    taken = in_turn({"right": lambda: lambda: 1}, 3, 1)
    assert taken.keys() == {"right"}
    assert (Spent(6, 3) - Spent(2, 1)) / 2 == Spent(2, 1)
