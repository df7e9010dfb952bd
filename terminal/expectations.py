"""What `layerhouse expect` prints: a line a failure, or all outcomes as JSON or in JUnit's form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from layerhouse.errors import UsageError
from layerhouse.escapes import visible
from layerhouse.terminal.messages import print_lines, talk

if TYPE_CHECKING:
    from layerhouse.warehouse.answers.expectations import Expectation, Outcome

TEXT, JSON, JUNIT = "text", "json", "junit"


def collect_expectations(
    conditions: Sequence[str], models: Sequence[str], each: str | None, file: Path | None
) -> list[Expectation]:
    """The expectations that are typed, and those of a file, of which options choose the models. Raises UsageError."""
    from layerhouse.warehouse.answers.expectations import MODELS, Expectation, read_expectations

    typed = [Expectation(condition, tuple(models), each or MODELS) for condition in conditions]
    if file is None and not typed:
        raise UsageError('no condition; name one, as: layerhouse expect "prunable_sparsity >= 0.49", or a --file of them')
    if file is not None and (each or (models and not typed)):
        raise UsageError("--each and --model are for conditions that are typed; a file has its own")
    return typed if file is None else [*typed, *read_expectations(file)]


def show_outcomes(outcomes: Sequence[Outcome], format_name: str) -> bool:
    """Print the outcomes; return whether all expectations are met."""
    failed = [outcome for outcome in outcomes if not outcome.is_met]
    if format_name == JSON:
        print_lines(json.dumps(_as_json(outcomes), ensure_ascii=False, indent=2, default=str))
    elif format_name == JUNIT:
        print_lines(_as_junit(outcomes))
    else:
        for outcome in failed:
            print_lines(visible(f"FAILED  {outcome.row_name}: {outcome.text}"))
    what = "expectation is" if len(outcomes) == 1 else "expectations are"
    talk(f"{len(outcomes) - len(failed)} of {len(outcomes)} {what} met")
    return not failed


def _as_json(outcomes: Sequence[Outcome]) -> dict[str, object]:
    return {
        "checked": len(outcomes),
        "failed": sum(not outcome.is_met for outcome in outcomes),
        "outcomes": [
            {
                "model_id": outcome.model,
                "stack": outcome.stack,
                "layer": outcome.layer,
                "expectation": outcome.expectation.condition,
                "is_met": outcome.is_met,
                "values": dict(outcome.values),
                "reason": outcome.reason,
            }
            for outcome in outcomes
        ],
    }


def _as_junit(outcomes: Sequence[Outcome]) -> str:
    """A test suite with a case for each row and condition, in the XML that JUnit's runners write and pipelines read."""
    failures = sum(not outcome.is_met for outcome in outcomes)
    suite = ElementTree.Element("testsuite", name="layerhouse expect", tests=str(len(outcomes)), failures=str(failures))
    for outcome in outcomes:
        names = {"classname": outcome.row_name, "name": outcome.expectation.condition}
        case = ElementTree.SubElement(suite, "testcase", {key: visible(text) for key, text in names.items()})
        if not outcome.is_met:
            ElementTree.SubElement(case, "failure", message=visible(outcome.text))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode")
