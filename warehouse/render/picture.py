"""The layer map of a model as a picture: a line for every block of its base, with bars for what was kept of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len

from layerhouse.warehouse.render.terminal import visible

Row = Mapping[str, Any]

BAR_CELLS = 10
EIGHTHS = " ▏▎▍▌▋▊▉█"
LISTED_LEVELS = ("removed", "zero", "heavy", "medium", "light")


def layer_picture(model: Row, layers: Sequence[Row], *, base_name: str, is_unicode: bool) -> str:
    """`model` is a row of the models view, `layers` its rows of layer_pruning. What is not known is `-` or `?`, never a bar."""
    lines = [*_head(model, base_name, is_unicode=is_unicode), ""]
    table = [_heading(), *(_line(layer, is_unicode=is_unicode) for layer in layers)]
    widths = [max(cell_len(row[column]) for row in table) for column in range(len(table[0]))]
    lines += ["  ".join(_padded(text, width) for text, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([*lines, "", *_foot(layers)]) + "\n"


def bar(share: float | None, *, is_unicode: bool) -> str:
    """A share of BAR_CELLS cells, to an eighth of one; a share over 1 fills them all, and any share over 0 shows."""
    if share is None:
        return "?" * BAR_CELLS
    eighths = min(round(share * BAR_CELLS * 8), BAR_CELLS * 8)
    eighths = max(eighths, 1 if share > 0 else 0)
    if not is_unicode:
        return ("#" * -(-eighths // 8)).ljust(BAR_CELLS, ".")
    whole, rest = divmod(eighths, 8)
    return (EIGHTHS[8] * whole + (EIGHTHS[rest] if rest else "")).ljust(BAR_CELLS, "·")


def _head(model: Row, base_name: str, *, is_unicode: bool) -> list[str]:
    arrow = "→" if is_unicode else "->"
    gone = "" if model["reduction_ratio"] is None else f", {model['reduction_ratio']:.2%} gone"
    first = f"{visible(model['model_id'])} against {visible(base_name)}"
    params = f"{_count(model['base_params'])} {arrow} {_count(model['params'])} parameters{gone}"
    blocks = f"{_count(model['base_num_layers'])} {arrow} {_count(model['num_layers'])} layers"
    kept = model["retention_mean"]
    spread = "" if kept is None else f"; kept of a block {kept:.2%} on average, deviation {_number(model['retention_std'])}"
    return [first, f"{params}; {blocks}; {model['strategy'] or 'strategy not known'}{spread}"]


def _heading() -> list[str]:
    return ["base", "layer", "match", "sure", "attention", "", "MLP", "", "heads", "KV heads", "MLP width", "level"]


def _line(layer: Row, *, is_unicode: bool) -> list[str]:
    confidence = layer["match_confidence"]
    cells = [
        _count(layer["base_layer_index"]),
        _count(layer["layer_index"]),
        layer["match"] or "-",
        "-" if confidence is None else f"{confidence:.0%}",
    ]
    for part in ("attention", "mlp"):
        share = _kept(layer, part)
        cells += [bar(share, is_unicode=is_unicode), "?" if share is None else f"{share:.0%}"]
    arrow = "→" if is_unicode else "->"
    for name in ("num_heads", "num_kv_heads", "intermediate_size"):
        before, after = layer[f"base_{name}"], 0 if layer["is_removed"] else layer[name]
        same = before == after and before is not None
        cells.append(
            _count(before) if same else "-" if before is None and after is None else f"{_count(before)}{arrow}{_count(after)}"
        )
    return [*cells, layer["level"] or "-"]


def _kept(layer: Row, part: str) -> float | None:
    if layer["is_removed"]:
        return 0.0
    own, base = layer[f"{part}_params"], layer[f"base_{part}_params"]
    if own is None or base is None:
        return None
    return float(own / base) if base else 1.0


def _foot(layers: Sequence[Row]) -> list[str]:
    lines = []
    for level in LISTED_LEVELS:
        found = [layer for layer in layers if layer["level"] == level]
        indices = [
            layer["base_layer_index"] if layer["base_layer_index"] is not None else layer["layer_index"] for layer in found
        ]
        if found:
            shown = ranges([index for index in indices if index is not None])
            lines.append(f"{level}: {len(found)}" + (f" ({shown})" if shown else ", which ones is not known"))
    return lines or ["every block as it was"]


def ranges(indices: Sequence[int]) -> str:
    """`0-3, 7, 9-11`."""
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


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
