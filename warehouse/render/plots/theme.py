"""The one look of all figures: colours, shapes, fonts and the Vega-Lite config, for light and dark backgrounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
"""What a specification says that it is written in."""

FONT = "Liberation Sans, Arial, Helvetica, Noto Sans CJK SC, Source Han Sans SC, WenQuanYi Zen Hei, DejaVu Sans, sans-serif"
"""The metrics of the first three are equal, so that a label takes the same space on all machines."""

FONT_SIZE = 11

SHAPES = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "cross",
    "triangle-down",
    "triangle-right",
    "triangle-left",
    "M0,-1L.3,-.3L1,-.25L.45,.25L.65,1L0,.55L-.65,1L-.45,.25L-1,-.25L-.3,-.3Z",
    "M-1,-.4H1V.4H-1Z",
)
"""Shapes of points, one for each colour of a palette, so that points differ in print without colours."""

HATCH = "M-1,1L1,-1M-1,0L0,-1M0,1L1,0"
"""A hatched cell: three strokes, drawn as the path of a stroked symbol, as Vega has no fill patterns."""

CROSS = "M-1,-1L1,1M-1,1L1,-1"
"""A cross, drawn as the path of a stroked symbol."""

BANDS = ("over 80%", "50% to 80%", "20% to 50%", "under 20%", "removed")
"""Bands of the share that a block keeps, between the lines that the study's charts have, and removed blocks."""


@dataclass(frozen=True)
class Tones:
    """The colours of one background.

    `ramp` is the colour of a share from 0 to 1: nothing kept stands out, all kept is close to the background. `diverging` goes
    from worse over equal to better. `palette` has a colour for each shape of SHAPES, `bands` one for each of BANDS, and
    `levels` one for each level of vocabulary.Level.
    """

    background: str
    text: str
    muted: str
    grid: str
    gone: str
    hatch: str
    mean: str
    unknown: str
    palette: tuple[str, ...]
    bands: tuple[str, ...]
    levels: dict[str, str]
    ramp: tuple[str, ...]
    diverging: tuple[str, ...]


LIGHT = Tones(
    background="#ffffff",
    text="#111111",
    muted="#666666",
    grid="#e3e3e3",
    gone="#efefef",
    hatch="#444444",
    mean="#c2185b",
    unknown="#d9d9d9",
    palette=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8c564b", "#333333", "#999900"),
    bands=("#4c78a8", "#e9a23b", "#c8442f", "#7a1f14", "#999999"),
    levels={
        "removed": "#999999",
        "zero": "#4a4a4a",
        "heavy": "#c8442f",
        "medium": "#e9a23b",
        "light": "#86b0d6",
        "untouched": "#4c78a8",
        "grown": "#7a5195",
    },
    ramp=("#7f2704", "#d94801", "#fd8d3c", "#fdd0a2", "#fff5eb"),
    diverging=("#b2182b", "#ef8a62", "#f7f7f7", "#67a9cf", "#2166ac"),
)

DARK = Tones(
    background="#16181b",
    text="#e6e6e6",
    muted="#9aa0a6",
    grid="#3a3f44",
    gone="#24282c",
    hatch="#b0b6bc",
    mean="#e879f9",
    unknown="#50565c",
    palette=("#5aa9e6", "#ff8a4c", "#3ecf9f", "#e79ac6", "#f2b632", "#9ad7ff", "#b08ad6", "#c99686", "#d0d4d8", "#d3cf4a"),
    bands=("#6b9bd1", "#f0b355", "#e8705c", "#ff9d8f", "#8a9096"),
    levels={
        "removed": "#8a9096",
        "zero": "#c4c8cc",
        "heavy": "#e8705c",
        "medium": "#f0b355",
        "light": "#a9cbec",
        "untouched": "#6b9bd1",
        "grown": "#b08ad6",
    },
    ramp=("#ffd9b0", "#fd8d3c", "#c44a08", "#6b3312", "#2b2a29"),
    diverging=("#ef6a6a", "#9c4040", "#2b2d30", "#356a9c", "#62a8e8"),
)


def tones(dark: bool = False) -> Tones:
    """The colours for a dark or a light background."""
    return DARK if dark else LIGHT


def theme(dark: bool = False, *, size: float = FONT_SIZE) -> dict[str, Any]:
    """The Vega-Lite config of all figures; `size` is that of the font in points."""
    shown = tones(dark)
    text = {"labelColor": shown.text, "titleColor": shown.text, "labelFontSize": size, "titleFontSize": size}
    return {
        "background": shown.background,
        "font": FONT,
        "view": {"stroke": shown.muted, "strokeWidth": 0.5},
        "title": {
            "anchor": "start",
            "fontSize": size + 2,
            "fontWeight": 600,
            "color": shown.text,
            "subtitleColor": shown.muted,
            "subtitleFontSize": size,
            "offset": 8,
        },
        "axis": {
            **text,
            "titleFontWeight": "normal",
            "tickColor": shown.muted,
            "domainColor": shown.muted,
            "gridColor": shown.grid,
            "gridWidth": 0.6,
            "labelLimit": 260,
            "titlePadding": 6,
        },
        "legend": {**text, "titleFontWeight": "normal", "labelLimit": 220, "symbolStrokeWidth": 1.4},
        "header": text,
        "text": {"color": shown.text, "fontSize": size - 2},
        "rule": {"color": shown.muted},
        "range": {"category": list(shown.palette), "ramp": list(reversed(shown.ramp)), "diverging": list(shown.diverging)},
    }
