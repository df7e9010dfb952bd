"""Small analysis and result files in the form that pruning scripts write, for tests.

A layer is a pair of attention and MLP parameters; with NORM parameters of norms it has 1024 where it is FULL.
"""

from __future__ import annotations

import json
import re
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from layerhouse.ingest.run import Options, Report, ingest_roots
from layerhouse.warehouse.answers.handle import Warehouse
from layerhouse.warehouse.answers.load_inventory import load_inventory
from layerhouse.warehouse.storage.inventory import Inventory
from layerhouse.warehouse.storage.store import create_store

FULL, HALF, EMPTY = (400, 600), (200, 300), (0, 0)
NORM = 24
OUTSIDE = 5000
"""Parameters of a model that lie in no layer."""

ANALYSIS = "analysis/pruned_model_analysis.json"
ORIGINAL = "analysis/original_model_analysis.json"
COMPARISON = "analysis/model_comparison.json"
REMOVAL = "analysis/layers_to_remove.json"
RESULT = "evaluation/evaluation_results.json"
TEST_FOLDER = re.compile(r"^/\S*/pytest-\d+/(popen-gw\d+/)?[^/]+/")


def layer(index: int, attention: int, mlp: int, **further: Any) -> dict[str, Any]:
    return {
        "layer_idx": index,
        "total": attention + mlp + NORM,
        "attention": {"type": "LlamaAttention" if attention else "ZeroAttention", "q_proj": attention, "total": attention},
        "mlp": {"type": "LlamaMLP" if mlp else "ZeroMLP", "up_proj": mlp, "total": mlp, "intermediate_size": mlp // 100},
        "norm": NORM,
        "is_zero_layer": not (attention or mlp),
        **further,
    }


def structure(*sizes: tuple[int, int], name: str = "Pruned") -> dict[str, Any]:
    """One model's analysis."""
    layers = [layer(index, *size) for index, size in enumerate(sizes)]
    in_layers = sum(item["total"] for item in layers)
    return {
        "model_name": name,
        "total_params": OUTSIDE + in_layers,
        "embedding_params": 2000,
        "lm_head_params": 2000,
        "layers": layers,
        "layer_summary": {"num_layers": len(layers), "total_layer_params": in_layers},
    }


def base(*sizes: tuple[int, int]) -> dict[str, Any]:
    """The analysis of the base; of four full layers unless others are given."""
    return structure(*(sizes or (FULL,) * 4), name="Base")


def comparison(original: dict[str, Any], pruned: dict[str, Any]) -> dict[str, Any]:
    """Two models side by side, with as many layers as the shorter one has."""

    def pair(*path: str) -> dict[str, Any]:
        return {"original": reduce(getitem, path, original), "pruned": reduce(getitem, path, pruned)}

    return {
        "original_name": original["model_name"],
        "pruned_name": pruned["model_name"],
        "total_params": pair("total_params"),
        "layer_params": pair("layer_summary", "total_layer_params"),
        "layers": [
            {
                "layer_idx": index,
                "total": {"original": left["total"], "pruned": right["total"]},
                "attention": {"original": left["attention"]["total"], "pruned": right["attention"]["total"]},
                "mlp": {"original": left["mlp"]["total"], "pruned": right["mlp"]["total"]},
            }
            for index, (left, right) in enumerate(zip(original["layers"], pruned["layers"], strict=False))
        ],
    }


def removal(*layers: int, of: int | None = None) -> dict[str, Any]:
    return {"layers_to_remove": list(layers), "n_remove": len(layers)} | ({} if of is None else {"original_num_layers": of})


def result(ppl: float = 10.0, **metrics: Any) -> dict[str, Any]:
    """Evaluation results: a perplexity whose context length the file does not state, and further metrics."""
    return {
        "model_path": "models/any",
        "timestamp": "2026-01-15T12:00:00",
        "metrics": {"ppl": {"wikitext2 (wikitext-2-raw-v1)": ppl}, **metrics},
    }


def put(path: Path, content: Any) -> Path:
    """Write a file and its folders: bytes and text as they are, anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        content if isinstance(content, bytes) else (content if isinstance(content, str) else json.dumps(content)).encode()
    )
    return path


def put_all(folder: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        put(folder / name, content)
    return folder


def ingest(*roots: Path, into: Path, **options: Any) -> Report:
    """Ingest roots into a warehouse, which is created if there is none."""
    is_new = not into.exists()
    store = create_store(into)
    return ingest_roots(roots, store, Inventory() if is_new else load_inventory(store), Options(**options))


def plan(*roots: Path) -> Report:
    """The report of a dry run without a warehouse."""
    return ingest_roots(roots, Path("none"), Inventory(), Options(dry_run=True))


def lines(report: Report) -> list[str]:
    """The events of an ingest, one line each, with paths below the temporary folder of the test."""
    return [f"{event.kind} {TEST_FOLDER.sub('', event.where)}: {event.what}" for event in report.events]


def rows(warehouse: Path, sql: str) -> list[tuple[Any, ...]]:
    """The answer of SQL over a warehouse."""
    return answers(warehouse, sql)[0]


def answers(warehouse: Path, *statements: str) -> list[list[tuple[Any, ...]]]:
    """The answers of several statements over a warehouse, which is opened once, as opening takes longest."""
    with Warehouse(warehouse) as opened:
        return [opened.sql(sql).rows() for sql in statements]
