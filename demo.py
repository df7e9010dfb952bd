"""A small study on disk: a base, models pruned from it in the ways that people prune, and evaluation results.

The checkpoints are real files of a tiny Llama, the same bytes every time; the evaluation results are invented.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerhouse.errors import UsageError
from layerhouse.vocabulary import ZERO_SHOT_TASKS

BASE = "baselines/Tiny-Base"
SHOWN_MODEL = "results/HeadPrune_2000"
"""The model whose layers the demo shows."""

REMOVED = (4, 5)
"""The blocks that ShortGPT_remove_2 lacks."""
HEAD_KEPT = ((4, 352), (4, 352), (3, 264), (2, 176), (2, 160), (3, 264), (4, 352), (4, 352))
"""KV groups and MLP neurons that each layer of HeadPrune_2000 keeps."""
PRUNER_KEPT = ((4, 352), *((3, 248),) * 6, (4, 352))
"""The same of LLM-Pruner_2000."""
NORMED_TASKS = ("piqa", "hellaswag", "arc_easy", "arc_challenge", "openbookqa")


@dataclass(frozen=True)
class Scores:
    """Invented results: perplexities, accuracies in the order of ZERO_SHOT_TASKS, tokens per second at batch size 1."""

    wikitext2: float
    ptb: float
    accuracies: tuple[float, ...]
    tokens_per_second: float


SCORES = {
    BASE: Scores(21.7, 35.9, (0.74, 0.76, 0.66, 0.68, 0.70, 0.42, 0.38), 102.4),
    "baselines/Magnitude_5000": Scores(64.0, 97.2, (0.60, 0.63, 0.44, 0.54, 0.48, 0.29, 0.29), 102.1),
    "baselines/Magnitude_2of4": Scores(71.5, 110.8, (0.58, 0.62, 0.42, 0.53, 0.47, 0.28, 0.28), 103.0),
    "baselines/ShortGPT_remove_2": Scores(52.9, 88.1, (0.61, 0.64, 0.47, 0.59, 0.50, 0.31, 0.30), 134.5),
    SHOWN_MODEL: Scores(33.4, 58.6, (0.66, 0.70, 0.55, 0.60, 0.60, 0.34, 0.33), 126.3),
}


@contextmanager
def demo_study(keep: Path | None = None) -> Iterator[Path]:
    """The folder of a new study: `keep`, which must be new or empty, or else a temporary one, which is removed at the end."""
    if keep is not None:
        if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
            raise UsageError(f"{keep}: exists and is not an empty folder")
        write_study(keep)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="layerhouse-demo-") as folder:
        write_study(Path(folder))
        yield Path(folder)


def write_study(folder: Path) -> None:
    """Write the checkpoints and results of the study below a folder."""
    from layerhouse import demo_checkpoints as checkpoints

    base = checkpoints.tiny_llama()
    models = {
        BASE: base,
        "baselines/Magnitude_5000": checkpoints.masked(base, checkpoints.smallest_half),
        "baselines/Magnitude_2of4": checkpoints.masked(base, checkpoints.two_of_four),
        "baselines/ShortGPT_remove_2": checkpoints.without_blocks(base, REMOVED),
        SHOWN_MODEL: checkpoints.narrowed(base, HEAD_KEPT),
    }
    for name, tensors in models.items():
        checkpoints.save_safetensors(folder / name, tensors)
        params = sum(tensor.size for tensor in tensors.values())
        num_layers = sum(key.endswith("input_layernorm.weight") for key in tensors)
        document = result_document(Path(name).name, params, num_layers, SCORES[name])
        write_json(folder / name / "evaluation/evaluation_results.json", document)
    checkpoints.write_config(folder / BASE / "generation_config.json", checkpoints.GENERATION_CONFIG)
    pruned = checkpoints.narrowed(base, PRUNER_KEPT)
    checkpoints.save_whole_model(folder / "results/LLM-Pruner_2000/pytorch_model.bin", pruned)


def result_document(name: str, params: int, num_layers: int, scores: Scores) -> dict[str, Any]:
    """Evaluation results as the study scripts write them."""
    return {
        "model_path": f"models/{name}",
        "timestamp": "2026-01-15T12:00:00",
        "metrics": {
            "model_info": {"total_params": params, "num_layers": num_layers, "model_size_gb": params * 2 / 2**30},
            "ppl": {"wikitext2 (wikitext-2-raw-v1)": scores.wikitext2, "ptb": scores.ptb},
            "zeroshot": {
                task: {"accuracy": value, "full_results": {"alias": task, _metric(task): value}}
                for task, value in zip(ZERO_SHOT_TASKS, scores.accuracies, strict=True)
            },
            "avg_zeroshot_acc": sum(scores.accuracies) / len(ZERO_SHOT_TASKS),
            "efficiency": {
                "speed": {
                    f"batch_size_{size}": {
                        "throughput_tokens_per_sec": factor * scores.tokens_per_second,
                        "latency_ms_per_token": 1000 / (factor * scores.tokens_per_second),
                    }
                    for size, factor in ((1, 1.0), (4, 3.7))
                },
                "memory": {"model_memory_mb": params * 2 / 2**20},
            },
        },
    }


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2), "utf-8")


def _metric(task: str) -> str:
    return "acc_norm,none" if task in NORMED_TASKS else "acc,none"


def show_demo(keep: Path | None) -> None:
    """Make the study in the folder `keep`, or in a temporary one, ingest it, and print three tables."""
    import click

    import layerhouse
    from layerhouse.terminal.messages import talk
    from layerhouse.terminal.options import OutputOptions, TableOptions
    from layerhouse.terminal.progress import ingest_display, report_line
    from layerhouse.terminal.tables import opened_warehouse, show_query

    with demo_study(keep) as folder:
        warehouse, roots = folder / "layerhouse-data", [folder / "baselines", folder / "results"]
        with ingest_display(quiet=False) as (on_event, on_progress):
            report = layerhouse.ingest(
                roots, warehouse=warehouse, base=folder / BASE, map_files=True, on_event=on_event, on_progress=on_progress
            )
        talk(report_line(report, warehouse, dry_run=False))
        with opened_warehouse(warehouse) as wh:
            for name, models in (("summary", ()), ("per_layer", (SHOWN_MODEL,)), ("performance", ())):
                click.echo("", nl=name != "summary")
                caption = f"{name} of {SHOWN_MODEL}" if models else name
                show_query(wh, name, TableOptions().selection(models), OutputOptions(format_name="text"), caption=caption)
        if keep is not None:
            talk(f"the study and its warehouse are in {folder}")
