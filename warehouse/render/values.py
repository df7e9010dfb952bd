"""Converts Arrow values to plain Python values, and those to text for programs and for people, for all formats.

A plain value is None, bool, int, float, Decimal, str (dates and times become ISO 8601 text), list, or dict. A dict is a map
with sorted keys or a struct with its fields in order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from layerhouse.errors import UsageError
from layerhouse.escapes import HIDDEN
from layerhouse.warehouse.render.numbers import number_text

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.warehouse.render.kinds import Column

_BATCH_ROWS = 8192
_TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def iter_rows(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    """The rows as tuples of plain values in column order; column names may repeat. Only one batch is in memory at a time."""
    for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
        yield from zip(*(_plain_column(column) for column in batch.columns), strict=True)


def has_text(arrow_type: pa.DataType) -> bool:
    """True if a value of the type is text, or has text in it: its beginning may then be what somebody else wrote."""
    import pyarrow as pa

    if pa.types.is_dictionary(arrow_type):
        return has_text(arrow_type.value_type)
    fields = [arrow_type.field(index).type for index in range(arrow_type.num_fields)]
    is_number = pa.types.is_primitive(arrow_type) or pa.types.is_decimal(arrow_type) or pa.types.is_null(arrow_type)
    return any(map(has_text, fields)) if pa.types.is_list(arrow_type) else not is_number


def refuse_repeated_names(names: Sequence[str], form: str) -> None:
    """Raise UsageError if two columns share a name; `form` says what cannot hold both."""
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two columns are named {name!r}, and {form} holds one of a name; rename one with AS")


def csv_text(value: Any) -> str:
    """A plain value at full precision, unquoted; a null inside a list or map is `null`."""
    return _text(value, _exact_text)


def human_text(value: Any, column: Column) -> str:
    """A plain value for people, numbers with the digits of the column; null is `-`, an empty list or map is `none`."""

    def scalar_text(item: Any) -> str:
        if item is None:
            return "-"
        if isinstance(item, bool):
            return "yes" if item else "no"
        return item if isinstance(item, str) else number_text(item, column.value_kind)

    return "none" if value in ([], {}) else _text(value, scalar_text)


def json_text(value: Any) -> str:
    """A plain value as JSON: integers and decimals exact, NaN and infinities as null, hidden characters escaped."""
    if isinstance(value, str):
        return HIDDEN.sub(lambda match: json.dumps(match[0])[1:-1], json.dumps(value, ensure_ascii=False))
    if value is None or (isinstance(value, float | Decimal) and not math.isfinite(value)):
        return "null"
    if isinstance(value, list):
        return f"[{', '.join(map(json_text, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json_text(key)}: {json_text(item)}' for key, item in value.items())}}}"
    return _exact_text(value)


def _exact_text(value: Any) -> str:
    if isinstance(value, float):
        return repr(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def _text(value: Any, scalar_text: Callable[[Any], str]) -> str:
    """A list as `9 11 12`, a dict as `key=value key2=value2`, notes as `code: text; code: text`, a scalar by `scalar_text`."""
    if isinstance(value, list):
        if not value:
            return "[]"
        if all(_is_note(item) for item in value):
            return "; ".join(": ".join(part for part in note.values() if part is not None) for note in value)
        return " ".join(_text(item, scalar_text) for item in value)
    if isinstance(value, dict):
        if not value:
            return "{}"
        texts = (_text(item, scalar_text) if isinstance(item, list | dict) else scalar_text(item) for item in value.values())
        return " ".join(f"{key}={text}" for key, text in zip(value, texts, strict=True))
    return scalar_text(value)


def _is_note(value: Any) -> bool:
    """True for a struct of `code` and `text` in which at least one is known."""
    if not isinstance(value, dict) or tuple(value) != ("code", "text"):
        return False
    return any(value.values()) and all(part is None or isinstance(part, str) for part in value.values())


def _plain_column(column: pa.Array) -> list[Any]:
    import pyarrow as pa

    arrow_type = column.type
    if pa.types.is_timestamp(arrow_type):  # as integers: Python's datetime has no nanoseconds and no year 10000
        return [None if ticks is None else _timestamp(ticks, arrow_type.unit) for ticks in column.cast(pa.int64()).to_pylist()]
    if pa.types.is_map(arrow_type):
        return _plain_maps(column)
    values: list[Any] = column.to_pylist()
    is_plain = (
        pa.types.is_primitive(arrow_type) and not pa.types.is_temporal(arrow_type) and not pa.types.is_decimal(arrow_type)
    )
    return values if is_plain or pa.types.is_string(arrow_type) else [_plain(value, arrow_type) for value in values]


def _plain_maps(column: pa.MapArray) -> list[dict[str, Any] | None]:
    """The maps of a column with sorted keys. Keys and items of the whole column are converted at once, for speed."""
    offsets = column.offsets.to_pylist()
    keys = [key if isinstance(key, str) else _exact_text(key) for key in _plain_column(column.keys)]
    items = _plain_column(column.items)
    return [
        None if is_null else dict(sorted(zip(keys[start:end], items[start:end], strict=True)))
        for is_null, start, end in zip(column.is_null().to_pylist(), offsets, offsets[1:], strict=False)
    ]


def _timestamp(ticks: int, unit: str) -> str:
    """Ticks since 1970 as ISO 8601 UTC, with a fraction only if it is not zero. A time without a zone counts as UTC."""
    seconds, fraction = divmod(ticks, _TICKS[unit])
    try:
        moment = datetime(1970, 1, 1) + timedelta(seconds=seconds)
    except OverflowError:
        return f"{ticks} {unit} since 1970"
    places = len(str(_TICKS[unit])) - 1
    return moment.isoformat() + (f".{fraction:0{places}d}" if fraction else "") + "Z"


def _plain(value: Any, arrow_type: pa.DataType) -> Any:
    import pyarrow as pa

    if pa.types.is_map(arrow_type) and value is not None:  # a map inside another value
        items = {_exact_text(_plain(key, arrow_type.key_type)): _plain(item, arrow_type.item_type) for key, item in value}
        return dict(sorted(items.items()))
    if isinstance(value, dict):
        return {name: _plain(item, arrow_type.field(name).type) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, arrow_type.value_type) for item in value]
    return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Decimal):
        return int(value) if value.as_tuple().exponent == 0 else value
    if isinstance(value, datetime):
        return (value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value).isoformat() + "Z"
    if isinstance(value, date | time):
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else str(value)
