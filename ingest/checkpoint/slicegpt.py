"""SliceGPT's pair of files: NAME_RATIO.pt, a state dict that includes rotations, and NAME_RATIO.json, its slicing config.

The JSON is slicegpt.model_adapter.SlicingConfig: hidden_size is the width of the unsliced model, embedding_dimensions the
sliced width of the embeddings. Name and JSON are declarations only; the hidden size of a model is that of its tensors.
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
MAX_WIDTH = 2**31 - 1
INTERVALS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Multiples that a sliced width may have been rounded down to; slicegpt's default is 8."""


def slicing_config_path(weights: Path) -> Path | None:
    """The JSON file of the same stem as a weight file, if both could be SliceGPT's."""
    path = weights.with_suffix(".json")
    return path if weights.suffix.lower() == SLICEGPT_SUFFIX and path.is_file() else None


def read_slicing(path: Path, display_path: str) -> dict[str, Any] | None:
    """The slicing config in a JSON file; None if the file holds something else. Raises InputError."""
    document = read_json(path, display_path, max_bytes=MAX_BYTES)[1]
    if not isinstance(document, dict) or not isinstance(document.get(KEY), dict):
        return None
    width = document.get("hidden_size")
    return document if type(width) is int and 0 <= width <= MAX_WIDTH else None


def is_slicegpt_pair(weights: Path) -> bool:
    """Whether a weight file has a slicing config beside it."""
    path = slicing_config_path(weights)
    try:
        return path is not None and read_slicing(path, path.name) is not None
    except InputError:
        return False


def is_sliced(tensors: Sequence[TensorRef]) -> bool:
    """Whether SliceGPT's rotations are among the tensors."""
    return any(tensor.name.endswith(ROTATION) for tensor in tensors)


def slicing_notes(stem: str, tensors: Sequence[TensorRef], slicing: dict[str, Any] | None) -> list[str]:
    """Notes on where file name, slicing config and tensors disagree. Without the config the unsliced width is unknown."""
    embedding = next((tensor for tensor in tensors if tensor.name.endswith(EMBEDDING) and len(tensor.shape) == 2), None)
    if slicing is None:
        width = "" if embedding is None else f"; sliced to {embedding.shape[1]}"
        return [f"sliced, without its {stem}.json: the hidden size before is not known{width}"]
    if embedding is None:
        return []
    notes = []
    measured, before = embedding.shape[1], slicing["hidden_size"]
    dimensions = slicing.get("embedding_dimensions")
    declared = dimensions.get("0") if isinstance(dimensions, dict) else None
    if type(declared) is int and declared != measured:
        notes.append(f"{stem}.json declares embeddings of {declared}, the tensors have {measured}")
    ratio = declare(stem).ratio
    if ratio is not None and before > 0 and measured not in _sliced_widths(before, ratio):
        share = 1 - measured / before
        notes.append(f"the name declares {ratio:g} sliced, the tensors {share:g}: hidden size {before} to {measured}")
    return notes


def _sliced_widths(before: int, ratio: float) -> set[int]:
    """Every width that slicing off a share of a hidden size may give."""
    width = int((1 - ratio) * before)
    return {width - width % interval for interval in INTERVALS}
