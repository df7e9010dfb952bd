"""Rows of a table held column by column: most are written by column and never looked at one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, overload

Row = dict[str, Any]


class ColumnRows(Sequence[Row]):
    """Rows as columns, lists of one length; dictionaries are made when the first row is asked for."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self.columns = columns

    @cached_property
    def _rows(self) -> list[Row]:
        return [dict(zip(self.columns, values, strict=True)) for values in zip(*self.columns.values(), strict=True)]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        return self._rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)
