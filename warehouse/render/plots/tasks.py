"""A grid of models by tasks: the differences to the base in points, and which are beyond two standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from layerhouse.vocabulary import ZERO_SHOT_TASKS
from layerhouse.warehouse.render.headings import HEADINGS
from layerhouse.warehouse.render.plots.cells import LABEL_SHARE, gradient, grid_of, rectangles, y_channel
from layerhouse.warehouse.render.plots.heat import left_out_note
from layerhouse.warehouse.render.plots.look import Look
from layerhouse.warehouse.render.plots.parts import Row, Spec, frame, values
from layerhouse.warehouse.render.plots.text_width import cut_apart, text_width

MEAN_ACCURACY = "mean_accuracy"
DELTA, BEYOND = "_delta", "_beyond_2se"
_MINUS = "−"


def task_grid(rows: Sequence[Row], look: Look, *, tasks: Sequence[str]) -> Spec:
    """A row for each model that has a difference, a column for each task.

    `rows` are those of the table of performance with its differences: for each task a column `TASK_delta`, a fraction, and
    `TASK_beyond_2se`, null where a standard error is not stated. A difference that is beyond two standard errors has a star,
    one that is within them is grey, one without errors is in italics.
    """
    shown = [row for row in rows if any(row[task + DELTA] is not None for task in tasks)]
    labels = look.labels([_row_name(row) for row in shown], look.width * LABEL_SHARE)
    rows_of = {_row_name(row): row for row in shown}
    size = look.size * 0.85
    grid = grid_of(
        look, _headings(look, tasks, look.width * (1 - LABEL_SHARE) / max(1, len(tasks))), [*labels.values()], step=1.7
    )
    cells = [
        _cell(labels[name], heading, row, task)
        for name, row in rows_of.items()
        for heading, task in zip(grid.columns, tasks, strict=True)
        if row[task + DELTA] is not None
    ]
    limit = max((abs(cell["value"]) for cell in cells), default=1.0) or 1.0
    widest = max((1.1 * text_width(cell["text"], 1.0) for cell in cells), default=1.0)
    angle = -45 if any(text_width(heading, look.size) > grid.cell - 2 for heading in grid.columns) else 0
    x = {
        "field": "task",
        "type": "ordinal",
        "title": None,
        "scale": {"domain": list(grid.columns)},
        "axis": {
            "orient": "top",
            "labelAngle": angle,
            "ticks": False,
            "domain": False,
            "labelOverlap": False,
            "labelPadding": 5,
        },
    }
    tooltip = [
        {"field": "row", "type": "nominal", "title": look.word("model")},
        {"field": "task", "type": "nominal", "title": "task"},
        {"field": "value", "type": "quantitative", "title": look.word("points"), "format": "+.2f"},
    ]
    channels = {"x": x, "y": y_channel(grid), "tooltip": tooltip}
    scale = {
        "domain": [-limit, 0, limit],
        "range": [look.tones.diverging[0], look.tones.diverging[2], look.tones.diverging[-1]],
    }
    color = gradient(
        look, look.word("points"), {**scale, "interpolate": "rgb"}, "+.0f", [-math.floor(limit), 0, math.floor(limit)]
    )
    color["legend"] = {**color["legend"], "orient": "bottom"}
    layers = [
        rectangles(cells, look, grid, channels, color),
        *_texts(cells, look, channels, limit, min(size, grid.cell / widest)),
    ]
    without = [_row_name(row) for row in rows if row not in shown]
    notes = [*_error_notes(look, cells), *left_out_note(look, without)]
    text = f"Differences of {len(shown)} models to their bases in {len(tasks)} tasks, in points."
    return frame(look, None, text, {"width": grid.width, "height": grid.height, "layer": layers}, notes)


def _row_name(row: Row) -> str:
    """The model, and the variant of a run that is not a plain one."""
    return str(row["model_id"]) if row.get("variant") is None else f"{row['model_id']} ({row['variant']})"


def _headings(look: Look, tasks: Sequence[str], limit: float) -> list[str]:
    """What the columns are called; no two are equal. The names of the seven tasks are the same in all languages."""
    titles = []
    for task in tasks:
        if task == MEAN_ACCURACY:
            titles.append(look.word("mean_of_tasks"))
        elif task in ZERO_SHOT_TASKS:
            titles.append(HEADINGS["zh"][task])
        else:
            titles.append(look.shown(task))
    return cut_apart(titles, look.size, max(limit, 90.0))


def _cell(label: str, heading: str, row: Row, task: str) -> dict[str, Any]:
    points = 100 * row[task + DELTA]
    beyond = row[task + BEYOND]
    text = f"{points:+.1f}".replace("-", _MINUS) + ("*" if beyond else "")
    return {"row": label, "task": heading, "value": points, "beyond": beyond, "text": text}


def _texts(cells: Sequence[Row], look: Look, channels: Spec, limit: float, size: float) -> list[Spec]:
    """The numbers in the cells, in the colour that is read on the cell's own."""
    layers = []
    tones = look.tones
    has_errors = any(cell["beyond"] is not None for cell in cells)
    unknown: Spec = {"fontStyle": "italic"} if has_errors else {}
    styles: list[tuple[bool | None, Spec]] = [(True, {"fontWeight": "bold"}), (False, {"opacity": 0.6}), (None, unknown)]
    for beyond, style in styles:
        for is_strong in (False, True):
            part = [cell for cell in cells if cell["beyond"] is beyond and (abs(cell["value"]) > 0.6 * limit) == is_strong]
            if part:
                color = "#ffffff" if is_strong else tones.text
                mark = {"type": "text", "baseline": "middle", "fontSize": size, "color": color, **style}
                encoding = {"x": channels["x"], "y": channels["y"], "text": {"field": "text"}}
                layers.append({"data": values(part), "mark": mark, "encoding": encoding})
    return layers


def _error_notes(look: Look, cells: Sequence[Row]) -> list[str]:
    """What the marks of the cells mean, as far as there are such cells."""
    kinds = {cell["beyond"] for cell in cells}
    if kinds <= {None}:
        return [look.word("no_errors")] if cells else []
    return [
        look.word(word) for beyond, word in ((True, "beyond"), (False, "not_beyond"), (None, "some_errors")) if beyond in kinds
    ]
