"""What a figure of layers shows of each: a share that is kept, gone or zero, or any column of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from layerhouse.errors import UsageError
from layerhouse.warehouse.render.columns import COLUMNS
from layerhouse.warehouse.render.kinds import NUMBER, RATIO, Kind
from layerhouse.warehouse.render.plots.look import Look
from layerhouse.warehouse.render.plots.parts import Row

RETENTION, REDUCTION, SPARSITY = "retention", "reduction", "sparsity"
_NAMES = (RETENTION, REDUCTION, SPARSITY)


@dataclass(frozen=True)
class Measure:
    """A number of a layer: `name` is one of the three shares, or a column of the rows."""

    name: str

    @property
    def is_of_base(self) -> bool:
        """Whether it compares a layer with its block of the base."""
        return self.name in (RETENTION, REDUCTION)

    @property
    def kind(self) -> Kind:
        if self.name in _NAMES:
            return RATIO
        return COLUMNS[self.name].kind if self.name in COLUMNS else NUMBER

    @property
    def is_share(self) -> bool:
        return self.kind == RATIO

    def value(self, row: Row) -> float | None:
        """The value of a layer or removed block; None if it is not known or a removed block has none."""
        if self.is_of_base:
            kept: float | None = row["kept_share"]
            return kept if kept is None or self.name == RETENTION else 1 - kept
        number = row[self.name]
        return None if number is None or is_removed(row) else float(number)

    def title(self, look: Look, kept_by: str) -> str:
        """What it is called on an axis."""
        if self.is_of_base:
            return look.word(f"{self.name}_{kept_by}")
        if self.name == SPARSITY:
            return look.word(SPARSITY)
        column = COLUMNS.get(self.name)
        return look.heading(self.name, column.title if column else self.name.replace("_", " "))


def measure_of(name: str, rows: Sequence[Row]) -> Measure:
    """The measure of this name, `retention`, `reduction`, `sparsity` or a column of numbers. Raises UsageError."""
    known = {column for row in rows for column, value in row.items() if isinstance(value, int | float)}
    numbers = sorted(known - {column for row in rows for column, value in row.items() if isinstance(value, bool | str)})
    if name in _NAMES or name in numbers or not rows:
        return Measure(name)
    raise UsageError(f"no measure {name!r} of layers; there is {', '.join([*_NAMES, *numbers])}")


def is_removed(row: Row) -> bool:
    """Whether a row of the layers stands for a block of the base that the model lacks."""
    return row["layer_index"] is None
