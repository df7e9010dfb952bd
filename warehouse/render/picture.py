"""The layer map of a model as a text picture: a line per block of the base, with bars for the share that was kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len

from layerhouse.escapes import visible
from layerhouse.vocabulary import Level

Row = Mapping[str, Any]

BAR_CELLS = 10
EIGHTHS = " ▏▎▍▌▋▊▉█"
COLUMN_HEADINGS = ("base", "layer", "match", "sure", "attention", "", "MLP", "", "heads", "KV heads", "MLP width", "level")
LISTED_LEVELS = (Level.REMOVED, Level.ZERO, Level.HEAVY, Level.MEDIUM, Level.LIGHT)


def layer_picture(model: Row, layers: Sequence[Row], *, base_name: str, is_unicode: bool) -> str:
    """Draw a row of the models view and its rows of layer_pruning. An unknown number is `-` or `?`, never a bar."""
    lines = [*_header_lines(model, base_name, is_unicode=is_unicode), ""]
    table = [COLUMN_HEADINGS, *(_layer_cells(layer, is_unicode=is_unicode) for layer in layers)]
    widths = [max(cell_len(row[column]) for row in table) for column in range(len(table[0]))]
    lines += ["  ".join(_padded(text, width) for text, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([*lines, "", *_level_lines(layers)]) + "\n"


def bar(share: float | None, *, is_unicode: bool) -> str:
    """A bar of BAR_CELLS cells, to an eighth of a cell. A share over 1 fills the bar; a share over 0 is always visible."""
    if share is None:
        return "?" * BAR_CELLS
    eighths = min(round(share * BAR_CELLS * 8), BAR_CELLS * 8)
    eighths = max(eighths, 1 if share > 0 else 0)
    if not is_unicode:
        return ("#" * -(-eighths // 8)).ljust(BAR_CELLS, ".")
    whole, rest = divmod(eighths, 8)
    return (EIGHTHS[8] * whole + (EIGHTHS[rest] if rest else "")).ljust(BAR_CELLS, "·")


def _header_lines(model: Row, base_name: str, *, is_unicode: bool) -> list[str]:
    arrow = "→" if is_unicode else "->"
    reduction = "" if model["reduction_ratio"] is None else f", {model['reduction_ratio']:.2%} gone"
    names = f"{visible(model['model_id'])} against {visible(base_name)}"
    params = f"{_count(model['base_params'])} {arrow} {_count(model['params'])} parameters{reduction}"
    blocks = f"{_count(model['base_num_layers'])} {arrow} {_count(model['num_layers'])} layers"
    mean = model["retention_mean"]
    retention = "" if mean is None else f"; kept of a block {mean:.2%} on average, deviation {_decimal(model['retention_std'])}"
    return [names, f"{params}; {blocks}; {model['strategy'] or 'strategy not known'}{retention}"]


def _layer_cells(layer: Row, *, is_unicode: bool) -> list[str]:
    confidence = layer["match_confidence"]
    cells = [
        _count(layer["base_layer_index"]),
        _count(layer["layer_index"]),
        layer["match"] or "-",
        "-" if confidence is None else f"{confidence:.0%}",
    ]
    for part in ("attention", "mlp"):
        share = _kept_share(layer, part)
        cells += [bar(share, is_unicode=is_unicode), "?" if share is None else f"{share:.0%}"]
    arrow = "→" if is_unicode else "->"
    for name in ("num_heads", "num_kv_heads", "intermediate_size"):
        before, after = layer[f"base_{name}"], 0 if layer["is_removed"] else layer[name]
        cells.append(_count(before) if before == after else f"{_count(before)}{arrow}{_count(after)}")
    return [*cells, layer["level"] or "-"]


def _kept_share(layer: Row, part: str) -> float | None:
    """The share of the parameters of the base's module that the layer still has; None if either count is unknown."""
    if layer["is_removed"]:
        return 0.0
    params, base_params = layer[f"{part}_params"], layer[f"base_{part}_params"]
    if params is None or base_params is None:
        return None
    return float(params / base_params) if base_params else 1.0


def _level_lines(layers: Sequence[Row]) -> list[str]:
    """A line per pruning level, with the number of blocks and their indices in the base."""
    lines = []
    for level in LISTED_LEVELS:
        level_layers = [layer for layer in layers if layer["level"] == level]
        if not level_layers:
            continue
        indices = [
            layer["layer_index"] if layer["base_layer_index"] is None else layer["base_layer_index"] for layer in level_layers
        ]
        index_text = ranges([index for index in indices if index is not None])
        lines.append(f"{level}: {len(level_layers)}" + (f" ({index_text})" if index_text else ", which ones is not known"))
    return lines or ["every block as it was"]


def ranges(indices: Sequence[int]) -> str:
    """Sorted indices as ranges, for example `0-3, 7, 9-11`."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
