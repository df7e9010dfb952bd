"""Names of tasks and measures, the same whichever version of whichever harness wrote them, and the unit of a measure."""

from __future__ import annotations

import re
from functools import lru_cache

ZERO_SHOT, FEW_SHOT = "zeroshot", "fewshot"
MMLU = re.compile(r"(?:hendrycksTest-|mmlu[_:])(\w+)")
RENAMED = {
    "arc:challenge": "arc_challenge",
    "arc:easy": "arc_easy",
    "lambada": "lambada_openai",
    "ARC-c": "arc_challenge",
    "ARC-e": "arc_easy",
}
LAMBADA = frozenset({"lambada_openai", "lambada_standard", "lambada_openai_cloze"})
SHARES = ("exact_match", "f1", "avg_zeroshot_acc")
COST_UNITS = {"word_perplexity": "per_word", "byte_perplexity": "per_byte", "bits_per_byte": "bits/byte"}


@lru_cache(maxsize=4096)
def canonical_task(task: str, metric: str) -> tuple[str, str]:
    """A task and its metric under lm-eval's present names.

    hendrycksTest-X becomes mmlu_X; truthfulqa_mc with mc1 becomes truthfulqa_mc1 with acc; ppl of lambada becomes perplexity.
    """
    mmlu = MMLU.fullmatch(task)
    name = f"mmlu_{mmlu[1]}" if mmlu else RENAMED.get(task, task)
    if name in ("truthfulqa_mc", "truthfulqa:mc") and metric in ("mc1", "mc2"):
        return f"truthfulqa_{metric}", "acc"
    if name in LAMBADA and metric == "ppl":
        return name, "perplexity"
    return name, metric


def suite_of_shots(shots: int | None) -> str:
    """The suite of a task: fewshot if its prompts hold examples, else zeroshot, also if the number is unknown."""
    return FEW_SHOT if shots else ZERO_SHOT


@lru_cache(maxsize=4096)
def unit_and_direction(metric: str) -> tuple[str | None, bool | None]:
    """Unit and higher_is_better of a task's metric, by lm-eval's names; None where the name does not tell."""
    if metric.startswith(("acc", "pass@")) or metric in SHARES:
        return "fraction", True
    is_cost = metric in COST_UNITS or "perplexity" in metric or "ppl" in metric.split("_")
    return COST_UNITS.get(metric), False if is_cost else None
