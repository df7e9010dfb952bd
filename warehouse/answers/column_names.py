"""Columns of one name, which some forms of an answer cannot hold."""

from __future__ import annotations

from collections.abc import Sequence

from layerhouse.errors import UsageError


def refuse_repeated_names(names: Sequence[str], form: str) -> None:
    """Raise UsageError where two columns share a name; `form` says what holds one of a name."""
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two columns are named {name!r}, and {form} holds one of a name; rename one with AS")
