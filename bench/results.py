"""How long result files take: `python bench/results.py --files 5000 --tasks 250`.

Writes lm-eval 0.4 files, one for each model, and prints how long `ingest` takes for them as a whole process, then how long
DuckDB takes for each query (least of `--repeat`), beside reading the files with Python's json and picking the same scores, as a
script would. `--folder` keeps the files and the warehouse; a folder that has them is used as it is.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from turns import run_process

from layerhouse.vocabulary import ZERO_SHOT_TASKS
from layerhouse.warehouse.answers.session import connect

NORMED_TASKS = ("piqa", "hellaswag", "arc_easy", "arc_challenge", "openbookqa")
QUERIES = {
    "scores of one kind": "SELECT model_id, measure, value FROM measures WHERE kind = 'task'",
    "one model's measures": "SELECT * FROM measures WHERE model_id = 'Model_17'",
    "models": "SELECT * FROM models",
    "performance of one model": "SELECT * FROM performance WHERE model_id = 'Model_17'",
    "every measure counted": "SELECT kind, count(*), avg(value) FROM measures GROUP BY kind",
    "performance, perplexity and accuracy": "SELECT model_id, ppl_wikitext2, mean_accuracy, n_tasks FROM performance",
    "performance, every column": "SELECT * FROM performance",
    "performance, the best ten": "SELECT * FROM performance ORDER BY mean_accuracy DESC LIMIT 10",
    "every run, every column": "SELECT * FROM performance_variants",
    "what columns share": "SELECT * FROM column_conditions",
    "conflicts and doubts": "SELECT count(*) FROM run_measures WHERE is_conflict OR is_doubtful",
}


def scores(rng: random.Random, tasks: int) -> dict[str, dict[str, Any]]:
    """The results of one run: the zero-shot tasks and others."""
    names = [*ZERO_SHOT_TASKS, *(f"task_{number:03d}" for number in range(tasks - len(ZERO_SHOT_TASKS)))]
    results: dict[str, dict[str, Any]] = {}
    for name in names[:tasks]:
        results[name] = {"alias": name, "acc,none": rng.random(), "acc_stderr,none": 0.01}
        if name in NORMED_TASKS:
            results[name] |= {"acc_norm,none": rng.random(), "acc_norm_stderr,none": 0.01}
    return results


def write_files(root: Path, files: int, tasks: int) -> None:
    """Write a folder for each model, with one result file of lm-eval 0.4."""
    rng = random.Random(7)
    for number in range(files):
        results = scores(rng, tasks)
        document = {
            "results": results,
            "versions": dict.fromkeys(results, 1.0),
            "n-shot": dict.fromkeys(results, 0),
            "higher_is_better": {name: {"acc": True, "acc_norm": True} for name in results},
            "n-samples": {name: {"original": 1000, "effective": 1000} for name in results},
            "config": {"model": "hf", "model_args": f"pretrained=Model_{number}", "limit": None},
            "date": 1_700_000_000 + number,
            "transformers_version": "5.0.0",
            "lm_eval_version": "0.4.9",
        }
        folder = root / "models" / f"Model_{number}"
        folder.mkdir(parents=True)
        (folder / "results_2026-01-01T00-00-00.000000.json").write_text(json.dumps(document))


def read_with_json(root: Path) -> int:
    """Load every file, pick the scores of each task; the number of files."""
    rows = []
    for path in root.glob("models/*/results_*.json"):
        results = json.loads(path.read_text())["results"]
        rows.append({name: entry.get("acc_norm,none", entry["acc,none"]) for name, entry in results.items()})
    return len(rows)


def least_seconds(repeat: int, call: Callable[[], Any]) -> float:
    """The least time of several calls."""
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def main(root: Path, files: int, tasks: int, repeat: int) -> None:
    """Write the files, ingest them, time the queries."""
    warehouse = root / "warehouse"
    if not warehouse.exists():
        if not (root / "models").exists():
            write_files(root, files, tasks)
        command = [sys.executable, "-m", "layerhouse", "ingest", str(root / "models"), "-w", str(warehouse), "-q"]
        cost = run_process(command)
        print(f"ingest: {cost.seconds:.1f} s, peak {cost.peak_mib:.0f} MiB")
    script = least_seconds(1, lambda: read_with_json(root))
    print(f"every file read with json, scores picked: {script:.2f} s")
    connection, _ = connect(warehouse)
    print(f"{'query':40}{'seconds':>9}{'of the script':>15}")
    for name, query in QUERIES.items():
        seconds = least_seconds(repeat, lambda query=query: connection.sql(query).to_arrow_table())
        print(f"{name:40}{seconds:>9.2f}{seconds / script:>15.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--tasks", type=int, default=250)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep files and warehouse here")
    options = parser.parse_args()
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
        main(options.folder, options.files, options.tasks, options.repeat)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch), options.files, options.tasks, options.repeat)
