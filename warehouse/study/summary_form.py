"""The summary in the form of the study scripts, so that readers of their `PREFIX.txt` and `PREFIX.json` keep working."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from layerhouse.vocabulary import SourceKind
from layerhouse.warehouse.study.json_form import known_values, study_json

__all__ = ["study_document", "study_json", "study_text"]

Row = Mapping[str, Any]


def study_document(models: Sequence[Row], layers: Sequence[Row], *, now: datetime | None = None) -> dict[str, Any]:
    """The JSON document for rows of the models view and of layer_pruning. Keys without data are absent, never null.

    `zero_layers` has indices of the model's own layers. `layer_pruning` has blocks of the base, a removed one with ratio 1.
    """
    layers_by_model: dict[str, list[Row]] = {}
    for layer in layers:
        layers_by_model.setdefault(layer["model_id"], []).append(layer)
    return {
        "timestamp": (now or datetime.now(UTC)).isoformat(),
        "total_models": len(models),
        "models": [
            _model_entry(model, layers_by_model.get(model["model_id"], []))
            for model in sorted(models, key=lambda model: model["model_id"])
        ],
    }


def study_text(document: Mapping[str, Any]) -> str:
    """The summary as text: models by descending parameter count, then minimum, maximum and mean over all models."""
    models = sorted(document["models"], key=lambda model: (-model.get("params", {}).get("total", -1), model["name"]))
    lines = ["=" * 80, f"Model summary: {document['total_models']} models, {document['timestamp']}", "=" * 80]
    for model in models:
        lines += ["", *_model_lines(model)]
    lines += ["", "-" * 80, f"{'':24}{'minimum':>16}{'maximum':>16}{'mean':>16}{'models':>8}"]
    totals = [model["params"]["total"] for model in models if "total" in model.get("params", {})]
    lines.append(_statistics_line("parameters", totals, ",.0f"))
    for key, heading in (("reduction_ratio", "reduction"), ("layer_reduction_ratio", "reduction of layers")):
        ratios = [model["pruning"][key] for model in models if key in model.get("pruning", {})]
        lines.append(_statistics_line(heading, ratios, ".2%"))
    return "\n".join(lines) + "\n"


def _model_entry(model: Row, layers: Sequence[Row]) -> dict[str, Any]:
    has_structure = any(layer["layer_index"] is not None for layer in layers)
    has_comparison = model["base_params"] is not None and model["source_kind"] != SourceKind.RESULTS
    entry: dict[str, Any] = {
        "name": model["model_id"],
        "has_comparison": has_comparison,
        "has_structure": has_structure,
        "params": known_values(
            total=model["params"],
            embedding=model["embedding_params"],
            lm_head=model["lm_head_params"],
            layers=model["layer_params"],
            num_layers=model["num_layers"],
        ),
    }
    if has_structure:
        entry["zero_layers"] = sorted(
            layer["layer_index"] for layer in layers if layer["layer_index"] is not None and layer["is_zero_layer"]
        )
    if has_comparison:
        entry["pruning"] = known_values(
            original_params=model["base_params"],
            pruned_params=model["params"],
            reduction_ratio=model["reduction_ratio"],
            layer_reduction_ratio=model["layer_reduction_ratio"],
        )
        matched_layers = [
            layer for layer in layers if layer["base_layer_index"] is not None and layer["reduction_ratio"] is not None
        ]
        if matched_layers and len(matched_layers) == len(layers):
            entry["layer_pruning"] = [
                {
                    "layer_idx": layer["base_layer_index"],
                    "reduction_ratio": layer["reduction_ratio"],
                    "is_zero": bool(layer["is_removed"] or layer["is_zero_layer"]),
                }
                for layer in matched_layers
            ]
    return entry


def _model_lines(model: Mapping[str, Any]) -> list[str]:
    params, pruning = model["params"], model.get("pruning", {})
    lines = [json.dumps(model["name"], ensure_ascii=False)[1:-1]]
    if "total" in params:
        lines.append(f"  parameters           {params['total']:,} ({params['total'] / 1e9:.3f} B)")
    for key, heading in (("embedding", "embedding"), ("lm_head", "lm_head"), ("layers", "layers")):
        if key in params:
            lines.append(f"    {heading:19}{params[key]:,}")
    if "num_layers" in params:
        lines.append(f"  number of layers     {params['num_layers']}")
    if pruning:
        lines.append(f"  original parameters  {pruning['original_params']:,}")
    for key, heading in (("reduction_ratio", "reduction"), ("layer_reduction_ratio", "reduction of layers")):
        if key in pruning:
            lines.append(f"  {heading:21}{pruning[key]:.2%}")
    if model.get("zero_layers"):
        lines.append(f"  zero layers          {' '.join(map(str, model['zero_layers']))}")
    removed = [
        layer["layer_idx"] for layer in model.get("layer_pruning", []) if layer["is_zero"] and layer["reduction_ratio"] == 1
    ]
    if removed:
        lines.append(f"  blocks gone          {' '.join(map(str, removed))}")
    return lines


def _statistics_line(heading: str, values: Sequence[float], number_format: str) -> str:
    """Minimum, maximum, mean and number of values; Decimal, as a float would round large counts."""
    if not values:
        return f"{heading:24}{'-':>16}{'-':>16}{'-':>16}{0:>8}"
    numbers = (Decimal(min(values)), Decimal(max(values)), Decimal(sum(values)) / len(values))
    return f"{heading:24}{''.join(f'{number:>16{number_format}}' for number in numbers)}{len(values):>8}"
