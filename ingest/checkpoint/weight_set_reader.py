"""Read the headers of all files of a weight set and check them against its index."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.dcp import read_dcp
from layerhouse.ingest.checkpoint.containers.registry import read_weight_file
from layerhouse.ingest.checkpoint.containers.zero3 import read_zero3
from layerhouse.ingest.checkpoint.file_names import DCP_METADATA, SLICEGPT_SUFFIX, ZERO3_PARTITION
from layerhouse.ingest.checkpoint.slicegpt import (
    is_sliced,
    read_slicing,
    slicing_config_path,
    slicing_notes,
)
from layerhouse.ingest.checkpoint.symlinks import leads_out
from layerhouse.ingest.checkpoint.tensor_ref import Contents, TensorRef
from layerhouse.ingest.checkpoint.weight_set import WeightSet, WeightSetContents

FLAT_PARAMETER = re.compile(r"(?:.*\.)?_?flat_param(?:_\d+)?", re.DOTALL)
"""FSDP's name for the weights of a module, or one rank's part of them, in one row with padding."""


def read_weight_set(weight_set: WeightSet, display_path: str) -> WeightSetContents:
    """Read the headers of every file of the set. `display_path` is the folder's path for messages.

    A tensor that the index does not name is left out, with a note. Raises InputError for a tensor that the index names and no
    shard holds, or that two shards hold, and for flat parameters.
    """
    holders: dict[str, Path] = {}
    tensors: list[TensorRef] = []
    containers: dict[str, None] = {}
    metadata: dict[str, Any] = {}
    skipped: list[str] = []
    descriptions: dict[str, Any] = {}
    entry_names: dict[str, str] = {}
    class_path = config = None
    for path, contents in _read_files(weight_set, display_path):
        own = dict.fromkeys((*(tensor.name for tensor in contents.tensors), *contents.entry_names.values()), path)
        entry_names |= contents.entry_names
        if twice := holders.keys() & own.keys():
            first = next(name for name in own if name in twice)
            raise InputError(display_path, f"tensor {first[:80]!r} is in {holders[first].name} and in {path.name}")
        holders |= own
        tensors += contents.tensors
        containers[contents.container] = None
        metadata = {**contents.metadata, **metadata}
        descriptions |= contents.descriptions
        class_path, config = class_path or contents.class_path, config or contents.config
        skipped += [f"{path.name}: {what}" for what in contents.skipped]
    if flat := [tensor.name for tensor in tensors if FLAT_PARAMETER.fullmatch(tensor.name)]:
        what = f"FSDP's flat parameters, in which the weights are not told apart ({_first(flat)})"
        raise InputError(display_path, f"{what}; save the model with FULL_STATE_DICT or SHARDED_STATE_DICT")
    notes = _read_slicing(weight_set, tensors, metadata, display_path)
    if ranks := sum(ZERO3_PARTITION.fullmatch(path.name) is not None for path in weight_set.files):
        notes.append(f"joined from the parts of {ranks} ranks of a ZeRO-3 run, in float32 as the optimizer keeps them")
    if weight_set.weight_map is not None:
        _check_map(weight_set.weight_map, holders, f"{display_path}/{weight_set.index.name if weight_set.index else ''}")
        unnamed = [ref.name for ref in tensors if entry_names.get(ref.name, ref.name) not in weight_set.weight_map]
        if unnamed:
            notes.append(f"not in the index: {len(unnamed)} tensors, {_first(unnamed)}")
            left_out = set(unnamed)
            tensors = [tensor for tensor in tensors if tensor.name not in left_out]
    found = (tuple(tensors), tuple(containers), metadata, class_path, config, tuple(skipped), tuple(notes))
    return WeightSetContents(*found, descriptions)


def _read_files(weight_set: WeightSet, display_path: str) -> Iterator[tuple[Path, Contents]]:
    """What each file holds; with the first file what all of a distributed checkpoint or of a ZeRO-3 run hold together."""
    if weight_set.files[0].name == DCP_METADATA:
        yield weight_set.files[0], read_dcp(weight_set.folder, display_path)
        return
    if ZERO3_PARTITION.fullmatch(weight_set.files[0].name):
        yield weight_set.files[0], read_zero3(weight_set.files, display_path)
        return
    for path in weight_set.files:
        yield path, read_weight_file(path, display_path if path == weight_set.folder else f"{display_path}/{path.name}")


def _read_slicing(
    weight_set: WeightSet, tensors: Sequence[TensorRef], metadata: dict[str, Any], display_path: str
) -> list[str]:
    """Add SliceGPT's slicing config to the metadata, if there is one; returns notes on where it and the tensors disagree."""
    path = weight_set.files[0]
    slicing_path = slicing_config_path(path)
    slicing = None
    if slicing_path is not None:
        json_display_path = f"{display_path}.json" if path == weight_set.folder else f"{display_path}/{slicing_path.name}"
        if leads_out(path.parent, slicing_path):
            return [f"{slicing_path.name} not read: a link that leads out of this folder"]
        try:
            slicing = read_slicing(slicing_path, json_display_path)
        except InputError as error:
            return [f"{slicing_path.name} cannot be read: {error.what}"] if is_sliced(tensors) else []
    if slicing is not None:
        metadata["slicing"] = slicing
    elif not (path.suffix.lower() == SLICEGPT_SUFFIX and is_sliced(tensors)):
        return []
    return slicing_notes(path.stem, tensors, slicing)


def _check_map(weight_map: dict[str, str], holders: dict[str, Path], display_path: str) -> None:
    """Raise InputError unless every tensor that the index names is in the shard that it names."""
    absent = [name for name in weight_map if name not in holders]
    if absent:
        what = (
            f"names {len(absent)} tensors that no shard holds, {_first(absent)}; {weight_map[absent[0]]} should hold the first"
        )
        raise InputError(display_path, what)
    for name, shard in weight_map.items():
        if holders[name].name != shard:
            raise InputError(display_path, f"names {shard!r} for tensor {name[:80]!r}, which is in {holders[name].name}")


def _first(names: list[str]) -> str:
    return ", ".join(repr(name[:80]) for name in names[:3]) + (", ..." if len(names) > 3 else "")
