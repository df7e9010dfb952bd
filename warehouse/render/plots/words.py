"""The texts of figures that are not headings of columns, in each language."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_KEPT = {"params": "参数", "nonzero": "非零参数", "bytes": "字节", "macs": "乘加数"}
_COUNTED = {"params": "parameters", "nonzero": "nonzero parameters", "bytes": "bytes", "macs": "MACs"}

WORDS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        **{f"retention_{by}": {"en": f"{_COUNTED[by]} kept", "zh": f"{name}保留率"} for by, name in _KEPT.items()},
        **{f"reduction_{by}": {"en": f"{_COUNTED[by]} gone", "zh": f"{name}减少率"} for by, name in _KEPT.items()},
        "sparsity": {"en": "sparsity", "zh": "稀疏度"},
        "block": {"en": "block of the base", "zh": "原始层号"},
        "layer": {"en": "layer of the model", "zh": "模型层号"},
        "mean": {"en": "mean {value}", "zh": "平均 {value}"},
        "mean_unknown": {"en": "mean not known", "zh": "平均值未知"},
        "prunable": {"en": "model {value}", "zh": "模型 {value}"},
        "prunable_line": {
            "en": "Line: the sparsity of all prunable weights.",
            "zh": "横线：全部可剪枝权重的稀疏度。",
        },
        "over_80": {"en": "over 80% kept", "zh": "保留超过80%"},
        "50_to_80": {"en": "50% to 80%", "zh": "保留50%至80%"},
        "20_to_50": {"en": "20% to 50%", "zh": "保留20%至50%"},
        "under_20": {"en": "under 20%", "zh": "保留不足20%"},
        "removed": {"en": "block removed", "zh": "层已移除"},
        "unknown": {"en": "not known", "zh": "未知"},
        "some_removed": {
            "en": "{count} of {total} blocks removed, no file says which",
            "zh": "{total}层中移除{count}层，没有文件说明是哪些",
        },
        "one_stack": {"en": "{stack} alone; not shown: {others}", "zh": "仅 {stack}；未显示：{others}"},
        "no_blocks": {"en": "which layer is which block is not known", "zh": "层与原始层的对应关系未知"},
        "added_layers": {
            "en": "Not shown: {count} layers that are no block of the base ({names}).",
            "zh": "未显示：不属于基座模型的{count}层（{names}）。",
        },
        "repeated": {"en": "2x: two layers are this block.", "zh": "2x：两层对应同一原始层。"},
        "not_placed": {"en": "{name}: {text}.", "zh": "{name}：{text}。"},
        "left_out": {"en": "Left out, as they have no value: {names}.", "zh": "因无数值而未显示：{names}。"},
        "more": {"en": "{names} and {count} more", "zh": "{names}等另外{count}个"},
        "no_room": {"en": "No room for {count} of the names.", "zh": "{count}个名称因空间不足未显示。"},
        "no_method": {"en": "no method named", "zh": "未注明方法"},
        "front": {"en": "on the front", "zh": "位于前沿"},
        "front_line": {"en": "Line: what no other model of the same base beats.", "zh": "虚线：同一基座模型中未被超越者。"},
        "lower_better": {"en": "lower is better", "zh": "越低越好"},
        "logarithmic": {"en": "log scale", "zh": "对数坐标"},
        "perplexity": {"en": "perplexity, {measure}", "zh": "困惑度 {measure}"},
        "points": {"en": "points to the base", "zh": "与基座模型之差（百分点）"},
        "beyond": {"en": "* beyond two standard errors", "zh": "* 超出两倍标准误差"},
        "not_beyond": {"en": "Grey: within two standard errors.", "zh": "灰色：两倍标准误差以内。"},
        "no_errors": {
            "en": "No file states the standard errors: none is marked.",
            "zh": "没有文件给出标准误差，故未作标记。",
        },
        "some_errors": {
            "en": "Italic: its standard errors are not stated.",
            "zh": "斜体：未给出标准误差。",
        },
        "mean_of_tasks": {"en": "mean", "zh": "平均"},
        "head": {"en": "heads", "zh": "注意力头"},
        "kv_group": {"en": "KV groups", "zh": "KV组"},
        "neuron": {"en": "neurons", "zh": "神经元"},
        "expert": {"en": "experts", "zh": "专家"},
        "units_kept": {"en": "{kind} kept", "zh": "保留的{kind}"},
        "kept": {"en": "kept", "zh": "保留"},
        "unit_removed": {"en": "removed", "zh": "移除"},
        "hardware": {"en": "Measured on {names}.", "zh": "测速硬件：{names}。"},
        "hardware_unknown": {"en": "No file names the hardware of the speeds.", "zh": "没有文件注明测速硬件。"},
        "role": {"en": "weight", "zh": "权重"},
        "of_projections": {"en": "{name}, median", "zh": "{name}（中位数）"},
        "of_block": {"en": "The median over the weights of a block.", "zh": "每层各权重的中位数。"},
        "alpha": {"en": "alpha", "zh": "幂律指数 alpha"},
        "alpha_band": {"en": "Green: alpha from 2 to 6.", "zh": "绿色区域：alpha 为 2 至 6。"},
        "model": {"en": "model", "zh": "模型"},
        "method": {"en": "method", "zh": "方法"},
        "value": {"en": "value", "zh": "数值"},
    }
)
"""Texts by key and language; `{...}` are values that a figure puts in."""
