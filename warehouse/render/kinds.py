"""The kinds of values that an output column can hold, and how each is formatted for people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    Kinds of one family hold the same Arrow types. `digits` is the number of decimals of a number that is not an integer.
    `unit` is appended to the heading and is the same in every language. Signed numbers over 0 have a plus.
    """

    name: str
    family: str
    digits: int = 0
    unit: str = ""
    is_signed: bool = False


ID = Kind("id", "text")
TEXT = Kind("text", "text")
COUNT = Kind("count", "number")
RATIO = Kind("ratio", "number", digits=2, unit="%")
GIB = Kind("gib", "number", digits=3, unit="GiB")
MIB = Kind("mib", "number", digits=3, unit="MiB")
PPL = Kind("ppl", "number", digits=2)
FACTOR = Kind("factor", "number", digits=2)
RANK = Kind("rank", "number", digits=2)
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
    """How one column is presented to people.

    `item` is the kind of each value inside a list or a map. `better` is `higher`, `lower` or None if neither is better. A
    count out of a fixed `total` is shown with it, as in 6/7.
    """

    title: str
    kind: Kind
    item: Kind = NUMBER
    better: str | None = None
    total: int | None = None

    @property
    def value_kind(self) -> Kind:
        """The kind by which the numbers of this column are formatted: that of its items in a list or a map."""
        return self.item if self.kind.family in {"list", "map"} else self.kind

    @property
    def heading(self) -> str:
        """The title with its unit."""
        return f"{self.title} {self.value_kind.unit}".rstrip()

    @property
    def is_number(self) -> bool:
        """True if the values are numbers, which align to the right."""
        return self.kind.family == "number"
