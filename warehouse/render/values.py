"""Arrow values as plain Python ones, and those as text for programs and for people. No format renders a value itself.

A plain value is None, bool, int, float, Decimal, str (times are ISO 8601 already), list, or dict: a map, keys sorted,
or a struct, fields in order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from layerhouse.warehouse.render.numbers import number_text

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.warehouse.render.kinds import Column

_BATCH_ROWS = 8192
_TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_JSON_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), 0x2028, 0x2029)}


def iter_rows(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    """The rows as tuples of plain values, in column order; columns may share a name. Memory is bounded by a batch."""
    for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
        yield from zip(*(_plain_column(column) for column in batch.columns), strict=True)


def csv_text(value: Any) -> str:
    """A plain value at full precision; null inside a list or map is `null`. Whether to quote is the format's matter."""
    return _text(value, _exact)


def human_text(value: Any, column: Column) -> str:
    """A plain value for people, numbers to the column's digits; null is `-`, an empty list or map `none`."""

    def scalar(item: Any) -> str:
        if item is None:
            return "-"
        if isinstance(item, bool):
            return "yes" if item else "no"
        return item if isinstance(item, str) else number_text(item, column.shown)

    return "none" if value in ([], {}) else _text(value, scalar)


def json_text(value: Any) -> str:
    """A plain value as JSON: integers and decimals exact, NaN and infinities null, nothing that moves a terminal."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).translate(_JSON_ESCAPES)
    if value is None or (isinstance(value, float | Decimal) and not math.isfinite(value)):
        return "null"
    if isinstance(value, list):
        return f"[{', '.join(map(json_text, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json_text(key)}: {json_text(item)}' for key, item in value.items())}}}"
    return _exact(value)


def _exact(value: Any) -> str:
    if isinstance(value, float):
        return repr(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def _text(value: Any, scalar: Any) -> str:
    """`9 11 12`, `key=value key2=value2`, `code: text; code: text`, or a scalar by its own function."""
    if isinstance(value, list):
        if not value:
            return "[]"
        if all(_is_note(item) for item in value):
            return "; ".join(": ".join(part for part in note.values() if part is not None) for note in value)
        return " ".join(_text(item, scalar) for item in value)
    if isinstance(value, dict):
        if not value:
            return "{}"
        texts = (_text(item, scalar) if isinstance(item, list | dict) else scalar(item) for item in value.values())
        return " ".join(f"{key}={text}" for key, text in zip(value, texts, strict=True))
    return str(scalar(value))


def _is_note(value: Any) -> bool:
    if not isinstance(value, dict) or tuple(value) != ("code", "text"):
        return False
    return any(value.values()) and all(part is None or isinstance(part, str) for part in value.values())


def _plain_column(column: pa.Array) -> list[Any]:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_timestamp(kind):  # as integers: Python has neither nanoseconds nor the year 10000
        return [None if ticks is None else _timestamp(ticks, kind.unit) for ticks in column.cast(pa.int64()).to_pylist()]
    if pa.types.is_map(kind):
        return _plain_maps(column)
    values: list[Any] = column.to_pylist()
    is_plain = pa.types.is_primitive(kind) and not pa.types.is_temporal(kind) and not pa.types.is_decimal(kind)
    return values if is_plain or pa.types.is_string(kind) else [_plain(value, kind) for value in values]


def _plain_maps(column: pa.MapArray) -> list[dict[str, Any] | None]:
    """Maps by their keys in order. Keys and items of the whole column are taken at once: a warehouse has millions."""
    offsets = column.offsets.to_pylist()
    keys = [key if isinstance(key, str) else _exact(key) for key in _plain_column(column.keys)]
    items = _plain_column(column.items)
    return [
        None if is_null else dict(sorted(zip(keys[start:end], items[start:end], strict=True)))
        for is_null, start, end in zip(column.is_null().to_pylist(), offsets, offsets[1:], strict=False)
    ]


def _timestamp(ticks: int, unit: str) -> str:
    """Ticks since 1970 as ISO 8601 UTC, a time without a zone taken as UTC; fractions only where there are any."""
    seconds, fraction = divmod(ticks, _TICKS[unit])
    try:
        moment = datetime(1970, 1, 1) + timedelta(seconds=seconds)
    except OverflowError:
        return f"{ticks} {unit} since 1970"
    places = len(str(_TICKS[unit])) - 1
    return moment.isoformat() + (f".{fraction:0{places}d}" if fraction else "") + "Z"


def _plain(value: Any, kind: pa.DataType) -> Any:
    import pyarrow as pa

    if pa.types.is_map(kind) and value is not None:  # a map within another value
        items = {_exact(_plain(key, kind.key_type)): _plain(item, kind.item_type) for key, item in value}
        return dict(sorted(items.items()))
    if isinstance(value, dict):
        return {name: _plain(item, kind.field(name).type) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, kind.value_type) for item in value]
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
