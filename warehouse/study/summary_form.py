"""The summary in the form of the study scripts, so that readers of their `PREFIX.txt` and `PREFIX.json` keep working."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from layerhouse.vocabulary import SourceKind
from layerhouse.warehouse.study.json_form import known_values, study_json

__all__ = ["models_summary", "study_document", "study_json", "study_text"]

Row = Mapping[str, Any]

NO_NUMBER = "N/A"
TITLE = "\u6a21\u578b\u7ed3\u6784\u5206\u6790\u6c47\u603b\u8868"
HEADINGS = (
    "\u6a21\u578b\u540d\u79f0",
    "\u603b\u53c2\u6570",
    "\u526a\u679d\u6bd4\u4f8b",
    "\u5c42\u6570",
    "\u5b8c\u5168\u526a\u7a7a\u7684\u5c42",
)
"""The headings of the study's table: model, parameters, share that is gone, layers, layers that are empty."""
STATISTICS = "\u7edf\u8ba1\u4fe1\u606f"
NUM_MODELS = "\u603b\u6a21\u578b\u6570"
PARAMS_STATISTICS = "\u53c2\u6570\u91cf\u7edf\u8ba1"
RATIO_STATISTICS = "\u526a\u679d\u6bd4\u4f8b\u7edf\u8ba1"
ZERO_STATISTICS = "\u5b8c\u5168\u526a\u7a7a\u7684\u5c42\u7edf\u8ba1"
MODELS_WITH_ZERO = "\u6709\u526a\u7a7a\u5c42\u7684\u6a21\u578b\u6570"
ALL_ZERO_LAYERS = "\u603b\u526a\u7a7a\u5c42\u6570"
LEAST, GREATEST, MEAN = "\u6700\u5c0f", "\u6700\u5927", "\u5e73\u5747"
"""What the study's statistics are called: all models, parameters, ratios, empty layers; least, greatest, mean."""


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
    """The summary as the study's table: models by descending parameter count, one line each; then what all of them have.

    A number that is not known is `N/A`, where the study's script writes 0.
    """
    models = sorted(document["models"], key=lambda model: (-model.get("params", {}).get("total", -1), model["name"]))
    name, params, ratio, num_layers, zero_layers = HEADINGS
    header = f"{name:<40} {params:>15} {ratio:>10} {num_layers:>6} {zero_layers:>12}"
    lines = ["=" * 120, TITLE, "=" * 120, "", header, "-" * 120]
    lines += [_model_line(model) for model in models]
    return "\n".join([*lines, "", "=" * 120, "", "", *_statistics_lines(models)]) + "\n"


def models_summary(models: Sequence[Row]) -> dict[str, Any]:
    """What the study's batch analysis writes on all models of a folder, for rows of the models view.

    Names are relative to the folder that holds all of them.
    """
    folders = [Path(model["source_uri"]) for model in models]
    home = Path(os.path.commonpath([folder.parent for folder in folders])) if folders else Path()
    return {
        "timestamp": datetime.now(UTC).isoformat(),
        "models_dir": str(home),
        "models": [
            known_values(
                name=folder.relative_to(home).as_posix(),
                total_params=model["params"],
                num_layers=model["num_layers"],
                layer_params=model["layer_params"],
                embedding_params=model["embedding_params"],
                lm_head_params=model["lm_head_params"],
                pruning=_pruning(model),
            )
            for folder, model in sorted(zip(folders, models, strict=True), key=lambda pair: str(pair[0]))
        ],
    }


def _pruning(model: Row) -> dict[str, Any] | None:
    if model["base_params"] is None or model["params"] is None:
        return None
    return known_values(
        original_params=model["base_params"],
        pruned_params=model["params"],
        reduction_ratio=model["reduction_ratio"],
    )


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


def _model_line(model: Mapping[str, Any]) -> str:
    """A model's line: its name on one line, parameters, reduction, number of layers and of empty ones."""
    name = json.dumps(model["name"], ensure_ascii=False)[1:-1]
    params, ratio = model["params"], model.get("pruning", {}).get("reduction_ratio")
    total = f"{params['total']:,}" if "total" in params else NO_NUMBER
    share = NO_NUMBER if ratio is None else f"{ratio * 100:.2f}%"
    zero_layers = len(model["zero_layers"]) if "zero_layers" in model else NO_NUMBER
    return f"{name:<40} {total:>15} {share:>10} {params.get('num_layers', NO_NUMBER):>6} {zero_layers:>12}"


def _statistics_lines(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """The number of models, minimum, maximum and mean of parameters and of reductions, and empty layers."""
    lines = ["=" * 80, STATISTICS, "=" * 80, "", f"{NUM_MODELS}: {len(models)}"]
    totals = [model["params"]["total"] for model in models if "total" in model["params"]]
    if totals:
        lines += ["", f"{PARAMS_STATISTICS}:", f"  {LEAST}: {min(totals):,}", f"  {GREATEST}: {max(totals):,}"]
        lines.append(f"  {MEAN}: {sum(totals) // len(totals):,}")
    ratios = [ratio for model in models if (ratio := model.get("pruning", {}).get("reduction_ratio")) is not None]
    if ratios:
        numbers = {LEAST: min(ratios), GREATEST: max(ratios), MEAN: sum(ratios) / len(ratios)}
        lines += ["", f"{RATIO_STATISTICS}:", *(f"  {name}: {number * 100:.2f}%" for name, number in numbers.items())]
    counts = [len(model["zero_layers"]) for model in models if model.get("zero_layers")]
    if counts:
        lines += ["", f"{ZERO_STATISTICS}:", f"  {MODELS_WITH_ZERO}: {len(counts)}", f"  {ALL_ZERO_LAYERS}: {sum(counts)}"]
    return [*lines, "", "=" * 80]
