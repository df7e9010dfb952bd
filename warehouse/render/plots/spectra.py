"""A line for each model: a number of its spectra, block by block."""

from __future__ import annotations

from collections.abc import Sequence

from layerhouse.warehouse.render.kinds import NUMBER
from layerhouse.warehouse.render.plots.heat import left_out_note
from layerhouse.warehouse.render.plots.look import Look
from layerhouse.warehouse.render.plots.parts import PADDING, Row, Spec, block_axis, frame, margins, tick_values, values, y_axis
from layerhouse.warehouse.render.plots.text_width import text_width
from layerhouse.warehouse.render.plots.ticks import Axis

ALPHA = "alpha"
BAND = (2.0, 6.0)
"""Exponents that weight matrices of well-trained models mostly have: Martin and Mahoney 2021."""
DASHES: tuple[list[int], ...] = ([], [6, 2], [2, 2], [6, 2, 2, 2])


def spectral_lines(rows: Sequence[Row], look: Look, *, measure: str = ALPHA) -> Spec:
    """A line for each model over the blocks of its base, or its layers where it has none.

    `rows` have model_id, block, value (the median over the block's weights, None if none has one), least and greatest.
    """
    known = [row for row in rows if row["value"] is not None]
    models = list(dict.fromkeys(row["model_id"] for row in known))
    labels = look.labels(models, look.width * 0.4)
    name = look.word(ALPHA) if measure == ALPHA else measure.replace("_", " ")
    title = look.word("of_projections", name=name)
    y = Axis.around(title, NUMBER, [row["value"] for row in known])
    ticks = y.ticks(6)
    space = margins(look, y.labels(ticks), has_title=True, right=8)
    width, height = space.inner(look), round(min(260.0, max(110.0, look.width * 0.36)))
    last = max((row["block"] for row in known), default=0)
    names = list(labels.values())
    colors = [look.tones.palette[number % 10] for number in range(len(names))]
    dashes = [DASHES[(number // 10) % len(DASHES)] for number in range(len(names))]
    data = [
        {
            "model": labels[row["model_id"]],
            "block": str(row["block"]),
            "value": row["value"],
            "least": row["least"],
            "greatest": row["greatest"],
        }
        for row in known
    ]
    common = {"field": "model", "type": "nominal", "title": None, "legend": _legend(look, names)}
    encoding = {
        "x": block_axis(look, [str(block) for block in range(last + 1)], width, look.word("block")),
        "y": {
            "field": "value",
            "type": "quantitative",
            "title": title,
            "scale": {"domain": [y.low, y.high], "nice": False, "zero": False},
            "axis": y_axis(space, **tick_values(ticks), format=y.number_format(ticks)),
        },
        "color": {**common, "scale": {"domain": names, "range": colors}},
        "strokeDash": {**common, "scale": {"domain": names, "range": dashes}},
        "tooltip": [
            {"field": field, "type": kind, "title": look.word(field) if field in ("model", "block") else field}
            for field, kind in (("model", "nominal"), ("block", "nominal"), ("value", "quantitative"))
        ],
    }
    mark = {"type": "line", "point": {"size": look.size * (0.8 if look.is_narrow else 1.6)}, "strokeWidth": 1.3}
    layers = [*_band(look, y, measure), {"data": values(data), "mark": mark, "encoding": encoding}]
    text = f"{title} of {len(models)} models by block."
    notes = [look.word("of_block"), *([look.word("alpha_band")] if measure == ALPHA else [])]
    notes += left_out_note(look, [row["model_id"] for row in rows if row["model_id"] not in labels])
    return frame(look, None, text, {"width": width, "height": height, "layer": layers}, notes)


def _legend(look: Look, names: Sequence[str]) -> Spec:
    """A legend below the figure in as many columns as its width has room for."""
    widest = max((text_width(name, look.size) for name in names), default=1.0) + look.size * 2 + 14
    columns = max(1, min(len(names), int((look.width - 2 * PADDING) // widest)))
    return {
        "orient": "bottom",
        "columns": columns,
        "symbolType": "stroke",
        "symbolSize": 150,
        "direction": "horizontal",
        "offset": 6,
    }


def _band(look: Look, y: Axis, measure: str) -> list[Spec]:
    """A faint band where the exponent mostly is, as far as it is within the axis."""
    low, high = max(BAND[0], y.low), min(BAND[1], y.high)
    if measure != ALPHA or low >= high:
        return []
    mark = {"type": "rect", "color": look.tones.palette[2], "opacity": 0.09}
    encoding = {"y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}}
    return [{"data": {"values": [{"low": low, "high": high}]}, "mark": mark, "encoding": encoding}]
