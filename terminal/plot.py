"""Figures on stdout or in files, and the options that say what they show."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from layerhouse.errors import UsageError
from layerhouse.terminal.messages import talk
from layerhouse.terminal.options import LocalPath, OutputOptions, collected, language_option
from layerhouse.terminal.tables import show_list
from layerhouse.vocabulary import KeptBy

if TYPE_CHECKING:
    from layerhouse.warehouse.answers.handle import Warehouse
    from layerhouse.warehouse.render.plots.plot import Plot

FOLDER_FORMAT = "svg"
"""The format of files in a folder, if none is named."""
_LISTED = 12
_UNSAFE = re.compile(r"[^\w.+-]+")
_LONGEST_NAME = 100


@dataclass(frozen=True)
class PlotOptions:
    """What a figure shows, as typed; the names are those of the options. See FigureOptions."""

    measure: str | None = None
    x: str | None = None
    y: str | None = None
    by: str | None = None
    where: str | None = None
    tasks: str | None = None
    label: str = "front"
    width: str | None = None
    dark: bool = False
    language: str = "en"


@dataclass(frozen=True)
class FigureOutput:
    """Where a figure goes and in which format: a file or folder, or stdout."""

    output: Path | None = None
    format_name: str | None = None


plot_options = collected(
    "figure",
    PlotOptions,
    click.option(
        "--measure",
        metavar="NAME,...",
        help="What is drawn. Of layers, heat and roles: retention, reduction, sparsity or a column; layers take several. Of "
        "tradeoff: mean_accuracy or a perplexity such as wikitext2. Of spectra: alpha, stable_rank and others.",
    ),
    click.option("--x", metavar="COLUMN", help="The column of the x axis, of tradeoff and speed; by default what is kept."),
    click.option("--y", metavar="COLUMN", help="The column of the y axis; the same as --measure."),
    click.option(
        "--by",
        type=click.Choice([str(measure) for measure in KeptBy]),
        help="Count what is kept in all parameters, in those that are not zero, in bytes or in MACs; see layerhouse summarize.",
    ),
    click.option("--where", metavar="SQL", help="Draw only rows that satisfy this condition on their columns."),
    click.option("--tasks", metavar="GLOB,...", help="Draw the tasks that match instead of the seven by default."),
    click.option(
        "--label",
        type=click.Choice(["front", "all", "none"]),
        default="front",
        show_default=True,
        help="Which points have names: those of the front, or all where a figure has no front.",
    ),
    click.option(
        "--width",
        metavar="WIDTH",
        help="The width of the figure: 3.25in (also cm, mm, pt), or 1400px, which is the width of a PNG in pixels.  "
        "[default: 720px; of a PNG 1440px]",
    ),
    click.option("--dark", is_flag=True, help="Draw on a dark background."),
    language_option("Language of the titles."),
)
figure_output_options = collected(
    "output",
    FigureOutput,
    click.option(
        "-o",
        "--output",
        type=LocalPath(),
        metavar="FILE|FOLDER",
        help="Write to this file, whose suffix selects the format, or one file a model into this folder.",
    ),
    click.option("-f", "--format", "format_name", metavar="FORMAT", help="svg, png, pdf, html or json."),
)


def list_kinds(output: FigureOutput) -> None:
    """Show the kinds of figures and what they draw."""
    import pyarrow as pa

    from layerhouse.warehouse.answers.figures.kinds import FIGURES

    if output != FigureOutput():
        raise UsageError(f"name the kind of the figure: {', '.join(FIGURES)}")
    names, texts = [*FIGURES], [figure.description for figure in FIGURES.values()]
    show_list(pa.table({"kind": pa.array(names, pa.string()), "description": pa.array(texts, pa.string())}), OutputOptions())


def write_figures(wh: Warehouse, kind: str, models: Sequence[str], figure: PlotOptions, output: FigureOutput) -> None:
    """Write a figure to a file or to stdout, or one of each model into a folder. Raises UsageError."""
    from layerhouse.warehouse.answers.figures.kinds import FIGURES, FigureOptions, make_plot, make_plots
    from layerhouse.warehouse.render.plots.plot import choose_figure_format

    options = FigureOptions(**vars(figure))
    is_of_one_model = kind in FIGURES and FIGURES[kind].is_of_one_model
    if output.output is not None and _is_folder(output.output, is_of_one_model=is_of_one_model):
        format_name = choose_figure_format(output.format_name or FOLDER_FORMAT, None)
        plots, reasons = make_plots(wh, kind, models, options)
        _write_folder(plots, output.output, format_name)
        for reason in reasons.values():
            talk(f"not drawn: {reason}")
        return
    format_name = choose_figure_format(output.format_name, output.output)
    plot = make_plot(wh, kind, models, options)
    if output.output is None:
        _print_figure(plot, format_name)
    else:
        _write_figure(plot, output.output, format_name)


def _is_folder(output: Path, *, is_of_one_model: bool) -> bool:
    """Whether an output is a folder: one that is there, or a name without a suffix for figures of one model each."""
    return output.is_dir() or (is_of_one_model and not re.fullmatch(r"[.][a-zA-Z]+", output.suffix))


def _write_folder(plots: Mapping[str, Plot], folder: Path, format_name: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written: {error.strerror or error}") from None
    names = file_names([plot.look.label_of(model) for model, plot in plots.items()])
    for name, plot in zip(names, plots.values(), strict=True):
        _write_figure(plot, folder / f"{name}.{format_name}", format_name)


def file_names(labels: Sequence[str]) -> list[str]:
    """Names of files, without a suffix, for labels of models: no two are equal, also where letters have no case."""
    taken: set[str] = set()
    names = []
    for label in labels:
        plain = _UNSAFE.sub("_", label).strip("._")[:_LONGEST_NAME] or "model"
        name, number = plain, 1
        while name.casefold() in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _write_figure(plot: Plot, path: Path, format_name: str) -> None:
    from layerhouse.warehouse.render.target import write_file

    write_file(path, plot.data(format_name))
    talk(f"wrote {path}")
    _talk_of_fonts(plot, format_name)


def _print_figure(plot: Plot, format_name: str) -> None:
    """Write a figure to stdout. Raises UsageError for a binary format on a terminal."""
    from layerhouse.warehouse.render.plots.plot import FIGURE_FORMATS

    if FIGURE_FORMATS[format_name].is_binary and sys.stdout.isatty():
        raise UsageError(f"{format_name} is not for a terminal; name a file with --output")
    data = plot.data(format_name)
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    _talk_of_fonts(plot, format_name)


def _talk_of_fonts(plot: Plot, format_name: str) -> None:
    """Say which characters of a figure no font of this machine can show, where its fonts are drawn into the file."""
    from layerhouse.warehouse.render.plots.plot import FIGURE_FORMATS

    missing = plot.unshown_characters() if FIGURE_FORMATS[format_name].has_fonts else []
    if missing:
        listed = " ".join(f"{character} (U+{ord(character):04X})" for character in missing[:_LISTED])
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        talk(f"no font of this machine can show {listed}{more}; install one that can, such as Noto Sans CJK for Chinese")
