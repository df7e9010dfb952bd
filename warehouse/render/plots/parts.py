"""Parts that figures share: the frame of a specification, axes of known extent, formats of numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layerhouse.escapes import visible
from layerhouse.warehouse.render.kinds import Kind
from layerhouse.warehouse.render.plots.look import Look
from layerhouse.warehouse.render.plots.text_width import text_width, wrap
from layerhouse.warehouse.render.plots.theme import SCHEMA, theme

Spec = dict[str, Any]
Row = Mapping[str, Any]

_NO_XML = re.compile("[\ufffe\uffff]")
PADDING = 6
TICK = 8.0
"""Length of a tick with the space between it and its label."""
TITLE_PADDING = 6


@dataclass(frozen=True)
class Margins:
    """Space left and right of the inner part of a figure, in units; `extent` is that of the labels of the y axis."""

    left: float
    right: float
    extent: float

    def inner(self, look: Look) -> float:
        """The width of the inner part."""
        return max(40.0, look.width - 2 * PADDING - self.left - self.right)


def margins(look: Look, labels: Sequence[str], *, has_title: bool, right: float = 4.0) -> Margins:
    """The space that the labels and the title of a y axis take; the axis has to be made by `y_axis`."""
    extent = max((text_width(label, look.size) for label in labels), default=0.0) + TICK
    return Margins(extent + (TITLE_PADDING + look.size * 1.2 if has_title else 0.0), right, extent)


def tick_values(ticks: Sequence[float]) -> Spec:
    """Properties of an axis with just these ticks: Vega leaves out some where there are more than `tickCount`."""
    return {"values": list(ticks), "tickCount": len(ticks), "labelOverlap": False}


def y_axis(space: Margins, **further: Any) -> Spec:
    """Properties of a y axis whose labels take just the space that was planned."""
    return {"minExtent": space.extent, "maxExtent": space.extent, "titlePadding": TITLE_PADDING, **further}


def frame(look: Look, title: str | None, description: str, body: Spec, notes: Sequence[str] = ()) -> Spec:
    """A whole specification; `notes` are sentences under the title."""
    limit = look.width - 2 * PADDING
    is_wide = any(text_width(note, look.size) > limit * 0.6 for note in notes)
    lines = [line for note in notes for line in wrap(note, look.size, limit)]
    heading: Spec = {"text": wrap(title, look.size + 2.5, limit)} if title else {}
    if lines and title:
        heading["subtitle"] = lines
    elif lines:
        heading = {"text": lines, "fontSize": look.size, "fontWeight": "normal", "color": look.tones.muted}
    spec: Spec = {
        "$schema": SCHEMA,
        "description": description,
        **({"title": {**heading, "frame": "bounds" if is_wide else "group"}} if heading else {}),
        "padding": PADDING,
        "config": {**theme(look.is_dark, size=look.size), "aria": True},
        **body,
    }
    shown: Spec = _visible(spec)
    return shown


def _visible(value: Any) -> Any:
    """A value with all texts in it as they can be shown: a character that XML cannot hold ends the process that draws."""
    if isinstance(value, str):
        return _NO_XML.sub(lambda match: f"\\u{ord(match[0]):04x}", visible(value))
    if isinstance(value, dict):
        return {key: _visible(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_visible(inner) for inner in value]
    return value


def share_text(value: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * value:.1f}%"


def axis_format(kind: Kind, greatest: float) -> str:
    """The d3 format of the numbers of a kind on an axis."""
    if kind.name == "ratio":
        return ".0%"
    if kind.name in ("count", "index"):
        return "~s" if greatest >= 10_000 else "~r"
    return "~s" if greatest >= 10_000 else "~g"


def values(rows: Sequence[Row]) -> Spec:
    """Inline data."""
    return {"values": [dict(row) for row in rows]}


def block_axis(look: Look, domain: Sequence[str], width: float, title: str) -> Spec:
    """The x channel of blocks: as many labels as fit without touching each other."""
    widest = max((text_width(label, look.size) for label in domain), default=1.0)
    step = width / max(1, len(domain))
    every = next((n for n in (1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 100) if n * step >= widest + 4), 200)
    return {
        "field": "block",
        "type": "ordinal",
        "title": title,
        "scale": {"domain": list(domain)},
        "axis": {"labelAngle": 0, "grid": False, "values": list(domain)[::every], "labelOverlap": False},
    }
