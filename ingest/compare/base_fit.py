"""Whether a base can be that of a checkpoint of which no layer is similar to a block of the base; if not, the reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from layerhouse.vocabulary import Module, Role

Row = Mapping[str, Any]

MIN_KINSHIP = 0.5
"""Cosine of signatures from which on an embedding or a head counts as derived from the base's."""
MAX_NAMED, MAX_NAME = 3, 100
"""Tensors that a message names of each side, and the characters of a name."""


@dataclass(frozen=True)
class Fit:
    """Whether the comparison is refused. `text` is the reason, or what of an accepted comparison cannot be known."""

    is_refused: bool
    text: str = ""


def judge_fit(tensors: Sequence[Row], base_tensors: Sequence[Row]) -> Fit:
    """Judge a comparison in which no layer was matched by its values.

    It is refused if the layer count or the hidden size differs and the vocabulary too; if there are more layers, and of another
    hidden size; if the layers have no tensor in common; and if values were measured on both sides, no layer, embedding or head
    is similar, and the model is not rotated. If only the hidden size differs, shapes are still compared.
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
        names = "; its own are {}; the base's {}".format(*map(_layer_names, (tensors, base_tensors)))
        return _refuse(f"the layers have no tensor in common{names}")
    if is_hidden_changed:
        return Fit(False, f"values are not comparable: hidden size changed from {base_hidden} to {hidden}")
    is_measured = _has_layer_signatures(tensors) and _has_layer_signatures(base_tensors)
    if is_measured and not _is_rotated(tensors, base_tensors) and not _is_akin(tensors, base_tensors):
        return _refuse("; ".join(["no layer, embedding or head is like one of the base", *differences]))
    return Fit(False)


def _refuse(reason: str) -> Fit:
    return Fit(True, f"base does not fit: {reason}")


def _count_layers(tensors: Iterable[Row]) -> int:
    return len({(row["stack"], row["layer_index"]) for row in tensors if row["layer_index"] is not None and row["stack"]})


def _shape(row: Row) -> list[int]:
    return list(row.get("weight_shape") or row["shape"] or ())


def _embedding_size(tensors: Iterable[Row], axis: int) -> int | None:
    """The vocabulary (axis 0) or the width (axis 1) of the token embedding; None unless there is exactly one."""
    shapes = [_shape(row) for row in tensors if row["role"] == Role.EMBED_TOKENS and row["part"] == "weight"]
    sizes = {shape[axis] for shape in shapes if len(shape) == 2}
    return sizes.pop() if len(sizes) == 1 else None


def _hidden_size(tensors: Sequence[Row]) -> int | None:
    """The length of the blocks' norms; without norms (SliceGPT) the width of the token embedding."""
    roles = (Role.ATTENTION_NORM, Role.MLP_NORM)
    lengths = {shape[0] for row in tensors if row["role"] in roles and len(shape := _shape(row)) == 1}
    return lengths.pop() if len(lengths) == 1 else _embedding_size(tensors, 1)


def _layer_keys(tensors: Iterable[Row]) -> set[tuple[Any, ...]]:
    """What the parameters of the layers are, regardless of the layer's number."""
    return {
        (row["stack"], row["module"], row["role"], row["part"])
        if row["role"]
        else (row["stack"], str(row["canonical_name"]).replace(f".{row['layer_index']}.", ".", 1))
        for row in tensors
        if row["layer_index"] is not None and row["is_parameter"]
    }


def _layer_names(tensors: Iterable[Row]) -> str:
    """The names of the first parameters of layers, as they are stored; of a model without layers, of any."""
    named = [row for row in tensors if row["is_parameter"]]
    names = sorted(str(row["name"]) for row in [row for row in named if row["layer_index"] is not None] or named)
    return ", ".join(name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}..." for name in names[:MAX_NAMED]) or "none"


def _has_layer_signatures(tensors: Iterable[Row]) -> bool:
    return any(row["layer_index"] is not None and row.get("signature") is not None for row in tensors)


def _is_rotated(tensors: Sequence[Row], base_tensors: Sequence[Row]) -> bool:
    """Whether the residual stream may be rotated.

    Either rotations are stored, or the layers' norms have become constant, since their scales are folded into the weights
    before a rotation. A constant norm has no signature.
    """
    if any(row["module"] == Module.ROTATION for row in tensors):
        return True
    have_signatures, have_base_signatures = (
        {row.get("signature") is not None for row in rows if row["module"] == Module.NORM and row["layer_index"] is not None}
        for rows in (tensors, base_tensors)
    )
    return True in have_base_signatures and True not in have_signatures


def _is_akin(tensors: Sequence[Row], base_tensors: Sequence[Row]) -> bool:
    """Whether some tensor outside the layers that has a signature is identical or similar to the base's."""
    base_rows = dict(_rows_outside_layers(base_tensors))
    for name, row in _rows_outside_layers(tensors):
        base_row = base_rows.get(name)
        if base_row is None:
            continue
        signature, base_signature = np.asarray(row["signature"], float), np.asarray(base_row["signature"], float)
        norms = np.linalg.norm(signature) * np.linalg.norm(base_signature)
        if row["content_hash"] == base_row["content_hash"] or (
            len(signature) == len(base_signature) and signature @ base_signature >= MIN_KINSHIP * norms
        ):
            return True
    return False


def _rows_outside_layers(tensors: Iterable[Row]) -> Iterator[tuple[str, Row]]:
    for row in tensors:
        if row["layer_index"] is None and row.get("signature") is not None:
            yield str(row["canonical_name"] or row["name"]), row
