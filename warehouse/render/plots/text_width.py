"""How wide a text is drawn, by the metrics of Helvetica, which Liberation Sans and Arial share."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_THOUSANDTHS = (
    *(278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278),
    *(556, 556, 556, 556, 556, 556, 556, 556, 556, 556, 278, 278, 584, 584, 584, 556),
    *(1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833, 722, 778),
    *(667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469, 556),
    *(333, 556, 556, 500, 556, 556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556),
    *(556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584),
)
"""Widths of the characters from the space to the tilde, in thousandths of the font size."""
_OTHER = 600
ELLIPSIS = "…"


def text_width(text: str, size: float) -> float:
    """The width of a text in the unit of the font size. Of characters other than ASCII it is an estimate."""
    return sum(map(_character_width, text)) * size / 1000


def _character_width(character: str) -> int:
    position = ord(character) - 32
    if 0 <= position < len(_THOUSANDTHS):
        return _THOUSANDTHS[position]
    if unicodedata.combining(character):
        return 0
    return 1000 if unicodedata.east_asian_width(character) in "WF" or character == ELLIPSIS else _OTHER


def cut(text: str, size: float, limit: float) -> str:
    """The text, with an ellipsis in place of its middle if it is wider than a limit: both ends of a name say what it is."""
    if text_width(text, size) <= limit:
        return text
    kept = len(text) - 1
    while kept > 2 and text_width(_without_middle(text, kept), size) > limit:
        kept -= max(1, kept // 16)
    return _without_middle(text, kept)


def _without_middle(text: str, kept: int) -> str:
    start = kept // 2
    return text[:start] + ELLIPSIS + text[len(text) - (kept - start) :]


def cut_apart(texts: Sequence[str], size: float, limit: float) -> list[str]:
    """Texts cut to a limit so that all differ; those that would be equal get a number."""
    seen: dict[str, int] = {}
    shown = []
    for text in texts:
        short = cut(text, size, limit)
        number = seen[short] = seen.get(short, 0) + 1
        while number > 1 and f"{short} ({number})" in seen:
            number += 1
        label = short if number == 1 else f"{short} ({number})"
        seen.setdefault(label, 1)
        shown.append(label)
    return shown


def wrap(text: str, size: float, limit: float) -> list[str]:
    """Lines of a text, broken at blanks so that none is wider than a limit; a longer word is cut."""
    lines: list[str] = []
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(joined, size) <= limit:
            lines[-1] = joined
        else:
            lines.append(cut(word, size, limit))
    return lines
