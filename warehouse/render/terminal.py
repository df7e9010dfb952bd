"""Text that is safe on a terminal and stays on its line."""

from __future__ import annotations

import unicodedata

_ESCAPED = frozenset({"Cc", "Cs", "Zl", "Zp"})
_DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text: str) -> str:
    """Control characters, line separators, lone surrogates and writing-direction marks as escapes such as `\\n`."""
    if text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in _ESCAPED or char in _DIRECTION else char
        for char in text
    )
