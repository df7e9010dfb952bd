"""How a figure looks, whatever it shows: its width, its language, its background, its labels."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from layerhouse.errors import UsageError
from layerhouse.escapes import visible
from layerhouse.warehouse.render.headings import HEADINGS
from layerhouse.warehouse.render.plots.text_width import cut_apart
from layerhouse.warehouse.render.plots.theme import Tones, tones
from layerhouse.warehouse.render.plots.words import WORDS
from layerhouse.warehouse.render.short_names import shortest_endings

POINTS_PER_UNIT = {"pt": 1.0, "in": 72.0, "cm": 72 / 2.54, "mm": 7.2 / 2.54}
PIXELS = "px"
_WIDTH = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(px|in|cm|mm|pt)")
LEAST_WIDTH, GREATEST_WIDTH = 120.0, 10_000.0
PNG_SCALE = 2
"""Pixels of a PNG for each unit of a figure whose width is in pixels."""
DOTS_PER_INCH = 300
"""Resolution of a PNG of a figure whose width is a length."""
COLUMN = 360.0
"""Figures narrower than this have the small font of a column of a paper."""


@dataclass(frozen=True)
class Width:
    """The width of a figure: a number of pixels, or a length on paper (in, cm, mm, pt). False `is_stated`: the default."""

    value: float = 720.0
    unit: str = PIXELS
    is_stated: bool = False

    @classmethod
    def parse(cls, text: str) -> Width:
        """The width that a text such as `3.25in` or `1400px` states. Raises UsageError."""
        match = _WIDTH.fullmatch(text.strip().lower())
        if match is None:
            raise UsageError(f"--width {text!r}: not a width; write a number and px, in, cm, mm or pt, such as 3.25in")
        width = cls(float(match[1]), match[2], is_stated=True)
        if not LEAST_WIDTH <= width.units <= GREATEST_WIDTH:
            least, greatest = (f"{limit / POINTS_PER_UNIT.get(width.unit, 1):.4g}{width.unit}" for limit in _LIMITS)
            raise UsageError(f"--width {text!r}: choose a width from {least} to {greatest}")
        return width

    @property
    def units(self) -> float:
        """The width that a figure is laid out in: pixels, or points of 1/72 inch of a length."""
        return self.value * POINTS_PER_UNIT.get(self.unit, 1.0)

    @property
    def png_units(self) -> float:
        """The same for a PNG, whose width in pixels is just the stated one."""
        return max(LEAST_WIDTH, self.value / PNG_SCALE) if self.unit == PIXELS and self.is_stated else self.units

    @property
    def png_pixels(self) -> int:
        """The width of a PNG in pixels."""
        if self.is_on_paper:
            return round(self.units * DOTS_PER_INCH / 72)
        return round(self.value if self.is_stated else self.value * PNG_SCALE)

    @property
    def is_on_paper(self) -> bool:
        return self.unit != PIXELS


_LIMITS = (LEAST_WIDTH, GREATEST_WIDTH)


@dataclass(frozen=True)
class Look:
    """What all figures have: width in units, language, background, and which points have names (front, all or none).

    `names` are the names of all models of the warehouse; a label is the shortest ending that means its model among them.
    """

    width: float = Width().units
    is_dark: bool = False
    language: str = "en"
    label: str = "front"
    names: Collection[str] = field(default=(), repr=False)

    @property
    def tones(self) -> Tones:
        return tones(self.is_dark)

    @property
    def size(self) -> float:
        """The size of the font."""
        return 7.5 if self.width < COLUMN else 9.5 if self.width < 520 else 11.0

    @property
    def is_narrow(self) -> bool:
        return self.width < COLUMN

    def word(self, key: str, **values: object) -> str:
        """A text of the figure's language, with values put in."""
        text = WORDS[key][self.language if self.language in WORDS[key] else "en"]
        return text.format(**values) if values else text

    def heading(self, column: str, default: str) -> str:
        """The heading of a column in the figure's language, where that has one."""
        return HEADINGS.get(self.language, {}).get(column, default)

    @staticmethod
    def shown(text: str) -> str:
        """A text of others with what is hidden in it as escapes."""
        return visible(text)

    def label_of(self, model: str) -> str:
        """The shortest ending of a model's name that means it, with what is hidden in it as escapes."""
        return visible(shortest_endings([model], self.names)[model])

    def labels(self, models: Iterable[str], limit: float) -> Mapping[str, str]:
        """The labels of models, no two of them equal, none wider than a limit but for a number that keeps two apart."""
        models = list(dict.fromkeys(models))
        endings = shortest_endings(models, self.names)
        return dict(zip(models, cut_apart([visible(endings[name]) for name in models], self.size, limit), strict=True))
