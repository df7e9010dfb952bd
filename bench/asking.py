"""What an answer costs in a warehouse of many models: `python bench/asking.py --models 2000,10000`.

Makes warehouses of models that were pruned from one base of 32 layers, in four ways, each with results: the rows of four real
tiny models and their base, once ingested, are written again under other names and with other numbers. There are no weights.
Each warehouse is opened in a process of its own, and the CPU seconds of each answer are counted there after opening: the
first in a session, which makes the views, and the median of `--repeat` more. Then three models more are written into a copy of
each warehouse, first without results, then with them: what keeping the answers costs after each. `--folder` keeps the
warehouses; a folder that has them is used as it is.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

import layerhouse
from layerhouse import demo
from layerhouse import demo_checkpoints as checkpoints
from layerhouse.warehouse.admin.keeping import keep_answers
from layerhouse.warehouse.storage.commits import list_commits
from layerhouse.warehouse.storage.schema import TABLES
from layerhouse.warehouse.storage.store import create_store, write_commit

LAYERS = 32
MODELS_A_COMMIT = 84
BASE = "baselines/Base"
METHODS = ("Wanda", "FLAP", "ShortGPT", "HGSP")
ONE_MODEL, WHOLE, TRADE_OFF, OPENING, GROWTH, MEMORY, KEEPING = 0.05, 0.4, 1.0, 0.15, 1.5, 400, 2.0
"""Limits: CPU seconds of an answer about one model, of whole tables, of trade_off and of opening; growth of one model's answers
from the least to the largest warehouse; MiB; CPU seconds of keeping."""
WIDE = ("signature", "sketch", "abs_quantiles", "ladder_counts")
"""Columns of tensors that no answer here reads; they are left out, as they would be most of the bytes."""


def make_templates(folder: Path) -> dict[str, dict[str, pa.Table]]:
    """The stored rows of the base and of each method's model, by name and table."""
    checkpoints.LAYERS, checkpoints.VOCAB, checkpoints.CONFIG["num_hidden_layers"] = LAYERS, 256, LAYERS
    base = checkpoints.tiny_llama()
    models = {
        BASE: base,
        "Wanda": checkpoints.masked(base, checkpoints.smallest_half),
        "FLAP": checkpoints.narrowed(base, [(4 - layer % 3, 352 - 8 * layer) for layer in range(LAYERS)]),
        "ShortGPT": checkpoints.without_blocks(base, range(20, 27)),
        "HGSP": checkpoints.masked(base, checkpoints.two_of_four),
    }
    for name, tensors in models.items():
        checkpoints.save_safetensors(folder / "models" / name, tensors)
        params = sum(tensor.size for tensor in tensors.values())
        document = demo.result_document(name.rpartition("/")[2], params, LAYERS, demo.SCORES[demo.BASE])
        demo.write_json(folder / "models" / name / "evaluation/evaluation_results.json", document)
    root = folder / "template"
    layerhouse.ingest([folder / "models"], warehouse=root, base=folder / "models" / BASE)
    snapshot = list_commits(root)
    tables = {name: ds.dataset(snapshot.files(name), format="parquet").to_table() for name in TABLES if snapshot.rows(name)}
    names = dict(zip(*(tables["checkpoints"][column].to_pylist() for column in ("model_id", "checkpoint_id")), strict=True))
    results = dict(zip(*(tables["links"][column].to_pylist() for column in ("model_id", "result_id")), strict=True))
    return {
        name.removeprefix("models/"): {
            table: _own_rows(rows, name, checkpoint_id, results[name]).drop_columns(
                [column for column in (*WIDE, "commit_id", "ingested_at") if column in rows.column_names]
            )
            for table, rows in tables.items()
        }
        for name, checkpoint_id in names.items()
    }


def _own_rows(rows: pa.Table, model_id: str, checkpoint_id: str, result_id: str) -> pa.Table:
    column = next(name for name in ("checkpoint_id", "result_id", "model_id") if name in rows.column_names)
    own = {"checkpoint_id": checkpoint_id, "result_id": result_id, "model_id": model_id}[column]
    return rows.filter(pc.equal(rows[column], own))


def write_models(root: Path, count: int) -> None:
    """Write a warehouse of the base and `count` models, in commits of MODELS_A_COMMIT."""
    with tempfile.TemporaryDirectory() as folder:
        templates = make_templates(Path(folder))
    create_store(root)
    rng = np.random.default_rng(3)
    write_commit(root, templates[BASE], "ingest")
    for first in range(0, count, MODELS_A_COMMIT):
        parts: dict[str, list[pa.Table]] = {}
        for number in range(first, min(count, first + MODELS_A_COMMIT)):
            method = METHODS[number % len(METHODS)]
            for table, rows in templates[method].items():
                parts.setdefault(table, []).append(_model(rows, table, f"results/{method}_{number:05d}", number, rng))
        write_commit(root, {table: pa.concat_tables(pieces) for table, pieces in parts.items()}, "ingest")
    keep_answers(root)


def _model(rows: pa.Table, table: str, model_id: str, number: int, rng: np.random.Generator) -> pa.Table:
    """A template's rows as those of another model: other ids, and of what answers show other numbers."""
    own = {
        "checkpoint_id": f"{number:064x}",
        "model_id": model_id,
        "result_id": f"{number + (1 << 40):064x}",
        "file_id": f"{number + (1 << 41):064x}",
        "source_uri": f"/study/{model_id}",
    }
    for name, value in own.items():
        if name in rows.column_names:
            rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), [[value] * len(rows)])
    for name in {"layers": ("zeros", "mlp_zeros"), "checkpoints": ("zeros", "nonzero_params")}.get(table, ()):
        values = np.asarray(rows[name].to_numpy())
        lower = np.maximum(0, values - rng.integers(0, 1000, len(values)))
        rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), [lower])
    if table == "results":
        factors = rng.uniform(0.5, 1.0, len(rows))
        values = pc.multiply(rows["value"], pa.array(factors))
        rows = rows.set_column(rows.column_names.index("value"), rows.schema.field("value"), values)
    return rows


def answers(root: Path, repeat: int) -> dict[str, Any]:
    """CPU seconds of opening, and of each answer the first time and the median of `repeat` times; peak memory in MiB."""
    name = "results/FLAP_00001"
    asked: dict[str, Callable[[layerhouse.Warehouse], Any]] = {
        "one model's layers": lambda wh: wh.layers(name),
        "one model: per_layer": lambda wh: wh.query("per_layer", models=(name,)),
        "one model: summary": lambda wh: wh.query("summary", models=(name,)),
        "one model: performance": lambda wh: wh.query("performance", models=(name,)),
        "one model's results": lambda wh: wh.results(name),
        "summary": lambda wh: wh.query("summary"),
        "performance": lambda wh: wh.query("performance"),
        "trade_off": lambda wh: wh.query("trade_off"),
    }
    started = time.process_time()
    layerhouse.open(root).close()
    opening = time.process_time() - started
    asked["summary"](layerhouse.open(root))  # loads what the process needs
    costs = {label: _cost(root, ask, repeat) for label, ask in asked.items()}
    return {"opening": opening, "costs": costs, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def _cost(root: Path, ask: Callable[[layerhouse.Warehouse], Any], repeat: int) -> tuple[float, float]:
    seconds = []
    with layerhouse.open(root) as wh:
        for _ in range(1 + repeat):
            started = time.process_time()
            ask(wh)
            seconds.append(time.process_time() - started)
    return seconds[0], median(seconds[1:])


def keeping(root: Path, count: int) -> dict[str, float]:
    """Median CPU seconds of keeping the answers of a warehouse after one model more, without and with its results."""
    costs = {}
    with tempfile.TemporaryDirectory() as folder:
        templates = make_templates(Path(folder))
        copy = shutil.copytree(root, Path(folder) / "copy")
        rng, number = np.random.default_rng(4), count
        for label, tables in (("without results", TABLES.keys() - {"results", "links"}), ("with results", TABLES.keys())):
            seconds = []
            for _ in range(3):
                method, number = METHODS[number % len(METHODS)], number + 1
                rows = {
                    table: _model(rows, table, f"later/{method}_{number:05d}", number, rng)
                    for table, rows in templates[method].items()
                    if table in tables
                }
                write_commit(copy, rows, "ingest")
                started = time.process_time()
                keep_answers(copy)
                seconds.append(time.process_time() - started)
            costs[label] = median(seconds)
    return costs


def main() -> None:
    """Parse, make the warehouses, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="2000,10000", help="numbers of models")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the warehouses are or go; default: a temporary folder")
    parser.add_argument("--answers", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        write_models(options.make, int(options.models))
        return
    if options.answers:
        print(json.dumps(answers(options.answers, options.repeat)))
        return
    if options.keep:
        print(json.dumps(keeping(options.keep, int(options.models))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        found = {}
        for count in sorted(int(count) for count in options.models.split(",")):
            root = (options.folder or Path(scratch)) / f"asking_{count}"
            if not root.exists():  # made by another process: a child starts with its parent's peak of memory
                subprocess.run([sys.executable, __file__, "--make", str(root), "--models", str(count)], check=True)
            found[count] = _run("--answers", str(root), "--repeat", str(options.repeat))
            found[count]["keeping"] = _run("--keep", str(root), "--models", str(count))
        print_table(found)


def _run(*arguments: str) -> dict[str, Any]:
    """What this script prints in a process of its own."""
    printed: dict[str, Any] = json.loads(
        subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True).stdout
    )
    return printed


def print_table(found: dict[int, dict[str, Any]]) -> None:
    """One line an answer: first and median CPU seconds in each warehouse, and the growth from the least to the largest."""
    least, *_, largest = found if len(found) > 1 else [*found, *found]
    print(f"{'CPU seconds: first, median':<28}" + "".join(f"{f'{count} models':>20}" for count in found) + "    growth   limit")
    print(f"{'opening':<28}" + "".join(f"{found[count]['opening']:20.3f}" for count in found) + f"{OPENING:>18}")
    for label in found[least]["costs"]:
        limit = ONE_MODEL if label.startswith("one model") else TRADE_OFF if label == "trade_off" else WHOLE
        cells = "".join("{:>20}".format("{:.3f}, {:.3f}".format(*found[count]["costs"][label])) for count in found)
        growth = found[largest]["costs"][label][1] / found[least]["costs"][label][1]
        print(f"{label:<28}{cells}{growth:10.1f}{limit:>8}")
    for label in found[least]["keeping"]:
        cells = "".join(f"{found[count]['keeping'][label]:20.3f}" for count in found)
        print(f"{f'keeping, {label}':<28}{cells}{KEEPING:>18}")
    print(f"{'peak memory, MiB':<28}" + "".join(f"{found[count]['mib']:20.0f}" for count in found) + f"{MEMORY:>18}")


if __name__ == "__main__":
    main()
