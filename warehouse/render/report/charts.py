"""The Vega-Lite specifications of the figures on the page of a report.

They are compiled to Vega when the package is built (`make report-assets`), as a compiler is too large for the page. Rows come
from the page as the data sets that the functions name. Texts that begin with `@` are places that the page fills before it
draws: titles of axes, formats, and lists of words and colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from layerhouse.warehouse.render.plots.theme import CROSS, HATCH, SCHEMA, SHAPES, Tones, theme, tones

Spec = dict[str, Any]

BLOCKS: Spec = {
    "field": "block",
    "type": "ordinal",
    "title": "block of the base",
    "axis": {"labelAngle": 0, "labelOverlap": True, "ticks": False},
}
BLOCKS_ABOVE = {**BLOCKS, "axis": {**BLOCKS["axis"], "orient": "top"}}
MODELS: Spec = {
    "field": "row",
    "type": "ordinal",
    "title": None,
    "axis": {
        "ticks": False,
        "domain": False,
        "labelExpr": "labels[datum.value]",
        "labelLimit": {"expr": "width < 420 ? 95 : 240"},
        "labelFontSize": 10,
    },
}
LABELS = [{"name": "labels", "value": "@labels"}]
STEPS = (0, 0.5, 1)


def figures(dark: bool) -> dict[str, Spec]:
    """Each figure by its name, with the colours of a light or dark page."""
    shown = tones(dark)
    found = {
        "heat_kept": heat(shown, shown.ramp),
        "heat_zeros": heat(shown, tuple(reversed(shown.ramp))),
        "scatter": scatter(shown, is_log=False),
        "scatter_log": scatter(shown, is_log=True),
        "tasks": tasks(shown),
        "blocks": blocks(shown),
        "units": units(shown),
    }
    config = {**theme(dark), "aria": False}
    autosize = {"type": "fit", "contains": "padding", "resize": True}
    return {
        name: {"$schema": SCHEMA, "config": config, "width": "container", "autosize": autosize, **spec}
        for name, spec in found.items()
    }


def colours() -> dict[str, Any]:
    """The colours that the page itself chooses from, for each theme."""
    return {name: asdict(tones(name == "dark")) for name in ("light", "dark")}


def heat(shown: Tones, ramp: Sequence[str]) -> Spec:
    """Models by blocks: rows `cells` of `row`, `block`, `share` (null: not known) and `state` (kept, removed or not known)."""
    share = {
        "field": "share",
        "type": "quantitative",
        "title": None,
        "scale": {"domain": [0, 1], "range": list(ramp), "clamp": True},
        "legend": {"format": ".0%", "orient": "top", "gradientLength": 160, "gradientThickness": 10, "values": list(STEPS)},
    }
    colour = {
        "condition": {"test": "datum.state === 'removed'", "value": shown.gone},
        **share,
    }
    removed = {
        "transform": [{"filter": "datum.state === 'removed'"}],
        "mark": {"type": "point", "shape": HATCH, "size": 81, "strokeWidth": 0.8, "filled": False, "stroke": shown.hatch},
        "encoding": {"x": BLOCKS_ABOVE, "y": MODELS},
    }
    outline = {
        "transform": removed["transform"],
        "mark": {"type": "rect", "fillOpacity": 0, "stroke": shown.hatch, "strokeWidth": 0.7, "strokeDash": [2, 2]},
        "encoding": removed["encoding"],
    }
    unknown = {
        "transform": [{"filter": "datum.state === 'not known'"}],
        "mark": {"type": "rect", "color": shown.unknown, "stroke": shown.background, "strokeWidth": 0.5},
        "encoding": {"x": BLOCKS_ABOVE, "y": MODELS},
    }
    cells = {
        "transform": [{"filter": "datum.state !== 'not known'"}],
        "mark": {"type": "rect", "stroke": shown.background, "strokeWidth": 0.5},
        "encoding": {"x": BLOCKS_ABOVE, "y": MODELS, "color": colour},
    }
    return {"params": LABELS, "height": {"step": 13}, "data": {"name": "cells"}, "layer": [cells, unknown, outline, removed]}


def scatter(shown: Tones, *, is_log: bool) -> Spec:
    """Models as `points` of `x`, `y` and `group`; `front` has the points of a line, with `base`; `labels` names some points."""
    x = {
        "field": "x",
        "type": "quantitative",
        "title": "@x",
        "axis": {"format": "@xFormat", "tickCount": 6},
        "scale": {"zero": False, "nice": False, "padding": 14},
    }
    y = {
        "field": "y",
        "type": "quantitative",
        "title": "@y",
        "axis": {"format": "@yFormat", "tickCount": 6},
        "scale": {"type": "log", "nice": False, "padding": 14} if is_log else {"zero": False, "padding": 14},
    }
    line = {
        "data": {"name": "front"},
        "mark": {"type": "line", "interpolate": "step-after", "strokeDash": [5, 3], "strokeWidth": 1.1, "color": shown.muted},
        "encoding": {"x": x, "y": y, "detail": {"field": "base", "type": "nominal"}},
    }
    legend = {
        "orient": "bottom",
        "columns": {"expr": "width < 420 ? 2 : width < 760 ? 4 : 8"},
        "labelLimit": 130,
        "columnPadding": 10,
    }
    group = {"field": "group", "type": "nominal", "title": None}
    points = {
        "data": {"name": "points"},
        "mark": {"type": "point", "filled": True, "size": 64},
        "encoding": {
            "x": x,
            "y": y,
            "color": {**group, "scale": {"domain": ["@groups"], "range": ["@groupColours"]}, "legend": legend},
            "shape": {**group, "scale": {"domain": ["@groups"], "range": list(SHAPES)}},
            "opacity": {"condition": {"test": "datum.faint", "value": 0.5}, "value": 1},
        },
    }
    names = {
        "data": {"name": "labels"},
        "mark": {
            "type": "text",
            "fontSize": 10,
            "limit": 170,
            "align": {"expr": "datum.align"},
            "baseline": {"expr": "datum.baseline"},
            "dx": {"expr": "datum.dx"},
            "dy": {"expr": "datum.dy"},
        },
        "encoding": {"x": x, "y": y, "text": {"field": "text"}},
    }
    return {"height": 330, "layer": [line, points, names]}


def tasks(shown: Tones) -> Spec:
    """Models by tasks: rows `cells` of `row`, `task`, and `points`, the difference to the base in percentage points."""
    across = {
        "field": "task",
        "type": "ordinal",
        "sort": None,
        "title": None,
        "axis": {"orient": "top", "labelAngle": {"expr": "width < 520 ? -60 : 0"}, "ticks": False, "domain": False},
    }
    colour = {
        "field": "points",
        "type": "quantitative",
        "title": "percentage points",
        "scale": {"domain": [-50, -25, 0, 25, 50], "range": list(shown.diverging), "clamp": True},
        "legend": {"orient": "bottom", "format": "+d", "gradientThickness": 10},
    }
    number = {
        "mark": {"type": "text", "baseline": "middle", "fontSize": 9, "opacity": {"expr": "width < 520 ? 0 : 1"}},
        "encoding": {
            "x": across,
            "y": MODELS,
            "text": {"field": "points", "format": "+.1f"},
            "color": {
                "condition": {"test": "abs(datum.points) > 37", "value": shown.background},
                "value": shown.text,
            },
        },
    }
    cells = {"mark": {"type": "rect"}, "encoding": {"x": across, "y": MODELS, "color": colour}}
    return {"params": LABELS, "height": {"step": 16}, "data": {"name": "cells"}, "layer": [cells, number]}


def blocks(shown: Tones) -> Spec:
    """The blocks of a model: rows `bars` of `block`, `share` and `level`, removed ones in `gone`, and the `mean` of all."""
    y = {
        "field": "share",
        "type": "quantitative",
        "title": "@y",
        "axis": {"format": ".0%", "values": [0, 0.2, 0.5, 0.8, 1], "tickCount": 9, "labelOverlap": False},
        "scale": {"domain": [0, "@top"], "nice": False},
        "stack": None,
    }
    level = {
        "field": "level",
        "type": "nominal",
        "title": None,
        "scale": {"domain": ["@levels"], "range": ["@levelColours"]},
        "legend": {"orient": "top"},
    }
    bars = {"data": {"name": "bars"}, "mark": {"type": "bar"}, "encoding": {"x": BLOCKS, "y": y, "color": level}}
    outline = {
        "data": {"name": "gone"},
        "mark": {"type": "bar", "fillOpacity": 0, "stroke": shown.hatch, "strokeDash": [2, 2], "strokeWidth": 0.8},
        "encoding": {"x": BLOCKS, "y": {"datum": 1, "type": "quantitative", "stack": None}},
    }
    cross = {
        "data": {"name": "gone"},
        "mark": {"type": "point", "shape": CROSS, "size": 40, "stroke": shown.hatch, "filled": False, "yOffset": -9},
        "encoding": {"x": BLOCKS, "y": {"datum": 0, "type": "quantitative"}},
    }
    mean = {
        "data": {"name": "mean"},
        "mark": {"type": "rule", "strokeWidth": 1.4, "color": shown.mean},
        "encoding": {"y": {"field": "share", "type": "quantitative"}},
    }
    return {"height": 190, "layer": [bars, outline, cross, mean]}


def units(shown: Tones) -> Spec:
    """Units of one kind by blocks: rows `cells` of `block`, `unit` and `state` (kept, removed, not known)."""
    states, fills = ["kept", "removed", "not known"], [shown.bands[0], shown.background, shown.unknown]
    strokes = [shown.bands[0], shown.muted, shown.unknown]
    state = {"field": "state", "type": "nominal", "title": None, "legend": {"orient": "top"}}
    return {
        "height": {"step": 10},
        "data": {"name": "cells"},
        "mark": {"type": "rect", "strokeWidth": 0.7},
        "encoding": {
            "x": BLOCKS,
            "y": {"field": "unit", "type": "ordinal", "title": "@y", "axis": {"labelOverlap": True, "ticks": False}},
            "fill": {**state, "scale": {"domain": states, "range": fills}},
            "stroke": {**state, "scale": {"domain": states, "range": strokes}},
        },
    }
