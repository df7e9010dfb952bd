"""Grids of coloured cells, which heat maps, weights and tasks are drawn with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from layerhouse.warehouse.render.plots.look import Look
from layerhouse.warehouse.render.plots.parts import Margins, Row, Spec, margins, values, y_axis
from layerhouse.warehouse.render.plots.text_width import text_width
from layerhouse.warehouse.render.plots.theme import HATCH

LABEL_SHARE = 0.36
"""The most of a figure's width that names of models take."""


@dataclass(frozen=True)
class Grid:
    """The columns and rows of a grid by their labels, and the height of a row and the width of the grid in units."""

    columns: Sequence[str]
    rows: Sequence[str]
    step: float
    width: float
    space: Margins

    @property
    def height(self) -> float:
        return self.step * len(self.rows)

    @property
    def cell(self) -> float:
        """The width of a cell."""
        return self.width / max(1, len(self.columns))

    @property
    def border(self) -> float:
        """The width of the line between cells: none where they are tiny."""
        return 0.6 if min(self.cell, self.step) >= 5 else 0.0


def grid_of(look: Look, columns: Sequence[str], rows: Sequence[str], *, step: float) -> Grid:
    """The grid that fits the width of a figure beside the labels of its rows; `step` is the height of a row in font sizes."""
    space = margins(look, rows, has_title=False)
    return Grid(columns, rows, round(look.size * step, 1), space.inner(look), space)


def y_channel(grid: Grid) -> Spec:
    """The y channel of the rows, in their order."""
    axis = y_axis(grid.space, ticks=False, domain=False, labelLimit=grid.space.extent, labelOverlap=False)
    return {"field": "row", "type": "ordinal", "title": None, "scale": {"domain": list(grid.rows)}, "axis": axis}


def rectangles(cells: Sequence[Row], look: Look, grid: Grid, channels: Spec, color: Spec) -> Spec:
    """Coloured cells; `channels` are x, y and what a reader sees of a cell."""
    mark = {"type": "rect", "stroke": look.tones.background, "strokeWidth": grid.border}
    return {"data": values(cells), "mark": mark, "encoding": {**channels, "color": color}}


def plain_rectangles(cells: Sequence[Row], look: Look, grid: Grid, channels: Spec, fill: str) -> list[Spec]:
    """Cells of one colour that is on no scale; nothing if there are none."""
    mark = {"type": "rect", "fill": fill, "stroke": look.tones.background, "strokeWidth": grid.border}
    return [{"data": values(cells), "mark": mark, "encoding": channels}] if cells else []


def hatched(cells: Sequence[Row], look: Look, grid: Grid, channels: Spec, title: str) -> list[Spec]:
    """Hatched cells for removed blocks; nothing if there are none.

    Their legend is beside that of the colours, which has the `title`, or below the figure where the two have no room.
    """
    if not cells:
        return []
    word = look.word("removed")
    inset = 3 if min(grid.cell, grid.step) >= 9 else 1
    is_crowded = text_width(title + word, look.size) + look.size * 6 > grid.width
    path = hatch(grid.cell - inset, grid.step - inset)
    stroke = {
        "field": "what",
        "type": "nominal",
        "title": None,
        "scale": {"domain": [word], "range": [look.tones.hatch]},
        "legend": {
            "orient": "bottom" if is_crowded else "top",
            "symbolType": HATCH,
            "symbolSize": look.size * 9,
            "symbolStrokeWidth": 0.9,
            "offset": 6,
        },
    }
    mark = {"type": "point", "shape": path, "filled": False, "size": 4, "strokeWidth": 0.8 if inset == 3 else 0.5}
    drawn = {"data": values([{**cell, "what": word} for cell in cells]), "mark": mark}
    return [
        *plain_rectangles(cells, look, grid, channels, look.tones.gone),
        {**drawn, "encoding": {**channels, "stroke": stroke}},
    ]


def hatch(width: float, height: float) -> str:
    """The path of slanted strokes that fill a rectangle around the origin, for a symbol of size 4, whose unit is one unit."""
    half, tall, distance = width / 2, height / 2, 3.2
    strokes = []
    count = int((half + tall) // distance)
    for number in range(-count, count + 1):
        offset = number * distance
        left, right = max(-half, offset - tall), min(half, offset + tall)
        if right - left > 0.5:
            strokes.append(f"M{left:.2f},{offset - left:.2f}L{right:.2f},{offset - right:.2f}")
    return "".join(strokes) or HATCH


def share_color(look: Look, title: str, *, is_kept: bool) -> Spec:
    """The colour of a share from 0 to 1, with its legend: what is far from the base stands out."""
    ramp = list(look.tones.ramp if is_kept else reversed(look.tones.ramp))
    return gradient(look, title, {"domain": [0, 1], "range": ramp, "clamp": True, "interpolate": "rgb"}, ".0%", [0, 0.5, 1])


def number_color(look: Look, title: str, numbers: Sequence[float]) -> Spec:
    """The colour of a number, from the least to the greatest of those shown."""
    least, greatest = min(numbers, default=0.0), max(numbers, default=1.0)
    domain = [least, greatest if greatest > least else least + 1]
    return gradient(look, title, {"domain": domain, "range": list(reversed(look.tones.ramp)), "interpolate": "rgb"}, ".3~g")


def gradient(look: Look, title: str, scale: Spec, number_format: str, ticks: Sequence[float] | None = None) -> Spec:
    """A colour channel with a horizontal legend above the figure."""
    legend: dict[str, Any] = {
        "orient": "top",
        "direction": "horizontal",
        "format": number_format,
        "gradientLength": round(min(160.0, look.width * 0.3)),
        "gradientThickness": look.size * 0.9,
        "gradientStrokeColor": look.tones.muted,
        "gradientStrokeWidth": 0.4,
        **({"tickCount": 3} if ticks is None else {"values": list(ticks)}),
        "offset": 6,
    }
    return {"field": "value", "type": "quantitative", "title": title, "scale": scale, "legend": legend}
