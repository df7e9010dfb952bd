"""What is kept against quality, as the query trade_off has it; and speed against what is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from layerhouse.errors import UsageError
from layerhouse.warehouse.render.columns import COLUMNS
from layerhouse.warehouse.render.kinds import NUMBER, PPL, RATIO, Kind
from layerhouse.warehouse.render.plots.heat import left_out_note, listed
from layerhouse.warehouse.render.plots.look import Look
from layerhouse.warehouse.render.plots.parts import Row, Spec
from layerhouse.warehouse.render.plots.scatter import Scatter, scatter
from layerhouse.warehouse.render.plots.ticks import Axis

KEPT_SHARE, REDUCTION_RATIO, VALUE = "kept_share", "reduction_ratio", "value"
MEAN_ACCURACY = "mean_accuracy"


def trade_off(
    rows: Sequence[Row], look: Look, *, measure: str, x: str = KEPT_SHARE, bases: Mapping[str, str | None] | None = None
) -> Spec:
    """A point for each row of the query trade_off of one measure; those on the front are joined by a line for each base.

    `bases` says of each model with which others it shares a front: the checkpoint of its base.
    """
    is_accuracy = measure == MEAN_ACCURACY
    points = _points([{**row, "y": row[VALUE], "x": row[x]} for row in rows], bases or {})
    kept_by = rows[0]["kept_by"] if rows else "params"
    title = look.heading(MEAN_ACCURACY, "mean accuracy") if is_accuracy else look.shown(_ppl_title(look, measure))
    y = Axis.around(title, RATIO if is_accuracy else PPL, [point["y"] for point in points], may_be_log=not is_accuracy)
    further = [look.word(word) for word, holds in (("lower_better", not is_accuracy), ("logarithmic", y.is_log)) if holds]
    y = _titled(y, further)
    chart = Scatter(
        Axis.around(_x_title(look, x, kept_by), _kind(x), [point["x"] for point in points]),
        y,
        interpolate=_interpolation(x, kept_by),
        notes=[
            *([look.word("front_line")] if _interpolation(x, kept_by) and any(point["front"] for point in points) else []),
            *left_out_note(look, [row["model_id"] for row in rows if row[x] is None]),
        ],
    )
    return scatter(points, look, chart)


def _titled(axis: Axis, further: Sequence[str]) -> Axis:
    title = f"{axis.title} ({', '.join(further)})" if further else axis.title
    return Axis(title, axis.kind, axis.low, axis.high, axis.is_log)


def _ppl_title(look: Look, measure: str) -> str:
    return look.word("perplexity", measure=measure)


def _points(rows: Sequence[Row], bases: Mapping[str, str | None]) -> list[dict[str, Any]]:
    return [
        {
            "model_id": row["model_id"],
            "method": row.get("method"),
            "x": float(row["x"]),
            "y": float(row["y"]),
            "front": row.get("is_on_front"),
            "base": bases.get(row["model_id"]),
        }
        for row in rows
        if row["x"] is not None and row["y"] is not None
    ]


def _interpolation(x: str, kept_by: str) -> str | None:
    """How the front runs between its points: a front of what is kept says nothing about other columns."""
    if x == KEPT_SHARE:
        return "step-after"
    return "step-before" if x == REDUCTION_RATIO and kept_by == "params" else None


def _x_title(look: Look, column: str, kept_by: str) -> str:
    return look.word(f"retention_{kept_by}") if column == KEPT_SHARE else column_title(look, column)


def _kind(column: str) -> Kind:
    return COLUMNS[column].kind if column in COLUMNS else NUMBER


def column_title(look: Look, column: str) -> str:
    """The heading of a column with its unit, in the figure's language. Shares are drawn as percentages and need no unit."""
    known = COLUMNS.get(column)
    title = look.heading(column, known.title if known else look.shown(column.replace("_", " ")))
    unit = known.kind.unit if known and known.kind != RATIO else ""
    return f"{title} ({unit})" if unit else title


def column_scatter(rows: Sequence[Row], look: Look, *, x: str, y: str) -> Spec:
    """A point for each model that has both columns of numbers, such as what is kept and tokens per second.

    `rows` have model_id, method, kept_by, both columns, and speed_hardware where a column is a speed. Raises UsageError for a
    column that holds other than numbers.
    """
    for column in (x, y):
        _require_numbers(rows, column)
    points = _points([{**row, "x": row[x], "y": row[y], "is_on_front": None} for row in rows], {})
    kept_by = rows[0]["kept_by"] if rows else "params"
    axes = [
        Axis.around(
            _x_title(look, column, kept_by), _kind(column), [point[name] for point in points], may_be_log=_may_be_log(column)
        )
        for name, column in (("x", x), ("y", y))
    ]
    axes = [_titled(axis, [look.word("logarithmic")] if axis.is_log else []) for axis in axes]
    notes = _hardware_note(rows, look) if any(map(_is_speed, (x, y))) else []
    notes += left_out_note(look, [row["model_id"] for row in rows if row[x] is None or row[y] is None])
    return scatter(points, look, Scatter(axes[0], axes[1], notes=notes))


def _require_numbers(rows: Sequence[Row], column: str) -> None:
    found = [row[column] for row in rows if row[column] is not None]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in found):
        raise UsageError(f"column {column!r} has other values than numbers, which an axis needs")


def _may_be_log(column: str) -> bool:
    return _kind(column) == PPL


def _is_speed(column: str) -> bool:
    return column.startswith(("throughput_", "latency_", "speedup_"))


def _hardware_note(rows: Sequence[Row], look: Look) -> list[str]:
    """What the speeds were measured on: speeds of several machines are not to be compared."""
    known = [str(row["speed_hardware"]) for row in rows if row.get("speed_hardware") is not None]
    if not known:
        return [look.word("hardware_unknown")]
    counts = {name: known.count(name) for name in dict.fromkeys(known)}
    names = [look.shown(name) if len(counts) == 1 else f"{look.shown(name)} ({count})" for name, count in counts.items()]
    return [look.word("hardware", names=listed(look, names))]
