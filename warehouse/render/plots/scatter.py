"""Points of models by two numbers, with their names where there is room, and the front of those that no other beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from layerhouse.warehouse.render.plots.labels import Placed, Point, place_labels
from layerhouse.warehouse.render.plots.look import Look
from layerhouse.warehouse.render.plots.parts import PADDING, Row, Spec, frame, margins, tick_values, values, y_axis
from layerhouse.warehouse.render.plots.text_width import cut_apart, text_width
from layerhouse.warehouse.render.plots.theme import SHAPES
from layerhouse.warehouse.render.plots.ticks import Axis

LABEL_SHARE = 0.4
"""The most of a figure's width that a name takes."""


@dataclass(frozen=True)
class Scatter:
    """Two axes, and how a line joins the points of a front: `step-after`, `step-before` or not at all."""

    x: Axis
    y: Axis
    interpolate: str | None = None
    notes: Sequence[str] = field(default=())


def scatter(points: Sequence[Row], look: Look, chart: Scatter) -> Spec:
    """A figure of points with `model_id`, `method` (may be None), `x`, `y`, `front` (None without fronts) and `base`.

    Colours and shapes are methods. `look.label` says which points have names; without fronts, `front` means all.
    """
    y_ticks = chart.y.ticks(5 if look.is_narrow else 7)
    space = margins(look, chart.y.labels(y_ticks), has_title=True, right=8)
    width, height = space.inner(look), round(min(360.0, max(130.0, look.width * 0.52)))
    x_labels = chart.x.labels(chart.x.ticks(8))
    fitting = int(width // (max((text_width(label, look.size) for label in x_labels), default=20.0) + 16))
    x_ticks = chart.x.ticks(max(2, min(8, fitting)))
    x, y = _channel("x", chart.x, x_ticks, {}), _channel("y", chart.y, y_ticks, y_axis(space))
    layers = [
        *_front_lines(points, x, y, chart, look),
        _points(points, x, y, look, chart),
    ]
    named, num_left = _named(points, look, chart, (width, height))
    layers += named
    notes = [*chart.notes, *([look.word("no_room", count=num_left)] if num_left else [])]
    num_front = sum(point["front"] is True for point in points)
    text = f"{len(points)} models: {chart.x.title} against {chart.y.title}; {num_front} on the front."
    return frame(look, None, text, {"width": width, "height": height, "layer": layers}, notes)


def _channel(name: str, axis: Axis, ticks: Sequence[float], further: Spec) -> Spec:
    return {
        "field": name,
        "type": "quantitative",
        "title": axis.title,
        "scale": {"domain": [axis.low, axis.high], "type": "log" if axis.is_log else "linear", "nice": False},
        "axis": {**tick_values(ticks), "format": axis.number_format(ticks), **further},
    }


def _front_lines(points: Sequence[Row], x: Spec, y: Spec, chart: Scatter, look: Look) -> list[Spec]:
    """A line through the points of the front of each base."""
    front = [
        {"x": point["x"], "y": point["y"], "base": number}
        for number, line in enumerate(_fronts(points))
        for point in line
        if len(line) > 1
    ]
    if chart.interpolate is None or not front:
        return []
    mark = {
        "type": "line",
        "interpolate": chart.interpolate,
        "strokeDash": [5, 3],
        "strokeWidth": 1.1,
        "color": look.tones.muted,
    }
    return [{"data": values(front), "mark": mark, "encoding": {"x": x, "y": y, "detail": {"field": "base", "type": "nominal"}}}]


def _fronts(points: Sequence[Row]) -> list[list[Row]]:
    """The points of the front of each base, from left to right."""
    bases = dict.fromkeys(point["base"] for point in points if point["front"])
    return [
        sorted(
            (point for point in points if point["front"] and point["base"] == base), key=lambda point: (point["x"], point["y"])
        )
        for base in bases
    ]


def _points(points: Sequence[Row], x: Spec, y: Spec, look: Look, chart: Scatter) -> Spec:
    methods = sorted({point["method"] for point in points if point["method"] is not None})
    names = cut_apart([look.shown(method) for method in methods], look.size, look.width * LABEL_SHARE)
    shown = dict(zip(methods, names, strict=True))
    palette = look.tones.palette
    colors = [palette[number % len(palette)] for number in range(len(methods))]
    shapes = [SHAPES[(number + number // len(palette)) % len(SHAPES)] for number in range(len(methods))]
    if any(point["method"] is None for point in points):
        names, colors, shapes = [*names, look.word("no_method")], [*colors, look.tones.muted], [*shapes, "circle"]
    data = [
        {
            "model": look.shown(point["model_id"]),
            "method": look.word("no_method") if point["method"] is None else shown[point["method"]],
            "x": point["x"],
            "y": point["y"],
            "front": point["front"],
        }
        for point in points
    ]
    legend = _legend_below(look, names)
    common = {"field": "method", "type": "nominal", "title": None, "legend": legend}
    tooltip = [
        {"field": "model", "type": "nominal", "title": look.word("model")},
        {"field": "method", "type": "nominal", "title": look.word("method")},
        {"field": "x", "type": "quantitative", "title": chart.x.title, "format": _tooltip_format(chart.x)},
        {"field": "y", "type": "quantitative", "title": chart.y.title, "format": _tooltip_format(chart.y)},
    ]
    faint = {"opacity": {"condition": {"test": "datum.front === false", "value": 0.5}, "value": 1}}
    return {
        "data": values(data),
        "mark": {"type": "point", "filled": True, "size": look.size * (4 if look.is_narrow else 5.5)},
        "encoding": {
            "x": x,
            "y": y,
            "color": {**common, "scale": {"domain": names, "range": colors}},
            "shape": {**common, "scale": {"domain": names, "range": shapes}},
            **(faint if any(point["front"] is not None for point in points) else {}),
            "tooltip": tooltip,
        },
    }


def _tooltip_format(axis: Axis) -> str:
    return ".2%" if axis.kind.name == "ratio" else ",.4~f"


def _legend_below(look: Look, names: Sequence[str]) -> Spec:
    """A legend below a figure in as many columns as its width has room for."""
    widest = max((text_width(name, look.size) for name in names), default=1.0) + look.size * 1.5 + 14
    columns = max(1, min(len(names), int((look.width - 2 * PADDING) // widest)))
    return {
        "orient": "bottom",
        "direction": "horizontal",
        "columns": columns,
        "columnPadding": 10,
        "symbolSize": look.size * 6,
        "offset": 6,
    }


def _named(points: Sequence[Row], look: Look, chart: Scatter, area: Point) -> tuple[list[Spec], int]:
    """The names beside the points, and how many have no room."""
    has_fronts = any(point["front"] is not None for point in points)
    chosen = [
        (number, point)
        for number, point in enumerate(points)
        if look.label == "all" or (look.label == "front" and (point["front"] or not has_fronts))
    ]
    if not chosen:
        return [], 0
    chosen.sort(key=lambda pair: (not pair[1]["front"], pair[1]["x"]))
    labels = look.labels([point["model_id"] for _, point in chosen], look.width * LABEL_SHARE)
    size = look.size * 0.86
    places = [(chart.x.place(point["x"]) * area[0], (1 - chart.y.place(point["y"])) * area[1]) for point in points]
    lines = _line_places(points, chart, area) if chart.interpolate else []
    texts = [(number, labels[point["model_id"]]) for number, point in chosen]
    placed = place_labels(texts, places, lines, area, size)
    data = [_label_data(label, dict(texts)[label.index], places[label.index]) for label in placed]
    layers: list[Spec] = []
    if connected := [label for label in data if label["lined"]]:
        encoding = {name: _pixels(name) for name in ("x", "y", "x2", "y2")}
        mark = {"type": "rule", "strokeWidth": 0.5, "color": look.tones.muted}
        layers.append({"data": values(connected), "mark": mark, "encoding": encoding})
    for align in ("left", "right", "center"):
        if part := [label for label in data if label["align"] == align]:
            mark = {"type": "text", "align": align, "baseline": "middle", "fontSize": size}
            encoding = {"x": _pixels("x"), "y": _pixels("y"), "text": {"field": "text"}}
            layers.append({"data": values(part), "mark": mark, "encoding": encoding})
    return layers, len(chosen) - len(placed)


def _line_places(points: Sequence[Row], chart: Scatter, area: Point) -> list[list[Point]]:
    """The corners of the front lines, in units of the inner part."""
    lines = []
    for line in _fronts(points):
        corners: list[Point] = []
        for point in line:
            place = (chart.x.place(point["x"]) * area[0], (1 - chart.y.place(point["y"])) * area[1])
            if corners:
                last = corners[-1]
                corners.append((place[0], last[1]) if chart.interpolate == "step-after" else (last[0], place[1]))
            corners.append(place)
        lines.append(corners)
    return lines


def _label_data(label: Placed, text: str, point: Point) -> dict[str, Any]:
    """The data of a name: its place in units of the inner part, and that of its point."""
    return {
        "x": round(label.x, 2),
        "y": round(label.y, 2),
        "x2": round(point[0], 2),
        "y2": round(point[1], 2),
        "text": text,
        "align": label.align,
        "lined": label.has_line,
    }


def _pixels(name: str) -> Spec:
    """A channel whose values are units of the inner part and on no scale."""
    if name in ("x2", "y2"):
        return {"field": name}
    return {"field": name, "type": "quantitative", "scale": None, "axis": None}
