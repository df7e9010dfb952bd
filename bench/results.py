"""How long result files take: `python bench/results.py --files 5000 --tasks 250`.

Writes lm-eval 0.4 files, one a model, and prints how long `ingest` takes over them as a whole process, then each question as
DuckDB answers it (least of `--repeat`) beside what it takes to read the files with Python's json and look the same scores up,
as scripts do today. `--folder` keeps the files and the warehouse, and a folder that has them is asked as it is.
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

from ingest import run

from layerhouse.warehouse.answers.session import connect

SEVEN = ("boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
RANKED = ("piqa", "hellaswag", "arc_easy", "arc_challenge", "openbookqa")
QUESTIONS = {
    "scores of one kind": "SELECT model_id, measure, value FROM measures WHERE kind = 'task'",
    "one model's measures": "SELECT * FROM measures WHERE model_id = 'Model_17'",
    "models": "SELECT * FROM models",
    "performance of one model": "SELECT * FROM performance WHERE model_id = 'Model_17'",
    "every measure counted": "SELECT kind, count(*), avg(value) FROM measures GROUP BY kind",
    "performance, perplexity and accuracy": "SELECT model_id, ppl_wikitext2, mean_accuracy, n_tasks FROM performance",
    "performance, every column": "SELECT * FROM performance",
    "performance, the best ten": "SELECT * FROM performance ORDER BY mean_accuracy DESC LIMIT 10",
}


def scores(rng: random.Random, tasks: int) -> dict[str, dict[str, Any]]:
    """The results of one run: the seven zero-shot tasks and others."""
    names = [*SEVEN, *(f"task_{number:03d}" for number in range(tasks - len(SEVEN)))]
    found: dict[str, dict[str, Any]] = {}
    for name in names[:tasks]:
        found[name] = {"alias": name, "acc,none": rng.random(), "acc_stderr,none": 0.01}
        if name in RANKED:
            found[name] |= {"acc_norm,none": rng.random(), "acc_norm_stderr,none": 0.01}
    return found


def write_files(root: Path, files: int, tasks: int) -> None:
    """One folder a model with one result file of lm-eval 0.4."""
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


def by_script(root: Path) -> int:
    """What a script does for the table: load every file, pick the scores of each task."""
    rows = []
    for path in root.glob("models/*/results_*.json"):
        results = json.loads(path.read_text())["results"]
        rows.append({name: entry.get("acc_norm,none", entry["acc,none"]) for name, entry in results.items()})
    return len(rows)


def least(repeat: int, call: Callable[[], Any]) -> float:
    """The least time of some calls."""
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def main(root: Path, files: int, tasks: int, repeat: int) -> None:
    """Write, take in, ask."""
    warehouse = root / "warehouse"
    if not warehouse.exists():
        if not (root / "models").exists():
            write_files(root, files, tasks)
        command = [sys.executable, "-m", "layerhouse", "ingest", str(root / "models"), "-w", str(warehouse), "-q"]
        seconds, mib = run(command, warehouse)
        print(f"ingest: {seconds:.1f} s, {mib:.0f} MiB at its peak")
    script = least(1, lambda: by_script(root))
    print(f"every file with json, scores picked: {script:.2f} s")
    connection, _ = connect(warehouse)
    print(f"{'question':40}{'seconds':>9}{'of the script':>15}")
    for name, question in QUESTIONS.items():
        seconds = least(repeat, lambda question=question: connection.sql(question).to_arrow_table())
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
