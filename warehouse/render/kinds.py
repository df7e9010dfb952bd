"""What an output column can hold and how people see it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """What a column's values are.

    Kinds of one family hold the same types. `digits` are the decimals in text and markdown of what is not an integer.
    `unit` ends the heading and is the same in every language.
    """

    name: str
    family: str
    digits: int = 0
    unit: str = ""


ID = Kind("id", "text")
TEXT = Kind("text", "text")
COUNT = Kind("count", "number")
RATIO = Kind("ratio", "number", digits=2, unit="%")
GIB = Kind("gib", "number", digits=3, unit="GiB")
MIB = Kind("mib", "number", digits=3, unit="MiB")
PPL = Kind("ppl", "number", digits=2)
FACTOR = Kind("factor", "number", digits=2)
RATE = Kind("rate", "number", digits=1)
MS = Kind("ms", "number", digits=3)
BILLIONS = Kind("billions", "number", digits=3, unit="B")
NUMBER = Kind("number", "number", digits=4)
INDEX = Kind("index", "number")
LIST = Kind("list", "list")
MAP = Kind("map", "map")
BOOL = Kind("bool", "bool")
TIME = Kind("time", "time")


@dataclass(frozen=True)
class Column:
    """One column as people see it.

    `item` is the kind of each value inside a list or a map; `better` is `higher`, `lower` or None, where neither is; a count
    out of a fixed `total` shows it, as in 6/7.
    """

    title: str
    kind: Kind
    item: Kind = NUMBER
    better: str | None = None
    total: int | None = None

    @property
    def shown(self) -> Kind:
        """The kind that numbers of this column are printed by."""
        return self.item if self.kind.family in {"list", "map"} else self.kind

    @property
    def digits(self) -> int:
        """Decimals in text and markdown."""
        return self.shown.digits

    @property
    def heading(self) -> str:
        """Heading with its unit."""
        return f"{self.title} {self.shown.unit}".rstrip()

    @property
    def is_number(self) -> bool:
        """Whether the values align to the right."""
        return self.kind.family == "number"
