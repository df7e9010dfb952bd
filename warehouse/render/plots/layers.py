"""Bars of one model: what is kept of each block of the base, what is gone, or how much of a layer is zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from layerhouse.warehouse.render.plots.look import Look
from layerhouse.warehouse.render.plots.measures import REDUCTION, RETENTION, SPARSITY, Measure, is_removed, measure_of
from layerhouse.warehouse.render.plots.parts import (
    Margins,
    Row,
    Spec,
    axis_format,
    block_axis,
    frame,
    margins,
    share_text,
    tick_values,
    values,
    y_axis,
)
from layerhouse.warehouse.render.plots.text_width import text_width
from layerhouse.warehouse.render.plots.theme import CROSS

LINES = (0.2, 0.5, 0.8)
"""Shares at which the study's charts have lines."""
BAND_WORDS = ("over_80", "50_to_80", "20_to_50", "under_20")
LEAST_STEP = 8.0
"""Bars that are narrower have no dashes and no crosses."""
_PRIME = "′"


def layer_bars(
    rows: Sequence[Row],
    look: Look,
    *,
    model: str,
    measures: Sequence[str] = (RETENTION,),
    means: Mapping[str, float | None] | None = None,
    mean_stack: str | None = None,
) -> Spec:
    """A bar for each layer of a model, one panel for each measure and stack.

    `rows` are those of the query per_layer of this model, in their order. `means` are the means of the measures over the
    layers of `mean_stack` (by default of any), which are drawn as a line; None where one is not known.
    """
    means = means or {}
    stacks = list(dict.fromkeys(row["stack"] for row in rows))
    chosen = [measure_of(name, rows) for name in measures]
    bands = _bands_shown(rows, chosen, look)
    right = max((text_width(text, look.size) for text in _mean_texts(look, means).values()), default=0.0)
    space = margins(look, ["100%"], has_title=True, right=right + 8 if right else 4)
    panels = [
        _panel(
            [row for row in rows if row["stack"] == stack],
            look,
            space,
            measure,
            means if mean_stack in (None, stack) else {},
            stack if len(stacks) > 1 else None,
            bands,
        )
        for stack in stacks
        for measure in chosen
    ]
    for panel in panels[1:]:
        _hide_legends(panel)
    notes = [note for stack in stacks if (note := unknown_blocks(look, [row for row in rows if row["stack"] == stack]))]
    notes += [look.word("mean_unknown")] if any(value is None for value in means.values()) else []
    notes += [look.word("prunable_line")] if SPARSITY in measures and means.get(SPARSITY) is not None else []
    label = look.label_of(model)
    described = [f"Bars of {measure.title(look, rows[0]['kept_by'])} of the layers of {label}" for measure in chosen]
    text = ". ".join([*described, *_mean_texts(look, means).values()]) + "."
    body = panels[0] if len(panels) == 1 else {"vconcat": panels, "spacing": 14}
    return frame(look, label, text, body, notes)


def _mean_texts(look: Look, means: Mapping[str, float | None]) -> dict[str, str]:
    return {
        name: look.word("prunable" if name == SPARSITY else "mean", value=share_text(value))
        for name, value in means.items()
        if value is not None
    }


def unknown_blocks(look: Look, rows: Sequence[Row]) -> str | None:
    """A sentence if no file says which layers of a stack are which blocks of the base."""
    if not rows or any(row["base_layer_index"] is not None for row in rows) or all(row["match"] is None for row in rows):
        return None
    if count := sum(map(is_removed, rows)):
        return look.word("some_removed", count=count, total=len(rows))
    return look.word("no_blocks")


def stack_note(look: Look, rows: Sequence[Row], others: Sequence[str]) -> str | None:
    """A sentence if a figure shows one stack of a model that has others."""
    return look.word("one_stack", stack=rows[0]["stack"], others=", ".join(others)) if rows and others else None


def placed_blocks(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """Each layer and known removed block with the label of its place: the block's number, with a prime for each repetition.

    A layer that is no block of the base has its own number after a plus, or alone where no layer has a block.
    """
    has_blocks = any(row["base_layer_index"] is not None for row in rows)
    seen: dict[int, int] = {}
    placed = []
    for row in rows:
        block, layer = row["base_layer_index"], row["layer_index"]
        if block is not None:
            seen[block] = seen.get(block, 0) + 1
            placed.append((f"{block}{_PRIME * (seen[block] - 1)}", row))
        elif layer is not None:
            placed.append((f"+{layer}" if has_blocks else str(layer), row))
    return placed


def _panel(
    rows: Sequence[Row],
    look: Look,
    space: Margins,
    measure: Measure,
    means: Mapping[str, float | None],
    stack: str | None,
    bands: Mapping[str, str],
) -> Spec:
    placed = placed_blocks(rows)
    width = space.inner(look)
    bars = [_bar(label, row, measure, look) for label, row in placed]
    known = [bar["value"] for bar in bars if bar["value"] is not None]
    has_blocks = any(row["base_layer_index"] is not None for row in rows)
    axis_title = look.word("block" if has_blocks else "layer") + ("" if stack is None else f" ({stack})")
    x = block_axis(look, [label for label, _ in placed], width, axis_title)
    top = max([1.0 if measure.is_share else 0.0, *known]) or 1.0
    bottom = min([0.0, *known])
    y = {
        "field": "value",
        "type": "quantitative",
        "title": measure.title(look, rows[0]["kept_by"]),
        "axis": y_axis(space, format=axis_format(measure.kind, top), **_ticks(measure, bottom, top)),
        "scale": {"domain": [bottom * 1.05, top * 1.06], "nice": False},
    }
    layers = [_bars(bars, x, y, measure, bands, look), *_marks_of_the_absent(placed, bars, x, measure, look, top, width)]
    if measure.is_share:
        layers += [{"data": {"values": [{"y": line} for line in LINES]}, "mark": _dashed(), "encoding": _at("y")}]
    mean = means.get(measure.name)
    if mean is not None:
        layers += _mean_line(mean, _mean_texts(look, means)[measure.name], look)
    layers += _numbers(bars, x, measure, look, width)
    return {"width": width, "height": _height(look), "layer": layers}


def _height(look: Look) -> float:
    return round(min(230.0, max(90.0, look.width * 0.3)))


def _ticks(measure: Measure, bottom: float, top: float) -> Spec:
    if measure.is_share and bottom >= 0 and top <= 1.001:
        return {**tick_values([0, *LINES, 1]), "grid": False}
    return {"tickCount": 6, "grid": not measure.is_share}


def _bar(label: str, row: Row, measure: Measure, look: Look) -> dict[str, Any]:
    """The data of one bar; its field names are fixed, whatever the columns are called."""
    value = measure.value(row)
    kept = row["kept_share"]
    bands = [look.word(word) for word in BAND_WORDS]
    if is_removed(row):
        band = look.word("removed")
    elif kept is None or not measure.is_of_base:
        band = None
    else:
        band = bands[0] if kept > 0.8 else bands[1] if kept >= 0.5 else bands[2] if kept >= 0.2 else bands[3]
    return {"block": label, "value": value, "layer": row["layer_index"], "band": band, "level": row["kept_level"]}


def _bands_shown(rows: Sequence[Row], measures: Sequence[Measure], look: Look) -> dict[str, str]:
    """The bands that a figure has in any of its panels, with their colours: all panels share one scale."""
    domain = [*(look.word(word) for word in BAND_WORDS), look.word("removed")]
    bars = [_bar("", row, measure, look) for measure in measures if measure.is_of_base for _, row in placed_blocks(rows)]
    present = {bar["band"] for bar in bars if bar["value"] is not None}
    return {band: color for band, color in zip(domain, look.tones.bands, strict=True) if band in present}


def _bars(bars: Sequence[Row], x: Spec, y: Spec, measure: Measure, bands: Mapping[str, str], look: Look) -> Spec:
    drawn = [bar for bar in bars if bar["value"] is not None]
    color: Spec = {"value": look.tones.palette[0]}
    if measure.is_of_base and bands:
        color = {
            "field": "band",
            "type": "nominal",
            "title": None,
            "scale": {"domain": [*bands], "range": [*bands.values()]},
            "legend": legend_at_top(look, [*bands]),
        }
    tooltip = [
        {"field": "block", "type": "nominal", "title": look.word("block")},
        {"field": "layer", "type": "quantitative", "title": look.word("layer")},
        {"field": "value", "type": "quantitative", "title": y["title"], "format": ".2%" if measure.is_share else "~r"},
    ]
    mark = {"type": "bar", "stroke": None}
    return {"data": values(drawn), "mark": mark, "encoding": {"x": x, "y": y, "color": color, "tooltip": tooltip}}


def legend_at_top(look: Look, names: Sequence[str]) -> Spec:
    """A legend above a figure in as many columns as its width has room for."""
    widest = max((text_width(name, look.size) for name in names), default=1.0) + look.size * 1.6 + 12
    return {
        "orient": "top",
        "direction": "horizontal",
        "columns": max(1, min(len(names), int((look.width - 40) // widest))),
        "symbolSize": look.size * 8,
        "columnPadding": 10,
        "offset": 6,
    }


def _marks_of_the_absent(
    placed: Sequence[tuple[str, Row]],
    bars: Sequence[Row],
    x: Spec,
    measure: Measure,
    look: Look,
    top: float,
    width: float,
) -> list[Spec]:
    """A dashed outline and a cross for each removed block, and a question mark for what is not known."""
    step = width / max(1, len(placed))
    gone = [{"block": label} for label, row in placed if is_removed(row)]
    unknown = [
        {"block": label, "text": "?"}
        for (label, row), bar in zip(placed, bars, strict=True)
        if bar["value"] is None and not is_removed(row)
    ]
    layers: list[Spec] = []
    if gone and measure.name != REDUCTION:
        outline: Spec = {"type": "bar", "fill": look.tones.gone, "stroke": look.tones.muted, "strokeWidth": 0.4}
        if step >= LEAST_STEP:
            outline = {**outline, "strokeWidth": 0.8, "strokeDash": [2, 2]}
        layers.append({"data": values(gone), "mark": outline, "encoding": {"x": x, "y": {"datum": 1.0 if top >= 1 else top}}})
    if gone and step >= LEAST_STEP:
        cross = {"type": "point", "shape": CROSS, "filled": False, "strokeWidth": 1.2, "yOffset": -min(9.0, step * 0.8)}
        layers.append(
            {
                "data": values(gone),
                "mark": {**cross, "size": min(50.0, (step * 0.45) ** 2), "stroke": look.tones.hatch},
                "encoding": {"x": x, "y": {"datum": 0}},
            }
        )
    if unknown:
        mark = {"type": "text", "dy": -look.size * 0.7, "color": look.tones.muted, "fontSize": min(look.size, step * 1.4)}
        layers.append(
            {"data": values(unknown), "mark": mark, "encoding": {"x": x, "y": {"datum": 0}, "text": {"field": "text"}}}
        )
    return layers


def _dashed() -> Spec:
    return {"type": "rule", "strokeDash": [4, 3], "strokeWidth": 0.8}


def _at(channel: str) -> Spec:
    return {channel: {"field": channel, "type": "quantitative"}}


def _numbers(bars: Sequence[Row], x: Spec, measure: Measure, look: Look, width: float) -> list[Spec]:
    """The values above the bars, where the bars are wide enough for them."""
    size = look.size * 0.8
    step = width / max(1, len(bars))
    if not measure.is_share or step < text_width("100", size) + 2:
        return []
    shown = [
        {"block": bar["block"], "value": bar["value"], "text": f"{100 * bar['value']:.0f}"}
        for bar in bars
        if bar["value"] is not None and not (bar["layer"] is None and measure.name == RETENTION)
    ]
    place = {"x": x, "y": {"field": "value", "type": "quantitative"}}
    across, down = text_width("100", size) / 2, size * 0.45
    ground = {"type": "point", "shape": f"M{-across:.2f},{-down:.2f}H{across:.2f}V{down:.2f}H{-across:.2f}Z", "size": 4}
    ground |= {"filled": True, "color": look.tones.background, "yOffset": -size * 0.65, "opacity": 1}
    text = {"type": "text", "baseline": "middle", "dy": -size * 0.6, "fontSize": size}
    return [
        {"data": values(shown), "mark": ground, "encoding": place},
        {"data": values(shown), "mark": text, "encoding": {**place, "text": {"field": "text"}}},
    ]


def _mean_line(mean: float, text: str, look: Look) -> list[Spec]:
    data = {"values": [{"y": mean, "text": text}]}
    rule = {"type": "rule", "color": look.tones.mean, "strokeWidth": 1.3}
    mark = {"type": "text", "align": "left", "baseline": "middle", "dx": 4, "color": look.tones.mean, "fontSize": look.size}
    return [
        {"data": data, "mark": rule, "encoding": _at("y")},
        {"data": data, "mark": mark, "encoding": {**_at("y"), "x": {"value": "width"}, "text": {"field": "text"}}},
    ]


def _hide_legends(panel: Spec) -> None:
    """Leave the legends to the first panel."""
    for layer in panel["layer"]:
        color = layer["encoding"].get("color", {})
        if "legend" in color:
            color["legend"] = None
