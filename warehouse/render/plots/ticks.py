"""Ticks of axes, chosen here and not by the renderer, so that the space that their labels take is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from layerhouse.warehouse.render.kinds import Kind

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_LARGE = 100_000
"""From here on, ticks are written with k, M and G."""


@dataclass(frozen=True)
class Axis:
    """A quantitative axis: its title, what it holds, the numbers that it reaches from and to, and whether it is logarithmic."""

    title: str
    kind: Kind
    low: float
    high: float
    is_log: bool = False

    @classmethod
    def around(cls, title: str, kind: Kind, numbers: Sequence[float], *, may_be_log: bool = False, pad: float = 0.06) -> Axis:
        """The axis that holds some numbers with space around them; logarithmic, if allowed, where they span a factor of 5."""
        least, greatest = min(numbers, default=0.0), max(numbers, default=1.0)
        if may_be_log and least > 0 and greatest / least > 5:
            factor = (greatest / least) ** pad
            return cls(title, kind, least / factor, greatest * factor, is_log=True)
        space = (greatest - least) * pad or max(abs(greatest) * 0.1, 1e-6)
        return cls(title, kind, least - space, greatest + space)

    def place(self, value: float) -> float:
        """Where a value is between the ends of the axis, from 0 to 1."""
        if self.is_log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)

    def ticks(self, count: int) -> list[float]:
        """About as many round numbers within the axis."""
        return _log_ticks(self.low, self.high, count) if self.is_log else _ticks(self.low, self.high, count)

    def number_format(self, ticks: Sequence[float]) -> str:
        """The d3 format that tells the ticks apart."""
        if max(map(abs, ticks), default=0.0) >= _LARGE:
            return "~s"
        scale = 100 if self.kind.name == "ratio" else 1
        digits = max((_decimals(tick * scale) for tick in ticks), default=0)
        return f".{digits}%" if scale == 100 else f",.{digits}f"

    def labels(self, ticks: Sequence[float]) -> list[str]:
        """What the ticks look like, to tell how wide they are."""
        form = self.number_format(ticks)
        return ["0000M" if form == "~s" else format(tick, form) for tick in ticks]


def _ticks(low: float, high: float, count: int) -> list[float]:
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in _STEPS if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        found = [round(factor * 10.0**power, 12) for power in powers for factor in factors]
        inside = [tick for tick in found if low <= tick <= high]
        if len(inside) <= count + 1:
            return inside if len(inside) > 1 else _ticks(low, high, count)
    return inside[:: math.ceil(len(inside) / count)]


def _decimals(number: float) -> int:
    """The decimals that a tick needs."""
    return next((digits for digits in range(7) if math.isclose(round(number, digits), number, abs_tol=1e-9)), 7)
