"""Names beside points, placed so that none covers a point, a line or another name."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from layerhouse.warehouse.render.plots.text_width import text_width

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in units; y grows downwards."""
Point = tuple[float, float]

_NEAR = (
    *(("left", 7.0, 0.0), ("left", 5.0, -9.0), ("left", 5.0, 9.0), ("right", -7.0, 0.0), ("right", -5.0, -9.0)),
    *(("right", -5.0, 9.0), ("center", 0.0, -11.0), ("center", 0.0, 12.0)),
)
"""Alignment and offset of a name beside its point, the best first."""
_RINGS = (18.0, 26.0, 36.0, 48.0)
"""Distances of names further away, which a thin line connects with their point."""
_DIRECTIONS = 16
_POINT = 4.0


@dataclass(frozen=True)
class Placed:
    """A name where it is drawn: the number of its point, the position and alignment of its text, whether it has a line."""

    index: int
    x: float
    y: float
    align: str
    has_line: bool


def place_labels(
    texts: Sequence[tuple[int, str]], points: Sequence[Point], lines: Sequence[Sequence[Point]], area: Point, size: float
) -> list[Placed]:
    """Places for names (number of the point and text, the most important first) within an area of a width and a height.

    A name for which there is no room is left out.
    """
    boxes = [(x - _POINT, y - _POINT, x + _POINT, y + _POINT) for x, y in points]
    boxes += [box for line in lines for start, end in itertools.pairwise(line) for box in _segment_boxes(start, end)]
    placed: list[Placed] = []
    names: list[Box] = []
    for index, text in texts:
        width = text_width(text, size)
        for candidate in _candidates(index, points[index], size):
            box = _box(candidate, width, size)
            is_inside = box[0] >= 0 and box[1] >= 0 and box[2] <= area[0] and box[3] <= area[1]
            if not is_inside or any(_overlap(box, other) for other in boxes):
                continue
            leader = [*_segment_boxes(points[index], (candidate.x, candidate.y))] if candidate.has_line else []
            if any(_overlap(part, other) for part in leader for other in names):
                continue
            boxes += [box, *leader]
            names.append(box)
            placed.append(candidate)
            break
    return placed


def _candidates(index: int, point: Point, size: float) -> Iterator[Placed]:
    x, y = point
    scale = size / 10
    for align, right, down in _NEAR:
        yield Placed(index, x + right * (1 if down == 0 else scale), y + down * scale, align, has_line=False)
    for radius in _RINGS:
        for step in range(_DIRECTIONS):
            angle = 2 * math.pi * step / _DIRECTIONS
            align = "left" if math.cos(angle) > 0.3 else "right" if math.cos(angle) < -0.3 else "center"
            yield Placed(index, x + radius * math.cos(angle), y - radius * math.sin(angle), align, has_line=True)


def _box(label: Placed, width: float, size: float) -> Box:
    left = label.x - {"left": 0.0, "right": width, "center": width / 2}[label.align]
    return left - 1, label.y - size * 0.6, left + width + 1, label.y + size * 0.6


def _segment_boxes(start: Point, end: Point) -> Iterator[Box]:
    """Small boxes along a segment."""
    count = max(1, int(math.dist(start, end) // 4))
    for step in range(count + 1):
        x, y = (a + (b - a) * step / count for a, b in zip(start, end, strict=True))
        yield x - 2, y - 2, x + 2, y + 2


def _overlap(first: Box, second: Box) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]
