"""Pools too large for memory: reading them, scoring them, and `mfal score`, which goes on wherever it was killed."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
import weakref
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from conftest import STRUCTURES, mno
from pymatgen.core import Lattice, Structure
from typer.testing import CliRunner

from flows import score as command
from flows.cli import app
from mfal import dataset
from mfal.committee.decompose import decompose
from mfal.committee.files import load, save
from mfal.committee.members import start_committee
from mfal.committee.predict import predict
from mfal.committee.stream import COLUMNS, SIGMAS, score_stream
from mfal.config import Committee
from mfal.frames import Frame
from mfal.model.delta import DeltaCHGNet
from mfal.model.multifidelity import MultiFidelityCHGNet

FRAMES, BATCH = 10, 4


def image_of(structure: Structure, **info: str) -> Atoms:
    symbols = [site.specie.symbol for site in structure]
    return Atoms(symbols, positions=structure.cart_coords, cell=structure.lattice.matrix, pbc=True, info=info)


def rattled(seed: int) -> Structure:
    shifts = np.random.default_rng(seed).normal(0, 0.05, (4, 3))
    parent = Structure.from_file(STRUCTURES / "rocksalt-4.cif")
    return Structure(parent.lattice, parent.species, parent.cart_coords + shifts, coords_are_cartesian=True)


def write(path: Path, structures: list[Structure]) -> Path:
    ase.io.write(path, [image_of(structure) for structure in structures], format="extxyz")
    return path


@pytest.fixture(scope="module")
def committees(tmp_path_factory) -> Path:
    """`two` of two members, `heads` of two in one file, `one`, and `high` and `delta` as `mfal train` makes them."""
    folder = tmp_path_factory.mktemp("committees")
    models = start_committee(Committee(members=2), seed=0)
    save(folder / "two", models)
    save(folder / "one", models[:1])
    save(folder / "heads", start_committee(Committee(kind="shallow", members=2), seed=0))
    high = MultiFidelityCHGNet.from_pretrained(fidelities=["magnetic"])
    save(folder / "high", [high, high])
    save(folder / "delta", [DeltaCHGNet(MultiFidelityCHGNet.from_pretrained(fidelities=["nonmagnetic"]), high)])
    return folder


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("pool") / "pool.extxyz", [rattled(seed) for seed in range(FRAMES)])


@pytest.fixture(autouse=True, scope="module")
def small_batches() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "BATCH", BATCH)
        yield


@pytest.fixture(scope="module")
def whole(committees, pool, tmp_path_factory) -> Path:
    """The file of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "sigmas.csv"
    result = CliRunner().invoke(app, ["score", str(committees / "two"), str(pool), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert f"Sigmas of {FRAMES} frames:  {out}" in result.stdout
    assert [path.name for path in out.parent.iterdir()] == ["sigmas.csv"]
    return out


@pytest.fixture
def score(mfal, committees, pool, tmp_path):
    """Runs `mfal score` of the two members on the pool into a file of this test."""
    return lambda *more, model="two", of=pool: mfal(
        "score", committees / model, of, "--out", tmp_path / "sigmas.csv", *more
    )


@pytest.fixture(scope="module")
def killed(committees, pool, tmp_path_factory) -> Path:
    """What a run leaves that was killed with SIGKILL: a whole batch, half of one, and half a line."""
    script = """
import os, signal, sys
from flows import cli, score
append, score.BATCH = score._append, int(sys.argv.pop(1))
def torn(file, batch):
    if file.tell():
        append(file, batch[:2])
        os.write(file.fileno(), b"abc,Mn")
        os.kill(os.getpid(), signal.SIGKILL)
    append(file, batch)
score._append = torn
cli.main()
"""
    part = tmp_path_factory.mktemp("killed") / "sigmas.csv.part"
    arguments = ["score", committees / "two", pool, "--out", part.with_suffix("")]
    result = subprocess.run([sys.executable, "-c", script, str(BATCH), *map(str, arguments)], capture_output=True)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert len(part.read_text().splitlines()) == 1 + BATCH + 2 + 1
    return part


@pytest.fixture
def begun(killed, tmp_path) -> Path:
    """The same in the folder of this test."""
    for path in killed.parent.iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path / killed.name


def refused(result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    for word in words:
        assert word in result.stderr


def test_a_file_is_read_image_by_image(tmp_path):
    structures = [rattled(seed) for seed in range(4)]
    images = [image_of(structure) for structure in structures]
    images[1].info["frame_id"] = "named"
    images[2].symbols[0] = "Cm"
    ase.io.write(tmp_path / "pool.extxyz", images, format="extxyz")
    frames = dataset.iter_frames(tmp_path / "pool.extxyz")
    first, second = next(frames), next(frames)
    assert first.frame_id == Frame.of(structures[0], parent="p", source="s").frame_id
    assert (second.frame_id, second.parent, second.source) == ("named", "pool.extxyz", "image 2")
    np.testing.assert_allclose(second.structure.cart_coords, structures[1].cart_coords, atol=1e-7)
    with pytest.raises(ValueError, match=r"pool\.extxyz: image 3: species = Cm: CHGNet knows"):
        next(frames)
    # What is skipped is not looked at.
    (last,) = dataset.iter_frames(tmp_path / "pool.extxyz", skip=3)
    assert (last.source, last.structure.species) == ("image 4", structures[3].species)
    assert list(dataset.iter_frames(tmp_path / "pool.extxyz", skip=4)) == []
    assert dataset.count_images(tmp_path / "pool.extxyz") == 4


def test_reading_does_not_hold_the_file(tmp_path):
    path = write(tmp_path / "pool.extxyz", [rattled(0)])
    path.write_text(path.read_text() * 5_000)
    tracemalloc.start()
    try:
        assert dataset.count_images(path) == 5_000
        (last,) = dataset.iter_frames(path, skip=4_999)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert last.source == "image 5000"
    assert peak < path.stat().st_size / 2


@pytest.mark.parametrize("function", [dataset.count_images, lambda path: list(dataset.iter_frames(path))])
def test_files_that_are_no_pool(tmp_path, function):
    path = tmp_path / "odd.extxyz"
    with pytest.raises(ValueError, match=r"odd\.extxyz: cannot be read"):
        function(path)
    path.write_text("\n\n")
    with pytest.raises(ValueError, match=r"odd\.extxyz: holds no images"):
        function(path)
    text = write(path, [mno()]).read_text()
    path.write_text(f"{text}shopping list\n")
    with pytest.raises(ValueError, match=r"after image 1: line 5: must be a number of atoms, not 'shopping list'"):
        function(path)


def test_a_stream_that_never_ends_is_scored_a_batch_at_a_time(committees):
    made: list[weakref.ref] = []

    def endless() -> Iterator[Frame]:
        for seed in count():
            frame = Frame.of(rattled(seed % 3), parent="p", source="s")
            made.append(weakref.ref(frame))
            yield frame

    stream = score_stream(load(committees / "two"), endless(), batch_size=3)
    assert len(list(islice(stream, 4))) == 4
    assert len(made) == 6
    assert len(list(islice(stream, 6))) == 6
    assert len(made) == 12
    assert sum(frame() is not None for frame in made) <= 3


@pytest.mark.parametrize("reduce", ["max", "mean", 0.5])
def test_rows_are_what_decompose_says(committees, reduce):
    models = load(committees / "two")
    frames = [Frame.of(structure, parent="p", source="s") for structure in (rattled(0), mno(), rattled(1))]
    for scored, frame, prediction in zip(
        score_stream(models, frames, reduce), frames, predict(models, frames), strict=True
    ):
        row = scored.row()
        assert tuple(row) == COLUMNS
        assert (row["frame_id"], row["formula"], row["atoms"]) == (frame.frame_id, "MnO", len(frame.structure))
        for column, (quantity, part) in SIGMAS.items():
            assert row[column] == getattr(decompose(prediction, quantity, reduce), part)
        assert row["sigma_magnetic_moments_muB"] == decompose(prediction, "magmoms", reduce).magnetic
        low, high = prediction.energy[:, 0], prediction.energy[:, 1]
        assert row["sigma_delta_energy_eV_per_atom"] == pytest.approx(abs(np.diff(high - low)[0]) / 2**0.5, abs=1e-6)


def test_score_writes_a_row_for_each_image(committees, pool, whole):
    with whole.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    scored = list(score_stream(load(committees / "two"), dataset.iter_frames(pool), batch_size=BATCH))
    assert [row["frame_id"] for row in rows] == [one.frame_id for one in scored]
    for row, one in zip(rows, scored, strict=True):
        for column, value in one.row().items():
            assert row[column] == (f"{value:.5g}" if isinstance(value, float) else str(value))


def test_the_summary_is_of_the_forces(score, whole, tmp_path):
    result = score()
    assert (tmp_path / "sigmas.csv").read_bytes() == whole.read_bytes()
    with whole.open(newline="") as file:
        sigmas = [float(row["sigma_delta_forces_eV_per_A"]) for row in csv.DictReader(file)]
    (line,) = [line for line in result.stdout.splitlines() if "difference" in line]
    assert line.split()[1:] == [f"{np.quantile(sigmas, share):.4f}" for share in (0.5, 0.9, 1)]


def test_killed_and_run_again_is_the_same_file(score, begun, whole, tmp_path):
    begun_at = begun.stat().st_ino
    result = score()
    assert result.exit_code == 0, result.output
    assert f"goes on after {BATCH} of {FRAMES} frames" in result.stdout.replace("\n", "")
    out = tmp_path / "sigmas.csv"
    assert out.read_bytes() == whole.read_bytes()
    assert out.stat().st_ino == begun_at
    assert [path.name for path in tmp_path.iterdir()] == ["sigmas.csv"]


def test_a_kill_anywhere_loses_no_more_than_a_batch(score, begun, whole, tmp_path, monkeypatch):
    """Cut at every line and in the middle of lines, the file of the part goes on from the last whole batch."""
    content, about = whole.read_bytes(), begun.with_name(f"{begun.name}.json").read_bytes()
    lines = content.splitlines(keepends=True)
    cut, found = command._cut, []

    def watched(file, total):
        found.append(cut(file, total))
        return found[-1]

    monkeypatch.setattr(command, "_cut", watched)
    for kept, torn in ((0, 5), (1, 0), (3, 9), (1 + BATCH, 0), (2 * BATCH, 7), (FRAMES, 3), (1 + FRAMES, 0)):
        begun.write_bytes(b"".join(lines[:kept]) + b"".join(lines[kept : kept + 1])[:torn])
        begun.with_name(f"{begun.name}.json").write_bytes(about)
        assert score("--force").exit_code == 0
        assert (tmp_path / "sigmas.csv").read_bytes() == content
    assert found == [0, 0, 0, BATCH, BATCH, 2 * BATCH, FRAMES]


def test_interrupted_at_the_keyboard(score, whole, tmp_path, monkeypatch):
    append = command._append

    def interrupt(file, batch):
        append(file, batch)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "_append", interrupt)
        result = score()
    assert result.exit_code == 130
    assert "goes on from here" in result.stderr
    assert score().exit_code == 0
    assert (tmp_path / "sigmas.csv").read_bytes() == whole.read_bytes()


def test_a_part_of_something_else_is_refused(score, begun, pool, tmp_path):
    before = begun.read_bytes()
    copy = tmp_path / "pool.extxyz"
    shutil.copy(pool, copy)
    os.utime(copy, (0, 0))
    refused(score(model="heads"), "sigmas.csv.part: was begun with another model:", "another --out", "remove it")
    refused(score("--reduce", "mean", of=copy), "was begun with another pool, another reduce:")
    sidecar = tmp_path / "sigmas.csv.part.json"
    about = json.loads(sidecar.read_text())
    assert about["reduce"] == "max"
    sidecar.write_text("torn")
    refused(score(), "sigmas.csv.part.json: cannot be read", "another --out, or remove")
    sidecar.unlink()
    refused(score("--force"), "sigmas.csv.part.json: cannot be read")
    with begun.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused(score(), "another 'mfal score' writes it: wait for it")
    assert begun.read_bytes() == before
    begun.unlink()
    assert score().exit_code == 0


def test_what_is_there_is_kept(score, mfal, committees, pool, tmp_path):
    out = tmp_path / "sigmas.csv"
    out.write_text("old")
    refused(score(), "sigmas.csv: is there already", "another --out, or --force")
    refused(mfal("score", committees / "two", pool, "--out", tmp_path, "--force"), f"{tmp_path}: is there already")
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["sigmas.csv"]


@pytest.mark.parametrize(
    ("model", "arguments", "words"),
    [
        ("one", [], ["one: is one member, and the spread of one is not there", "committee.members: 2 or more"]),
        ("delta", [], ["delta: is one member"]),
        ("high", [], ["high: does not know the fidelity nonmagnetic", "--strategy multi-fidelity"]),
        ("none", [], ["none: is not there"]),
        ("two", ["--reduce", "worst"], ["--reduce worst: must be max, mean or a quantile"]),
        ("two", ["--reduce", "0"], ["--reduce 0: must be"]),
        ("two", ["--reduce", "nan"], ["--reduce nan: must be"]),
    ],
)
def test_score_refuses(score, tmp_path, model, arguments, words):
    refused(score(*arguments, model=model), *words)
    assert list(tmp_path.iterdir()) == []


def test_a_model_with_heads_is_a_committee(score, tmp_path):
    assert score("--reduce", "0.95", model="heads").exit_code == 0
    assert len((tmp_path / "sigmas.csv").read_text().splitlines()) == 1 + FRAMES


TORN_APART = Structure(Lattice.cubic(30), ["Mn", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
ON_ONE_ANOTHER = Structure(Lattice.cubic(4), ["Mn", "Mn", "O"], [[0, 0, 0], [0, 0, 0], [0.5, 0.5, 0.5]])
HEAVY = Structure(Lattice.cubic(4), ["Cm", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (TORN_APART, ["2 of 2 atoms have no neighbour"]),
        (ON_ONE_ANOTHER, ["the prediction is not finite: do atoms lie on one another?"]),
        (HEAVY, ["species = Cm"]),
    ],
)
def test_a_bad_frame_is_named_and_what_comes_before_it_kept(score, tmp_path, bad, words):
    path = write(tmp_path / "pool.extxyz", [*(rattled(seed) for seed in range(5)), bad, rattled(9)])
    refused(score(of=path), "pool.extxyz: image 6: ", *words, "sigmas.csv.part: has the rows of the batches before it")
    assert len((tmp_path / "sigmas.csv.part").read_text().splitlines()) == 1 + BATCH
    assert not (tmp_path / "sigmas.csv").exists()
