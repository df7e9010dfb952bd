"""A base known by its config alone: the tensors that transformers would make of it, without any memory for them.

The model is built on torch's meta device, so nothing is allocated, downloaded or executed from the config's folder.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.dtypes import TORCH_DTYPES, byte_count
from layerhouse.ingest.checkpoint.json_files import read_json
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.checkpoint.weight_set import WeightSet, WeightSetContents
from layerhouse.ingest.checkpoint_rows import OpenedWeights, weight_rows
from layerhouse.ingest.model.parameters import count_parameters
from layerhouse.ingest.model.placement import place_tensors
from layerhouse.optional import require

Row = dict[str, Any]

SOURCE, CONTAINER = "config", "config"
MAX_CONFIG_BYTES = 64 << 20


def config_base_rows(path: Path, shown: str) -> tuple[Row, list[Row], list[Row]]:
    """Rows of the checkpoint that a config describes, of its tensors and layers: what shapes tell, and nothing of values.

    Raises InputError where the file is no config or of a model that transformers does not know.
    """
    raw, config = read_json(path, shown, max_bytes=MAX_CONFIG_BYTES)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise InputError(shown, "no config of a model: model_type is missing")
    refs = _tensors(config, path, shown)
    placement = place_tensors(refs, config)
    opened = OpenedWeights(
        shown,
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
    checkpoint |= {"source_kind": SOURCE, "stored_bytes": None, "file_bytes": None, "fingerprint": fingerprint}
    return checkpoint, [{**row, "stored_bytes": None} for row in tensors], layers


def _tensors(config: dict[str, Any], path: Path, shown: str) -> tuple[TensorRef, ...]:
    """The state dict of the config's architecture; without one, of the causal model of its type. Tied tensors share a place."""
    torch = require("torch", for_what="a base from a config alone")
    transformers = require("transformers", for_what="a base from a config alone")
    arguments = {key: value for key, value in config.items() if key != "model_type"}
    named = config.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else None
    kind: Any = getattr(transformers, architecture, None) if isinstance(architecture, str) else None
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        kind = transformers.AutoModelForCausalLM
    make = getattr(kind, "_from_config", None) or kind.from_config
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            parsed = transformers.AutoConfig.for_model(config["model_type"], **arguments)
            model = make(parsed)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(shown, f"transformers makes no {config['model_type']!r} of this config: {reason}") from None
    buffers = {name for name, _ in model.named_buffers()}
    places: dict[int, int] = {}
    refs = []
    for name, tensor in model.state_dict().items():
        dtype = TORCH_DTYPES[str(tensor.dtype).removeprefix("torch.")]
        shape = tuple(tensor.shape)
        place = places.setdefault(tensor.untyped_storage()._cdata, len(places))
        size = byte_count(dtype, tensor.numel())
        refs.append(TensorRef(name, dtype, shape, path, place, size, is_buffer=name in buffers))
    return tuple(refs)
