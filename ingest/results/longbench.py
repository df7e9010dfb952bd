"""Results of LongBench (eval.py): `result.json`, the score of each data set in percent, or of each of its groups by length.

A score becomes a row in percent, as the file has it: by data set it is an F1, a ROUGE-L, an accuracy or a similarity, which the
file does not say. It names no model, either.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerhouse.ingest.checkpoint.notes import note
from layerhouse.ingest.results.parsed import EMPTY_ROW, Item, ParsedResults, ResultFormat, Row, parsed_results
from layerhouse.ingest.results.rows import measure
from layerhouse.ingest.results.run_times import read_run_at
from layerhouse.ingest.results.tasks import ZERO_SHOT

HARNESS = "longbench"
DATASETS = frozenset(
    {
        *("hotpotqa", "2wikimqa", "musique", "dureader", "narrativeqa", "qasper", "multifieldqa_en", "multifieldqa_zh"),
        *("gov_report", "qmsum", "multi_news", "vcsum", "trec", "nq", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"),
        *("passage_retrieval_en", "passage_count", "passage_retrieval_zh"),
    }
)


def recognises(document: Any, path: Path) -> bool:
    """An object of LongBench's data sets alone, in a file called result.json."""
    is_object = path.name == "result.json" and isinstance(document, dict) and bool(document)
    return is_object and document.keys() <= DATASETS


def parse(document: Any, path: Path) -> ParsedResults:
    """A row for every score."""
    run_at, notes = read_run_at(None, path)
    common = {**EMPTY_ROW, "harness": HARNESS, "suite": ZERO_SHOT, "run_at": run_at, "is_group": False}
    return parsed_results(_items(document), common, notes)


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def _items(document: Row) -> Iterator[Item]:
    for dataset, score in document.items():
        groups = {f" {length}": value for length, value in score.items()} if isinstance(score, dict) else {"": score}
        for length, value in groups.items():
            subset = length.strip() or None
            columns: Row = {"task": f"longbench_{dataset}{length}", "dataset": "LongBench", "subset": subset}
            notes = [note("metric", "the file does not say which score of the data set it is")]
            yield measure(f"{dataset}{length}", "score", value, **columns, unit="percent", higher_is_better=True, notes=notes)
