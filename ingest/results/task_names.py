"""One name for a task and its measure, whichever version of whichever harness wrote it."""

from __future__ import annotations

import re
from functools import lru_cache

ZERO_SHOT, FEW_SHOT = "zeroshot", "fewshot"
MMLU = re.compile(r"(?:hendrycksTest-|mmlu[_:])(\w+)")
RENAMED = {"arc:challenge": "arc_challenge", "arc:easy": "arc_easy", "lambada": "lambada_openai", "ARC-c": "arc_challenge"}
LAMBADA = frozenset({"lambada_openai", "lambada_standard", "lambada_openai_cloze"})


@lru_cache(maxsize=4096)
def canonical_task(task: str, metric: str) -> tuple[str, str]:
    """Task and metric under their names of today: hendrycksTest-X is mmlu_X, truthfulqa_mc/mc1 is truthfulqa_mc1/acc, lambada's
    ppl is perplexity."""
    mmlu = MMLU.fullmatch(task)
    name = f"mmlu_{mmlu[1]}" if mmlu else RENAMED.get(task, task)
    if name in ("truthfulqa_mc", "truthfulqa:mc") and metric in ("mc1", "mc2"):
        return f"truthfulqa_{metric}", "acc"
    if name in LAMBADA and metric == "ppl":
        return name, "perplexity"
    return name, metric


def suite_of_shots(shots: int | None) -> str:
    """zeroshot where the prompt holds no example, or nothing says; fewshot else."""
    return FEW_SHOT if shots else ZERO_SHOT
