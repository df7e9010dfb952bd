"""A heat map of one model: its weights by their roles, its layers, and what is kept or measured of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layerhouse.warehouse.render.plots.cells import (
    grid_of,
    hatched,
    number_color,
    plain_rectangles,
    rectangles,
    share_color,
    y_channel,
)
from layerhouse.warehouse.render.plots.layers import placed_blocks, stack_note, unknown_blocks
from layerhouse.warehouse.render.plots.look import Look
from layerhouse.warehouse.render.plots.measures import REDUCTION, RETENTION, SPARSITY, is_removed, measure_of
from layerhouse.warehouse.render.plots.parts import Row, Spec, block_axis, frame

FIRST_ROLES = ("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj")
"""Roles in the order in which a layer uses them; others follow by name."""


def role_map(
    rows: Sequence[Row], look: Look, *, model: str, measure: str = RETENTION, other_stacks: Sequence[str] = ()
) -> Spec:
    """A row for each role of weights, a column for each layer of one stack of a model; a note names `other_stacks`.

    `rows` have model_id, stack, base_layer_index, layer_index, match, role, kept_by, kept_share, kept_level, sparsity and
    further numbers, one row for each layer or removed block and role; a removed block has rows of the roles of its base.
    """
    chosen = measure_of(measure, rows)
    roles = sorted(
        {row["role"] for row in rows},
        key=lambda role: (FIRST_ROLES.index(role) if role in FIRST_ROLES else len(FIRST_ROLES), role),
    )
    cells: list[dict[str, Any]] = []
    columns: dict[str, None] = {}
    for role in roles:
        for label, row in placed_blocks([row for row in rows if row["role"] == role]):
            columns[label] = None
            cells.append({"row": role, "block": label, "value": chosen.value(row), "gone": is_removed(row)})
    order = [label for label, _ in placed_blocks(_one_per_layer(rows))]
    grid = grid_of(look, [label for label in order if label in columns], roles, step=1.7)
    has_blocks = any(row["base_layer_index"] is not None for row in rows)
    title = chosen.title(look, rows[0]["kept_by"] if rows else "params")
    channels = {
        "x": block_axis(look, grid.columns, grid.width, look.word("block" if has_blocks else "layer")),
        "y": y_channel(grid),
        "tooltip": [
            {"field": "block", "type": "nominal", "title": look.word("block" if has_blocks else "layer")},
            {"field": "row", "type": "nominal", "title": look.word("role")},
            {"field": "value", "type": "quantitative", "title": title, "format": ".2%" if chosen.is_share else ".4~g"},
        ],
    }
    known = [cell for cell in cells if cell["value"] is not None and not cell["gone"]]
    is_plain_share = chosen.name in (RETENTION, REDUCTION, SPARSITY)
    color = (
        share_color(look, title, is_kept=chosen.name == RETENTION)
        if is_plain_share
        else number_color(look, title, [cell["value"] for cell in known])
    )
    layers = [
        rectangles(known, look, grid, channels, color),
        *plain_rectangles(
            [cell for cell in cells if cell["value"] is None and not cell["gone"]], look, grid, channels, look.tones.unknown
        ),
        *hatched([cell for cell in cells if cell["gone"]], look, grid, channels, title),
    ]
    notes = [unknown_blocks(look, _one_per_layer(rows)), stack_note(look, rows, other_stacks)]
    label = look.label_of(model)
    text = f"Heat map of {title} of {len(roles)} kinds of weights by layer of {label}."
    return frame(look, label, text, {"width": grid.width, "height": grid.height, "layer": layers}, [*filter(None, notes)])


def _one_per_layer(rows: Sequence[Row]) -> list[Row]:
    """One row of each layer or removed block, whatever roles it has."""
    keys = {(row["base_layer_index"], row["layer_index"]): row for row in rows}
    return [keys[key] for key in sorted(keys, key=_place)]


def _place(key: tuple[int | None, int | None]) -> tuple[float, float]:
    block, layer = key
    first = block if block is not None else layer
    return (float("inf") if first is None else first, -1.0 if layer is None else layer)
