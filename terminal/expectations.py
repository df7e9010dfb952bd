"""What `layerhouse expect` prints: a line a failure, or all outcomes as JSON or in JUnit's form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import click

from layerhouse.errors import UsageError
from layerhouse.escapes import visible
from layerhouse.terminal.messages import print_lines, talk
from layerhouse.terminal.options import LocalPath, collected, model_option

if TYPE_CHECKING:
    from layerhouse.warehouse.answers.expectations import Expectation, Outcome
    from layerhouse.warehouse.answers.handle import Warehouse

TEXT, JSON, JUNIT = "text", "json", "junit"


@dataclass(frozen=True)
class ExpectationOptions:
    """What conditions are asked of, and how the outcomes are printed, as typed."""

    models: tuple[str, ...] = ()
    each: str | None = None
    file: Path | None = None
    format_name: str = TEXT


expectation_options = collected(
    "expected",
    ExpectationOptions,
    model_option,
    click.option("--each", type=click.Choice(["models", "layers"]), help="What a condition is asked of.  [default: models]"),
    click.option("--file", type=LocalPath(exists=True, dir_okay=False), help="A TOML file of conditions: tables [[expect]]."),
    click.option(
        "-f",
        "--format",
        "format_name",
        type=click.Choice([TEXT, JSON, JUNIT]),
        default=TEXT,
        show_default=True,
        help="A line for each failure, or all outcomes as JSON or in JUnit's XML.",
    ),
)


def collect_expectations(conditions: Sequence[str], options: ExpectationOptions) -> list[Expectation]:
    """The expectations that are typed, and those of a file. Raises UsageError."""
    from layerhouse.warehouse.answers.expectations import MODELS, Expectation, read_expectations

    models, each, file = options.models, options.each, options.file
    typed = [Expectation(condition, tuple(models), each or MODELS) for condition in conditions]
    if file is None and not typed:
        raise UsageError('no condition; name one, as: layerhouse expect "prunable_sparsity >= 0.49", or a --file of them')
    if file is not None and (each or (models and not typed)):
        raise UsageError("--each and --model are for conditions that are typed; a file has its own")
    return typed if file is None else [*typed, *read_expectations(file)]


def show_outcomes(wh: Warehouse, expectations: Sequence[Expectation], format_name: str) -> bool:
    """Print the outcomes of expectations; return whether all are met."""
    from layerhouse.warehouse.answers.expectations import ASKED, check_expectations

    outcomes = check_expectations(wh.connection_for(ASKED), expectations, on_hint=talk)
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
