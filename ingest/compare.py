"""Which block of the base each layer of a checkpoint is, from stored rows alone: content hashes, then signatures.

Rules, first that holds: every tensor identical (exact); signatures aligned in order, with a confidence (similar);
position, only where the counts agree (positional); else none. A block of the base that no layer is, while the rest is placed,
was removed.
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
    """Match the layers of one stack; a row for every layer of either side, and a line where nothing could place them."""
    placed = _exact_places(layers, base_layers)
    rest = [position for position in range(len(layers)) if position not in placed]
    confidences: dict[int, float] = {}
    if rest:
        similar = _similar_places(layers, base_layers, placed, rest)
        if similar is None:
            return _by_position(layers, base_layers)
        placed |= {position: base_position for position, (base_position, _) in similar.items()}
        confidences = {position: confidence for position, (_, confidence) in similar.items()}
    matches = [
        LayerMatch(
            layer.index,
            base_layers[placed[position]].index if position in placed else None,
            ("similar" if position in confidences else "exact") if position in placed else "none",
            confidences.get(position, 1.0) if position in placed else None,
        )
        for position, layer in enumerate(layers)
    ]
    rule = "similar" if confidences else "exact"
    sure = min(confidences.values(), default=1.0)
    taken = set(placed.values())
    removed = [LayerMatch(None, base.index, rule, sure) for position, base in enumerate(base_layers) if position not in taken]
    return [*matches, *removed], None


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
        if row["content_hash"] is not None:
            hashes.setdefault(index, {})[key] = f"{row['dtype']} {row['shape']} {row['content_hash']}"
        if row["signature"] is not None:
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
    layers: Sequence[LayerPrint], base_layers: Sequence[LayerPrint], placed: Mapping[int, int], rest: Sequence[int]
) -> dict[int, tuple[int, float]] | None:
    """Places of the layers in `rest` by signature, in the base's order between what is placed exactly; None where the
    signatures do not tell, or the base has too few blocks left."""
    import numpy as np

    free = [position for position in range(len(base_layers)) if position not in set(placed.values())]
    if len(free) < len(rest):
        return None
    scores = np.array([[_similarity(layers[position], base_layers[base]) for base in free] for position in rest])
    if np.isnan(scores).any():
        return None
    allowed = scores.copy()
    for row, position in enumerate(rest):
        before = [base for other, base in placed.items() if other < position]
        after = [base for other, base in placed.items() if other > position]
        if before and after and max(before) > min(after):
            continue
        for column, base in enumerate(free):
            if (before and base < max(before)) or (after and base > min(after)):
                allowed[row, column] = -np.inf
    columns = _best_in_order(allowed)
    if columns is None or any(scores[row, column] < LEAST_SIMILARITY for row, column in enumerate(columns)):
        return None
    answer = {}
    for row, column in enumerate(columns):
        others = np.delete(scores[row], column)
        margin = scores[row, column] - (others.max() if len(others) else 0.0)
        answer[rest[row]] = (free[column], float(np.clip(margin, 0.0, 1.0)))
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


def _best_in_order(scores: np.ndarray) -> list[int] | None:
    """For every row a column, strictly increasing, with the greatest sum; None if there is no such choice."""
    import numpy as np

    rows, columns = scores.shape
    best = np.full((rows + 1, columns + 1), -np.inf)
    best[0, :] = 0.0
    for row in range(1, rows + 1):
        for column in range(1, columns + 1):
            best[row, column] = max(best[row, column - 1], best[row - 1, column - 1] + scores[row - 1, column - 1])
    if not np.isfinite(best[rows, columns]):
        return None
    chosen = []
    column = columns
    for row in range(rows, 0, -1):
        while best[row, column] == best[row, column - 1]:
            column -= 1
        chosen.append(column - 1)
        column -= 1
    return chosen[::-1]


def _by_position(layers: Sequence[LayerPrint], base_layers: Sequence[LayerPrint]) -> tuple[list[LayerMatch], str | None]:
    if len(layers) == len(base_layers):
        pairs = zip(layers, base_layers, strict=True)
        return [LayerMatch(layer.index, base.index, "positional") for layer, base in pairs], None
    unplaced = [
        *(LayerMatch(layer.index, None, "none") for layer in layers),
        *(LayerMatch(None, base.index, "none") for base in base_layers),
    ]
    return unplaced, f"{len(layers)} layers of {len(base_layers)}, and neither hashes nor signatures say which"
