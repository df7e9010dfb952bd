"""Parts of a model that are no model: the files of one rank of a parallel run, one of several shards."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.file_names import DCP_SUFFIX, SHARD_NAME

RANK_FOLDER = re.compile(r"mp_rank_\d{2,3}(_\d{3})?")
"""Megatron-LM's folder of one tensor-parallel (and pipeline) rank."""
ORIGINAL = "or ingest the model they were made of"
RANK_FILES = (
    (re.compile(r"zero_pp_rank_\d+_mp_rank_\d+_model_states\.pt"), "ZeRO-3 partitions", "with DeepSpeed's zero_to_fp32.py"),
    (re.compile(r"mp_rank_\d+_model_states\.pt"), "tensor-parallel ranks (DeepSpeed)", ORIGINAL),
    (re.compile(r"model_world_size_\d+_rank_\d+\.pt"), "FSDP ranks", "with the trainer that wrote them"),
    (re.compile(r"rank\d+\.safetensors"), "tensor-parallel ranks (TensorRT-LLM)", ORIGINAL),
    (re.compile(r"model-rank-\d+-part-\d+\.safetensors"), "tensor-parallel ranks (vLLM)", ORIGINAL),
    (
        re.compile(r"consolidated\.\d{2}\.pth"),
        "model-parallel ranks (Meta)",
        "with transformers' convert_llama_weights_to_hf.py",
    ),
)
"""The names of one rank's file, what they are, and how they are merged."""


def refuse_part(path: Path, files: Sequence[Path], display_path: str) -> None:
    """Raise InputError, which names the set and what to do, where a folder's files or a single file are a part of a model.

    One rank alone is a whole model: a run without parallelism has one, too.
    """
    if not path.is_dir():
        _refuse_shard(path, display_path)
        return
    if RANK_FOLDER.fullmatch(path.name):
        ranks = [entry.name for entry in path.parent.iterdir() if RANK_FOLDER.fullmatch(entry.name)]
        if len(ranks) > 1:
            what = f"{path.name} is one of {len(ranks)} parallel ranks of one model in {path.parent.name}"
            raise InputError(display_path, f"{what}; merge them first, with Megatron-LM's tools/checkpoint/convert.py")
    for pattern, what, how in RANK_FILES:
        ranks = sorted(file.name for file in files if pattern.fullmatch(file.name))
        if len(ranks) > 1 or (ranks and re.search(r"world_size_(?!1_)", ranks[0])):
            named = f"{ranks[0]} to {ranks[-1]}" if len(ranks) > 1 else ranks[0]
            raise InputError(display_path, f"{len(ranks)} {what} of one model ({named}); merge them first, {how}")


def _refuse_shard(path: Path, display_path: str) -> None:
    if path.suffix.lower() == DCP_SUFFIX:
        raise InputError(display_path, "one file of a distributed checkpoint; name its folder instead")
    match = SHARD_NAME.fullmatch(path.name)
    if match and int(match["count"]) > 1:
        what = f"shard {int(match['number'])} of {int(match['count'])} of a model; name its folder instead"
        raise InputError(display_path, what)
