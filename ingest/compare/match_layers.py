"""Matches the layers of a checkpoint to blocks of the base from stored rows alone: by content hashes, then by signatures.

The first rule that applies decides: every tensor identical (exact); similar by hashes of single tensors and by signatures, with
a confidence (similar); position, only if both sides have equally many layers there (positional); else none. The last three
apply to layers without an exact match. A block of the base that no layer matches, while the others are matched, was removed. A
base that does not fit is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.compare.alignment import (
    Array,
    Key,
    LayerFingerprint,
    place_by_score,
    score_layers,
)
from layerhouse.ingest.compare.base_fit import judge_fit
from layerhouse.vocabulary import LayerMatch

Row = Mapping[str, Any]

MATCHED_BY_VALUE = frozenset({LayerMatch.EXACT, LayerMatch.SIMILAR})


@dataclass(frozen=True)
class MatchedLayer:
    """A layer of either side and its counterpart on the other side; None if there is none or it is not known."""

    layer_index: int | None
    base_layer_index: int | None
    match: LayerMatch
    confidence: float | None = None


class LayerPlace(NamedTuple):
    """The position of a layer's block among the base's, the rule that found it, and the confidence."""

    base_position: int
    match: LayerMatch
    confidence: float | None


def compare_layers(tensors: Sequence[Row], base_tensors: Sequence[Row]) -> tuple[list[dict[str, Any]], list[Note]]:
    """Rows of layer_matches (without the checkpoint ids) for every stack of either side, and notes.

    Each stack (encoder, decoder, text, ...) is matched with the base's stack of the same name. If the base does not fit, there
    are no rows, and a note of code `fit` says why.
    """
    rows: list[dict[str, Any]] = []
    notes: list[Note] = []
    stacks = sorted({row["stack"] for row in (*tensors, *base_tensors) if row["layer_index"] is not None and row["stack"]})
    for stack in stacks:
        matches, text = match_layers(_layer_prints(tensors, stack), _layer_prints(base_tensors, stack))
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
        if text:
            notes.append(note("match", f"{stack}: {text}" if len(stacks) > 1 else text))
    if any(row["layer_index"] is not None and row["match"] in MATCHED_BY_VALUE for row in rows):
        return rows, notes
    fit = judge_fit(tensors, base_tensors)
    if fit.is_refused:
        return [], [note("fit", fit.text)]
    return rows, [*([note("values", fit.text)] if fit.text else []), *notes]


def match_layers(
    layers: Sequence[LayerFingerprint], base_layers: Sequence[LayerFingerprint]
) -> tuple[list[MatchedLayer], str | None]:
    """Match the layers of one stack: an entry for every layer of either side, and a text on layers that no value matches.

    Exact matches are fixed first; the other layers are placed in the gaps between them.
    """
    counts = len(layers), len(base_layers)
    places = _exact_places(layers, base_layers)
    if len(places) < len(layers):
        places |= _similar_places(layers, base_layers, places)
    removals = _removals_by_similarity(*counts, places)
    texts: list[str] = []
    for rows, columns in _gaps(*counts, places):
        removals |= dict.fromkeys(columns, (LayerMatch.NONE, None))
        counted = f"{len(rows)} layer{'' if len(rows) == 1 else 's'} of {len(columns)}"
        if len(rows) == len(columns):
            places |= {row: LayerPlace(column, LayerMatch.POSITIONAL, None) for row, column in zip(rows, columns, strict=True)}
            texts.append(f"{counted} placed by position: neither hashes nor signatures tell")
        else:
            texts.append(f"{counted}, and neither hashes nor signatures say which")
    matches = [
        MatchedLayer(layer.index, base_layers[place.base_position].index, place.match, place.confidence)
        if (place := places.get(position)) is not None
        else MatchedLayer(layer.index, None, LayerMatch.NONE)
        for position, layer in enumerate(layers)
    ]
    matched = {place.base_position for place in places.values()}
    removed = [
        MatchedLayer(None, base.index, *removals.get(position, (LayerMatch.EXACT, 1.0)))
        for position, base in enumerate(base_layers)
        if position not in matched
    ]
    return [*matches, *removed], "; ".join(texts) or None


def _removals_by_similarity(
    num_layers: int, num_base_layers: int, places: Mapping[int, LayerPlace]
) -> dict[int, tuple[LayerMatch, float | None]]:
    """Base position -> rule and confidence of its removal, for blocks in gaps between exact matches.

    That a block was removed is as certain as the least certain of the similar layers in its gap.
    """
    exact = {position: place for position, place in places.items() if place.match == LayerMatch.EXACT}
    removals: dict[int, tuple[LayerMatch, float | None]] = {}
    for rows, columns in _gaps(num_layers, num_base_layers, exact):
        confidences = [confidence for row in rows if row in places and (confidence := places[row].confidence) is not None]
        removal = (LayerMatch.SIMILAR, min(confidences)) if confidences else (LayerMatch.NONE, None)
        removals |= dict.fromkeys(columns, removal)
    return removals


def _gaps(num_layers: int, num_base_layers: int, places: Mapping[int, LayerPlace]) -> list[tuple[list[int], list[int]]]:
    """Layers without a place, with the unmatched blocks between the nearest placed layers.

    If placed layers are out of order, all are in one gap. Every layer is in one gap, and no block is in two.
    """
    taken = {place.base_position for place in places.values()}
    rest = [position for position in range(num_layers) if position not in places]
    gaps: dict[tuple[int, int], list[int]] = {}
    for position in rest:
        gaps.setdefault(_bounds(position, num_base_layers, places), []).append(position)
    if any(low >= high for low, high in gaps):
        gaps = {(-1, num_base_layers): rest}
    return [(rows, [base for base in range(low + 1, high) if base not in taken]) for (low, high), rows in gaps.items()]


def _bounds(position: int, num_base_layers: int, places: Mapping[int, LayerPlace]) -> tuple[int, int]:
    """The blocks of the nearest placed layers before and after a layer; -1 and the number of blocks if there are none."""
    low = max((place.base_position for other, place in places.items() if other < position), default=-1)
    high = min((place.base_position for other, place in places.items() if other > position), default=num_base_layers)
    return low, high


def _layer_prints(tensors: Sequence[Row], stack: str) -> list[LayerFingerprint]:
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
    return [LayerFingerprint(index, hashes[index], signatures.get(index, {})) for index in sorted(hashes)]


def _exact_places(layers: Sequence[LayerFingerprint], base_layers: Sequence[LayerFingerprint]) -> dict[int, LayerPlace]:
    """Layers of which every tensor is identical to that of one block of the base.

    Of several equal blocks the first after the previous layer's is taken, so that equal blocks keep their order. Several layers
    may be one block (a stacked model).
    """
    positions_by_hashes: dict[frozenset[tuple[Key, str]], list[int]] = {}
    for position, base in enumerate(base_layers):
        if base.hashes:
            positions_by_hashes.setdefault(frozenset(base.hashes.items()), []).append(position)
    places: dict[int, LayerPlace] = {}
    last = -1
    for position, layer in enumerate(layers):
        candidates = positions_by_hashes.get(frozenset(layer.hashes.items()), []) if layer.hashes else []
        if candidates:
            last = next((candidate for candidate in candidates if candidate > last), candidates[0])
            places[position] = LayerPlace(last, LayerMatch.EXACT, 1.0)
    return places


def _similar_places(
    layers: Sequence[LayerFingerprint], base_layers: Sequence[LayerFingerprint], exact: Mapping[int, LayerPlace]
) -> dict[int, LayerPlace]:
    """Places by similarity of the layers without an exact match.

    They lie between the exact matches around them, unless another order is clearly better.
    """
    rest = [position for position in range(len(layers)) if position not in exact]
    similarity = score_layers([layers[position] for position in rest], base_layers)
    in_reach = np.zeros(similarity.scores.shape, bool)
    row_of = {position: row for row, position in enumerate(rest)}
    for rows, columns in _gaps(len(layers), len(base_layers), exact):
        in_reach[np.ix_([row_of[position] for position in rows], columns)] = True
    return {
        rest[row]: LayerPlace(column, LayerMatch.SIMILAR, confidence)
        for row, (column, confidence) in place_by_score(similarity, in_reach).items()
    }
