"""The options of `layerhouse ingest`."""

from __future__ import annotations

from dataclasses import dataclass

import click

from layerhouse.errors import UsageError
from layerhouse.terminal.completion import models_or_paths
from layerhouse.terminal.options import LocalPath, collected
from layerhouse.vocabulary import BaseMode, CompareMode, StatsLevel


@dataclass(frozen=True)
class IngestOptions:
    """Keyword arguments of `layerhouse.ingest`, by their names there."""

    base: str
    stats: str
    compare: str
    near_zero: float | None
    units: bool
    threads: int | None
    workers: int | None
    device: str
    limit_factor: float
    method_patterns: tuple[str, ...]
    name: str | None
    exclude: tuple[str, ...]
    dry_run: bool
    debug: bool


def stats_level(stats: str, *, spectral: bool) -> str:
    """The value of `stats` that --stats and --spectral stand for together. Raises UsageError if they exclude each other."""
    if not spectral:
        return stats
    if stats == StatsLevel.NONE:
        raise UsageError("--spectral reads weights, and --stats none does not: give one of them")
    return StatsLevel.SPECTRAL


def one_base(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> str:
    """The base that was given, or the rule that finds one.

    Raises UsageError where it was given more than once, as only the last one would count.
    """
    if len(values) > 1:
        raise UsageError(f"--base is given {len(values)} times: {', '.join(values)}; give one, and ingest once for each base")
    return values[0] if values else BaseMode.AUTO.value


ingest_options = collected(
    "options",
    IngestOptions,
    click.option(
        "--base",
        multiple=True,
        callback=one_base,
        shell_complete=models_or_paths,
        metavar="PATH|MODEL|auto|parent|none",
        help="The model that the others were made from: its path, its name in the warehouse, or its config.json alone. By "
        "default auto: models that have no base yet are compared with the one that their tensors come from; parent: with the "
        "one that they were made from at last; none: with none, now and later.",
    ),
    click.option(
        "--stats",
        type=click.Choice([StatsLevel.FULL.value, StatsLevel.NONE.value]),
        default=StatsLevel.FULL.value,
        show_default=True,
        help="full: measure all values; none: read only the headers.",
    ),
    click.option(
        "--compare",
        type=click.Choice([mode.value for mode in CompareMode]),
        default=CompareMode.AUTO.value,
        show_default=True,
        help="Whose values are compared with the base's; auto: those of models that were not compared with it yet, if their "
        "files are there; values: also of models compared by rows alone; rows: none, only stored rows are compared.",
    ),
    click.option("--near-zero", type=float, metavar="T", help="Also count values of magnitude T or less."),
    click.option(
        "--units", is_flag=True, help="Also read heads, KV groups, neurons and experts, and match them with the base's."
    ),
    click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Number of threads; by default one per core."),
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        help="Number of models read at the same time; by default one per device.",
    ),
    click.option("--spectral", is_flag=True, help="Also measure the spectra of weight matrices: norm, ranks, power law."),
    click.option(
        "--device",
        metavar="cpu|cuda[:N]|auto",
        default="cpu",
        show_default=True,
        help="Where values are counted; auto: on the GPUs, or on the CPU if there are none.",
    ),
    click.option(
        "--limit-factor",
        type=float,
        default=1.0,
        show_default=True,
        metavar="F",
        help="Multiply the limits on what a file may claim: above 1 to accept a large file that was refused, below 1 to be "
        "stricter.",
    ),
    click.option(
        "--method-pattern",
        "method_patterns",
        metavar="REGEX",
        multiple=True,
        help="A pattern for what names declare, with the groups (?P<method>..), (?P<ratio>..) and (?P<removed>..); tried "
        "before the built-in rules; repeatable.",
    ),
    click.option(
        "--write-analysis",
        type=LocalPath(file_okay=False),
        metavar="DIR",
        help="Also write the study scripts' files beside each model, and batch_analysis_results.json into DIR.",
    ),
    click.option("--force", is_flag=True, help="Let --write-analysis overwrite files that layerhouse did not write."),
    click.option(
        "--name",
        metavar="MODEL",
        help="Name of the model, if there is only one; by default its path. A new folder under the name of a model of the "
        "warehouse is its next content, as of a nightly run.",
    ),
    click.option("--exclude", metavar="GLOB", multiple=True, help="Skip paths that match; repeatable."),
    click.option("-n", "--dry-run", is_flag=True, help="Report what would be taken; write nothing."),
    click.option("-q", "--quiet", is_flag=True, help="Report only failures."),
    click.option("--debug", is_flag=True, help="Also print the tracebacks of unexpected errors, for a report."),
)
