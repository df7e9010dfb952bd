"""Match the regular expressions of a config against names of modules in linear time: the config may be somebody else's.

Of the syntax of `re` this is what quantisers write: literal characters, `.`, `\\d`, `\\w`, escapes, `*` and `+` behind one of
these, groups without a repetition, alternatives, `^` and `$`. All states of a pattern are followed at once as the bits of an
integer, so that no text makes it try again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import product

MAX_PATTERN = 200
MAX_ALTERNATIVES = 64
"""Patterns without groups that a pattern with groups may stand for."""
TOKEN = re.compile(r"(\\.|[^\\()|*+?\[\]{}^$])([*+]?)|(\^)|(\$)|(\((?:\?:)?)|(\))|(\|)", re.DOTALL)
"""A character with its repetition, the anchors, and the parts of groups."""


def matches_name(pattern: str, name: str) -> bool:
    """Whether `re.match(pattern, name)` would match. A pattern with other syntax, or that is too long, matches nothing."""
    sequences = _compiled(pattern)
    if sequences and is_simple(pattern):
        return re.match(pattern, name) is not None
    return any(_follow(items, name) for items in sequences)


def is_simple(pattern: str) -> bool:
    """Whether a pattern has at most one repetition, with which `re`, which is faster, takes linear time, too."""
    return pattern.count("*") + pattern.count("+") <= 1


_Item = tuple[str, bool, bool]
"""A character or class, whether it may be left out, and whether it may be repeated; `^` and `$` stand for the anchors."""
_Sequence = tuple[_Item, ...]


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> tuple[_Sequence, ...]:
    """The sequences of items that a pattern stands for; none if it is not understood."""
    if len(pattern) > MAX_PATTERN:
        return ()
    try:
        tokens = list(_tokens(pattern))
        sequences, rest = _alternatives(tokens, 0)
    except ValueError:
        return ()
    return tuple(sequences) if rest == len(tokens) else ()


def _tokens(pattern: str) -> Iterator[tuple[str, str]]:
    """Each character or class with its repetition; `(`, `)`, `|`, `^` and `$` come with the word syntax."""
    at = 0
    while at < len(pattern):
        token = TOKEN.match(pattern, at)
        if token is None:
            raise ValueError(pattern)
        at = token.end()
        if token[1] is None:
            yield token[0][0], "syntax"
        elif token[1][0] == "\\" and token[1][1:].isalnum() and token[1] not in ("\\d", "\\w"):
            raise ValueError(pattern)
        else:
            yield token[1], token[2]


def _alternatives(tokens: list[tuple[str, str]], at: int) -> tuple[list[_Sequence], int]:
    """The sequences up to the end of a group or of the pattern, and where that is."""
    found: list[_Sequence] = []
    parts: list[list[_Sequence]] = []
    while at < len(tokens) and tokens[at] != (")", "syntax"):
        text, kind = tokens[at]
        if (text, kind) == ("(", "syntax"):
            inner, at = _alternatives(tokens, at + 1)
            if at == len(tokens):
                raise ValueError("a group without end")
            parts.append(inner)
        elif (text, kind) == ("|", "syntax"):
            found += _joined(parts)
            parts = []
        else:
            parts.append([((text if kind != "syntax" else text * 2, kind == "*", kind in ("*", "+")),)])
        at += 1
    return found + _joined(parts), at


def _joined(parts: list[list[_Sequence]]) -> list[_Sequence]:
    count = 1
    for part in parts:
        count *= len(part)
    if count > MAX_ALTERNATIVES:
        raise ValueError("too many alternatives")
    return [tuple(item for sequence in choice for item in sequence) for choice in product(*parts)]


def _follow(items: _Sequence, name: str) -> bool:
    """Follow all states through the name: bit i is set where the first i items are matched."""
    final = 1 << len(items)
    states = _skip(items, 1, 0, len(name))
    for at, character in enumerate(name):
        if states & final:
            return True
        following = 0
        for position, (text, _, is_repeated) in enumerate(items):
            if states >> position & 1 and _fits(text, character):
                following |= (1 << position + 1) | (1 << position if is_repeated else 0)
        states = _skip(items, following, at + 1, len(name))
        if not states:
            return False
    return bool(states & final)


def _skip(items: _Sequence, states: int, at: int, length: int) -> int:
    """The states that are reached without a character: over items that may be left out, and over anchors that hold here."""
    for position, (text, is_optional, _) in enumerate(items):
        holds = is_optional or (text == "^^" and at == 0) or (text == "$$" and at == length)
        if holds and states >> position & 1:
            states |= 1 << position + 1
    return states


def _fits(text: str, character: str) -> bool:
    match text:
        case ".":
            return character != "\n"
        case "\\d":
            return character.isdecimal()
        case "\\w":
            return character.isalnum() or character == "_"
        case "^^" | "$$":
            return False
    return character == text[-1]
