"""Sub-layers that a config drops while their weights stay in the file, as LLM-Drop does."""

from __future__ import annotations

from collections.abc import Sequence

from layerhouse.ingest.checkpoint.config_json import Config
from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.model.config import dropped_layers
from layerhouse.ingest.model.placement import Placed, Placement
from layerhouse.vocabulary import Module, Role

DROPPED = (
    ("drop_attn_list", frozenset({Module.ATTENTION}), Role.ATTENTION_NORM),
    ("drop_mlp_list", frozenset({Module.MLP, Module.EXPERT, Module.ROUTER}), Role.MLP_NORM),
)
"""Config key, the modules that it drops in the layers it lists, and the norm before them, which is not applied either."""


def inactive_tensors(placement: Placement, config: Config | None) -> tuple[frozenset[str], list[Note]]:
    """Names of the tensors that the config drops, and a note for each list. They count as stored, and are not active."""
    names: set[str] = set()
    notes = []
    for key, modules, norm in DROPPED:
        layers = dropped_layers(config, key)
        if not layers:
            continue
        dropped = [
            tensor
            for tensor in placement.placed
            if tensor.stack == placement.main_stack and tensor.layer_index in layers
            if tensor.module in modules or tensor.role == norm
        ]
        if dropped:
            notes.append(note("inactive", _dropped_text(key, dropped)))
        names |= {tensor.ref.name for tensor in dropped}
    return frozenset(names), notes


def _dropped_text(key: str, dropped: Sequence[Placed]) -> str:
    layers = sorted({tensor.layer_index for tensor in dropped if tensor.layer_index is not None})
    params = sum(tensor.params for tensor in dropped)
    numbers = ", ".join(map(str, layers))
    return f"{key} drops layer{'' if len(layers) == 1 else 's'} {numbers}, whose {params} parameters are stored and not used"
