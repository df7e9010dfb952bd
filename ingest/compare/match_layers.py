"""Which block of the base each layer of a checkpoint is, from stored rows alone: content hashes, then signatures.

Rules, first that holds: every tensor identical (exact); alike by hashes of single tensors and by signatures, with a confidence
(similar); position, only where the counts agree (positional); else none. The last three are asked of the layers that are not
placed exactly. A block of the base that no layer is, while the rest is placed, was removed. A base that does not fit is
refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from layerhouse.ingest.compare.alignment import (
    Array,
    Key,
    LayerPrint,
    place_by_score,
    score_layers,
)
from layerhouse.ingest.compare.base_fit import judge_fit

Row = Mapping[str, Any]

UNTOLD = "neither hashes nor signatures say which"
BY_VALUE = frozenset({"exact", "similar"})


@dataclass(frozen=True)
class LayerMatch:
    """One layer of either side and its place on the other; None where it has none."""

    layer_index: int | None
    base_layer_index: int | None
    match: str
    confidence: float | None = None


def compare_layers(tensors: Sequence[Row], base_tensors: Sequence[Row]) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Rows of layer_matches (without the checkpoint ids) for every stack of either side, and notes.

    Each stack (encoder, decoder, text, ...) is matched with the base's stack of that name. No rows where the base does not fit,
    and a note of code `fit` that says why.
    """
    rows: list[dict[str, Any]] = []
    notes: list[dict[str, str]] = []
    stacks = sorted({row["stack"] for row in (*tensors, *base_tensors) if row["layer_index"] is not None and row["stack"]})
    for stack in stacks:
        layers, base_layers = _prints(tensors, stack), _prints(base_tensors, stack)
        matches, note = match_layers(layers, base_layers)
        rows += [
            {
                "stack": stack,
                "layer_index": match.layer_index,
                "base_layer_index": match.base_layer_index,
                "match": match.match,
                "match_confidence": match.confidence,
            }
            for match in matches
        ]
        if note:
            where = f"{stack}: " if len(stacks) > 1 else ""
            notes.append({"code": "match", "text": f"{where}{note}"})
    if any(row["layer_index"] is not None and row["match"] in BY_VALUE for row in rows):
        return rows, notes
    fit = judge_fit(tensors, base_tensors)
    if fit.is_refused:
        return [], [{"code": "fit", "text": fit.text}]
    return rows, [*([{"code": "values", "text": fit.text}] if fit.text else []), *notes]


def match_layers(layers: Sequence[LayerPrint], base_layers: Sequence[LayerPrint]) -> tuple[list[LayerMatch], str | None]:
    """Match the layers of one stack; a row for every layer of either side, and a line where neither hashes nor signatures told.

    Layers that are identical to a block hold their places; the others are placed in the gaps between those.
    """
    placed: dict[int, tuple[int, str, float | None]] = {
        row: (column, "exact", 1.0) for row, column in _exact_places(layers, base_layers).items()
    }
    if len(placed) < len(layers):
        placed |= _similar_places(layers, base_layers, {row: place[0] for row, place in placed.items()})
    removed_by = _removed_by(len(layers), len(base_layers), placed)
    lines: list[str] = []
    for rows, columns in _gaps(len(layers), len(base_layers), {row: place[0] for row, place in placed.items()}):
        removed_by |= dict.fromkeys(columns, ("none", None))
        is_by_position = len(rows) == len(columns)
        if is_by_position:
            placed |= {row: (column, "positional", None) for row, column in zip(rows, columns, strict=True)}
        counted = f"{len(rows)} layer{'' if len(rows) == 1 else 's'} of {len(columns)}"
        said = "placed by position: neither hashes nor signatures tell" if is_by_position else UNTOLD
        lines.append(f"{counted}{' ' if is_by_position else ', and '}{said}")
    matches = [
        LayerMatch(layer.index, base_layers[place[0]].index, *place[1:])
        if (place := placed.get(position)) is not None
        else LayerMatch(layer.index, None, "none")
        for position, layer in enumerate(layers)
    ]
    taken = {base_position for base_position, _, _ in placed.values()}
    removed = [
        LayerMatch(None, base.index, *removed_by.get(position, ("exact", 1.0)))
        for position, base in enumerate(base_layers)
        if position not in taken
    ]
    return [*matches, *removed], "; ".join(lines) or None


def _removed_by(
    num_layers: int, num_base_layers: int, placed: Mapping[int, tuple[int, str, float | None]]
) -> dict[int, tuple[str, float | None]]:
    """For blocks among which similar layers were placed: that a block is gone is as sure as the least sure of these."""
    exact = {row: column for row, (column, match, _) in placed.items() if match == "exact"}
    answer: dict[int, tuple[str, float | None]] = {}
    for rows, columns in _gaps(num_layers, num_base_layers, exact):
        confidences = [confidence for row in rows if row in placed and (confidence := placed[row][2]) is not None]
        answer |= dict.fromkeys(columns, ("similar", min(confidences)) if confidences else ("none", None))
    return answer


def _gaps(num_layers: int, num_base_layers: int, placed: Mapping[int, int]) -> list[tuple[list[int], list[int]]]:
    """Layers without a place, and the blocks that nobody took, between the places around them; all in one where those are
    out of order. Every layer is in one gap, no block in two."""
    taken = set(placed.values())
    rest = [position for position in range(num_layers) if position not in placed]
    gaps: dict[tuple[int, int], list[int]] = {}
    for position in rest:
        gaps.setdefault(_bounds(position, num_base_layers, placed), []).append(position)
    if any(low >= high for low, high in gaps):
        gaps = {(-1, num_base_layers): rest}
    return [(rows, [base for base in range(low + 1, high) if base not in taken]) for (low, high), rows in gaps.items()]


def _bounds(position: int, num_base_layers: int, placed: Mapping[int, int]) -> tuple[int, int]:
    """The blocks of the nearest placed layers before and after one; one out of range where there is none."""
    low = max((base for other, base in placed.items() if other < position), default=-1)
    high = min((base for other, base in placed.items() if other > position), default=num_base_layers)
    return low, high


def _prints(tensors: Sequence[Row], stack: str) -> list[LayerPrint]:
    hashes: dict[int, dict[Key, str]] = {}
    signatures: dict[int, dict[Key, Array]] = {}
    for row in tensors:
        index = row["layer_index"]
        if index is None or row["stack"] != stack or not row["is_parameter"]:
            continue
        name = "" if row["role"] else str(row["canonical_name"] or row["name"]).replace(f".{index}.", ".{layer}.", 1)
        key: Key = (row["module"], row["role"], row["part"], row["expert_index"], name)
        if row.get("content_hash") is not None:
            hashes.setdefault(index, {})[key] = f"{row['dtype']} {row['shape']} {row['content_hash']}"
        if row.get("signature") is not None:
            signatures.setdefault(index, {})[key] = np.asarray(row["signature"], np.float64)
        hashes.setdefault(index, {})
    return [LayerPrint(index, hashes[index], signatures.get(index, {})) for index in sorted(hashes)]


def _exact_places(layers: Sequence[LayerPrint], base_layers: Sequence[LayerPrint]) -> dict[int, int]:
    """Layers whose every tensor is identical to a block of the base. Of several alike the first after the one before is taken,
    so that equal blocks keep their order; a block may stand twice (a stacked model)."""
    by_hashes: dict[frozenset[tuple[Key, str]], list[int]] = {}
    for position, base in enumerate(base_layers):
        if base.hashes:
            by_hashes.setdefault(frozenset(base.hashes.items()), []).append(position)
    placed: dict[int, int] = {}
    last = -1
    for position, layer in enumerate(layers):
        candidates = by_hashes.get(frozenset(layer.hashes.items()), []) if layer.hashes else []
        if candidates:
            last = next((candidate for candidate in candidates if candidate > last), candidates[0])
            placed[position] = last
    return placed


def _similar_places(
    layers: Sequence[LayerPrint], base_layers: Sequence[LayerPrint], exact: Mapping[int, int]
) -> dict[int, tuple[int, str, float]]:
    """Places and confidences by likeness of layers that are not placed exactly: between the exact ones around them, unless
    another map is clear."""
    rest = [position for position in range(len(layers)) if position not in exact]
    likeness = score_layers([layers[position] for position in rest], base_layers)
    in_reach = np.zeros(likeness.scores.shape, bool)
    row_of = {position: row for row, position in enumerate(rest)}
    for rows, columns in _gaps(len(layers), len(base_layers), exact):
        in_reach[np.ix_([row_of[position] for position in rows], columns)] = True
    return {
        rest[row]: (column, "similar", confidence) for row, (column, confidence) in place_by_score(likeness, in_reach).items()
    }
