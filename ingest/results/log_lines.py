"""The lines of a long text that hold one of some words, found without looking at every line, and in linear time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

MAX_SIDE = 2048
"""Characters of a line before and after a word that are looked at: patterns are not tried on a line of any length."""
MAX_LINE = 2 * MAX_SIDE
PART = ", in part"
"""The end of the place of a line that is read in part."""
MAX_TABLE = 1 << 20

Lines = Sequence[tuple[str, str]]
"""Each line of a log after its place, such as `line 7`."""


def lower_case(text: str) -> str:
    """The text in lower case, with every character in its place: one capital letter alone has two lower ones."""
    return text.replace("\u0130", "i").lower()


def find_lines(text: str, lowered: str, words: Sequence[str], most: int) -> list[tuple[str, str]]:
    """The lines with one of the words, in lower case, in their order; the first `most` of each word. A word that begins with a
    line break stands at the begin of a line, also of the first. `lowered` is the text in lower case. Of a line over MAX_LINE
    there are its parts around the words, whose place ends with PART.
    """
    spans: dict[int, int] = {}
    for word in words:
        for start, end in islice(_spans(text, lowered, word), most):
            spans[start] = max(end, spans.get(start, 0))
    lines = []
    number, counted = 1, 0
    for start in sorted(spans):
        end = spans[start]
        number += text.count("\n", counted, start)
        counted = start
        is_whole = (start == 0 or text[start - 1] in "\r\n") and (end == len(text) or text[end] in "\r\n")
        lines.append((f"line {number}" + ("" if is_whole else PART), text[start:end]))
    return lines


def lines_behind(text: str, header: str) -> list[tuple[str, str]]:
    """The lines behind the first one with a header, in the next MAX_TABLE characters."""
    start = text.index(header)
    number = 1 + text.count("\n", 0, start)
    lines = text[start : start + MAX_TABLE].split("\n")
    return [(f"line {number + at}", line.rstrip("\r")) for at, line in enumerate(lines)][1:]


def _spans(text: str, lowered: str, word: str) -> Iterator[tuple[int, int]]:
    """Begin and end of each line with a word, or of its part around the word."""
    is_at_begin = word.startswith("\n")
    at = 0 if is_at_begin and lowered.startswith(word[1:]) else lowered.find(word)
    while at >= 0:
        at += is_at_begin and text[at] == "\n"
        least = max(0, at - MAX_SIDE)
        start = 1 + max(text.rfind("\n", least, at), text.rfind("\r", least, at))
        start = start or least
        most = min(len(text), at + MAX_SIDE)
        ends = [end for end in (text.find("\n", at, most), text.find("\r", at, most)) if end >= 0]
        end = min(ends, default=most)
        yield start, end
        at = lowered.find(word, max(end, at + 1) if not is_at_begin else at)
