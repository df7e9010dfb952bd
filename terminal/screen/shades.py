"""Colours on a terminal: headings, notes, and shades for what was kept and what is zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerhouse.terminal.screen.device import Screen

_BLACK_ON = "\x1b[38;5;16;48;5;{}m"
_END = "\x1b[0m"
RAMP = (231, 223, 216, 209, 203)
"""Backgrounds of the 256 colours, from little changed to much."""
KEPT = ("kept_share", "retention", "retention_mean", "cut_layer_retention", "kept_layer_mean", "kept_accuracy_share")
CHANGED = (
    "reduction_ratio",
    "layer_reduction_ratio",
    "attention_reduction_ratio",
    "mlp_reduction_ratio",
    "sparsity",
    "prunable_sparsity",
)
"""Columns of fractions: of what is left, and of what is gone or zero."""


def shaded(text: str, value: Any, name: str, target: Screen) -> str:
    """The text of a cell on a shade that says how much of it is gone or zero; a cell in which nothing is has none."""
    if not target.has_colors or not isinstance(value, float) or name not in (*KEPT, *CHANGED):
        return text
    changed = 1 - value if name in KEPT else value
    if not 0.005 <= changed <= 1:
        return text
    return f"{_BLACK_ON.format(RAMP[min(int(changed * len(RAMP)), len(RAMP) - 1)])}{text}{_END}"


def bold(text: str, target: Screen) -> str:
    return f"\x1b[1m{text}{_END}" if target.has_colors and text.strip() else text


def dim(text: str, target: Screen) -> str:
    return f"\x1b[2m{text}{_END}" if target.has_colors and text.strip() else text
