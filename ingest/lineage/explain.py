"""How much of a checkpoint another one explains: the evidence tensor by tensor, and what is left as a squared distance.

The first evidence that fits a tensor counts: equal hash; equal values in another form; the other's values rounded; some of them
set to zero with the extremes kept; else likeness, by the squared distance of the sketches relative to their length, or of the
signatures where the shapes differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from layerhouse.ingest.lineage.outline import Array, Outline

VALUES_COST, ROUNDED_COST = 2e-7, 4e-7
"""What a tensor costs that is not equal byte for byte, so that one that is comes first."""
ROUNDED_FACTOR, MASKED_FACTOR = 1e-3, 0.02
"""How much of the distance counts where rounding or zeros explain it."""
MIN_NEW_ZEROS = 0.1
"""Share of a tensor that has to be zero in it alone for it to count as masked."""
REORDERED, REORDERED_PROFILE = 0.8, 0.3
"""Sketches farther apart than the first, with signatures nearer than the second: the rows are in another order."""
SAME, VALUES, CAST, MASKED, LIKE = range(5)
Places = Array | slice
"""Positions of tensors, or a slice of them, which copies nothing."""
ALL = slice(None)


@dataclass(frozen=True)
class Explained:
    """What a parent explains of a child: the mean squared distance, the shares of the evidence in the order SAME to LIKE, and
    for each block of the child that of the parent.
    """

    cost: float
    shares: tuple[float, float, float, float, float]
    blocks: tuple[int, ...]

    @property
    def exact(self) -> float:
        """The share whose values are those of the parent, or its values rounded."""
        return self.shares[SAME] + self.shares[VALUES] + self.shares[CAST]


def explain(child: Outline, parents: Sequence[Outline], rounded_codes: Sequence[int]) -> Iterator[Explained | None]:
    """What each of some possible parents explains of a child, in their order; None where nothing can be compared.

    `rounded_codes` are the codes of the dtypes in ROUNDED. Parents of the child's form are taken together.
    """
    alike = [index for index, parent in enumerate(parents) if parent.form == child.form]
    together: dict[int, Explained | None] = {}
    for low in range(0, len(alike), 32):
        chunk = alike[low : low + 32]
        found = _compare(child, [parents[index] for index in chunk], ALL, [ALL] * len(chunk), rounded_codes)
        blocks = tuple(range(child.num_blocks))
        together |= {index: one and Explained(*one, blocks) for index, one in zip(chunk, found, strict=True)}
    for index, parent in enumerate(parents):
        if index in together:
            yield together[index]
            continue
        blocks = match_blocks(child, parent)
        own, others = aligned(child, parent, blocks)
        (one,) = _compare(child, [parent], own, [others], rounded_codes) if len(own) else (None,)
        yield one and Explained(*one, blocks)


def aligned(child: Outline, parent: Outline, blocks: Sequence[int]) -> tuple[Array, Array]:
    """The positions of tensors with a counterpart, in the child and in the parent; `blocks` as `match_blocks` gives them."""
    stride = int(max(child.keys.max(initial=0), parent.keys.max(initial=0))) + 1
    places = np.array([*blocks, -1], np.int64)[child.blocks]
    is_placed = (places >= 0) | (child.blocks < 0)
    child_codes = (places + 1) * stride + child.keys
    parent_codes = (parent.blocks.astype(np.int64) + 1) * stride + parent.keys
    order = np.argsort(parent_codes, kind="stable")
    at = np.searchsorted(parent_codes[order], child_codes)
    at = np.minimum(at, len(order) - 1)
    found = is_placed & (parent_codes[order][at] == child_codes) if len(order) else np.zeros(len(child), bool)
    return np.flatnonzero(found), order[at[found]]


def match_blocks(child: Outline, parent: Outline) -> tuple[int, ...]:
    """For each block of the child the nearest of the parent, by equal hashes and by signatures; -1 where none can be compared.

    Blocks of one number on both sides keep their places.
    """
    if child.block_labels == parent.block_labels:
        return tuple(range(child.num_blocks))
    total = np.zeros((child.num_blocks, parent.num_blocks))
    counts = np.zeros_like(total)
    for key in np.intersect1d(child.keys[child.blocks >= 0], parent.keys[parent.blocks >= 0]):
        own = np.flatnonzero((child.keys == key) & (child.blocks >= 0))
        others = np.flatnonzero((parent.keys == key) & (parent.blocks >= 0))
        weights = child.weights[own][:, None]
        distances = 2 - 2 * (child.signatures[own] @ parent.signatures[others].T).astype(np.float64)
        sizes = child.signature_sizes[own][:, None], parent.signature_sizes[others][None]
        same = (child.hashes[own][:, None] == parent.hashes[others][None]) & (child.hashes[own][:, None] != 0)
        is_known = ((sizes[0] == sizes[1]) & (sizes[0] > 0)) | same
        distances = np.where(same, 0.0, np.maximum(distances, 1e-6))
        places = np.ix_(child.blocks[own], parent.blocks[others])
        total[places] += np.where(is_known, weights * distances, 0.0)
        counts[places] += np.where(is_known, weights, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(counts > 0, total / counts, np.inf)
    if not mean.size:
        return (-1,) * child.num_blocks
    nearest = mean.argmin(axis=1)
    return tuple(int(block) if np.isfinite(row[block]) else -1 for row, block in zip(mean, nearest, strict=True))


def _compare(
    child: Outline, parents: Sequence[Outline], own: Places, others: Sequence[Places], rounded_codes: Sequence[int]
) -> list[tuple[float, tuple[float, float, float, float, float]] | None]:
    """Cost and shares by parent, over the tensors at `own` in the child and at `others` in each parent."""

    def of(name: str) -> Array:
        return np.stack([getattr(parent, name)[..., rows] for parent, rows in zip(parents, others, strict=True)])

    hashes, shapes = of("hashes"), of("shapes")
    is_same = (hashes == child.hashes[own]) & (hashes != 0)
    is_shape = shapes == child.shapes[own]
    distances = _distances(child, parents, own, others, is_shape)
    extremes, own_extremes = of("extremes"), child.extremes[:, own]
    are_extremes_kept = (extremes == own_extremes).all(axis=1)
    norms, own_norms = of("norms"), child.norms[own]
    with np.errstate(invalid="ignore"):
        norm_change = np.abs(own_norms - norms)
        is_value = is_shape & are_extremes_kept & (distances < 1e-12) & (norm_change <= 1e-9 * norms)
        is_cast = np.zeros_like(is_value)
        for rounding, code in enumerate(rounded_codes):
            is_kept = (of("rounded")[:, rounding] == own_extremes).all(axis=1) if (child.dtypes[own] == code).any() else None
            if is_kept is not None:
                is_cast |= is_kept & (child.dtypes[own] == code) & (of("dtypes") != code)
        is_cast &= is_shape & (norm_change <= 2e-3 * norms)
        is_masked = is_shape & are_extremes_kept & (child.zeros[own] > of("zeros") + MIN_NEW_ZEROS * child.sizes[own])
    kinds = np.select([is_same, is_value, is_cast, is_masked], [SAME, VALUES, CAST, MASKED], LIKE)
    costs = np.select(
        [is_same, is_value, is_cast, is_masked],
        [0.0, VALUES_COST, ROUNDED_FACTOR * distances + ROUNDED_COST, MASKED_FACTOR * distances],
        distances,
    )
    weights = np.where(np.isnan(costs), 0.0, child.weights[own])
    totals = weights.sum(axis=1)
    results: list[tuple[float, tuple[float, float, float, float, float]] | None] = []
    for row, total in enumerate(totals.tolist()):
        if not total:
            results.append(None)
            continue
        cost = float((np.nan_to_num(costs[row]) * weights[row]).sum() / total)
        same, values, cast, masked, like = (np.bincount(kinds[row], weights=weights[row], minlength=5) / total).tolist()
        results.append((cost, (same, values, cast, masked, like)))
    return results


def _distances(child: Outline, parents: Sequence[Outline], own: Places, others: Sequence[Places], is_shape: Array) -> Array:
    """Squared distances of shape (parents, tensors), NaN where nothing can be compared."""

    def of(name: str) -> Array:
        return np.stack([getattr(parent, name)[rows] for parent, rows in zip(parents, others, strict=True)])

    difference = of("sketches") - child.sketches[own]
    scale = (of("squares") + child.squares[own]) / 2
    square = np.einsum("kij,kij->ki", difference, difference, dtype=np.float64)
    by_sketch = np.divide(square, scale, out=np.zeros_like(square), where=scale > 0)
    difference = of("signatures") - child.signatures[own]
    by_profile = np.einsum("kij,kij->ki", difference, difference, dtype=np.float64)
    sizes = of("signature_sizes")
    is_profiled = (sizes == child.signature_sizes[own]) & (sizes > 0)
    is_sketched = is_shape & of("has_sketch") & child.has_sketch[own]
    is_reordered = is_profiled & (by_sketch > REORDERED) & (by_profile < REORDERED_PROFILE)
    profile = np.where(is_profiled, by_profile, np.nan)
    return np.asarray(np.where(is_sketched & ~is_reordered, by_sketch, profile))


def untouched_share(child: Outline, parent: Outline, blocks: Sequence[int]) -> float | None:
    """Of the tensors that have no more zeros than the parent's and are packed on neither side, the share that has its values,
    perhaps rounded; None if there are no such tensors.
    """
    own, others = aligned(child, parent, blocks)
    are_norms_known = ~np.isnan(child.norms[own]) & ~np.isnan(parent.norms[others])
    is_shape = child.shapes[own] == parent.shapes[others]
    is_untouched = are_norms_known & is_shape & (child.zeros[own] <= parent.zeros[others] + MIN_NEW_ZEROS * child.sizes[own])
    own, others = own[is_untouched], others[is_untouched]
    weights = child.weights[own]
    if not weights.sum():
        return None
    is_same = (child.hashes[own] == parent.hashes[others]) & (child.hashes[own] != 0)
    differs = child.dtypes[own] != parent.dtypes[others]
    is_near = np.abs(child.norms[own] - parent.norms[others]) <= 2e-3 * parent.norms[others]
    rounded = np.concatenate([parent.extremes[np.newaxis], parent.rounded])[:, :, others]
    is_rounded = differs & is_near & (rounded == child.extremes[:, own]).all(axis=1).any(axis=0)
    return float(weights[is_same | is_rounded].sum() / weights.sum())
