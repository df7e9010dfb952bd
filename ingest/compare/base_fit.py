"""Whether a base can be that of a checkpoint whose layers its blocks do not resemble: one line that says why not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Row = Mapping[str, Any]

LEAST_KINSHIP = 0.5
"""Cosine of signatures from which on an embedding or a head is taken for the base's, changed."""


@dataclass(frozen=True)
class Fit:
    """Whether the comparison is refused, and the line that says so, or what of it cannot be known."""

    is_refused: bool
    text: str = ""


def judge_fit(tensors: Sequence[Row], base_tensors: Sequence[Row]) -> Fit:
    """Judge a comparison in which no layer was found by its values.

    A changed hidden size leaves the shapes to be compared. Refused: other counts of layers or another hidden size together with
    another vocabulary, more layers of another hidden size, layers without a tensor in common, and values that were measured on
    both sides and are alike in no layer, embedding or head, unless the model is rotated.
    """
    layers, base_layers = _count_layers(tensors), _count_layers(base_tensors)
    vocab, base_vocab = _embedding_size(tensors, 0), _embedding_size(base_tensors, 0)
    hidden, base_hidden = _hidden_size(tensors), _hidden_size(base_tensors)
    is_hidden_changed = None not in (hidden, base_hidden) and hidden != base_hidden
    is_vocab_changed = None not in (vocab, base_vocab) and vocab != base_vocab
    differences = [
        text
        for is_changed, text in (
            (layers != base_layers, f"{layers} vs {base_layers} layers"),
            (is_hidden_changed, f"hidden size {hidden} vs {base_hidden}"),
            (is_vocab_changed, f"vocab {vocab} vs {base_vocab}"),
        )
        if is_changed
    ]
    if (is_vocab_changed and (layers != base_layers or is_hidden_changed)) or (layers > base_layers and is_hidden_changed):
        return _refuse(", ".join(differences))
    if not _layer_keys(tensors) & _layer_keys(base_tensors):
        return _refuse("the layers have no tensor in common")
    if is_hidden_changed:
        return Fit(False, f"values are not comparable: hidden size changed from {base_hidden} to {hidden}")
    is_measured = _has_layer_signatures(tensors) and _has_layer_signatures(base_tensors)
    if is_measured and not _is_rotated(tensors, base_tensors) and not _is_akin(tensors, base_tensors):
        return _refuse("; ".join(["no layer, embedding or head is like one of the base", *differences]))
    return Fit(False)


def _refuse(why: str) -> Fit:
    return Fit(True, f"base does not fit: {why}")


def _count_layers(tensors: Iterable[Row]) -> int:
    return len({(row["stack"], row["layer_index"]) for row in tensors if row["layer_index"] is not None and row["stack"]})


def _shape(row: Row) -> list[int]:
    return list(row.get("weight_shape") or row["shape"] or ())


def _embedding_size(tensors: Iterable[Row], axis: int) -> int | None:
    """The vocabulary (axis 0) or the width (axis 1) of the one token embedding; None where there is not one."""
    shapes = [_shape(row) for row in tensors if row["role"] == "embed_tokens" and row["part"] == "weight"]
    sizes = {shape[axis] for shape in shapes if len(shape) == 2}
    return sizes.pop() if len(sizes) == 1 else None


def _hidden_size(tensors: Sequence[Row]) -> int | None:
    """The length of the blocks' norms; without norms (SliceGPT) the width of the token embedding."""
    roles = ("attention_norm", "mlp_norm")
    lengths = {shape[0] for row in tensors if row["role"] in roles and len(shape := _shape(row)) == 1}
    return lengths.pop() if len(lengths) == 1 else _embedding_size(tensors, 1)


def _layer_keys(tensors: Iterable[Row]) -> set[tuple[Any, ...]]:
    """What the tensors of the layers are, their numbers left out."""
    return {
        (row["stack"], row["module"], row["role"], row["part"])
        if row["role"]
        else (row["stack"], str(row["canonical_name"]).replace(f".{row['layer_index']}.", ".", 1))
        for row in tensors
        if row["layer_index"] is not None and row["is_parameter"]
    }


def _has_layer_signatures(tensors: Iterable[Row]) -> bool:
    return any(row["layer_index"] is not None and row.get("signature") is not None for row in tensors)


def _is_rotated(tensors: Sequence[Row], base_tensors: Sequence[Row]) -> bool:
    """Whether the residual stream may be turned: rotations are there, or norms that told channels apart in the base and do not
    any more, as their scales are folded into the weights first."""
    if any(row["module"] == "rotation" for row in tensors):
        return True
    signed, base_signed = (
        {row.get("signature") is not None for row in side if row["module"] == "norm" and row["layer_index"] is not None}
        for side in (tensors, base_tensors)
    )
    return True in base_signed and True not in signed


def _is_akin(tensors: Sequence[Row], base_tensors: Sequence[Row]) -> bool:
    """Whether some tensor outside of the layers that tells channels apart is the base's, or like it."""
    theirs = dict(_outside(base_tensors))
    for name, row in _outside(tensors):
        other = theirs.get(name)
        if other is None:
            continue
        one, two = np.asarray(row["signature"], float), np.asarray(other["signature"], float)
        if row["content_hash"] == other["content_hash"] or (
            len(one) == len(two) and one @ two >= LEAST_KINSHIP * np.linalg.norm(one) * np.linalg.norm(two)
        ):
            return True
    return False


def _outside(tensors: Iterable[Row]) -> Iterator[tuple[str, Row]]:
    for row in tensors:
        if row["layer_index"] is None and row.get("signature") is not None:
            yield str(row["canonical_name"] or row["name"]), row
