"""Two models side by side in the forms of the study scripts: as JSON, as a table of text, and as a list of what was removed.

The words of headers are those by which the study's scripts find the tables: layer, parameters of the original and of the pruned
model, share that is left; pruned of attention, of the MLP, of all; total.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from layerhouse.vocabulary import Module
from layerhouse.warehouse.study.json_form import known_values

Row = Mapping[str, Any]

ATTENTION, MLP = Module.ATTENTION, Module.MLP
RULE, LINE = "=" * 80, "-" * 80
TOTAL = "\u603b\u8ba1"
ALL_PARAMS = "\u603b\u53c2\u6570"
ORIGINAL, PRUNED, KEPT = "\u539f\u59cb", "\u526a\u679d\u540e", "\u4fdd\u7559\u6bd4\u4f8b"
CUT = "\u526a\u679d"
COMPARISON_TITLE = "\u526a\u679d\u524d\u540e\u5bf9\u6bd4"
LAYERS_TITLE = "\u5404\u5c42\u526a\u679d\u7edf\u8ba1\u6458\u8981"
NO_NUMBER = "N/A"


def comparison(original: Mapping[str, Any], pruned: Mapping[str, Any]) -> dict[str, Any]:
    """Both structures side by side; layers are paired by index, up to the shorter of the two."""
    pairs = zip(original["layers"], pruned["layers"], strict=False)
    return known_values(
        original_name=original["model_name"],
        pruned_name=pruned["model_name"],
        total_params=_count_comparison(original["total_params"], pruned["total_params"]),
        layer_params=_count_comparison(
            original["layer_summary"].get("total_layer_params"), pruned["layer_summary"].get("total_layer_params")
        ),
        layers=[_layer_comparison(*pair) for pair in pairs],
    )


def comparison_text(compared: Mapping[str, Any]) -> str:
    """A comparison as a table: a line for each layer with the parameters of both sides and the share that is left, in percent;
    then the same of its attention and MLP."""
    header = f"{'Layer':<8}{ALL_PARAMS}({ORIGINAL}) {ALL_PARAMS}({PRUNED}) {KEPT}% "
    header += " ".join(f"{part}({side})" for part in ("Attention", "MLP") for side in (ORIGINAL, PRUNED))
    lines = [RULE, f"{COMPARISON_TITLE}: {compared['original_name']} -> {compared['pruned_name']}", RULE, header, LINE]
    for layer in compared["layers"]:
        total = layer.get("total")
        if total is None:
            continue
        share = f"{(1 - total['reduction_ratio']) * 100:.2f}%"
        modules = [layer.get(part, {}).get(side) for part in (ATTENTION, MLP) for side in ("original", "pruned")]
        counts = [f"{total['original']:,}", f"{total['pruned']:,}", share, *map(_count_text, modules)]
        lines.append(f"{layer['layer_idx']:<8}" + " ".join(f"{count:>15}" for count in counts))
    return "\n".join([*lines, RULE]) + "\n"


def layer_summary(layers: Sequence[Row]) -> str:
    """A line per block of the base: removed KV groups, MLP channels and parameters, `?` if unknown; then a line of totals."""
    sums: list[int | None] = [0] * 5
    lines = [RULE, LAYERS_TITLE, RULE, f"{'Layer':<8} {'Attention' + CUT:<20} {'MLP' + CUT:<20} {ALL_PARAMS + CUT:<20}", LINE]
    for layer in layers:
        counts = [*_removed_counts(layer)]
        sums = [None if total is None or count is None else total + count for total, count in zip(sums, counts, strict=True)]
        index = layer["base_layer_index"] if layer["base_layer_index"] is not None else layer["layer_index"]
        lines.append(_layer_summary_line("?" if index is None else str(index), counts))
    return "\n".join([*lines, LINE, _layer_summary_line(TOTAL, sums), RULE]) + "\n"


def _layer_comparison(original: Mapping[str, Any], pruned: Mapping[str, Any]) -> dict[str, Any]:
    modules = {}
    for part, sizes in ((ATTENTION, ("num_heads", "num_kv_heads")), (MLP, ("intermediate_size",))):
        before, after = original.get(part, {}), pruned.get(part, {})
        totals = _count_comparison(before.get("total"), after.get("total"))
        if totals is not None:
            known = [size for size in sizes if size in before and size in after]
            modules[part] = totals | {size: {"original": before[size], "pruned": after[size]} for size in known}
    return known_values(
        layer_idx=original["layer_idx"],
        total=_count_comparison(original.get("total"), pruned.get("total")),
        **modules,
        is_zero_layer=pruned.get("is_zero_layer"),
    )


def _count_comparison(original: int | None, pruned: int | None) -> dict[str, Any] | None:
    if original is None or pruned is None:
        return None
    reduced = original - pruned
    return {
        "original": original,
        "pruned": pruned,
        "reduced": reduced,
        "reduction_ratio": reduced / original if original else 0.0,
    }


def _removed_counts(layer: Row) -> Iterator[int | None]:
    """KV groups and attention parameters, MLP channels and parameters, and all parameters that the block lost.

    A module that lost no parameter lost no group and no channel, even if their number is unknown.
    """
    for name, module_params in (
        ("num_kv_heads", "attention_params"),
        ("attention_params", None),
        ("intermediate_size", "mlp_params"),
        ("mlp_params", None),
        ("params", None),
    ):
        count = _removed_count(layer, name)
        is_module_whole = module_params is not None and _removed_count(layer, module_params) == 0
        yield 0 if count is None and is_module_whole else count


def _removed_count(layer: Row, name: str) -> int | None:
    before, after = layer[f"base_{name}"], 0 if layer["is_removed"] else layer[name]
    return None if before is None or after is None else before - after


def _layer_summary_line(label: str, counts: Sequence[int | None]) -> str:
    groups, attention, channels, mlp, params = ("?" if count is None else f"{count:,}" for count in counts)
    return f"{label:<8} {groups} groups ({attention} params)  {channels} channels ({mlp} params)  {params} params"


def _count_text(count: int | None) -> str:
    return NO_NUMBER if count is None else f"{count:,}"
