"""A base known by its config alone: the tensors that transformers makes of it, without memory for their values.

The model is built on torch's meta device: nothing is allocated or downloaded, and no code of the config's folder is executed.
"""

from __future__ import annotations

import hashlib
import re
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError, UsageError
from layerhouse.ingest.checkpoint.config_file import MAX_CONFIG_BYTES
from layerhouse.ingest.checkpoint.dtypes import TORCH_DTYPES, byte_count
from layerhouse.ingest.checkpoint.json_files import read_json
from layerhouse.ingest.checkpoint.limits import allowed, check_limit, exceeded
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.checkpoint.weight_set import WeightSet, WeightSetContents
from layerhouse.ingest.checkpoint_rows import OpenedWeights, weight_rows
from layerhouse.ingest.compare_with_base import ComparedCheckpoint
from layerhouse.ingest.context import IngestContext
from layerhouse.ingest.model.parameters import count_parameters
from layerhouse.ingest.model.placement import place_tensors
from layerhouse.ingest.model_files import path_text
from layerhouse.optional import require
from layerhouse.vocabulary import SourceKind

Row = dict[str, Any]

CONTAINER = "config"
MAX_COUNT = 100_000
"""Limit on a number of layers, experts or labels: transformers makes objects for each, some of them before any module."""
COUNT_KEY = re.compile(r"(.*_)?(n_)?(layers?|blocks?|experts?|depths?|stages?|labels?|groups?|heads?|codebooks?)(_num)?")
MAX_POSITIONS = 1 << 24
POSITIONS_KEY = re.compile(r".*(positions?|position_embeddings|ctx|context|seq_len(gth)?)")
MAX_MODULES = 100_000
"""Limit on the modules of the model, for all layers and experts together."""
MAX_PARAMETERS = 10**14
"""Limit on the parameters of the model."""


def take_config_base(path: Path, context: IngestContext) -> ComparedCheckpoint:
    """The model that a config describes, as the base to compare with; its rows are added to the batch if they are new.

    Raises UsageError where the config describes none.
    """
    display_path = path_text(path)
    try:
        checkpoint, tensors, layers = config_base_rows(path, display_path)
    except Exception as error:
        failure = context.guard.input_error(display_path, error)
        raise UsageError(f"--base {failure.where}: {failure.what}") from None
    checkpoint_id: str = checkpoint["checkpoint_id"]
    if checkpoint_id not in context.known.checkpoints:
        source = {"source_uri": display_path}
        with context.batch.owned_by(f"--base {display_path}"):
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
    _check_numbers(config, display_path)
    buffers, state = _build(config, display_path)
    elements = sum(tensor.numel() for tensor in state.values())
    check_limit(display_path, "parameters of the model", elements, MAX_PARAMETERS)
    places: dict[int, int] = {}
    refs = []
    for name, tensor in state.items():
        dtype = TORCH_DTYPES[str(tensor.dtype).removeprefix("torch.")]
        place = places.setdefault(tensor.untyped_storage()._cdata, len(places))
        size = byte_count(dtype, tensor.numel())
        refs.append(TensorRef(name, dtype, tuple(tensor.shape), path, place, size, is_buffer=name in buffers))
    return tuple(refs)


def _check_numbers(value: Any, display_path: str, key: str = "") -> None:
    """Raise InputError for a number of things in a config, at any depth, that is over the limit of its kind."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            _check_numbers(item, display_path, str(name).lower())
    elif isinstance(value, list):
        for item in value:
            _check_numbers(item, display_path, key)
    elif isinstance(value, int | float) and COUNT_KEY.fullmatch(key):
        _check_number(display_path, key, value, MAX_COUNT)
    elif isinstance(value, int | float) and POSITIONS_KEY.fullmatch(key):
        _check_number(display_path, key, value, MAX_POSITIONS)


def _check_number(display_path: str, key: str, value: float, limit: int) -> None:
    if value > allowed(limit):
        raise InputError(display_path, exceeded(f"{key} is {value}" if value < 10**30 else key, allowed(limit)))


@contextmanager
def _modules_limited(display_path: str) -> Iterator[None]:
    """Raise InputError within the block once this thread has made more modules than the limit."""
    from torch.nn.modules.module import register_module_module_registration_hook

    thread, most, count = threading.get_ident(), allowed(MAX_MODULES), 0

    def on_module(module: Any, name: str, submodule: Any) -> None:
        nonlocal count
        if threading.get_ident() == thread:
            count += 1
            if count > most:
                raise InputError(display_path, exceeded("modules of the model", most))

    hook = register_module_module_registration_hook(on_module)
    try:
        yield
    finally:
        hook.remove()


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
        with warnings.catch_warnings(), torch.device("meta"), _modules_limited(display_path):
            warnings.simplefilter("ignore")
            model = from_config(transformers.AutoConfig.for_model(config["model_type"], **arguments))
    except InputError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(display_path, f"transformers makes no {config['model_type']!r} of this config: {reason}") from None
    return {name for name, _ in model.named_buffers()}, model.state_dict()
