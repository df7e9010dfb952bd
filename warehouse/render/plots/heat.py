"""A heat map of models by blocks of the base: what each kept where, with removed blocks hatched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layerhouse.warehouse.render.plots.cells import (
    LABEL_SHARE,
    Grid,
    grid_of,
    hatched,
    number_color,
    plain_rectangles,
    rectangles,
    share_color,
    y_channel,
)
from layerhouse.warehouse.render.plots.layers import unknown_blocks
from layerhouse.warehouse.render.plots.look import Look
from layerhouse.warehouse.render.plots.measures import REDUCTION, RETENTION, SPARSITY, Measure, is_removed, measure_of
from layerhouse.warehouse.render.plots.parts import Row, Spec, block_axis, frame, values
from layerhouse.warehouse.render.plots.text_width import text_width

_LISTED = 6
"""Names that a note lists."""


def heat_map(rows: Sequence[Row], look: Look, *, measure: str = RETENTION) -> Spec:
    """A row for each model (and stack, where a model has several), a column for each block of the base.

    `rows` are those of the query per_layer, whose order is that of the models. Models without a base have no row where the
    measure compares with it; a note names them.
    """
    chosen = measure_of(measure, rows)
    groups = _groups(rows)
    shown = {key: own for key, own in groups.items() if _has_values(own, chosen)}
    left_out = [key[0] for key in groups if key not in shown]
    labels = _row_labels(look, list(shown))
    last = max(
        (row["base_layer_index"] for own in shown.values() for row in own if row["base_layer_index"] is not None), default=0
    )
    grid = grid_of(look, [str(block) for block in range(last + 1)], list(labels.values()), step=1.35)
    cells = [
        _cell(labels[key], row, chosen) for key, own in shown.items() for row in own if row["base_layer_index"] is not None
    ]
    channels = {
        "x": block_axis(look, grid.columns, grid.width, look.word("block")),
        "y": y_channel(grid),
        "tooltip": _tooltip(look, chosen, rows),
    }
    known = [cell for cell in cells if cell["value"] is not None and not cell["gone"]]
    unknown = [cell for cell in cells if cell["value"] is None and not cell["gone"]]
    title = chosen.title(look, rows[0]["kept_by"] if rows else "params")
    color = _color(look, title, chosen, [cell["value"] for cell in known])
    sentences, notes = _sentences(look, grid, shown, labels)
    layers = [
        rectangles(known, look, grid, channels, color),
        *plain_rectangles(unknown, look, grid, channels, look.tones.unknown),
        *hatched([cell for cell in cells if cell["gone"]], look, grid, channels, title),
        *_repeats(cells, look, grid, channels),
        *sentences,
    ]
    notes += [look.word("repeated")] if len({(c["row"], c["block"]) for c in cells}) < len(cells) else []
    notes += _added(look, shown, labels) + left_out_note(look, left_out)
    text = f"Heat map of {title} of {len(shown)} models by {len(grid.columns)} blocks of the base."
    return frame(look, None, text, {"width": grid.width, "height": grid.height, "layer": layers}, notes)


def _groups(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows of each model and stack."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["model_id"], row["stack"]), []).append(row)
    return groups


def _has_values(rows: Sequence[Row], measure: Measure) -> bool:
    return any(measure.value(row) is not None for row in rows) and any(row["match"] is not None for row in rows)


def _row_labels(look: Look, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The label of each row: the model, and its stack where several are shown."""
    names = look.labels([model for model, _ in keys], look.width * LABEL_SHARE)
    has_several = len({stack for _, stack in keys}) > 1
    return {(model, stack): f"{names[model]} · {stack}" if has_several else names[model] for model, stack in keys}


def _cell(label: str, row: Row, measure: Measure) -> dict[str, Any]:
    return {
        "row": label,
        "block": str(row["base_layer_index"]),
        "layer": row["layer_index"],
        "value": measure.value(row),
        "level": row["kept_level"],
        "gone": is_removed(row),
    }


def _color(look: Look, title: str, measure: Measure, numbers: Sequence[float]) -> Spec:
    if measure.name in (RETENTION, REDUCTION, SPARSITY):
        return share_color(look, title, is_kept=measure.name == RETENTION)
    return number_color(look, title, numbers)


def _tooltip(look: Look, measure: Measure, rows: Sequence[Row]) -> list[Spec]:
    title = measure.title(look, rows[0]["kept_by"] if rows else "params")
    return [
        {"field": "row", "type": "nominal", "title": look.word("model")},
        {"field": "block", "type": "nominal", "title": look.word("block")},
        {"field": "layer", "type": "quantitative", "title": look.word("layer")},
        {"field": "value", "type": "quantitative", "title": title, "format": ".2%" if measure.is_share else "~r"},
    ]


def _repeats(cells: Sequence[Row], look: Look, grid: Grid, channels: Spec) -> list[Spec]:
    """`2x` in the cells of blocks that several layers are, where there is room."""
    counts: dict[tuple[str, str], int] = {}
    for cell in cells:
        place = (cell["row"], cell["block"])
        counts[place] = counts.get(place, 0) + 1
    several = [{"row": row, "block": block, "text": f"{count}x"} for (row, block), count in counts.items() if count > 1]
    if not several or grid.cell < text_width("2x", look.size * 0.7):
        return []
    mark = {"type": "text", "baseline": "middle", "fontSize": look.size * 0.7}
    encoding = {"x": channels["x"], "y": channels["y"], "text": {"field": "text"}}
    return [{"data": values(several), "mark": mark, "encoding": encoding}]


def _sentences(
    look: Look, grid: Grid, shown: dict[tuple[str, str], list[Row]], labels: dict[tuple[str, str], str]
) -> tuple[list[Spec], list[str]]:
    """For models of which no file says which block is which a sentence in their row, or in a note if it is too long."""
    texts = [(key, text) for key, own in shown.items() if (text := unknown_blocks(look, own))]
    size = look.size * 0.9
    fits = {text: text_width(text, size) <= grid.width - 6 for _, text in texts}
    inside = [{"row": labels[key], "text": text} for key, text in texts if fits[text]]
    notes = [look.word("not_placed", name=look.label_of(key[0]), text=text) for key, text in texts if not fits[text]]
    mark = {"type": "text", "align": "left", "baseline": "middle", "fontStyle": "italic", "fontSize": size}
    encoding = {"x": {"value": 4}, "y": y_channel(grid), "text": {"field": "text"}}
    return ([{"data": values(inside), "mark": mark, "encoding": encoding}] if inside else []), notes


def _added(look: Look, shown: dict[tuple[str, str], list[Row]], labels: dict[tuple[str, str], str]) -> list[str]:
    """A sentence on layers that are no block of the base, which have no place in the map."""
    counts = {
        labels[key]: sum(row["base_layer_index"] is None and not is_removed(row) for row in own)
        for key, own in shown.items()
        if any(row["base_layer_index"] is not None for row in own)
    }
    counts = {label: count for label, count in counts.items() if count}
    return [look.word("added_layers", count=sum(counts.values()), names=listed(look, list(counts)))] if counts else []


def listed(look: Look, names: Sequence[str], count: int | None = None) -> str:
    """Names in a row, the first few of many; `count` is how many there are, if some are not in `names`."""
    text = ", ".join(names[:_LISTED])
    num_more = (len(names) if count is None else count) - _LISTED
    return look.word("more", names=text, count=num_more) if num_more > 0 else text


def left_out_note(look: Look, models: Sequence[str]) -> list[str]:
    """A sentence that names the models that are left out, or nothing."""
    distinct = list(dict.fromkeys(models))
    names = [look.label_of(model) for model in distinct[:_LISTED]]
    return [look.word("left_out", names=listed(look, names, len(distinct)))] if names else []
