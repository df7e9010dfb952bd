"""Numbers as text for people: rounded, but never to a 0 or a 1 that the number is not."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layerhouse.warehouse.render.kinds import Kind

_SCIENTIFIC_FROM = Decimal(10) ** 21
_SCIENTIFIC_BELOW = Decimal(10) ** -6


def number_text(value: float | Decimal, kind: Kind) -> str:
    """A number with the decimals of its kind, rounded half to even from the decimal number that CSV shows.

    Ratios are stored as fractions and printed as percent. Counts have thousands separators; a count or an index that is not
    whole has 2 decimals. NaN and infinities are `nan`, `inf` and `-inf`. Numbers from 1e21 on, and numbers below 1e-6 that
    would print as zero, use scientific notation. A number over 0 of a signed kind begins with a plus.
    """
    text = _unsigned_text(value, kind)
    return f"+{text}" if kind.is_signed and value > 0 else text


def _unsigned_text(value: float | Decimal, kind: Kind) -> str:
    if not math.isfinite(value):
        return str(float(value))
    exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if kind.name == "ratio":
        return _fixed(exact.scaleb(2), kind.digits, "", whole=100)
    separator = "," if kind.name == "count" else ""
    is_whole = kind.name in {"count", "index"}
    if (is_whole or kind.name == "number") and (isinstance(value, int) or (is_whole and exact == int(exact))):
        return f"{int(exact):{separator}d}"
    return _fixed(exact, 2 if is_whole else kind.digits, separator, whole=1)


def _fixed(exact: Decimal, digits: int, separator: str, whole: int) -> str:
    """Fixed-point notation with these decimals, or with as many more as are needed to not mislead."""
    if abs(exact) >= _SCIENTIFIC_FROM:
        return str(float(exact))
    text = f"{exact or Decimal(0):{separator}.{digits}f}"
    if not _misleads(text, exact, whole):
        return text
    if abs(exact) < _SCIENTIFIC_BELOW:
        return f"{exact:.1e}"
    while _misleads(text, exact, whole):
        digits += 1
        text = f"{exact:{separator}.{digits}f}"
    return f"{exact:{separator}.{digits + 1}f}".rstrip("0")


def _misleads(text: str, exact: Decimal, whole: int) -> bool:
    """True if the text reads as 0 or as the whole (1, or 100 for percent), of either sign, though the number differs."""
    rounded = Decimal(text.replace(",", ""))
    return rounded != exact and abs(rounded) in (0, whole)
