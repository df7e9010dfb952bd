"""Users' own rules for model names: regular expressions with the named groups `method`, `ratio` and `removed`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from layerhouse.errors import UsageError
from layerhouse.ingest.declarations.declare import INT32_MAX, REVISION, Declaration

GROUPS = frozenset({"method", "ratio", "removed"})
MAX_LENGTH, MAX_REPEATS, MAX_NAME = 500, 8, 300
TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?P<\w+>|\(\?:|\(\?|[()]|[*+?]\??|\{\d*,?\d*\}\??|.", re.DOTALL)


def compile_method_pattern(text: str) -> re.Pattern[str]:
    """Compile a pattern that is searched for in the last component of a model's name.

    Raises UsageError for an invalid pattern, for one without any of the groups, and for one that could backtrack exponentially:
    with nested repetitions, lookarounds, backreferences, or too many repetitions.
    """
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UsageError(f"--method-pattern {text!r}: {error}") from None
    unknown = sorted(set(pattern.groupindex) - GROUPS)
    if unknown or not pattern.groupindex:
        what = f"there is no group {unknown[0]!r}" if unknown else "it has no named group"
        raise UsageError(f"--method-pattern {text!r}: {what}; name them (?P<method>...), (?P<ratio>...), (?P<removed>...)")
    reason = "it is too long" if len(text) > MAX_LENGTH else _backtracking_risk(text)
    if reason:
        raise UsageError(f"--method-pattern {text!r}: {reason}; a name could take for ever with it")
    return pattern


def declare_by_patterns(patterns: Sequence[re.Pattern[str]], model_id: str) -> Declaration | None:
    """What the last component of a name declares by the first pattern that matches; None if none does.

    `ratio` may be a fraction, a percentage over 1 and up to 100, or four digits such as 2000 for 0.2; `removed` is a number of
    layers.
    """
    name = REVISION.sub("", model_id).rpartition("/")[2][:MAX_NAME]
    for pattern in patterns:
        match = pattern.search(name)
        if match:
            groups = match.groupdict()
            removed = groups.get("removed") or ""
            count = int(removed) if removed.isdecimal() and int(removed) <= INT32_MAX else None
            return Declaration(groups.get("method") or None, _ratio(groups.get("ratio") or ""), count)
    return None


def _ratio(text: str) -> float | None:
    """The fraction that the text of a group stands for."""
    if re.fullmatch(r"[0-9]{4}", text):
        return int(text) / 10_000
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,12})?", text):
        return None
    number = float(text)
    return number if number <= 1 else number / 100 if number <= 100 else None


def _backtracking_risk(text: str) -> str | None:
    """Why a pattern could backtrack exponentially; None if it cannot."""
    has_repetition = [False]  # one for each open group
    just_closed = False
    repetitions = 0
    for token in TOKEN.findall(text):
        if token == "(?" or re.fullmatch(r"\\[1-9]", token):
            return "it looks around or refers to a group"
        if token[0] in "*+{" or token in ("?", "??"):
            is_unbounded = token[0] in "*+" or (token[0] == "{" and "," in token)
            repetitions += is_unbounded
            if is_unbounded and just_closed:
                return "a repetition stands within another"
            has_repetition[-1] |= is_unbounded
            just_closed = False
            continue
        just_closed = False
        if token.startswith("("):
            has_repetition.append(False)
        elif token == ")" and len(has_repetition) > 1:
            just_closed = has_repetition.pop()
            has_repetition[-1] |= just_closed
    return "it repeats too much" if repetitions > MAX_REPEATS else None
