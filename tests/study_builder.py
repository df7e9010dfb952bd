"""A small study without weights, as pruning scripts write it: a base, four pruned models with their analyses, and results.

The numbers are invented and consistent; nothing is random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerhouse import demo
from layerhouse.demo import Scores, write_json

HIDDEN, HEAD_DIM, VOCAB = 256, 32, 4096
BASE_NAME = "Tiny-Base"


@dataclass(frozen=True)
class Width:
    """One layer of the made-up model: query heads, KV heads and MLP width."""

    heads: int
    kv_heads: int
    intermediate: int


BASE = (Width(8, 4, 704),) * 12
STUDY: dict[str, tuple[tuple[Width, ...], tuple[int, ...], Scores | None]] = {
    "baselines/Uniform_2000": (
        (Width(6, 3, 544),) * 12,
        (),
        Scores(41.2, 66.8, (0.58, 0.66, 0.48, 0.55, 0.54, 0.30, 0.31), 121.0),
    ),
    "baselines/ShortGPT_remove_3": (
        (Width(8, 4, 704),) * 9,
        (8, 9, 10),
        Scores(52.9, 88.1, (0.61, 0.64, 0.47, 0.59, 0.50, 0.31, 0.30), 139.5),
    ),
    "results/HeadPrune_2000": (
        (Width(8, 4, 704),) * 3
        + tuple(Width(8 - 2 * step, 4 - step, 704 - 192 * step) for step in (1, 2, 3, 3, 2, 1))
        + (Width(8, 4, 704),) * 3,
        (),
        Scores(33.4, 58.6, (0.66, 0.70, 0.55, 0.60, 0.60, 0.34, 0.33), 126.3),
    ),
    "results/EmptyBlocks_1": (
        tuple(Width(0, 0, 0) if index == 7 else Width(8, 4, 704) for index in range(12)),
        (),
        None,
    ),
}
BASE_SCORES = Scores(21.7, 35.9, (0.74, 0.76, 0.66, 0.68, 0.70, 0.42, 0.38), 102.4)


def write_study(folder: Path) -> None:
    """Write the study's files below a folder."""
    base = analysis_document(BASE_NAME, BASE)
    write_json(folder / f"baselines/{BASE_NAME}/analysis/model_structure.json", base)
    write_json(folder / f"baselines/{BASE_NAME}/evaluation/evaluation_results.json", result_document(base, BASE_SCORES))
    for name, (widths, removed, scores) in STUDY.items():
        model = folder / name
        pruned = analysis_document(model.name, widths)
        write_json(model / "analysis/pruned_model_analysis.json", pruned)
        write_json(model / "analysis/original_model_analysis.json", base)
        if removed:
            removal = {"layers_to_remove": list(removed), "n_remove": len(removed), "original_num_layers": len(BASE)}
            write_json(model / "analysis/layers_to_remove.json", removal)
        if scores is not None:
            write_json(model / "evaluation/evaluation_results.json", result_document(pruned, scores))


def analysis_document(name: str, widths: Sequence[Width]) -> dict[str, Any]:
    """A model's analysis as the study scripts write it."""
    layers = [_layer(index, width) for index, width in enumerate(widths)]
    layer_params = sum(layer["total"] for layer in layers)
    return {
        "model_name": name,
        "total_params": 2 * VOCAB * HIDDEN + layer_params + HIDDEN,
        "embedding_params": VOCAB * HIDDEN,
        "lm_head_params": VOCAB * HIDDEN,
        "layers": layers,
        "layer_summary": {"num_layers": len(layers), "total_layer_params": layer_params},
    }


def result_document(analysis: Mapping[str, Any], scores: Scores) -> dict[str, Any]:
    """Evaluation results as the study scripts write them."""
    return demo.result_document(analysis["model_name"], analysis["total_params"], len(analysis["layers"]), scores)


def _layer(index: int, width: Width) -> dict[str, Any]:
    query, key = HIDDEN * HEAD_DIM * width.heads, HIDDEN * HEAD_DIM * width.kv_heads
    matrix = HIDDEN * width.intermediate
    attention, mlp, norm = 2 * query + 2 * key, 3 * matrix, 2 * HIDDEN
    return {
        "layer_idx": index,
        "total": attention + mlp + norm,
        "attention": {
            "type": "LlamaAttention" if width.heads else "ZeroAttention",
            "q_proj": query,
            "k_proj": key,
            "v_proj": key,
            "o_proj": query,
            "total": attention,
            "num_heads": width.heads,
            "num_kv_heads": width.kv_heads,
        },
        "mlp": {
            "type": "LlamaMLP" if width.intermediate else "ZeroMLP",
            "gate_proj": matrix,
            "up_proj": matrix,
            "down_proj": matrix,
            "total": mlp,
            "intermediate_size": width.intermediate,
        },
        "norm": norm,
        "is_zero_layer": not (width.heads or width.intermediate),
    }
