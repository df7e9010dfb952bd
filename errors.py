"""The errors that layerhouse raises on purpose. A message says what happened, where, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

LISTED = 12
"""Known names that an error lists. Of more, it names those that are most like the unknown one first."""


class LayerhouseError(Exception):
    """Base of all errors that a user can cause or fix. Their text is a single line, except for QueryError."""


class UsageError(LayerhouseError):
    """Wrong usage of a command or function: an unknown name, an impossible option, a missing package."""


class NotFoundError(UsageError):
    """An unknown name; `choices` are the known ones."""

    def __init__(self, kind: str, name: str, choices: tuple[str, ...]) -> None:
        from difflib import get_close_matches

        self.kind, self.name, self.choices = kind, name, choices
        listed = ", ".join(choices[:LISTED]) + (f" and {len(choices) - LISTED} more" if len(choices) > LISTED else "")
        nearest = get_close_matches(name, choices) if len(choices) > LISTED else []
        near = f"the nearest is {', '.join(nearest)}; " if nearest else ""
        super().__init__(f"no {kind} {name!r}; {near}there is {listed or 'none'}")


class QueryError(UsageError):
    """SQL that DuckDB refused. The text is DuckDB's own, whose lines point at the error."""


class InputError(LayerhouseError):
    """An input that cannot be read; an ingest goes on with the others. `where` is the path as displayed to the user."""

    def __init__(self, where: str, what: str) -> None:
        self.where, self.what = where, what
        super().__init__(f"{where}: {what}")


class UnexpectedError(InputError):
    """An input that could not be read for a reason outside of it: a fault of layerhouse or of a package, too little memory."""


class ChangedError(InputError):
    """A file that changed while it was read: what was read of it is a mixture, and is not taken."""

    def __init__(self, where: str) -> None:
        super().__init__(where, "changed while it was read; ingest it again when it is complete")


class WarehouseError(LayerhouseError):
    """The warehouse cannot be read or written."""


class MissingWarehouseError(WarehouseError):
    """There is no warehouse at the path."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(f"{path}: no warehouse here; make one with: layerhouse ingest FOLDER --warehouse {path}")


class DamagedWarehouseError(WarehouseError):
    """Files of the warehouse are not as they were committed; `faults` says of each which and what."""

    def __init__(self, path: str, faults: Sequence[str]) -> None:
        self.path, self.faults = path, tuple(faults)
        more = f"; {len(self.faults) - 1} more" if len(self.faults) > 1 else ""
        super().__init__(f"{path}: damaged: {self.faults[0]}{more}; mend it with: layerhouse check --repair --warehouse {path}")
