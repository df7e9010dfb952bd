"""The lines of llama.cpp's llama-perplexity (tools/perplexity/perplexity.cpp): perplexity, KL divergence from another model's
saved logits, and Winogrande.

The context length is the `n_ctx` that it prints; the dataset is a file that it does not name, so that the number of chunks,
which is the `subset`, tells runs over other texts, or over a part of one, apart. A LoRA adapter, and a cache of keys and values
in another type than f16, make a variant of the model. Of the statistics that `--kl-divergence` prints, those of `PPL(Q)` are of
this model, and `base_perplexity` is of the one whose logits were saved. Divergences are in nats; what is printed with a % stays
percent, but for the accuracy of Winogrande, which becomes a fraction.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from layerhouse.ingest.checkpoint.notes import note
from layerhouse.ingest.results.log_lines import Lines
from layerhouse.ingest.results.log_tools import NUMBER, Tool, to_number, unnamed_dataset
from layerhouse.ingest.results.parsed import Item, Row
from layerhouse.ingest.results.rows import left_out_line, measure
from layerhouse.ingest.results.runs import run_columns
from layerhouse.ingest.results.scores import INT32_MAX, finite
from layerhouse.ingest.results.tasks import ZERO_SHOT

NAME = "llama_perplexity"
MODEL = re.compile(r"llama_model_loader: loaded meta data with .{0,80}? tensors from (.{1,1000}?) \(version ")
RUN = re.compile(r"(?:calculating perplexity|computing) over (\d{1,9}) chunks, n_ctx=(\d{1,9})")
ADAPTER = re.compile(r"loading lora adapter from '(.{1,1000}?)'")
CACHE = re.compile(r"\bK \((\w{1,10})\): [^,]{1,40}, V \((\w{1,10})\):")
USUAL_CACHE = "f16"
ERROR = rf"(?: *(?:\+/-|±) *{NUMBER})?"
ESTIMATE = re.compile(rf"Final estimate: PPL = {NUMBER}{ERROR}", re.IGNORECASE)
STATISTIC = re.compile(
    r"(Mean PPL\((?:Q|base)\)|Mean (?:ln\()?PPL\(Q\)[/-]PPL\(base\)\)?|Cor\(ln\(PPL\(Q\)\), ln\(PPL\(base\)\)\)) *: *"
    rf"{NUMBER}{ERROR}",
    re.IGNORECASE,
)
DIVERGENCE = re.compile(rf"(?<!\S)(Mean|Maximum|Median|Minimum|[\d.]{{1,6}}%) +KLD: *{NUMBER}{ERROR}", re.IGNORECASE)
CHANGE = re.compile(rf"(?<!\S)(Mean|Maximum|Median|Minimum|RMS|[\d.]{{1,6}}%) +Δp *: *{NUMBER}{ERROR}", re.IGNORECASE)
SAME_TOP = re.compile(rf"Same top p: *{NUMBER}{ERROR}", re.IGNORECASE)
WINOGRANDE = re.compile(rf"Final Winogrande score\((\d{{1,9}}) tasks\): *{NUMBER}{ERROR}", re.IGNORECASE)
WINOGRANDE_TASKS = 1267
"""Sentences of Winogrande's validation set."""
STATISTICS: dict[str, tuple[str, str | None, bool | None]] = {
    "mean ppl(q)": ("perplexity", "per_token", False),
    "mean ppl(base)": ("base_perplexity", "per_token", None),
    "cor(ln(ppl(q)), ln(ppl(base)))": ("perplexity_correlation", "percent", True),
    "mean ln(ppl(q)/ppl(base))": ("mean_ln_perplexity_ratio", None, None),
    "mean ppl(q)/ppl(base)": ("mean_perplexity_ratio", None, None),
    "mean ppl(q)-ppl(base)": ("mean_perplexity_difference", "per_token", None),
}
"""Metric, unit and higher_is_better by what is printed, in lower case."""
RANKS = {"mean": "mean", "maximum": "max", "median": "median", "minimum": "min", "rms": "rms"}


def read(lines: Lines) -> Iterator[Item]:
    """The numbers of every run in the log; a run that ended without one is named."""
    columns: Row = {"declared_model": None, "seq_len": None, "n_samples": None}
    arguments: dict[str, str | None] = {}
    unfinished: str | None = None
    for where, line in lines:
        if match := MODEL.search(line):
            columns, arguments = {"declared_model": match[1], "seq_len": None, "n_samples": None}, {}
        elif argument := _argument(line):
            arguments |= argument
            columns |= run_columns(arguments)
        elif match := RUN.search(line):
            if unfinished:
                yield _without_numbers(unfinished)
            unfinished = where
            chunks, context = int(match[1]), int(match[2])
            columns |= {"n_samples": chunks, "seq_len": context if context <= INT32_MAX else None, "subset": f"chunks={chunks}"}
        elif item := _item(where, line, columns):
            unfinished = None
            yield item
        elif "hellaswag score" in line.lower():
            yield left_out_line(where, "the running scores of HellaSwag below it are not read")
        elif "negative standard deviation" in line.lower():
            unfinished = None
            yield left_out_line(where, "the run has no estimate, as the standard deviation is negative")
    if unfinished:
        yield _without_numbers(unfinished)


TOOL = Tool(
    NAME,
    (
        *("loading lora adapter from '", " mib, v ("),
        *("loaded meta data with ", "calculating perplexity over ", "kl_divergence: computing over ", "final estimate: ppl"),
        *(
            "mean ppl(",
            "mean ln(ppl(",
            "cor(ln(ppl(",
            " kld:",
            " δp",
            "same top p:",
            "winogrande score(",
            "hellaswag score over",
        ),
        "unexpected negative standard deviation",
    ),
    (RUN, ESTIMATE, STATISTIC, DIVERGENCE, WINOGRANDE),
    read,
)


def _argument(line: str) -> dict[str, str | None] | None:
    """What a line says of how the model was loaded; None if it says nothing."""
    if match := ADAPTER.search(line):
        return {"adapter": match[1]}
    if match := CACHE.search(line):
        return {
            name: type_ if type_ != USUAL_CACHE else None
            for name, type_ in zip(("type_k", "type_v"), match.groups(), strict=True)
        }
    return None


def _item(where: str, line: str, columns: Row) -> Item | None:
    """The number of a line; None if it has none."""
    if match := WINOGRANDE.search(line):
        return _winogrande(where, int(match[1]), match[2], match[3], columns)
    if match := ESTIMATE.search(line):
        kind = STATISTICS["mean ppl(q)"]
    elif match := STATISTIC.search(line):
        kind = STATISTICS[match[1].lower()]
    elif match := DIVERGENCE.search(line):
        kind = (f"{_rank(match[1])}_kld", "nats", False)
    elif match := CHANGE.search(line):
        kind = (f"{_rank(match[1])}_token_probability_change", "percent", None)
    elif match := SAME_TOP.search(line):
        kind = ("same_top_token", "percent", True)
    else:
        return None
    value, error = match.groups()[-2:]
    return _measure(where, kind, value, error, columns)


def _measure(where: str, kind: tuple[str, str | None, bool | None], value: str, error: str | None, columns: Row) -> Item:
    metric, unit, direction = kind
    notes = [unnamed_dataset()]
    if columns["seq_len"] is None:
        notes.append(note("context", "the log does not say the context length"))
    row = columns | {"suite": "perplexity", "stderr": finite(to_number(error)), "notes": notes}
    return measure(where, metric, to_number(value), **row, unit=unit, higher_is_better=direction)


def _winogrande(where: str, count: int, value: str, error: str | None, columns: Row) -> Item:
    score, deviation = to_number(value), finite(to_number(error))
    row: dict[str, Any] = {
        **{name: value for name, value in columns.items() if name not in ("seq_len", "n_samples", "subset")},
        "suite": ZERO_SHOT,
        "task": "winogrande",
        "unit": "fraction",
        "higher_is_better": True,
        "n_samples": count,
        "sample_limit": float(count) if count != WINOGRANDE_TASKS else None,
        "stderr": None if deviation is None else deviation / 100,
        "notes": [note("scale", "percent in the file")],
    }
    return measure(where, "acc", score / 100 if isinstance(score, float) else score, **row)


def _rank(printed: str) -> str:
    """`max` of Maximum, `p99.9` of 99.9%."""
    return RANKS.get(printed.lower()) or f"p{printed.rstrip('%').removesuffix('.0')}"


def _without_numbers(where: str) -> str:
    return left_out_line(where, "a run without a final number: it did not end, or the log is cut off")
