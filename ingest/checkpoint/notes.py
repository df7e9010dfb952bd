"""Notes: remarks on a checkpoint or a result, as the notes columns of the warehouse hold them."""

from __future__ import annotations

Note = dict[str, str]
"""The keys are `code`, a word to filter by, and `text`, a sentence for readers."""


def note(code: str, text: str) -> Note:
    """One entry of a notes column."""
    return {"code": code, "text": text}
