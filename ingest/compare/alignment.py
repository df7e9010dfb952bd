"""Which block each layer is by likeness alone: a matrix of scores from hashes and signatures, and the best places in it.

Residual channels have scales of their own that all blocks of a trained model share, so signatures of unlike blocks resemble
each other. The mean of the base's blocks is taken off both sides first; what is left is the block's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.measure.signatures import DIMENSIONS

Array = npt.NDArray[Any]
Key = tuple[str, str | None, str | None, int | None, str]

LEAST_SIMILARITY, MOST_DEMANDED = 0.3, 0.5
"""The least score that is a likeness: four standard deviations of the mean of random cosines, within these bounds."""

CLEAR = 0.2
"""A layer is placed out of order only where the next best block is worse by so much."""

LEAST_CENTRED = 3
"""Blocks that make a mean worth taking off; the mean of two leaves one the negative of the other."""


@dataclass(frozen=True)
class LayerPrint:
    """What tells one layer from another: its tensors' hashes and signatures, by what each tensor is in a layer."""

    index: int
    hashes: Mapping[Key, str]
    signatures: Mapping[Key, Array]


@dataclass(frozen=True)
class Likeness:
    """How alike each layer is to each block, and from where on it is a likeness; both of shape (layers, blocks).

    A score is at most 1, and NaN where nothing tells.
    """

    scores: Array
    least: Array

    @property
    def gains(self) -> Array:
        """What a place would add; minus infinity where nothing tells."""
        return np.where(np.isnan(self.scores), -np.inf, self.scores - self.least)


def score_layers(layers: Sequence[LayerPrint], base_layers: Sequence[LayerPrint]) -> Likeness:
    """The mean over the tensors that tell.

    A tensor that some blocks have identically tells 1 for these and 0 for the others, and nothing if all have it; any other one
    tells the cosine of the signatures, centred.
    """
    total = np.zeros((len(layers), len(base_layers)))
    counts, numbers = np.zeros_like(total), np.zeros_like(total)
    keys = {key for layer in layers for key in layer.hashes} & {key for base in base_layers for key in base.hashes}
    for key in sorted(keys, key=str):
        scores, size = _cosines(key, layers, base_layers)
        same = _identical(key, layers, base_layers)
        if len(base_layers) == 1:
            tells = np.logical_and(same[:, 0], ~np.isnan(scores[:, 0]))
        else:
            common = np.asarray(same.all(axis=1))
            scores[common] = np.nan
            tells = np.logical_and(same.any(axis=1), ~common)
        scores[tells] = same[tells]
        told = np.logical_not(np.isnan(scores))
        total[told] += scores[told]
        counts += told
        numbers += told * (size or DIMENSIONS)
    scores = np.divide(total, counts, out=np.full_like(total, np.nan), where=counts > 0)
    least = np.clip(4 / np.sqrt(np.maximum(numbers, 1)), LEAST_SIMILARITY, MOST_DEMANDED)
    return Likeness(scores, least)


def place_by_score(likeness: Likeness, in_reach: Array) -> dict[int, tuple[int, float]]:
    """Row -> (column, confidence) for the rows that are like a column; empty where nothing is.

    In order and each column once, unless the rows' own best columns are clearly another map (blocks reordered, or there twice).
    `in_reach` says which columns are free to be placed in order. The confidence is the lead over the next best column.
    """
    scores, gains = likeness.scores, likeness.gains
    ordered = best_in_order(np.where(in_reach, gains, -np.inf))
    clear = _clear_bests(scores, gains)
    sums = [sum(gains[row, column] for row, column in places.items()) for places in (ordered, clear)]
    chosen = clear if sums[1] > sums[0] + CLEAR else ordered
    return {row: (column, float(np.clip(_lead(scores[row], column), 0.0, 1.0))) for row, column in chosen.items()}


def best_in_order(gains: Array) -> dict[int, int]:
    """Row -> column, both strictly increasing, with the greatest sum of gains; what would lose by a place has none."""
    rows, columns = gains.shape
    best = np.zeros((rows + 1, columns + 1))
    for row in range(1, rows + 1):
        placed = np.maximum(best[row - 1, :-1] + gains[row - 1], best[row - 1, 1:])
        best[row, 1:] = np.maximum.accumulate(np.maximum(placed, 0.0))
    chosen: dict[int, int] = {}
    row, column = rows, columns
    while row and column:
        if best[row, column] == best[row, column - 1]:
            column -= 1
        elif best[row, column] == best[row - 1, column]:
            row -= 1
        else:
            row, column = row - 1, column - 1
            chosen[row] = column
    return dict(sorted(chosen.items()))


def _clear_bests(scores: Array, gains: Array) -> dict[int, int]:
    """Rows whose best column is like them and leads clearly."""
    bests = np.where(np.isnan(scores), -np.inf, scores).argmax(axis=1) if scores.size else np.zeros(0, int)
    return {
        row: int(column)
        for row, column in enumerate(bests)
        if gains[row, column] >= 0 and _lead(scores[row], int(column)) >= CLEAR
    }


def _lead(scores: Array, column: int) -> float:
    """How far a column is ahead of the next best, or of 0, the likeness of what has nothing to do with it."""
    others = np.delete(scores, column)
    return float(scores[column] - others[~np.isnan(others)].max(initial=0.0))


def _identical(key: Key, layers: Sequence[LayerPrint], base_layers: Sequence[LayerPrint]) -> Array:
    ours, theirs = (np.array([one.hashes.get(key, "") for one in side], object) for side in (layers, base_layers))
    same: Array = (ours[:, None] == theirs[None, :]) & (ours[:, None] != "")
    return same


def _cosines(key: Key, layers: Sequence[LayerPrint], base_layers: Sequence[LayerPrint]) -> tuple[Array, int]:
    """Cosines of the signatures, NaN where one has none or they differ in length; and that length, 0 where none is compared."""
    ours, theirs = ([one.signatures.get(key) for one in side] for side in (layers, base_layers))
    cosines = np.full((len(ours), len(theirs)), np.nan)
    lengths = [len(signature) for signature in theirs if signature is not None]
    size = max(set(lengths), key=lengths.count, default=0)
    rows, columns = (
        [at for at, signature in enumerate(side) if signature is not None and len(signature) == size] for side in (ours, theirs)
    )
    if not rows or not columns:
        return cosines, 0
    one, other = (np.array([side[at] for at in found], np.float64) for side, found in ((ours, rows), (theirs, columns)))
    if len(columns) >= LEAST_CENTRED:
        mean = other.mean(axis=0)
        one, other = one - mean, other - mean
    norms = np.outer(np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1))
    cosines[np.ix_(rows, columns)] = np.divide(one @ other.T, norms, out=np.full(norms.shape, np.nan), where=norms > 1e-12)
    return cosines, size
