"""What is known of a table that is shown at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Glance:
    """The query that a table answers, what stands for names of models, and whether it is a list, whose prose is wrapped."""

    query: str | None = None
    short_names: Mapping[str, str] | None = None
    is_list: bool = False
