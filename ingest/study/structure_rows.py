"""Rows of the tables checkpoints and layers for a structure. What no analysis file states is null: all value statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layerhouse.ingest.checkpoint.notes import Note
from layerhouse.ingest.study.structures import Layer, Structure
from layerhouse.version import __version__
from layerhouse.vocabulary import SourceKind, Stack, StatsLevel

Row = dict[str, Any]


def checkpoint_row(structure: Structure, checkpoint_id: str, status: str, notes: Sequence[Note]) -> Row:
    """The row of the whole model."""
    return {
        "checkpoint_id": checkpoint_id,
        "source_kind": SourceKind.ANALYSIS,
        "declared_name": structure.name,
        "params": structure.params,
        "embedding_params": structure.embedding_params,
        "lm_head_params": structure.lm_head_params,
        "layer_params": structure.layer_params,
        "num_layers": structure.num_layers,
        "stats_level": StatsLevel.NONE,
        "status": status,
        "notes": [*notes],
        "tool_version": __version__,
    }


def layer_rows(structure: Structure, checkpoint_id: str) -> tuple[Row, ...]:
    """A row for each listed layer."""
    return tuple(_layer_row(layer, checkpoint_id) for layer in structure.layers)


def _layer_row(layer: Layer, checkpoint_id: str) -> Row:
    return {
        "checkpoint_id": checkpoint_id,
        "stack": Stack.TEXT,
        "layer_index": layer.index,
        "params": layer.params,
        "attention_params": layer.attention_params,
        "mlp_params": layer.mlp_params,
        "norm_params": layer.norm_params,
        "other_params": layer.other_params,
        "role_params": dict(layer.role_params) or None,
        "num_heads": layer.num_heads,
        "num_kv_heads": layer.num_kv_heads,
        "head_dim": layer.head_dim,
        "intermediate_size": layer.intermediate_size,
        "attention_type": layer.attention_type,
        "mlp_type": layer.mlp_type,
        "is_zero_layer": layer.is_zero_layer,
    }
