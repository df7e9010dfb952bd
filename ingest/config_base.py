"""A base known by its config alone: the tensors that transformers makes of it, without memory for their values.

The model is built on torch's meta device: nothing is allocated or downloaded, and no code of the config's folder is executed.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError, UsageError
from layerhouse.ingest.checkpoint.dtypes import TORCH_DTYPES, byte_count
from layerhouse.ingest.checkpoint.json_files import read_json
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.checkpoint.weight_set import WeightSet, WeightSetContents
from layerhouse.ingest.checkpoint_rows import MAX_CONFIG_BYTES, OpenedWeights, weight_rows
from layerhouse.ingest.compare_with_base import ComparedCheckpoint
from layerhouse.ingest.context import IngestContext
from layerhouse.ingest.model.parameters import count_parameters
from layerhouse.ingest.model.placement import place_tensors
from layerhouse.ingest.model_files import path_text
from layerhouse.optional import require
from layerhouse.vocabulary import SourceKind

Row = dict[str, Any]

CONTAINER = "config"


def take_config_base(path: Path, context: IngestContext) -> ComparedCheckpoint:
    """The model that a config describes, as the base to compare with; its rows are added to the batch if they are new.

    Raises UsageError where the config describes none.
    """
    display_path = path_text(path)
    try:
        checkpoint, tensors, layers = config_base_rows(path, display_path)
    except InputError as error:
        raise UsageError(f"--base {error.where}: {error.what}") from None
    checkpoint_id: str = checkpoint["checkpoint_id"]
    if checkpoint_id not in context.known.checkpoints:
        source = {"source_uri": display_path}
        context.batch.add({"checkpoints": [checkpoint | source], "tensors": tensors, "layers": layers})
        context.known.checkpoints.add(checkpoint_id)
    return ComparedCheckpoint(display_path, checkpoint_id, tensors, has_values=False)


def config_base_rows(path: Path, display_path: str) -> tuple[Row, list[Row], list[Row]]:
    """The rows of the checkpoint that a config describes, and of its tensors and layers, as far as shapes tell.

    Raises InputError where the file is not a config, or is that of a model that transformers does not know.
    """
    raw, config = read_json(path, display_path, max_bytes=MAX_CONFIG_BYTES)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise InputError(display_path, "no config of a model: model_type is missing")
    refs = _tensor_refs(config, path, display_path)
    placement = place_tensors(refs, config)
    opened = OpenedWeights(
        display_path,
        WeightSet(path.parent, ()),
        WeightSetContents(refs, (CONTAINER,), {}, None, None, (), ()),
        config,
        None,
        placement,
        count_parameters(placement, config),
        (),
    )
    fingerprint = hashlib.sha256(raw).hexdigest()
    checkpoint, tensors, layers = weight_rows(opened, None, near_zero=None, fingerprint=fingerprint)
    checkpoint |= {"source_kind": SourceKind.CONFIG, "stored_bytes": None, "file_bytes": None, "fingerprint": fingerprint}
    return checkpoint, [{**row, "stored_bytes": None} for row in tensors], layers


def _tensor_refs(config: dict[str, Any], path: Path, display_path: str) -> tuple[TensorRef, ...]:
    """The state dict of the config's architecture, or else of the causal model of its type. Tied tensors share a place."""
    buffers, state = _build(config, display_path)
    places: dict[int, int] = {}
    refs = []
    for name, tensor in state.items():
        dtype = TORCH_DTYPES[str(tensor.dtype).removeprefix("torch.")]
        place = places.setdefault(tensor.untyped_storage()._cdata, len(places))
        size = byte_count(dtype, tensor.numel())
        refs.append(TensorRef(name, dtype, tuple(tensor.shape), path, place, size, is_buffer=name in buffers))
    return tuple(refs)


def _build(config: dict[str, Any], display_path: str) -> tuple[set[str], Mapping[str, Any]]:
    """The names of the buffers and the state dict of the model that transformers makes of a config, on the meta device."""
    torch = require("torch", for_what="a base from a config alone")
    transformers = require("transformers", for_what="a base from a config alone")
    arguments = {key: value for key, value in config.items() if key != "model_type"}
    architectures = config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else None
    model_class: Any = getattr(transformers, architecture, None) if isinstance(architecture, str) else None
    if not (isinstance(model_class, type) and issubclass(model_class, transformers.PreTrainedModel)):
        model_class = transformers.AutoModelForCausalLM
    from_config = getattr(model_class, "_from_config", None) or model_class.from_config
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            model = from_config(transformers.AutoConfig.for_model(config["model_type"], **arguments))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(display_path, f"transformers makes no {config['model_type']!r} of this config: {reason}") from None
    return {name for name, _ in model.named_buffers()}, model.state_dict()
