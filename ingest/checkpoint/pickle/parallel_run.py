"""Whether what a training run saved is the part of one rank, by what it says of the run."""

from __future__ import annotations

from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.pickle.values import PickledDict, Stub

RUN_SIZES = ("tensor_model_parallel_size", "pipeline_model_parallel_size")
"""Arguments of a run of Megatron-LM: into how many parts it cuts the model."""
SIZES = ("mp_world_size",)
"""What DeepSpeed writes of it."""


def refuse_rank(value: Any, display_path: str) -> None:
    """Raise InputError if the run that saved a dict had its model cut into parts, of which this file is one."""
    if not isinstance(value, PickledDict):
        return
    arguments = value.by_text.get("args")
    run = arguments.state.by_text if isinstance(arguments, Stub) and isinstance(arguments.state, PickledDict) else {}
    for known, keys in ((run, RUN_SIZES), (value.by_text, SIZES)):
        for key in keys:
            size = known.get(key)
            if type(size) is int and size > 1:
                what = f"one of {str(size)[:20]} parallel ranks of one model, as its {key} says"
                raise InputError(display_path, f"{what}; merge them first, or ingest the model they were made of")
