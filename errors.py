"""The errors that layerhouse raises on purpose. A message says what happened, where, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

LISTED = 12
"""Known names that an error lists."""
MAX_NEAREST = 3
LIKENESS_RANGE = 0.1
"""How much less alike than the nearest a name may be that stands beside it."""
LEAST_LIKENESS = 0.6
"""How alike two names have to be, of 1, for one to be a typing error of the other."""


class LayerhouseError(Exception):
    """Base of all errors that a user can cause or fix. Their text is a single line, except for QueryError."""


class UsageError(LayerhouseError):
    """Wrong usage of a command or function: an unknown name, an impossible option, a missing package."""


class NotFoundError(UsageError):
    """An unknown name; `choices` are the known ones."""

    def __init__(self, kind: str, name: str, choices: tuple[str, ...]) -> None:
        self.kind, self.name, self.choices = kind, name, choices
        listed = ", ".join(choices[:LISTED]) + (f" and {len(choices) - LISTED} more" if len(choices) > LISTED else "")
        super().__init__(f"no {kind} {name!r}; {did_you_mean(name, choices)}there is {listed or 'none'}")


def did_you_mean(name: str, choices: Sequence[str]) -> str:
    """A question after the known names that are most like an unknown one, with a blank behind it; empty if none is."""
    nearest = [repr(choice) for choice in nearest_names(name, choices)]
    return f"did you mean {' or '.join(nearest)}? " if nearest else ""


def nearest_names(name: str, choices: Sequence[str]) -> list[str]:
    """The known names of which an unknown one may be a typing error, the most similar first.

    Of paths, the last parts are compared: names of one folder are not alike because they share its path.
    """
    from difflib import SequenceMatcher

    wanted = name.casefold()
    matcher, whole = SequenceMatcher(autojunk=False), SequenceMatcher(autojunk=False)
    matcher.set_seq2(_last_part(wanted))
    whole.set_seq2(wanted)
    found = []
    for choice in choices:
        matcher.set_seq1(_last_part(choice.casefold()))
        if min(matcher.real_quick_ratio(), matcher.quick_ratio()) >= LEAST_LIKENESS and matcher.ratio() >= LEAST_LIKENESS:
            whole.set_seq1(choice.casefold())
            found.append((-matcher.ratio(), -whole.ratio(), choice))
    found.sort()
    return [choice for likeness, _, choice in found[:MAX_NEAREST] if likeness <= found[0][0] + LIKENESS_RANGE]


def _last_part(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


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
