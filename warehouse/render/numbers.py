"""Numbers as people read them: rounded, but never into a zero or a one that they are not."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layerhouse.warehouse.render.kinds import Kind

_LONGEST = Decimal(10) ** 21
_SMALLEST = Decimal(10) ** -6


def number_text(value: float | Decimal, kind: Kind) -> str:
    """A number to its kind's digits, half to even on the decimal number that csv shows.

    Ratios come as fractions and print as percent; counts have thousands separators; a fraction among counts or indexes
    has 2 decimals. NaN and infinities print as `nan`, `inf` and `-inf`. Scientific are numbers from 1e21 on, and those
    under 1e-6 that would print as zero.
    """
    if not math.isfinite(value):
        return str(float(value))
    exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if kind.name == "ratio":
        return _fixed(exact.scaleb(2), kind.digits, "", whole=100)
    comma = "," if kind.name == "count" else ""
    is_whole = kind.name in {"count", "index"}
    if (is_whole or kind.name == "number") and (isinstance(value, int) or (is_whole and exact == int(exact))):
        return f"{int(exact):{comma}d}"
    return _fixed(exact, 2 if is_whole else kind.digits, comma, whole=1)


def _fixed(exact: Decimal, digits: int, comma: str, whole: int) -> str:
    if abs(exact) >= _LONGEST:
        return str(float(exact))
    text = f"{exact or Decimal(0):{comma}.{digits}f}"
    if not _misleads(text, exact, whole):
        return text
    if abs(exact) < _SMALLEST:
        return f"{exact:.1e}"
    while _misleads(text, exact, whole):
        digits += 1
        text = f"{exact:{comma}.{digits}f}"
    return f"{exact:{comma}.{digits + 1}f}".rstrip("0")


def _misleads(text: str, exact: Decimal, whole: int) -> bool:
    """Whether the text shows zero or the whole (one; 100 for percent), of either sign, for a number that is not."""
    seen = Decimal(text.replace(",", ""))
    return seen != exact and abs(seen) in (0, whole)
