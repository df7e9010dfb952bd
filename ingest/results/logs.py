"""Numbers in the logs of Wanda, SparseGPT, SliceGPT, LLM-Pruner, FLAP and llama-perplexity, and in printed tables.

The lines are those that the published scripts print: perplexities (per token), sparsities and shares (fractions), parameter
counts, and SliceGPT's speed. A log does not state the context length, so seq_len is null with a note, and so is a dataset that
the tool does not name. What FLAP calls sparsity is the share of weights that are kept, and so is LLM-Pruner's Ratio: the metric
of both is kept_fraction.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.limits import allowed, exceeded
from layerhouse.ingest.checkpoint.notes import note
from layerhouse.ingest.results import llama_bench_text, llama_perplexity, lm_eval_table
from layerhouse.ingest.results.log_lines import MAX_LINE, PART, Lines, find_lines, lines_behind, lower_case
from layerhouse.ingest.results.log_tools import NUMBER, Tool, info_item, perplexity_item, share_item, to_number
from layerhouse.ingest.results.parsed import EMPTY_ROW, Item, ParsedResults, ResultFormat, Row, parsed_results
from layerhouse.ingest.results.rows import left_out_line, measure
from layerhouse.ingest.results.run_times import read_run_at
from layerhouse.ingest.results.runs import run_columns
from layerhouse.ingest.results.scores import INT32_MAX, whole_number
from layerhouse.ingest.results.table_lines import cell_number
from layerhouse.warehouse.storage.schema import MEASURE_COLUMNS

RUN_COLUMNS = ("declared_model", "variant", "loaded_as")
MAX_LINES = 100_000
"""Lines of a log that may hold results."""
LLM_PRUNER_PPL = re.compile(r"PPL (before|after) (pruning|finetuning|[a-z ]+): *(\{[^{}]{1,500}\})")
LLM_PRUNER_PARAMS = re.compile(r"#Param before: ([0-9]+), #Param after: ([0-9]+), Ratio = ([0-9.]+)%")
FLAP_PPL = re.compile(rf"ppl on (\S+) {NUMBER}", re.IGNORECASE)
FLAP_PARAMS = re.compile(r"model parameter ([0-9.]+) ?B")
SPARSITY = re.compile(rf"sparsity sanity check {NUMBER}", re.IGNORECASE)
# Tried at starts of words alone: trying every character would take quadratic time in the length of a word.
WANDA_PPL = re.compile(rf"(?<!\S)(\S+) perplexity {NUMBER}$", re.IGNORECASE)
WANDA_TABLE = "method\tactual_sparsity\tppl_test"
SPARSEGPT_DATASETS = ("wikitext2", "ptb", "c4", "ptb-new", "c4-new")
NAMES_ALONE = tuple(f"\n{name}" for name in SPARSEGPT_DATASETS)
SPARSEGPT_DATASET = re.compile(rf"Dataset: (\S+)|^\s*({'|'.join(SPARSEGPT_DATASETS)})\s*$")
PRINTED_PPL = re.compile(
    rf"(?<![^\s\[(])(?:([a-z][\w.+/-]{{0,100}})[ \t]{{1,9}})?(?:perplexity|ppl)[ \t]{{0,9}}[:=][ \t]{{0,9}}{NUMBER}(?![\w.%])",
    re.IGNORECASE,
)
KNOWN_DATASETS = re.compile(
    r"(wikitext|ptb|c4|pile|lambada|penn|redpajama|slimpajama|openwebtext|fineweb|alpaca)[\w.+/-]*", re.IGNORECASE
)
SLICEGPT_PPL = re.compile(
    rf"(Original ppl|After rotating and slicing|Loaded model perplexity|PPL (?:before|after) finetuning):? {NUMBER}",
    re.IGNORECASE,
)
SLICEGPT_PARAMS = re.compile(r"Sliced model parameters: ([0-9,]+) \(sliced fraction ([0-9.-]+)\)")
SLICEGPT_SPEED = re.compile(r"(?:Throughput|Latency|Median time per batch): ([0-9.]+) (token/s|s/token|s/batch)")
SLICEGPT_MEDIAN = re.compile(r"Median time per batch: [0-9.]+ s/batch")
SLICEGPT_ARGUMENT = re.compile(r"(?<![^\s])(batch_size|dtype) = (\w{1,20})[ \t]*$")
"""An argument as run_benchmark.py logs it, with many others."""
SLICEGPT_SPEEDS = {
    "token/s": ("tokens_per_sec", "tok/s", True),
    "s/token": ("latency_s_per_token", "s/token", False),
    "s/batch": ("latency_s_per_batch", "s/batch", False),
}
"""Metric, unit and higher_is_better by the printed unit."""

ENTRY = re.compile(rf"""\s*(?:'([^']*)'|"([^"]*)"): *(?:np\.float\d\d\()?{NUMBER}\)?\s*(?:,|$)""", re.IGNORECASE)
"""An entry of a printed dictionary of numbers."""


def _llm_pruner(lines: Lines) -> Iterator[Item]:
    for where, line in lines:
        if counts := LLM_PRUNER_PARAMS.search(line):
            kept = to_number(counts[3])
            yield info_item(where, "params_before", _integer(counts[1]), "parameters")
            yield info_item(where, "params", _integer(counts[2]), "parameters")
            yield share_item(where, "kept_fraction", kept / 100 if isinstance(kept, float) else kept, "after over before")
        if match := LLM_PRUNER_PPL.search(line):
            values = _dictionary(match[3])
            if values is None:
                yield left_out_line(where, "no dictionary of numbers")
                continue
            for dataset, value in values.items():
                yield perplexity_item(where, str(dataset), value, f"{match[1]} {match[2]}")


def _flap(lines: Lines) -> Iterator[Item]:
    for where, line in lines:
        if match := FLAP_PPL.search(line):
            yield perplexity_item(where, match[1], match[2])
        elif match := SPARSITY.search(line):
            yield share_item(where, "kept_fraction", match[1], "FLAP prints the share of weights kept as sparsity")
        elif match := FLAP_PARAMS.search(line):
            billions = to_number(match[1])
            params = billions * 1e9 if isinstance(billions, float) else billions
            yield info_item(where, "params", params, "parameters", [note("rounded", f"printed as {match[1]}B")])


def _slicegpt(lines: Lines) -> Iterator[Item]:
    arguments: dict[str, str] = {}
    for where, line in lines:
        if match := SLICEGPT_ARGUMENT.search(line):
            arguments[match[1]] = match[2]
        if match := SLICEGPT_PPL.search(line):
            yield perplexity_item(where, None, match[2], match[1].lower())
        if match := SLICEGPT_PARAMS.search(line):
            yield info_item(where, "params", _integer(match[1].replace(",", "")), "parameters")
            yield share_item(where, "sliced_fraction", match[2], "1 - sliced over original parameters, rotations included")
        if match := SLICEGPT_SPEED.search(line):
            metric, unit, direction = SLICEGPT_SPEEDS[match[2]]
            batch = cell_number(arguments.get("batch_size"))
            columns: Row = {"suite": "speed", "task": "speed", "unit": unit, "higher_is_better": direction}
            columns |= {"batch_size": whole_number(batch, INT32_MAX), **run_columns({"dtype": arguments.get("dtype")})}
            yield measure(where, metric, to_number(match[1]), **columns)


def _printed(lines: Lines) -> Iterator[Item]:
    """`Perplexity: 5.5`, of the dataset that stands before the word, else of the one that was named last above. A word that is
    no dataset's name, as in `final perplexity: 5.5`, says which value it is."""
    dataset: str | None = None
    for where, line in lines:
        if match := SPARSEGPT_DATASET.search(line):
            dataset = match[1] or match[2]
        for match in PRINTED_PPL.finditer(line):
            word = match[1]
            if word is not None and KNOWN_DATASETS.fullmatch(word):
                yield perplexity_item(where, word, match[2])
            else:
                yield perplexity_item(where, dataset, match[2], word.lower() if word and dataset is None else None)


def _wanda(lines: Lines) -> Iterator[Item]:
    """The lines of main.py, or the table that it writes to log_*.txt: method, sparsity, perplexity on WikiText-2."""
    has_table = False
    for where, line in lines:
        has_table |= WANDA_TABLE in line
        if match := SPARSITY.search(line):
            yield share_item(where, "sparsity", match[1], "zeros over the weights of decoder linears")
        elif match := WANDA_PPL.search(line):
            yield perplexity_item(where, match[1], match[2])
        elif has_table and len(cells := line.split("\t")) == 3 and cells[1] != "actual_sparsity":
            yield share_item(where, "sparsity", cells[1], "zeros over the weights of decoder linears")
            yield perplexity_item(where, "wikitext", cells[2])


TOOLS = (
    llama_perplexity.TOOL,
    Tool("llm_pruner", ("ppl before ", "ppl after ", "#param before: "), (LLM_PRUNER_PPL, LLM_PRUNER_PARAMS), _llm_pruner),
    Tool("flap", ("ppl on ", "sparsity sanity check ", "model parameter "), (FLAP_PPL, FLAP_PARAMS), _flap),
    Tool(
        "slicegpt",
        (
            *("original ppl", "after rotating and slicing", "loaded model perplexity", "ppl before finetuning"),
            *("ppl after finetuning", "sliced model parameters: ", "throughput: ", "latency: ", "median time per batch: "),
            *("batch_size = ", "dtype = "),
        ),
        (SLICEGPT_PPL, SLICEGPT_PARAMS, SLICEGPT_MEDIAN),
        _slicegpt,
    ),
    Tool(
        "sparsegpt",
        ("perplexity:", "perplexity :", "perplexity =", "ppl:", "ppl =", "dataset: ", *NAMES_ALONE),
        (PRINTED_PPL,),
        _printed,
        needed=SPARSEGPT_DATASET,
    ),
    Tool("wanda", (" perplexity ", "sparsity sanity check ", WANDA_TABLE), (WANDA_PPL,), _wanda, WANDA_TABLE),
    Tool("log", ("perplexity:", "perplexity :", "perplexity =", "ppl:", "ppl ="), (PRINTED_PPL,), _printed),
)
"""In the order in which they are tried, as FLAP also prints what Wanda does. The last has no name: any script."""


TABLES = (lm_eval_table, llama_bench_text)
"""Modules of the tables that tools print, which may stand in any text."""


def recognises(document: Any, path: Path) -> bool:
    """Text with a line that one of the tools prints, or with one of the tables."""
    is_text = isinstance(document, str)
    return is_text and (_tool_of(document) is not None or any(table.has_table(document) for table in TABLES))


def parse(document: str, path: Path) -> ParsedResults:
    """A row for every number in a known line or table; of a measure that is printed several times, the last value. Raises
    InputError for more lines than the limit, of which none would be the last."""
    run_at, notes = read_run_at(None, path)
    found = _tool_of(document)
    items: list[Item] = []
    common: Row = {**EMPTY_ROW, "harness": "log", "run_at": run_at, "is_group": False}
    if found is not None:
        tool, lines = found
        if len(lines) > allowed(MAX_LINES):
            raise InputError(str(path), exceeded("lines of results", allowed(MAX_LINES)))
        common["harness"] = tool.name
        items += tool.read(lines)
        items += _read_in_part(lines)
    for table in TABLES:
        items += table.table_items(document, path)
    parsed = parsed_results(items, common, notes)
    last_rows: dict[tuple[Any, ...], Row] = {}
    counts: dict[tuple[Any, ...], int] = {}
    for row in parsed.rows:
        key = tuple(row[name] for name in (*RUN_COLUMNS, *MEASURE_COLUMNS))
        counts[key] = counts.get(key, 0) + 1
        last_rows[key] = row
    left_out = [*parsed.left_out]
    for key, count in counts.items():
        if count > 1:
            names = [last_rows[key][name] for name in ("declared_model", "task", "subset", "metric")]
            text = f"stated {count} times, the last counts"
            left_out.append(left_out_line(" ".join(name for name in names if name is not None), text))
    return ParsedResults(tuple(last_rows.values()), tuple(left_out))


def _read_in_part(lines: Lines) -> Iterator[str]:
    if parts := [where for where, _ in lines if where.endswith(PART)]:
        more = f" and {len(parts) - 1} more lines" if len(parts) > 1 else ""
        yield left_out_line(f"{parts[0]}{more}", f"only {MAX_LINE:,} characters around a result's words are read")


FORMAT: ResultFormat = ResultFormat("logs", recognises, parse)


def _tool_of(text: str) -> tuple[Tool, Lines] | None:
    """The program that printed a log, and the lines that it may have printed results in."""
    lowered = lower_case(text)
    for tool in TOOLS:
        lines = find_lines(text, lowered, tool.words, most=allowed(MAX_LINES) + 1)
        has_table = tool.table is not None and any(tool.table in line for _, line in lines)
        is_missing = tool.needed is not None and not any(tool.needed.search(line) for _, line in lines)
        if is_missing:
            continue
        if has_table or any(pattern.search(line) for _, line in lines for pattern in tool.patterns):
            return tool, [*lines, *(lines_behind(text, tool.table) if has_table and tool.table else ())]
    return None


def _integer(digits: str) -> int | str:
    """Digits as an exact integer; too many of them as they are."""
    return int(digits) if 0 < len(digits) <= 18 else digits


def _dictionary(text: str) -> dict[str, str] | None:
    """A printed Python dictionary of numbers by name, in which nan and inf may stand; None if the text is none."""
    inner, values, at = text[1:-1], {}, 0
    while at < len(inner):
        entry = ENTRY.match(inner, at)
        if entry is None:
            return None
        values[entry[1] or entry[2] or ""] = entry[3]
        at = entry.end()
    return values
