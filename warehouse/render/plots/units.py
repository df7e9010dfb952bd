"""The units of one model: which heads and KV groups of each block it kept, and how many neurons and experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layerhouse.warehouse.render.kinds import COUNT
from layerhouse.warehouse.render.plots.layers import legend_at_top, placed_blocks, stack_note, unknown_blocks
from layerhouse.warehouse.render.plots.look import Look
from layerhouse.warehouse.render.plots.measures import is_removed
from layerhouse.warehouse.render.plots.parts import Margins, Row, Spec, block_axis, frame, margins, tick_values, values, y_axis
from layerhouse.warehouse.render.plots.ticks import Axis

KINDS = ("head", "kv_group", "neuron", "expert")
MOST_CELLS = 64
"""Units of a kind that are drawn one by one; of more, a bar shows how many there are."""


def unit_panels(rows: Sequence[Row], look: Look, *, model: str, other_stacks: Sequence[str] = ()) -> Spec:
    """A panel for each kind of unit of one stack, a column for each block of the base; a note names `other_stacks`.

    `rows` have model_id, stack, base_layer_index, layer_index, match, kind, num_units, num_base_units and units_kept, which is
    None where it is not known which units of the block a layer kept; numbers are None where they are not known.
    """
    kinds = [kind for kind in KINDS if any(row["kind"] == kind and row["num_base_units"] for row in rows)]
    most = max((row["num_base_units"] or 0 for row in rows), default=0)
    space = margins(look, [f"{most:,}"], has_title=True)
    states = sorted({_state(row, unit) for row in rows for unit in range(row["num_base_units"] or 0)})
    panels = [_panel([row for row in rows if row["kind"] == kind], look, space, kind, states) for kind in kinds]
    for panel in panels[:-1]:
        _hide_blocks(panel)
    label = look.label_of(model)
    names = ", ".join(look.word(kind) for kind in kinds)
    notes = [unknown_blocks(look, [row for row in rows if row["kind"] == kinds[0]]) if kinds else None]
    notes.append(stack_note(look, rows, other_stacks))
    body = panels[0] if len(panels) == 1 else {"vconcat": panels, "spacing": 10}
    return frame(look, label, f"Units that {label} kept: {names}.", body, [*filter(None, notes)])


def _panel(rows: Sequence[Row], look: Look, space: Margins, kind: str, states: Sequence[int]) -> Spec:
    placed = placed_blocks(rows)
    columns = [label for label, _ in placed]
    width = space.inner(look)
    has_blocks = any(row["base_layer_index"] is not None for row in rows)
    x = block_axis(look, columns, width, look.word("block" if has_blocks else "layer"))
    most = max(max(row["num_base_units"] or 0, row["num_units"] or 0) for row in rows)
    is_grid = most <= MOST_CELLS and any(row["units_kept"] is not None and not is_removed(row) for row in rows)
    if is_grid:
        return _grid(placed, look, space, kind, x, states)
    return _counts(placed, look, space, kind, x, most)


def _grid(
    placed: Sequence[tuple[str, Row]], look: Look, space: Margins, kind: str, x: Spec, states_shown: Sequence[int]
) -> Spec:
    """A cell for each unit of each block; `states_shown` are those of all panels, which share one scale of colours."""
    width = space.inner(look)
    most = max(max(row["num_base_units"] or 0, row["num_units"] or 0) for _, row in placed)
    states = [look.word("kept"), look.word("unit_removed"), look.word("unknown")]
    cells = [
        {"block": label, "row": unit, "state": states[_state(row, unit)]}
        for label, row in placed
        for unit in range(row["num_base_units"] or 0)
    ]
    present = [states[number] for number in states_shown]
    tones = look.tones
    fills = dict(zip(states, (tones.bands[0], tones.background, tones.unknown), strict=True))
    strokes = dict(zip(states, (tones.bands[0], tones.muted, tones.unknown), strict=True))
    step = max(3.0, min(look.size, 12 * look.size / most))
    every = max(1, round(most / 8))
    y = {
        "field": "row",
        "type": "ordinal",
        "title": look.word(kind),
        "scale": {"domain": list(range(most)), "paddingInner": 0.16},
        "axis": y_axis(space, ticks=False, domain=False, values=list(range(0, most, every)), labelOverlap=False),
    }
    legend = legend_at_top(look, present)
    state = {"field": "state", "type": "nominal", "title": None, "legend": legend}
    encoding = {
        "x": {**x, "scale": {**x["scale"], "paddingInner": 0.16}},
        "y": y,
        "fill": {**state, "scale": {"domain": present, "range": [fills[name] for name in present]}},
        "stroke": {**state, "scale": {"domain": present, "range": [strokes[name] for name in present]}},
        "tooltip": [
            {"field": "block", "type": "nominal", "title": look.word("block")},
            {"field": "row", "type": "nominal", "title": look.word(kind)},
            {"field": "state", "type": "nominal", "title": look.word("value")},
        ],
    }
    return {
        "width": width,
        "height": step * most,
        "data": values(cells),
        "mark": {"type": "rect", "strokeWidth": 0.5},
        "encoding": encoding,
    }


def _state(row: Row, unit: int) -> int:
    """0 for a unit that is kept, 1 for one that is removed, 2 where it is not known."""
    if is_removed(row):
        return 1
    if row["units_kept"] is None:
        return 2
    return 0 if unit in row["units_kept"] else 1


def _hide_blocks(panel: Spec) -> None:
    """Leave the labels of the blocks to the last panel."""
    for part in panel.get("layer", [panel]):
        part["encoding"]["x"] = {**part["encoding"]["x"], "title": None, "axis": None}


def _counts(placed: Sequence[tuple[str, Row]], look: Look, space: Margins, kind: str, x: Spec, most: int) -> Spec:
    """A bar for the units of each layer, within an outline for those of its block."""
    width = space.inner(look)
    data: list[dict[str, Any]] = [
        {"block": label, "base": row["num_base_units"], "value": 0 if is_removed(row) else row["num_units"]}
        for label, row in placed
    ]
    axis = Axis(look.word("units_kept", kind=look.word(kind)), COUNT, 0.0, most * 1.05)
    ticks = [tick for tick in axis.ticks(4) if tick == int(tick)]
    y = {
        "type": "quantitative",
        "title": axis.title,
        "scale": {"domain": [0, axis.high], "nice": False},
        "axis": y_axis(space, **tick_values(ticks), format=",d", grid=False),
    }
    tones = look.tones
    outline = {"type": "bar", "fill": tones.background, "stroke": tones.muted, "strokeWidth": 0.5}
    tooltip = [
        {"field": "block", "type": "nominal", "title": look.word("block")},
        {"field": "value", "type": "quantitative", "title": axis.title, "format": ",d"},
    ]
    known = [{"block": row["block"], "value": row["value"]} for row in data if row["value"] is not None]
    unknown = [{"block": row["block"], "text": "?"} for row in data if row["value"] is None]
    layers: list[Spec] = [
        {
            "data": values([{"block": row["block"], "base": row["base"]} for row in data if row["base"] is not None]),
            "mark": outline,
            "encoding": {"x": x, "y": {**y, "field": "base"}},
        },
        {
            "data": values(known),
            "mark": {"type": "bar", "color": tones.bands[0]},
            "encoding": {"x": x, "y": {**y, "field": "value"}, "tooltip": tooltip},
        },
    ]
    if unknown:
        mark = {"type": "text", "dy": -look.size * 0.7, "color": tones.muted, "fontSize": look.size * 0.8}
        layers.append(
            {"data": values(unknown), "mark": mark, "encoding": {"x": x, "y": {"datum": 0}, "text": {"field": "text"}}}
        )
    return {"width": width, "height": round(min(110.0, max(60.0, look.width * 0.13))), "layer": layers}
