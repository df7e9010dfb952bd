"""The config files of a checkpoint: config.json, and the files beside it that say how its weights are quantised."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerhouse.errors import ChangedError, InputError
from layerhouse.ingest.checkpoint.config_json import quantization_config
from layerhouse.ingest.checkpoint.file_names import QUANTIZATION_NAMES, QUANTO_NAME
from layerhouse.ingest.checkpoint.json_files import read_json
from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.checkpoint.symlinks import LEADS_OUT, leads_out

MAX_CONFIG_BYTES = 64 << 20


def read_config(path: Path, display_path: str) -> tuple[dict[str, Any] | None, list[Note]]:
    """The object that a config file holds, None where there is none, and notes on why it was not read."""
    if leads_out(path.parent, path):
        return None, [note("config", f"{path.name} not read: {LEADS_OUT}")]
    if not os.path.lexists(path):
        return None, []
    try:
        document = read_json(path, f"{display_path}/{path.name}", max_bytes=MAX_CONFIG_BYTES)[1]
    except ChangedError:
        raise
    except InputError as error:
        return None, [note("config", f"{path.name} cannot be read: {error.what}")]
    if not isinstance(document, dict):
        return None, [note("config", f"{path.name} holds no object")]
    return document, []


def with_quantization_files(
    config: Mapping[str, Any] | None, folder: Path, display_path: str
) -> tuple[Mapping[str, Any] | None, list[Note]]:
    """A config with the quantisation block of another file of its folder, where it has none itself.

    AutoGPTQ writes quantize_config.json, AutoAWQ quant_config.json, ModelOpt hf_quant_config.json (in `quantization`), quanto
    quanto_qmap.json: a module's types by its name. With these goes the hidden size, which quanto's words alone do not tell.
    """
    if quantization_config(config).declared:
        return config, []
    for name in QUANTIZATION_NAMES:
        document, notes = read_config(folder / name, display_path)
        if notes:
            return config, notes
        if document is not None:
            inner = document.get("quantization")
            block = _quanto_block(document, config) if name == QUANTO_NAME else document
            return {**(config or {}), "quantization_config": inner if isinstance(inner, dict) else block}, []
    return config, []


def _quanto_block(document: Mapping[str, Any], config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    levels = (config or {}, *(value for value in (config or {}).values() if isinstance(value, Mapping)))
    sizes = {size for level in levels if type(size := level.get("hidden_size")) is int}
    return {"quanto_qmap": document, "quant_method": "quanto", "hidden_size": sizes.pop() if len(sizes) == 1 else None}
