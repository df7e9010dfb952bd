"""Every error that layerhouse raises on purpose: what happened, where, and what to do."""

from __future__ import annotations


class LayerhouseError(Exception):
    """Base of all errors that a user can cause or cure. `str()` of one is a single line, but for a QueryError."""


class UsageError(LayerhouseError):
    """The command was asked for something that it cannot mean."""


class NotFoundError(UsageError):
    """A name that is not there; `choices` are the names that are."""

    def __init__(self, kind: str, name: str, choices: tuple[str, ...]) -> None:
        self.kind, self.name, self.choices = kind, name, choices
        shown = ", ".join(choices[:12]) + (f" and {len(choices) - 12} more" if len(choices) > 12 else "")
        super().__init__(f"no {kind} {name!r}; there is {shown or 'none'}")


class QueryError(UsageError):
    """SQL that DuckDB refused. Its text has DuckDB's own lines, which point at the place."""


class InputError(LayerhouseError):
    """An input that could not be taken; the rest of the batch goes on. `where` is the path as shown to the user."""

    def __init__(self, where: str, what: str) -> None:
        self.where, self.what = where, what
        super().__init__(f"{where}: {what}")


class WarehouseError(LayerhouseError):
    """The warehouse itself cannot be read or written."""


class MissingWarehouseError(WarehouseError):
    """There is no warehouse at the path."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(f"{path}: no warehouse here; make one with: layerhouse ingest FOLDER --warehouse {path}")
