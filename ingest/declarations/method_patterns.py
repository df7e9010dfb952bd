"""A user's own rule for what names of models declare: a regular expression with the named groups method, ratio and removed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from layerhouse.errors import UsageError
from layerhouse.ingest.declarations.declare import INT32_MAX, Declaration

GROUPS = frozenset({"method", "ratio", "removed"})
MAX_LENGTH, MAX_REPEATS, MAX_NAME = 500, 8, 300
TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?P<\w+>|\(\?:|\(\?|[()]|[*+?]\??|\{\d*,?\d*\}\??|.", re.DOTALL)


def compile_method_pattern(text: str) -> re.Pattern[str]:
    """A pattern that is searched for in the last part of a model's name. Raises UsageError for one that is wrong, names none of
    the groups, or could take for ever: a repetition within a repetition, a look around, a group referred to, many repetitions.
    """
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UsageError(f"--method-pattern {text!r}: {error}") from None
    unknown = sorted(set(pattern.groupindex) - GROUPS)
    if unknown or not pattern.groupindex:
        found = f"there is no group {unknown[0]!r}" if unknown else "it has no named group"
        raise UsageError(f"--method-pattern {text!r}: {found}; name them (?P<method>...), (?P<ratio>...), (?P<removed>...)")
    reason = "it is too long" if len(text) > MAX_LENGTH else _cost(text)
    if reason:
        raise UsageError(f"--method-pattern {text!r}: {reason}; a name could take for ever with it")
    return pattern


def declare_by(patterns: Sequence[re.Pattern[str]], model_id: str) -> Declaration | None:
    """What the first pattern that fits says of the last part of a name; None where none fits.

    A ratio is a fraction, a percentage over 1 up to 100, or four digits as in 2000 for 0.2; `removed` a number of layers.
    """
    name = model_id.rpartition("/")[2][:MAX_NAME]
    for pattern in patterns:
        found = pattern.search(name)
        if found:
            groups = found.groupdict()
            removed = groups.get("removed") or ""
            count = int(removed) if removed.isdecimal() and int(removed) <= INT32_MAX else None
            return Declaration(groups.get("method") or None, _share(groups.get("ratio") or ""), count)
    return None


def _share(text: str) -> float | None:
    if re.fullmatch(r"[0-9]{4}", text):
        return int(text) / 10_000
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,12})?", text):
        return None
    number = float(text)
    return number if number <= 1 else number / 100 if number <= 100 else None


def _cost(text: str) -> str | None:
    """Why a pattern could take for ever; None where it cannot."""
    holds_repeat = [False]
    just_closed = False
    repeats = 0
    for token in TOKEN.findall(text):
        if token in ("(?",) or re.fullmatch(r"\\[1-9]", token):
            return "it looks around or refers to a group"
        if token[0] in "*+{" or token in ("?", "??"):
            is_open = token[0] in "*+" or (token[0] == "{" and "," in token)
            repeats += is_open
            if is_open and just_closed:
                return "a repetition stands within another"
            holds_repeat[-1] |= is_open
            just_closed = False
            continue
        just_closed = False
        if token.startswith("("):
            holds_repeat.append(False)
        elif token == ")" and len(holds_repeat) > 1:
            just_closed = holds_repeat.pop()
            holds_repeat[-1] |= just_closed
    return "it repeats too much" if repeats > MAX_REPEATS else None
