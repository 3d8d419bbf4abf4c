"""Which frames are new: distances between CHGNet's own descriptions of them."""

from __future__ import annotations

import numpy as np
from chgnet.model.model import CHGNet
from pymatgen.core import Structure


def features(structures: list[Structure], model: CHGNet) -> np.ndarray:
    """Mean and standard deviation over a frame's atoms of CHGNet's atom features, scaled to unit length: (frames, 128).

    Always from the *pretrained* model, so that frames of different rounds can be compared.
    """
    if not structures:
        return np.zeros((0, 2 * model.atom_fea_dim))
    predictions = model.predict_structure(structures, task="e", return_atom_feas=True)
    rows = [np.concatenate([p["atom_fea"].mean(0), p["atom_fea"].std(0)]) for p in predictions]
    return np.array([row / np.linalg.norm(row) for row in rows])


def novel(candidates: np.ndarray, known: np.ndarray, *, count: int, tolerance: float) -> list[int]:
    """Farthest-point selection: indices of up to `count` candidates, each the farthest from all known and chosen.

    Stops early when what is left lies within `tolerance` of something known: those are near-duplicates. Starts from the
    candidate farthest from the mean when nothing is known.
    """
    if not len(candidates):
        return []
    if len(known):
        nearest = _distances(candidates, known).min(axis=1)
        chosen = []
    else:
        chosen = [int(np.linalg.norm(candidates - candidates.mean(axis=0), axis=1).argmax())]
        nearest = np.linalg.norm(candidates - candidates[chosen[0]], axis=1)
    while len(chosen) < min(count, len(candidates)):
        index = int(nearest.argmax())
        if nearest[index] <= tolerance:
            break
        chosen.append(index)
        nearest = np.minimum(nearest, np.linalg.norm(candidates - candidates[index], axis=1))
    return chosen


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a[:, None] - b[None], axis=-1)
