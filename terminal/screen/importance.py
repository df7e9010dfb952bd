"""Which columns are asked for most, for tables that are wider than the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from layerhouse.vocabulary import ZERO_SHOT_TASKS

_OF_RUNS = (
    "model_id",
    "variant",
    "kept_share",
    "reduction_ratio",
    "ppl_wikitext2",
    "mean_accuracy",
    "size_gb",
    "throughput_bs1",
    "ppl_ptb",
    *ZERO_SHOT_TASKS,
    "memory_mb",
    "n_tasks",
    "latency_ms_bs1",
    "params_b",
)

FIRST: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "summary": (
            "model_id",
            "kept_share",
            "reduction_ratio",
            "num_layers",
            "status_note",
            "removed_layers",
            "strategy",
            "prunable_sparsity",
            "num_removed_layers",
            "size_gb",
            "base_model",
            "params",
            "declared_ratio",
            "heavy_layers",
            "retention_mean",
            "method",
            "retention_std",
        ),
        "performance": _OF_RUNS,
        "performance_variants": _OF_RUNS,
        "per_layer": (
            "model_id",
            "stack",
            "base_layer_index",
            "layer_index",
            "kept_share",
            "kept_level",
            "gone",
            "attention_reduction_ratio",
            "mlp_reduction_ratio",
            "sparsity",
            "num_heads",
            "num_kv_heads",
            "intermediate_size",
            "match",
            "params",
            "base_params",
        ),
    }
)
"""The columns of a query in the order in which they get room. Those that are not named follow, in the order of the table."""


def by_importance(query: str | None, names: Sequence[str]) -> list[str]:
    """The columns of a query's table, those that are asked for most first; of another table in its own order."""
    first = [name for name in FIRST.get(query or "", ()) if name in names]
    return [*first, *(name for name in names if name not in first)]
