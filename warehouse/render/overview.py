"""What a warehouse holds, as HTML for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from layerhouse.escapes import visible
from layerhouse.warehouse.render.as_html import table_element
from layerhouse.warehouse.render.registry import Layout

if TYPE_CHECKING:
    import pyarrow as pa

COUNTED = (
    ("model", "models"),
    ("structure", "structures"),
    ("measured value", "measured values"),
)
"""What the counts of an overview are of, in their order: one, and several."""


def overview_html(path: str, as_of: str | None, counts: Sequence[int], models: pa.Table) -> str:
    """The path and time of a warehouse, how much it holds, and its first models. Names of others are escaped."""
    time = "" if as_of is None else f", as of {as_of}"
    held = ", ".join(
        f"{count:,} {one if count == 1 else several}" for count, (one, several) in zip(counts, COUNTED, strict=True)
    )
    num_more = counts[0] - models.num_rows
    more = f"<p>and {num_more:,} more; all: <code>wh.models()</code></p>" if num_more else ""
    lines = [f"<p><strong>layerhouse</strong> {_text(path + time)}<br>{held}</p>", table_element(models, Layout()), more]
    return f"<div>{''.join(lines)}</div>"


def _text(text: str) -> str:
    return escape(visible(text))
