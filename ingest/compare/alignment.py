"""Which block of the base each layer is by similarity: a matrix of scores from hashes and signatures, and the best assignment.

Residual channels have characteristic scales that all blocks of a trained model share, so signatures of different blocks are
similar. The mean over the base's blocks is subtracted from both sides first, so that only the block's own profile is compared.
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
"""What a tensor is in a layer: module, role, part, expert, and its name if it has no role."""

MIN_SIMILARITY, MAX_MIN_SIMILARITY = 0.3, 0.5
"""Bounds of the score from which on a layer is similar to a block, which is four standard deviations of the mean of random
cosines."""

MIN_LEAD = 0.2
"""A layer is placed out of order only if the next best block's score is lower by at least this much."""

MIN_CENTRED_BLOCKS = 3
"""The number of blocks from which on the mean is subtracted: centred on their mean, two blocks are each other's negative."""


@dataclass(frozen=True)
class LayerFingerprint:
    """What distinguishes one layer from another: hashes and signatures of its tensors."""

    index: int
    hashes: Mapping[Key, str]
    signatures: Mapping[Key, Array]


@dataclass(frozen=True)
class Similarity:
    """How similar each layer is to each block, and the least score that counts as similar; both of shape (layers, blocks).

    A score is at most 1, and NaN if no tensor can be compared.
    """

    scores: Array
    least: Array

    @property
    def gains(self) -> Array:
        """By how much the scores exceed the least; minus infinity for a score of NaN."""
        return np.where(np.isnan(self.scores), -np.inf, self.scores - self.least)


def score_layers(layers: Sequence[LayerFingerprint], base_layers: Sequence[LayerFingerprint]) -> Similarity:
    """Score every pair of a layer and a block by the mean over their tensors.

    If some blocks, but not all, have a tensor identical to the layer's, it scores 1 for these blocks and 0 for the others. If
    all have it, it is left out. Otherwise its score is the cosine of the centred signatures.
    """
    total = np.zeros((len(layers), len(base_layers)))
    counts, numbers = np.zeros_like(total), np.zeros_like(total)
    keys = {key for layer in layers for key in layer.hashes} & {key for base in base_layers for key in base.hashes}
    for key in sorted(keys, key=str):
        scores, size = _cosines(key, layers, base_layers)
        same = _are_identical(key, layers, base_layers)
        if len(base_layers) == 1:
            by_hash = np.logical_and(same[:, 0], ~np.isnan(scores[:, 0]))
        else:
            common = np.asarray(same.all(axis=1))
            scores[common] = np.nan
            by_hash = np.logical_and(same.any(axis=1), ~common)
        scores[by_hash] = same[by_hash]
        is_scored = np.logical_not(np.isnan(scores))
        total[is_scored] += scores[is_scored]
        counts += is_scored
        numbers += is_scored * (size or DIMENSIONS)
    scores = np.divide(total, counts, out=np.full_like(total, np.nan), where=counts > 0)
    least = np.clip(4 / np.sqrt(np.maximum(numbers, 1)), MIN_SIMILARITY, MAX_MIN_SIMILARITY)
    return Similarity(scores, least)


def place_by_score(similarity: Similarity, in_reach: Array) -> dict[int, tuple[int, float]]:
    """Row -> (column, confidence) for the rows that are similar to a column.

    Columns are increasing and used once, unless the rows' own best columns are clearly another order (blocks reordered or
    repeated). `in_reach` is true for columns that a row may have in the increasing order. The confidence is the lead over the
    next best column.
    """
    scores, gains = similarity.scores, similarity.gains
    ordered = best_in_order(np.where(in_reach, gains, -np.inf))
    clear = _clear_bests(scores, gains)
    ordered_gain, clear_gain = (sum(gains[row, column] for row, column in places.items()) for places in (ordered, clear))
    chosen = clear if clear_gain > ordered_gain + MIN_LEAD else ordered
    return {row: (column, float(np.clip(_lead(scores[row], column), 0.0, 1.0))) for row, column in chosen.items()}


def best_in_order(gains: Array) -> dict[int, int]:
    """Row -> column, both strictly increasing, with the greatest sum of gains; rows that would lower the sum are left out."""
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
    """The best column of each row that is similar to it and leads clearly."""
    bests = np.where(np.isnan(scores), -np.inf, scores).argmax(axis=1) if scores.size else np.zeros(0, int)
    return {
        row: int(column)
        for row, column in enumerate(bests)
        if gains[row, column] >= 0 and _lead(scores[row], int(column)) >= MIN_LEAD
    }


def _lead(scores: Array, column: int) -> float:
    """By how much a column's score exceeds the next best, or 0, the score of unrelated blocks, if all others are below."""
    others = np.delete(scores, column)
    return float(scores[column] - others[~np.isnan(others)].max(initial=0.0))


def _are_identical(key: Key, layers: Sequence[LayerFingerprint], base_layers: Sequence[LayerFingerprint]) -> Array:
    hashes, base_hashes = (np.array([layer.hashes.get(key, "") for layer in group], object) for group in (layers, base_layers))
    same: Array = (hashes[:, None] == base_hashes[None, :]) & (hashes[:, None] != "")
    return same


def _cosines(key: Key, layers: Sequence[LayerFingerprint], base_layers: Sequence[LayerFingerprint]) -> tuple[Array, int]:
    """Cosines of the centred signatures, NaN for pairs that have none or unequal lengths; and the length, 0 for no pair.

    Only signatures of the length that most blocks have are compared.
    """
    groups = [[layer.signatures.get(key) for layer in group] for group in (layers, base_layers)]
    cosines = np.full((len(layers), len(base_layers)), np.nan)
    lengths = [len(signature) for signature in groups[1] if signature is not None]
    size = max(set(lengths), key=lengths.count, default=0)
    rows, columns = (
        [at for at, signature in enumerate(group) if signature is not None and len(signature) == size] for group in groups
    )
    if not rows or not columns:
        return cosines, 0
    vectors, base_vectors = (
        np.array([group[at] for at in positions], np.float64) for group, positions in zip(groups, (rows, columns), strict=True)
    )
    if len(columns) >= MIN_CENTRED_BLOCKS:
        mean = base_vectors.mean(axis=0)
        vectors, base_vectors = vectors - mean, base_vectors - mean
    norms = np.outer(np.linalg.norm(vectors, axis=1), np.linalg.norm(base_vectors, axis=1))
    products = vectors @ base_vectors.T
    cosines[np.ix_(rows, columns)] = np.divide(products, norms, out=np.full(norms.shape, np.nan), where=norms > 1e-12)
    return cosines, size
