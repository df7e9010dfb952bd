"""What SliceGPT leaves: NAME_RATIO.pt, a state dict with rotations in it, and NAME_RATIO.json, which tells how it was sliced.

The JSON is slicegpt.model_adapter.SlicingConfig: hidden_size is that of the model before, embedding_dimensions the width of the
embeddings after. Names and JSON are only declared; the hidden size is that of the tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.file_names import SLICEGPT_SUFFIX
from layerhouse.ingest.checkpoint.json_files import read_json
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.declarations.declare import declare

KEY = "attention_input_dimensions"
ROTATION = ".attn_shortcut_Q"
EMBEDDING = ".embed_tokens.weight"
MAX_BYTES = 4 << 20
INTERVALS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Multiples to which a sliced width may have been rounded down; slicegpt's own default is 8."""


def config_beside(weights: Path) -> Path | None:
    """The JSON of the same stem, if there is one that this file could have been saved with."""
    path = weights.with_suffix(".json")
    return path if weights.suffix.lower() == SLICEGPT_SUFFIX and path.is_file() else None


def read_slicing(path: Path, shown: str) -> dict[str, Any] | None:
    """The slicing config in a JSON file; None if the file holds something else. Raises InputError."""
    document = read_json(path, shown, max_bytes=MAX_BYTES)[1]
    is_slicing = (
        isinstance(document, dict) and isinstance(document.get(KEY), dict) and isinstance(document.get("hidden_size"), int)
    )
    return document if is_slicing else None


def is_pair(weights: Path) -> bool:
    """Whether a weight file and the JSON beside it are SliceGPT's."""
    path = config_beside(weights)
    try:
        return path is not None and read_slicing(path, path.name) is not None
    except InputError:
        return False


def is_sliced(tensors: Sequence[TensorRef]) -> bool:
    """Whether SliceGPT's rotations are among the tensors."""
    return any(tensor.name.endswith(ROTATION) for tensor in tensors)


def slicing_notes(stem: str, tensors: Sequence[TensorRef], slicing: dict[str, Any] | None) -> list[str]:
    """Where name, JSON and tensors disagree on how much was sliced. Without the JSON nothing tells the width before."""
    embedding = next((tensor for tensor in tensors if tensor.name.endswith(EMBEDDING) and len(tensor.shape) == 2), None)
    if slicing is None:
        width = "" if embedding is None else f"; sliced to {embedding.shape[1]}"
        return [f"sliced, without its {stem}.json: the hidden size before is not known{width}"]
    if embedding is None:
        return []
    notes = []
    measured, before = embedding.shape[1], slicing["hidden_size"]
    dimensions = slicing.get("embedding_dimensions")
    stated = dimensions.get("0") if isinstance(dimensions, dict) else None
    if isinstance(stated, int) and stated != measured:
        notes.append(f"{stem}.json declares embeddings of {stated}, the tensors have {measured}")
    ratio = declare(stem).ratio
    if ratio is not None and before > 0 and measured not in _widths(before, ratio):
        share = 1 - measured / before
        notes.append(f"the name declares {ratio:g} sliced, the tensors {share:g}: hidden size {before} to {measured}")
    return notes


def _widths(before: int, ratio: float) -> set[int]:
    width = int((1 - ratio) * before)
    return {width - width % interval for interval in INTERVALS}
