"""Figures of a warehouse: for each kind which rows it takes from where, and which function draws them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypedDict

from layerhouse.errors import NotFoundError, UsageError
from layerhouse.warehouse.answers.figures.rows import (
    MEAN_COLUMNS,
    UNITS,
    Rows,
    Source,
    layer_rows,
    model_rows,
    own_rows,
    query_rows,
    role_rows,
    spectrum_rows,
    with_columns,
)
from layerhouse.warehouse.answers.query import MODEL_NAMES, matching_models, model_names
from layerhouse.warehouse.answers.selection import Selection, split_names
from layerhouse.warehouse.render.headings import LANGUAGES
from layerhouse.warehouse.render.plots.heat import heat_map
from layerhouse.warehouse.render.plots.layers import layer_bars
from layerhouse.warehouse.render.plots.look import Look, Width
from layerhouse.warehouse.render.plots.measures import REDUCTION, RETENTION, SPARSITY, measure_of
from layerhouse.warehouse.render.plots.parts import Spec
from layerhouse.warehouse.render.plots.plot import Plot
from layerhouse.warehouse.render.plots.roles import role_map
from layerhouse.warehouse.render.plots.spectra import ALPHA, spectral_lines
from layerhouse.warehouse.render.plots.tasks import BEYOND, DELTA, task_grid
from layerhouse.warehouse.render.plots.tradeoff import KEPT_SHARE, MEAN_ACCURACY, column_scatter, trade_off
from layerhouse.warehouse.render.plots.units import KINDS as UNIT_KINDS
from layerhouse.warehouse.render.plots.units import unit_panels

Draw = Callable[[Look], Spec]
LABELS = ("front", "all", "none")
_NO_VALUES = "see the note of the model in: layerhouse summarize"


@dataclass(frozen=True)
class FigureOptions:
    """What a figure shows, as typed.

    `measure` names what is drawn of layers, weights or spectra, or the quality of a trade-off; several are separated by commas.
    `x` and `y` are columns of axes; `by` is what kept shares are counted in; `where` is an SQL condition on the rows; `tasks`
    are globs. `label` says which points have names: front, all or none.
    """

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

    def selection(self, models: Sequence[str]) -> Selection:
        """The rows of the models that match one of the globs."""
        return Selection(models=tuple(models), by=self.by, where=self.where)


class FigureKeywords(TypedDict, total=False):
    """The options of a figure as keywords; see FigureOptions."""

    measure: str | None
    x: str | None
    y: str | None
    by: str | None
    where: str | None
    tasks: str | None
    label: str
    width: str | None
    dark: bool
    language: str


@dataclass(frozen=True)
class Figure:
    """A kind of figure. `prepare` reads its rows and returns what draws them; `is_of_one_model` if each model has its own.

    `axes` are the options of --measure, --x, --y and --tasks that it takes.
    """

    name: str
    description: str
    prepare: Callable[[Source, tuple[str, ...], FigureOptions], Draw]
    is_of_one_model: bool = False
    axes: frozenset[str] = frozenset()


def make_plot(wh: Source, kind: str, models: Sequence[str], options: FigureOptions) -> Plot:
    """One figure of the models that match one of the globs, by default of all.

    Raises NotFoundError and UsageError, also for several models of a kind that shows one.
    """
    figure = _figure(kind, options)
    if figure.is_of_one_model and len(names := chosen_models(wh, models)) != 1:
        count = "there is no model" if not names else f"{len(names)} models are chosen"
        raise UsageError(f"a figure of {kind} is of one model, and {count}; name one, or write one file a model into a folder")
    chosen = tuple(chosen_models(wh, models)) if figure.is_of_one_model else tuple(models)
    return _plot(wh, figure, chosen, options)


def make_plots(wh: Source, kind: str, models: Sequence[str], options: FigureOptions) -> tuple[dict[str, Plot], dict[str, str]]:
    """A figure of each model that matches one of the globs, by its name; and why others have none, by theirs.

    Raises UsageError for a kind that shows several models, or if no model has a figure.
    """
    figure = _figure(kind, options)
    if not figure.is_of_one_model:
        raise UsageError(f"a figure of {kind} shows all models; name one file for it")
    plots, reasons = {}, {}
    for name in chosen_models(wh, models):
        try:
            plots[name] = _plot(wh, figure, (name,), options)
        except NoValuesError as error:
            reasons[name] = str(error)
    if not plots:
        raise UsageError(next(iter(reasons.values()), "there is no model to draw"))
    return plots, reasons


class NoValuesError(UsageError):
    """Nothing of what a figure shows is known."""


def chosen_models(wh: Source, models: Sequence[str]) -> list[str]:
    """The names of the models that match one of the globs, by default of all. Raises NotFoundError."""
    names = model_names(wh.connection_for(MODEL_NAMES))
    if not models:
        return [*names]
    kept = set().union(*(matching_models(names, text) for text in models))
    return [name for name in names if name in kept]


def _figure(kind: str, options: FigureOptions) -> Figure:
    if kind not in FIGURES:
        raise NotFoundError("kind of figure", kind, tuple(FIGURES))
    figure = FIGURES[kind]
    for axis in ("measure", "x", "y", "tasks"):
        if getattr(options, axis) is not None and axis not in figure.axes:
            kinds = ", ".join(name for name, other in FIGURES.items() if axis in other.axes)
            raise UsageError(f"--{axis} is not for {kind}; it is for {kinds}")
    if options.measure is not None and options.y is not None:
        raise UsageError("--measure and --y name the same axis; leave out one of them")
    for option, value, choices in (("--label", options.label, LABELS), ("--lang", options.language, LANGUAGES)):
        if value not in choices:
            raise UsageError(f"{option} {value!r}: choose one of {', '.join(choices)}")
    return figure


def _plot(wh: Source, figure: Figure, models: tuple[str, ...], options: FigureOptions) -> Plot:
    width = Width() if options.width is None else Width.parse(options.width)
    draw = figure.prepare(wh, models, options)
    names = model_names(wh.connection_for(MODEL_NAMES))
    look = Look(width.units, is_dark=options.dark, language=options.language, label=options.label, names=names)
    return Plot(figure.name, draw, look, width)


def _layers(wh: Source, models: tuple[str, ...], options: FigureOptions) -> Draw:
    rows = layer_rows(wh, options.selection(models))
    chosen = split_names(options.measure or options.y or RETENTION)
    own = _require_values(rows, chosen, models)
    about = model_rows(wh)[models[0]]
    mean = about[MEAN_COLUMNS[own[0]["kept_by"]]]
    means = {
        RETENTION: mean,
        REDUCTION: None if mean is None else 1 - mean,
        SPARSITY: about["prunable_sparsity"],
    }
    shown = {name: means[name] for name in chosen if name in means} if options.where is None else {}
    return lambda look: layer_bars(own, look, model=models[0], measures=chosen, means=shown, mean_stack=about["stack"])


def _require_values(rows: Rows, measures: Sequence[str], models: Sequence[str]) -> Rows:
    """The rows. Raises NoValuesError if no row has a value of a measure, UsageError for an unknown measure."""
    for name in measures:
        measure = measure_of(name, rows)
        if not any(measure.value(row) is not None for row in rows):
            whose = models[0] if len(models) == 1 else "the models"
            hint = "; --measure sparsity needs no base" if measure.is_of_base else ""
            raise NoValuesError(f"{whose}: no layer has a known {name}{hint}; {_NO_VALUES}")
    return rows


def _heat(wh: Source, models: tuple[str, ...], options: FigureOptions) -> Draw:
    measure = options.measure or options.y or RETENTION
    rows = _require_values(query_rows(wh, "per_layer", options.selection(models)), [measure], models)
    methods = {name: row["method"] for name, row in model_rows(wh).items()}
    rows.sort(key=lambda row: (methods[row["model_id"]] or "", row["model_id"]))
    return lambda look: heat_map(rows, look, measure=measure)


def _roles(wh: Source, models: tuple[str, ...], options: FigureOptions) -> Draw:
    measure = options.measure or options.y or RETENTION
    rows, others = _main_stack(role_rows(wh, models[0], options.selection(())))
    if not rows:
        raise NoValuesError(f"{models[0]}: no weights are known by their roles; {_NO_VALUES}")
    _require_values(rows, [measure], models)
    return lambda look: role_map(rows, look, model=models[0], measure=measure, other_stacks=others)


def _main_stack(rows: Rows) -> tuple[Rows, list[str]]:
    """The rows of the first stack, and the names of the others.

    The first one stands for the model, unless a condition keeps others alone.
    """
    stacks = list(dict.fromkeys(row["stack"] for row in rows))
    return [row for row in rows if row["stack"] == stacks[0]], stacks[1:]


def _trade_off(wh: Source, models: tuple[str, ...], options: FigureOptions) -> Draw:
    rows = query_rows(wh, "trade_off", options.selection(models))
    if not rows:
        raise NoValuesError(f"no model has both a known reduction and a score; {_NO_VALUES}")
    measures = tuple(dict.fromkeys(row["measure"] for row in rows))
    asked = options.measure or options.y or (MEAN_ACCURACY if MEAN_ACCURACY in measures else measures[0])
    x = options.x or KEPT_SHARE
    measure = _quality(asked, measures)
    if measure is None:
        if options.measure is not None:
            raise NotFoundError("measure of quality", asked, measures)
        return _columns(wh, models, options, x, asked)
    shown = with_columns(wh, [row for row in rows if row["measure"] == measure], [x])
    bases = {name: row["base_checkpoint_id"] for name, row in model_rows(wh).items()}
    return lambda look: trade_off(shown, look, measure=measure, x=x, bases=bases)


def _quality(asked: str, measures: Sequence[str]) -> str | None:
    """The measure of this name, or the only one of a perplexity that is named as a column or without its context."""
    if asked in measures:
        return asked
    of_dataset = [measure for measure in measures if measure.split("@")[0] == asked.removeprefix("ppl_")]
    return of_dataset[0] if len(of_dataset) == 1 else None


def _speed(wh: Source, models: tuple[str, ...], options: FigureOptions) -> Draw:
    return _columns(wh, models, options, options.x or KEPT_SHARE, options.measure or options.y or "throughput_bs1")


def _columns(wh: Source, models: tuple[str, ...], options: FigureOptions, x: str, y: str) -> Draw:
    """Points of the table of performance by two columns."""
    rows = with_columns(wh, query_rows(wh, "performance", options.selection(models)), ["method", x, y])
    if not any(row[x] is not None and row[y] is not None for row in rows):
        raise NoValuesError(f"no model has both {x} and {y}; {_NO_VALUES}")
    return lambda look: column_scatter(rows, look, x=x, y=y)


def _tasks(wh: Source, models: tuple[str, ...], options: FigureOptions) -> Draw:
    selection = replace(options.selection(models), has_differences=True, tasks=split_names(options.tasks or ""))
    rows = query_rows(wh, "performance", selection)
    columns = [*rows[0]] if rows else []
    tasks = [
        name.removesuffix(DELTA) for name in columns if name.endswith(DELTA) and name.removesuffix(DELTA) + BEYOND in columns
    ]
    known = [task for task in tasks if any(row[task + DELTA] is not None for row in rows)]
    if not known:
        raise NoValuesError(f"no model has a score of a task that its base has by the same measure; {_NO_VALUES}")
    return lambda look: task_grid(rows, look, tasks=known)


def _units(wh: Source, models: tuple[str, ...], options: FigureOptions) -> Draw:
    rows, others = _main_stack(own_rows(wh, UNITS, replace(options.selection(models), by=None)))
    if not any(row["num_base_units"] and row["kind"] in UNIT_KINDS for row in rows):
        raise NoValuesError(f"{models[0]}: the heads and neurons of its base are not known; {_NO_VALUES}")
    return lambda look: unit_panels(rows, look, model=models[0], other_stacks=others)


def _spectra(wh: Source, models: tuple[str, ...], options: FigureOptions) -> Draw:
    measure = options.measure or options.y or ALPHA
    rows = spectrum_rows(wh, measure, options.selection(models))
    if not any(row["value"] is not None for row in rows):
        raise NoValuesError(f"no model has a known {measure}; measure spectra with: layerhouse ingest --spectral")
    return lambda look: spectral_lines(rows, look, measure=measure)


_ONE_AXIS = frozenset({"measure", "y"})
_BOTH_AXES = frozenset({"measure", "x", "y"})
FIGURES: Mapping[str, Figure] = MappingProxyType(
    {
        figure.name: figure
        for figure in (
            Figure("layers", "bars of one model: what each layer kept of its block", _layers, True, _ONE_AXIS),
            Figure("heat", "models by blocks of the base: what each kept where", _heat, axes=_ONE_AXIS),
            Figure("roles", "one model: its weights by role and layer", _roles, True, _ONE_AXIS),
            Figure("tradeoff", "what is kept against quality, and the front", _trade_off, axes=_BOTH_AXES),
            Figure("tasks", "models by tasks: differences to the base in points", _tasks, axes=frozenset({"tasks"})),
            Figure("units", "one model: the heads, KV groups, neurons and experts that it kept", _units, True),
            Figure("speed", "what is kept against tokens per second", _speed, axes=_BOTH_AXES),
            Figure("spectra", "models: a number of their spectra, block by block", _spectra, axes=_ONE_AXIS),
        )
    }
)
"""The kinds of figures by their names."""


def figure_options(options: Mapping[str, Any]) -> FigureOptions:
    """Options of keywords. Raises UsageError for one that no figure has."""
    known = FigureOptions.__dataclass_fields__
    if unknown := [name for name in options if name not in known]:
        raise UsageError(f"no option {unknown[0]!r} of figures; there is {', '.join(known)}")
    return FigureOptions(**options)
