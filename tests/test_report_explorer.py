"""The table of the round's frames and the structures in the page: what is packed equals the documents."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fake_report import EVIL, fake_campaign, fake_frame, fake_label, page_of
from pymatgen.core import Lattice, Structure

from mfal.frames import FIDELITIES, Frame, Score
from mfal.report.explorer import chapter as explorer
from mfal.report.explorer import structures
from mfal.report.material import Material
from mfal.report.routing import ROUTES, route
from mfal.report.text import formula


def inflated(text: str) -> bytes:
    return gzip.decompress(base64.b64decode(text))


def island(page: str, name: str) -> bytes:
    found = re.search(rf'id="{name}">(.*?)</script>', page)
    assert found, name
    return inflated(found.group(1))


def table_of(campaign: dict[str, Any]) -> dict[str, Any]:
    return json.loads(island(page_of(campaign), "frames-table"))


def scores_of(campaign: dict[str, Any]) -> dict[str, Score]:
    return {score.frame_id: score for score in campaign["scores"] if score.round == 1}


def test_the_table_equals_the_documents() -> None:
    campaign = fake_campaign()
    table = table_of(campaign)
    scores = scores_of(campaign)
    columns = table["columns"]
    assert sorted(columns["frame_id"]) == sorted(scores)
    spent = {"both": 5.0, "magnetic": 2.5, "nonmagnetic": 2.5, "skip": 0.0, "wild": 0.0}
    expected = {"both": 9.75, "magnetic": 7.5, "nonmagnetic": 2.25, "skip": None, "wild": None}
    for row, i in enumerate(columns["frame_id"]):
        frame, score = campaign["frames"][i], scores[i]
        assert columns["formula"][row] == formula(frame)
        assert (columns["source"][row], columns["parent"][row]) == (frame.source, frame.parent)
        assert table["routes"][columns["route"][row]] == list(ROUTES[route(score)])
        assert columns["reason"][row] == "fake reason"
        for kind in explorer.SIGMAS:
            sigma = getattr(score, kind)
            assert columns[kind][row] == (None if sigma is None else pytest.approx(sigma, rel=5e-3)), kind
        assert columns["expected"][row] == expected[score.decision]
        assert columns["spent"][row] == spent[score.decision]
        assert columns["atoms"][row] == 6
        assert columns["volume"][row] == pytest.approx(36, rel=1e-3)
    assert {len(column) for column in columns.values()} == {len(scores)}


def test_every_attempt_is_there_with_its_directory() -> None:
    campaign = fake_campaign()
    frame = next(f for f in campaign["frames"].values() if f.frame_id in scores_of(campaign))
    first = fake_label(frame, "magnetic", "unconverged", energy=None, forces=None, magmoms=None, directory="/fake/1")
    campaign["labels"] = [
        fake_label(frame, "magnetic", attempt=2, directory="/fake/2"),
        first.model_copy(update={"reason": "fake: no SCF"}),
        fake_label(frame, "nonmagnetic", flag="fake outlier"),
    ]
    table = table_of(campaign)
    row = table["columns"]["frame_id"].index(frame.frame_id)
    assert {label["row"] for label in table["labels"]} == {row}
    found = {(x["fidelity"], x["attempt"]): x for x in table["labels"]}
    lost, last, held = found["magnetic", 1], found["magnetic", 2], found["nonmagnetic", 1]
    assert (lost["status"], lost["good"], lost["reason"], lost["directory"]) == (
        "unconverged",
        False,
        "fake: no SCF",
        "/fake/1",
    )
    assert lost["energy"] is lost["force"] is lost["moments"] is None
    label = campaign["labels"][0]
    assert (last["status"], last["good"], last["directory"]) == ("good", True, "/fake/2")
    assert last["energy"] == pytest.approx(label.energy, rel=1e-7)
    assert last["force"] == pytest.approx(max(np.linalg.norm(label.forces, axis=1)), rel=5e-3)
    assert last["moments"] == label.magmoms
    assert (held["status"], held["good"], held["reason"]) == ("held back", False, "fake outlier")
    assert table["columns"]["spent"][row] == 7.5


def test_what_was_calculated_comes_first_and_then_the_most_uncertain() -> None:
    campaign = fake_campaign()
    scores, calculated = scores_of(campaign), {label.frame_id for label in campaign["labels"]}
    ids = table_of(campaign)["columns"]["frame_id"]
    assert [i in calculated for i in ids] == [True] * 4 + [False] * 2
    for part in (ids[:4], ids[4:]):
        sigmas = [scores[i].sigma_magnetic or 0 for i in part]
        assert sigmas == sorted(sigmas, reverse=True)


def test_numbers_count_what_the_table_has() -> None:
    numbers = explorer.chapter(Material(**fake_campaign())).numbers
    assert numbers == {
        "frames": 6,
        "calculated": 4,
        "in_3d": 6,
        "by_decision": {"control": 1, "both": 1, "magnetic": 1, "nonmagnetic": 1, "skip": 1, "wild": 1},
        "labels_by_status": {"nonmagnetic": {"good": 3}, "magnetic": {"good": 2, "failed": 1}},
        "spent_core_hours": 15.0,
    }


def test_names_from_a_campaign_are_not_in_the_markup() -> None:
    campaign = fake_campaign()
    plain = page_of(campaign)
    frame = fake_frame(15, source=EVIL).model_copy(update={"parent": EVIL})
    campaign["frames"][frame.frame_id] = frame
    campaign["scores"] = [s.model_copy(update={"reason": EVIL}) for s in campaign["scores"]]
    campaign["labels"] = [x.model_copy(update={"reason": EVIL, "directory": EVIL}) for x in campaign["labels"]]
    page = page_of(campaign)
    table = json.loads(island(page, "frames-table"))
    assert table["columns"]["source"].count(EVIL) == table["columns"]["parent"].count(EVIL) == 1
    assert set(table["columns"]["reason"]) == {EVIL}
    assert EVIL not in page
    assert page.count("<script") == plain.count("<script")


def test_a_number_that_is_none_is_absent() -> None:
    campaign = fake_campaign()
    campaign["labels"] = [x.model_copy(update={"energy": float("nan")}) for x in campaign["labels"]]
    assert {label["energy"] for label in table_of(campaign)["labels"]} == {None}


def decoded(packed: structures.Packed) -> Iterator[tuple[int, list[str], np.ndarray, np.ndarray, np.ndarray | None]]:
    """Row, symbols, cell and positions (Å), and sigmas (eV/Å) of every structure, read as the format says."""
    content = inflated(packed.text)
    head, rest = content.split(b"\n", 1)
    scale = json.loads(head)
    stream = np.frombuffer(rest, np.uint8)
    groups = scale["groups"]
    symbols = [[s for s, n in group["species"] for _ in range(n)] for group in groups]
    parts: list[list[np.ndarray]] = []
    for widths, step in (([9] * len(groups), scale["cell"]), ([3 * len(s) for s in symbols], scale["step"])):
        sizes = [len(group["frames"]) * width for group, width in zip(groups, widths, strict=True)]
        total = sum(sizes)
        values = stream[:total].astype(int) + 256 * stream[total : 2 * total].astype(int)
        stream = stream[2 * total :]
        signed = np.where(values % 2, -(values + 1) // 2, values // 2)
        cut = np.split(signed, np.cumsum(sizes)[:-1])
        parts.append([step * c.reshape(-1, w).cumsum(axis=0) for c, w in zip(cut, widths, strict=True)])
    for group, names, cells, positions in zip(groups, symbols, *parts, strict=True):
        for k, row in enumerate(group["frames"]):
            sigmas = None
            if group["sigmas"]:
                size = 2 * len(names)
                steps, stream = stream[:size].astype(float), stream[size:]
                sigmas = np.where(steps > 0, scale["smallest"] * scale["factor"] ** (steps - 1), 0).reshape(2, -1)
            yield row, names, cells[k].reshape(3, 3), positions[k].reshape(-1, 3), sigmas
    assert not stream.size


def scored(frame: Frame, sigmas: np.ndarray | None = None) -> Score:
    atoms = {} if sigmas is None else {"nonmagnetic": sigmas[0].tolist(), "delta": sigmas[1].tolist()}
    return Score(campaign="fake", round=1, frame_id=frame.frame_id, decision="skip", reason="", sigma_atoms=atoms)


def frames_of_several_kinds(n: int = 40) -> tuple[dict[int, Frame], dict[int, Score | None]]:
    """Two compositions, some with sigmas, one without a score."""
    rng = np.random.default_rng(2)
    frames: dict[int, Frame] = {}
    scores: dict[int, Score | None] = {}
    for row in range(n):
        species = ["Li", "O", "O", "Mn"] if row % 3 else ["O", "O", "Fe"]
        structure = Structure(
            Lattice(8 * np.eye(3) + rng.normal(0, 0.5, (3, 3))), species, rng.random((len(species), 3))
        )
        frame = Frame.of(structure, parent=f"fake-{row % 2}", source="fake")
        frames[row] = frame
        scores[row] = scored(frame, rng.gamma(3, 0.1, (2, len(species))) if row % 5 else None)
    scores[n - 1] = None
    return frames, scores


def test_structures_come_out_as_they_went_in() -> None:
    frames, scores = frames_of_several_kinds()
    packed = structures.pack(frames, scores, 10**6)
    found = list(decoded(packed))
    assert packed.frames == len(found) == len(frames)
    assert sorted(row for row, *_ in found) == sorted(frames)
    for row, symbols, cell, positions, sigmas in found:
        structure, score = frames[row].structure, scores[row]
        assert symbols == [site.specie.symbol for site in structure]
        assert np.abs(cell - structure.lattice.matrix).max() <= structures.CELL_STEP / 2 + 1e-9
        assert np.abs(positions - structure.cart_coords).max() <= structures.STEP / 2 + 1e-9
        if score is None or not score.sigma_atoms:
            assert sigmas is None
        else:
            assert sigmas is not None
            own = [score.sigma_atoms["nonmagnetic"], score.sigma_atoms["delta"]]
            np.testing.assert_allclose(sigmas, own, rtol=0.025)


def test_beyond_the_budget_the_last_are_left_out() -> None:
    frames, scores = frames_of_several_kinds()
    whole = structures.pack(frames, scores, 10**6)
    budget = len(whole.text) // 2
    packed = structures.pack(frames, scores, budget)
    assert len(packed.text) <= budget
    assert 0 < packed.frames < len(frames)
    assert sorted(row for row, *_ in decoded(packed)) == list(frames)[: packed.frames]


def test_a_cell_too_large_to_store_is_left_out() -> None:
    frames, scores = frames_of_several_kinds(3)
    frames[1] = Frame.of(Structure(Lattice.cubic(70), ["Mn"], [[0.9, 0, 0]]), parent="fake", source="fake")
    packed = structures.pack(frames, scores, 10**6)
    assert sorted(row for row, *_ in decoded(packed)) == [0, 2]
    assert structures.pack({}, {}, 10**6).frames == 0


def test_a_round_of_the_first_kind_has_a_table_too() -> None:
    campaign = fake_campaign(rounds=1)
    table = table_of(campaign)
    assert len(table["columns"]["frame_id"]) == 6
    assert {x["fidelity"] for x in table["labels"]} == set(FIDELITIES)
    page = page_of(fake_campaign(rounds=0) | {"rounds": [campaign["rounds"][0]]})
    assert "No frame is known yet" in page
    assert 'id="frames-table"' not in page
