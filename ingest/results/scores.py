"""One JSON value as a number: a score with its exact integer and status, a standard error, a count."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

from layerhouse.ingest.results.parsed import Row
from layerhouse.vocabulary import ResultStatus

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
INT32_MAX = 2**31 - 1
STATUS_BY_WORD = {"nan": ResultStatus.NAN, "inf": ResultStatus.INF, "infinity": ResultStatus.INF}


def score(value: Any) -> Row | None:
    """The columns value, value_integer and status of one JSON value; None if it is no score.

    Integers keep their exact value in value_integer if it fits 64 bits. NaN and infinity, as numbers or as text in any
    case, give their status and a null value; null gives the status missing. Booleans, other text, lists and objects are
    no scores.
    """
    if type(value) is float and -math.inf < value < math.inf:
        return _columns(value, None, ResultStatus.OK)
    if value is None:
        return _columns(None, None, ResultStatus.MISSING)
    if isinstance(value, str):
        status = STATUS_BY_WORD.get(value.strip().lower().removeprefix("-").removeprefix("+"))
        return _columns(None, None, status) if status else None
    if not is_number(value):
        return None
    number = as_float(value)
    if not math.isfinite(number):
        return _columns(None, None, ResultStatus.NAN if math.isnan(number) else ResultStatus.INF)
    is_exact = isinstance(value, int) and INT64_MIN <= value <= INT64_MAX
    return _columns(number, int(value) if is_exact else None, ResultStatus.OK)


def finite(value: Any) -> float | None:
    """A number as a float; None if the value is no number or not finite.

    So a standard error is null, never 0, where a file has none: harnesses write "N/A", [] or null then.
    """
    if type(value) is float and -math.inf < value < math.inf:
        return value
    if not is_number(value):
        return None
    number = as_float(value)
    return number if math.isfinite(number) else None


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a JSON value is a number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_float(value: float) -> float:
    """A number as a float; infinity for an integer too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def whole_number(value: Any, most: int = INT64_MAX) -> int | None:
    """A count from 0 to `most`; None if the value is no such integer."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most else None


def _columns(value: float | None, value_integer: int | None, status: ResultStatus) -> Row:
    return {"value": value, "value_integer": value_integer, "status": status}
