"""Text of others made safe to show: on one line, with nothing in it that is not seen or that moves what is."""

from __future__ import annotations

import re

HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Control characters, line and paragraph separators, direction marks, characters without width, tags, lone surrogates."""


def visible(text: str) -> str:
    """The text with its hidden characters as escapes such as `\\n` and `\\u202e`."""
    if text.isascii() and text.isprintable():
        return text
    return HIDDEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def visible_lines(text: str) -> str:
    """A text of several lines with the hidden characters of each line as escapes."""
    return "\n".join(map(visible, text.split("\n")))
