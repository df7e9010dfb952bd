"""Which block of the base each layer of a checkpoint is, from stored rows alone: content hashes, then signatures.

Rules, first that holds: every tensor identical (exact); signatures aligned in order, with a confidence (similar);
position, only where the counts agree (positional); else none. The last three are asked of the layers between those that are
placed exactly. A block of the base that no layer is, while the rest is placed, was removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Row = Mapping[str, Any]
Key = tuple[str, str | None, str | None, int | None, str]

LEAST_SIMILARITY = 0.5
UNTOLD = "neither hashes nor signatures say which"


@dataclass(frozen=True)
class LayerPrint:
    """What tells one layer from another: its tensors' hashes and signatures, by what each tensor is in a layer."""

    index: int
    hashes: Mapping[Key, str]
    signatures: Mapping[Key, np.ndarray]


@dataclass(frozen=True)
class LayerMatch:
    """One layer of either side and its place on the other; None where it has none."""

    layer_index: int | None
    base_layer_index: int | None
    match: str
    confidence: float | None = None


def compare_layers(tensors: Sequence[Row], base_tensors: Sequence[Row]) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Rows of layer_matches (without the checkpoint ids) for every stack of either side, and notes."""
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
            notes.append({"code": "match", "text": note})
    return rows, notes


def match_layers(layers: Sequence[LayerPrint], base_layers: Sequence[LayerPrint]) -> tuple[list[LayerMatch], str | None]:
    """Match the layers of one stack; a row for every layer of either side, and a line where neither hashes nor signatures told.

    Layers that are identical to a block hold their places; the others are placed in the gaps between those.
    """
    exact = _exact_places(layers, base_layers)
    placed: dict[int, tuple[int, str, float | None]] = {row: (column, "exact", 1.0) for row, column in exact.items()}
    removed_by: dict[int, tuple[str, float | None]] = {}
    lines: list[str] = []
    for rows, columns in _gaps(len(layers), len(base_layers), exact):
        similar = _similar_places(layers, base_layers, rows, columns)
        if similar is not None:
            placed |= {row: (column, "similar", confidence) for row, (column, confidence) in similar.items()}
            sure = min(confidence for _, confidence in similar.values())
            removed_by |= dict.fromkeys(columns, ("similar", sure))
            continue
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


def _gaps(num_layers: int, num_base_layers: int, placed: Mapping[int, int]) -> list[tuple[list[int], list[int]]]:
    """Layers without a place, and the blocks that nobody took, between the places around them; all in one where those are
    out of order. Every layer is in one gap, no block in two."""
    taken = set(placed.values())
    rest = [position for position in range(num_layers) if position not in placed]
    gaps: dict[tuple[int, int], list[int]] = {}
    for position in rest:
        low = max((base for other, base in placed.items() if other < position), default=-1)
        high = min((base for other, base in placed.items() if other > position), default=num_base_layers)
        gaps.setdefault((low, high), []).append(position)
    if any(low >= high for low, high in gaps):
        gaps = {(-1, num_base_layers): rest}
    return [(rows, [base for base in range(low + 1, high) if base not in taken]) for (low, high), rows in gaps.items()]


def _prints(tensors: Sequence[Row], stack: str) -> list[LayerPrint]:
    import numpy as np

    hashes: dict[int, dict[Key, str]] = {}
    signatures: dict[int, dict[Key, np.ndarray]] = {}
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
    layers: Sequence[LayerPrint], base_layers: Sequence[LayerPrint], rows: Sequence[int], columns: Sequence[int]
) -> dict[int, tuple[int, float]] | None:
    """Places and confidences of some layers among some blocks by signature, in order; None where the signatures do not tell,
    or there are too few blocks."""
    import numpy as np

    if len(columns) < len(rows):
        return None
    scores = np.array([[_similarity(layers[row], base_layers[column]) for column in columns] for row in rows])
    if np.isnan(scores).any():
        return None
    chosen = _best_in_order(scores)
    if any(scores[row, column] < LEAST_SIMILARITY for row, column in enumerate(chosen)):
        return None
    answer = {}
    for row, column in enumerate(chosen):
        others = np.delete(scores[row], column)
        margin = scores[row, column] - (others.max() if len(others) else 0.0)
        answer[rows[row]] = (columns[column], float(np.clip(margin, 0.0, 1.0)))
    return answer


def _similarity(layer: LayerPrint, base: LayerPrint) -> float:
    """Mean over the tensors that both have: 1 for an identical one, else the cosine of the signatures; NaN if none tells."""
    import numpy as np

    scores = []
    for key in layer.hashes.keys() & base.hashes.keys():
        one, other = layer.signatures.get(key), base.signatures.get(key)
        if one is not None and other is not None and len(one) == len(other):
            norm = float(np.linalg.norm(one) * np.linalg.norm(other))
            scores.append(float(one @ other) / norm if norm else 0.0)
    return float(np.mean(scores)) if scores else float("nan")


def _best_in_order(scores: np.ndarray) -> list[int]:
    """For every row a column, strictly increasing, with the greatest sum. There are at least as many columns as rows."""
    import numpy as np

    rows, columns = scores.shape
    best = np.full((rows + 1, columns + 1), -np.inf)
    best[0, :] = 0.0
    for row in range(1, rows + 1):
        for column in range(1, columns + 1):
            best[row, column] = max(best[row, column - 1], best[row - 1, column - 1] + scores[row - 1, column - 1])
    chosen = []
    column = columns
    for row in range(rows, 0, -1):
        while best[row, column] == best[row, column - 1]:
            column -= 1
        chosen.append(column - 1)
        column -= 1
    return chosen[::-1]
