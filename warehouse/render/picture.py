"""The layer map of a model as a text picture: a line per block of the base, with bars for the share that was kept.

A bar shows apart what is left, what is left and zero, and what is gone. All shares of a picture are counted in one measure.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len

from layerhouse.escapes import visible
from layerhouse.vocabulary import Gone, KeptBy, LayerChange, Level

Row = Mapping[str, Any]

BAR_CELLS = 10
EIGHTHS = " ▏▎▍▌▋▊▉█"
ZERO, ZERO_ASCII = "░", ":"
LEGENDS = {True: "█ left, ░ left and zero, · gone", False: "# left, : left and zero, . gone"}
PLACE_HEADINGS = ("stack", "base", "layer", "match", "sure")
BASE_COLUMN, LAYER_COLUMN = 1, 2
AS_IN_BASE = "as in the base"
BAR_HEADINGS = {True: ("attention", "", "MLP", ""), False: ("block", "")}
SIZE_HEADINGS = ("heads", "KV heads", "MLP width", "level", "also")
LISTED_LEVELS = (Level.REMOVED, Level.ZERO, Level.HEAVY, Level.MEDIUM, Level.LIGHT, Level.GROWN)
GONE_TEXTS = {Gone.ATTENTION: "attention gone", Gone.MLP: "MLP gone", Gone.ATTENTION_MLP: "attention and MLP gone"}
CHANGE_TEXTS = {LayerChange.CHANGED: "other values", LayerChange.CAST: "another type"}
CHANGE_TEXTS |= {LayerChange.ADDED: "tensors added", LayerChange.REMOVED: "tensors removed"}
"""Words for a change that its own word does not say."""
MEASURES = {
    KeptBy.PARAMS: ("params", "parameters", "retention"),
    KeptBy.NONZERO: ("nonzero_params", "parameters that are not zero", "nonzero_retention"),
    KeptBy.BYTES: ("logical_bytes", "bytes", "bytes_retention"),
    KeptBy.MACS: ("macs_per_token", "MACs per token", "macs_retention"),
}
"""The column of what is counted, its unit, and the column of a layer's share, to which a model's mean and deviation add."""
LEAST_SHARE = 0.001
"""Smaller shares are not spelled out."""
TIMES = {2: "twice", 3: "three times"}


def layer_picture(model: Row, layers: Sequence[Row], *, base_name: str, is_unicode: bool, width: int | None = None) -> str:
    """Draw a row of the models view, with `kept_by` and `verdict`, and its layers: rows of layer_pruning with those of
    layer_changes.

    An unknown number is `-` or `?`, never a bar. With the width of a terminal, lines are wrapped at words, columns that say the
    same of all layers are told in a line below, and percentages stand without bars where there is no room.
    """
    header = _header_lines(model, base_name, is_unicode=is_unicode)
    lines = [*header, ""] if width is None else [line for text in header for line in wrapped(text, width)]
    by_part = model["kept_by"] in (KeptBy.PARAMS, KeptBy.NONZERO)
    headings = (*PLACE_HEADINGS, *BAR_HEADINGS[by_part], *SIZE_HEADINGS)
    table: list[Sequence[str]] = [headings, *(_layer_cells(layer, model["kept_by"], is_unicode=is_unicode) for layer in layers)]
    is_zero_drawn = any(
        (ZERO if is_unicode else ZERO_ASCII) in cell for row in table[1:] for cell in row[len(PLACE_HEADINGS) :]
    )
    summary = _summary_lines(layers, model["kept_by"])
    if width is not None:
        table, said = _compact(table, width, len(BAR_HEADINGS[by_part]))
        summary = [line for text in ("; ".join(summary), said) for line in wrapped(text, width)]
    widths = [max(cell_len(row[column]) for row in table) for column in range(len(table[0]))]
    lines += ["  ".join(_padded(text, size) for text, size in zip(row, widths, strict=True)).rstrip() for row in table]
    if is_zero_drawn:
        lines.append(LEGENDS[is_unicode])
    return "\n".join([*lines, *([""] if width is None else []), *summary]) + "\n"


def _compact(table: Sequence[Sequence[str]], width: int, num_bars: int) -> tuple[list[Sequence[str]], str]:
    """A table with fewer columns, and what those left out say of every layer; `num_bars` columns are bars and percentages."""
    headings, *rows = table
    first_bar = len(PLACE_HEADINGS)
    bars = range(first_bar, first_bar + num_bars, 2)
    kept, said = [], []
    if [row[BASE_COLUMN] for row in rows] == [row[LAYER_COLUMN] for row in rows]:
        rows = [[*row[:LAYER_COLUMN], AS_IN_BASE, *row[LAYER_COLUMN + 1 :]] for row in rows]
    for column, heading in enumerate(headings):
        is_bar = first_bar <= column < first_bar + num_bars
        texts = {row[column] for row in rows}
        if is_bar or len(texts) > 1 or column == BASE_COLUMN:
            kept.append(column)
        elif not texts <= {"-", ""}:
            said.append(f"{heading} {next(iter(texts))}")
    cells = [[row[column] for column in kept] for row in (headings, *rows)]
    if sum(max(map(cell_len, column)) + 2 for column in zip(*cells, strict=True)) - 2 > width:
        cells[0] = [headings[column - 1] if column - 1 in bars else headings[column] for column in kept]
        cells = [[text for text, column in zip(row, kept, strict=True) if column not in bars] for row in cells]
    return [*cells], f"every layer: {', '.join(said)}" if said else ""


def wrapped(text: str, width: int) -> list[str]:
    """A text in lines of at most this many cells, broken between words alone."""
    wide = sum(cell_len(letter) > 1 for letter in text[:width])
    return textwrap.wrap(text, max(width - wide, 20), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def bar(share: float | None, zero_share: float = 0.0, *, is_unicode: bool) -> str:
    """A bar of BAR_CELLS cells, the share to an eighth of a cell, and after it the cells of what is left and zero.

    A share over 1 fills the bar; a share over 0 is always visible, and so are zeros where there is a cell for them.
    """
    if share is None:
        return "?" * BAR_CELLS
    eighths = min(round(share * BAR_CELLS * 8), BAR_CELLS * 8)
    eighths = max(eighths, 1 if share > 0 else 0)
    whole, rest = divmod(eighths, 8)
    left = EIGHTHS[8] * whole + (EIGHTHS[rest] if rest else "") if is_unicode else "#" * -(-eighths // 8)
    zeros = max(round((share + zero_share) * BAR_CELLS) - len(left), 1) if zero_share > 0 else 0
    drawn = (left + (ZERO if is_unicode else ZERO_ASCII) * zeros)[:BAR_CELLS]
    return drawn.ljust(BAR_CELLS, "·" if is_unicode else ".")


def _header_lines(model: Row, base_name: str, *, is_unicode: bool) -> list[str]:
    arrow = "→" if is_unicode else "->"
    column, unit, retention = MEASURES[model["kept_by"]]
    names = f"{visible(model['model_id'])} against {visible(base_name)}"
    counts = [f"{_count(model[f'base_{column}'])} {arrow} {_count(model[column])} {unit}{_gone_text(model, column)}"]
    if (model[f"base_{column}"], model[column]) != (model["base_params"], model["params"]):
        counts.append(f"{_count(model['base_params'])} {arrow} {_count(model['params'])} parameters")
    stack = "" if model["stack"] is None else f"{model['stack']} "
    counts.append(f"{stack}{_count(model['base_num_layers'])} {arrow} {_count(model['num_layers'])} layers")
    counts.append(model["strategy"] or "strategy not known")
    mean = model[f"{retention}_mean"]
    if mean is not None:
        counts.append(f"kept of a block {mean:.2%} on average, deviation {_decimal(model[f'{retention}_std'])}")
    verdict = [] if model["verdict"] is None else [visible(model["verdict"])]
    return [names, f"kept by {model['kept_by']}: {'; '.join(counts)}", *verdict]


def _gone_text(model: Row, column: str) -> str:
    count, base_count = model[column], model[f"base_{column}"]
    if count is None or not base_count:
        return ""
    share = (base_count - count) / base_count
    return f", {abs(share):.2%} {'added' if share < 0 else 'gone'}"


def _layer_cells(layer: Row, kept_by: str, *, is_unicode: bool) -> list[str]:
    confidence = layer["match_confidence"]
    cells = [
        layer["stack"],
        _count(layer["base_layer_index"]),
        _count(layer["layer_index"]),
        layer["match"] or "-",
        "-" if confidence is None else f"{confidence:.0%}",
    ]
    if kept_by in (KeptBy.PARAMS, KeptBy.NONZERO):
        for part in ("attention", "mlp"):
            cells += _part_cells(layer, part, kept_by, is_unicode=is_unicode)
    else:
        cells += _bar_cells(layer["kept_share"], 0.0, layer["kept_share"], is_unicode=is_unicode)
    arrow = "→" if is_unicode else "->"
    for name in ("num_heads", "num_kv_heads", "intermediate_size"):
        before, after = layer[f"base_{name}"], 0 if layer["is_removed"] else layer[name]
        cells.append(_count(before) if before == after else f"{_count(before)}{arrow}{_count(after)}")
    return [*cells, layer["kept_level"] or "-", ", ".join(_further_words(layer))]


def _part_cells(layer: Row, part: str, kept_by: str, *, is_unicode: bool) -> list[str]:
    """The bar and share of attention or the MLP: what is zero is drawn apart where it is known of layer and block."""
    params_share = _kept_share(layer, f"{part}_params")
    nonzero_share = _kept_share(layer, f"{part}_nonzero_params")
    share = nonzero_share if kept_by == KeptBy.NONZERO else params_share
    if params_share is None or nonzero_share is None:
        return _bar_cells(share, 0.0, share, is_unicode=is_unicode)
    left = min(nonzero_share, params_share)
    return _bar_cells(left, params_share - left, share, is_unicode=is_unicode)


def _bar_cells(left: float | None, zero_share: float, share: float | None, *, is_unicode: bool) -> list[str]:
    return [bar(left, zero_share, is_unicode=is_unicode), "?" if share is None else f"{share:.0%}"]


def _kept_share(layer: Row, column: str) -> float | None:
    """The share of a count of the base's block that the layer still has; None if either count is unknown."""
    if layer["is_removed"]:
        return 0.0
    count, base_count = layer[column], layer[f"base_{column}"]
    if count is None or base_count is None:
        return None
    return float(count / base_count) if base_count else 1.0


def _further_words(layer: Row) -> Iterator[str]:
    """What happened to a layer that its level does not say."""
    if layer["gone"] in GONE_TEXTS:
        yield GONE_TEXTS[layer["gone"]]
    for change in layer["changes"] or ():
        if change not in (LayerChange.SLICED, LayerChange.REMOVED):
            yield CHANGE_TEXTS.get(change, change)


def _summary_lines(layers: Sequence[Row], kept_by: str) -> list[str]:
    """What happened to which blocks: a line for each level, the zeros, parts that are gone, and each change."""
    lines = [_line(level, [layer for layer in layers if layer["kept_level"] == level]) for level in LISTED_LEVELS]
    zeros = _zeros_line(layers)
    lines.append(zeros)
    lines += [_line(text, [layer for layer in layers if layer["gone"] == part]) for part, text in GONE_TEXTS.items()]
    lines.append(_repeats_line(layers))
    told = {LayerChange.DUPLICATED, LayerChange.SLICED, LayerChange.REMOVED} | ({LayerChange.MASKED} if zeros else set())
    for change in LayerChange:
        if change not in told:
            changed = [layer for layer in layers if change in (layer["changes"] or ())]
            lines.append(_line(CHANGE_TEXTS.get(change, change), changed))
    is_told = any(lines)
    untouched = [layer for layer in layers if layer["is_unchanged"] and _is_whole(layer)]
    if not is_told and len(untouched) == len(layers):
        return ["every block as it was"]
    if not is_told and all(_is_whole(layer) for layer in layers):
        unit = MEASURES[KeptBy(kept_by)][1]
        lines.append(f"every block keeps all of its {unit}; whether all values are the base's is not known")
    lines.append(_line(Level.UNTOUCHED, untouched))
    lines.append(_line("level not known", [layer for layer in layers if layer["kept_level"] is None]))
    return [line for line in lines if line]


def _is_whole(layer: Row) -> bool:
    return layer["kept_level"] == Level.UNTOUCHED and layer["gone"] is None


def _line(text: str, layers: Sequence[Row]) -> str:
    """A line of the number and the indices of some layers; empty for none."""
    return f"{text}: {len(layers)}{_places_text(layers)}" if layers else ""


def _places_text(layers: Sequence[Row]) -> str:
    names = _places(layers)
    return f" ({names})" if names else ", which ones is not known"


def _places(layers: Iterable[Row]) -> str:
    """Blocks of the base by stack, such as `text 0-3, 7; vision 2`; layers of no known block as `text layer 4`."""
    by_stack: dict[str, list[int]] = {}
    for layer in layers:
        if layer["base_layer_index"] is not None:
            by_stack.setdefault(layer["stack"], []).append(layer["base_layer_index"])
        elif layer["layer_index"] is not None:
            by_stack.setdefault(f"{layer['stack']} layer", []).append(layer["layer_index"])
    return "; ".join(f"{stack} {ranges(indices)}" for stack, indices in by_stack.items())


def _zeros_line(layers: Sequence[Row]) -> str:
    """The blocks in which more values are zero than in the base's, and their share there; empty if none is known to be one."""
    known = [layer for layer in layers if layer["zeros"] is not None and layer["base_nonzero_params"] is not None]
    sparser = [layer for layer in known if _has_new_zeros(layer) and _zero_share(layer) > _base_zero_share(layer)]
    params = sum(layer["params"] for layer in sparser)
    share = sum(layer["zeros"] for layer in sparser) / params if params else 0.0
    if not sparser:
        return ""
    base_params = sum(layer["base_params"] for layer in sparser)
    base_share = sum(layer["base_params"] - layer["base_nonzero_params"] for layer in sparser) / base_params
    before = f", {_share_text(base_share)} in the base," if base_share else ""
    num_blocks = sum(not layer["is_removed"] for layer in layers)
    of_all = f"{len(sparser)} of {num_blocks} blocks ({_places(sparser)})"
    return f"{_share_text(share)} of the values zero{before} in {of_all}"


def _has_new_zeros(layer: Row) -> bool:
    """Whether a layer has zeros that its block has not. One that was cut may have a greater share without any."""
    base_zeros = layer["base_params"] - layer["base_nonzero_params"]
    return layer["zeros"] > base_zeros or LayerChange.MASKED in (layer["changes"] or ())


def _share_text(share: float) -> str:
    return f"under {LEAST_SHARE:.1%}" if 0 < share < LEAST_SHARE else f"{share:.1%}"


def _zero_share(layer: Row) -> float:
    return float(layer["zeros"] / layer["params"]) if layer["params"] else 0.0


def _base_zero_share(layer: Row) -> float:
    return float(1 - layer["base_nonzero_params"] / layer["base_params"]) if layer["base_params"] else 0.0


def _repeats_line(layers: Iterable[Row]) -> str:
    """The blocks that the model has several times, such as `duplicated: text 2 twice`; empty for none."""
    counts: dict[tuple[str, int], int] = {}
    for layer in layers:
        if LayerChange.DUPLICATED in (layer["changes"] or ()):
            place = (layer["stack"], layer["base_layer_index"])
            counts[place] = counts.get(place, 0) + 1
    texts = [f"{stack} {index} {TIMES.get(count, f'{count} times')}" for (stack, index), count in counts.items()]
    return f"{LayerChange.DUPLICATED}: {', '.join(texts)}" if texts else ""


def ranges(indices: Sequence[int]) -> str:
    """Sorted indices as ranges, for example `0-3, 7, 9-11`."""
    runs: list[list[int]] = []
    for index in sorted(set(indices)):
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
