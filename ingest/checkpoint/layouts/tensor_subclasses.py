"""Weights that are several tensors of one Python object: quanto's `weight._data`, torchao's `_weight_qdata`.

quanto (optimum/quanto/tensor/packed.py): 8 bits: weight._data I8 or F8 (out, in), weight._scale. Fewer bits: weight._data._data
U8 (out * groups * bits / 8, in / groups), weight._scale and weight._shift; the bits are in quanto_qmap.json
(`{"MODULE": {"weights": "qint4"}}`), and only the model's hidden size tells the number of groups.
torchao (torchao/prototype/safetensors): _weight_qdata, _weight_scale, _weight_zero_point; the file's metadata has the class and
its block_size for each weight. Pickled ones are given these names, too (pickle.parts).
The stored shape is the weight's own unless two values of 4 bits share a byte.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from layerhouse.ingest.checkpoint.config_json import QuantizationConfig
from layerhouse.ingest.checkpoint.layouts.decoding import POINT_TYPES, are_points_of_groups, block_of, decoded_ref
from layerhouse.ingest.checkpoint.layouts.module_tensors import ModuleTensors, auxiliary_refs, unpacked_ref, weight_ref
from layerhouse.ingest.checkpoint.layouts.weight_layout import WeightLayout
from layerhouse.ingest.checkpoint.tensor_ref import CODES, PACKED, TensorRef

QUANTO_TYPE = re.compile(r"qu?int([248])")
QUANTO_AUXILIARY = ("weight._scale", "weight._shift", "weight._zeropoint", "input_scale", "output_scale")
TORCHAO_AUXILIARY = ("_weight_scale", "_weight_zero_point", "_weight_act_pre_scale", "_weight_scale_and_zero")
FROM_HIDDEN = re.compile(
    "q_proj|k_proj|v_proj|qkv_proj|gate_proj|up_proj|gate_up_proj|query|key|value|query_key_value|fc1|c_fc|c_attn|"
    "dense_h_to_4h|wq|wk|wv|w1|w3|lm_head"
)
"""Linear modules whose inputs are the hidden size, by their last name."""
TO_HIDDEN = re.compile("o_proj|out_proj|down_proj|fc2|c_proj|dense|dense_4h_to_h|wo|w2")
"""Linear modules whose outputs are the hidden size."""
FLOATS = ("F16", "BF16", "F32")
FLOAT8 = ("F8_E4M3", "F8_E5M2")


def _claims_quanto(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight (out, in). Raises InputError if it is packed and nothing says how many bits a value has."""
    if "weight._scale" not in module.parts:
        return []
    auxiliary = auxiliary_refs(module, QUANTO_AUXILIARY, "quanto")
    if "weight._data" in module.parts:
        weight, scale = module.parts["weight._data"], module.parts["weight._scale"]
        ref, block = weight_ref(module, "weight._data", "quanto", weight.shape, values=CODES, bits=8), None
        if weight.dtype in ("I8", *FLOAT8):
            block = block_of(config, weight.shape, scale)
        if block is not None:
            ref = decoded_ref(ref, "scaled_values", {"codes": weight, "scales": scale}, block=block, times=1)
        return [ref, *auxiliary]
    if "weight._data._data" not in module.parts:
        return []
    weight, bits = module.parts["weight._data._data"], _quanto_bits(config, module.name)
    if bits is None or len(weight.shape) != 2:
        module.refuse("packed by quanto, and no quanto_qmap.json says the bits of this module")
    shape = _quanto_shape(config, module, (weight.shape[0] * 8 // bits, weight.shape[1]))
    ref = weight_ref(module, "weight._data._data", "quanto", shape, bits=bits)
    scale, shift = module.parts["weight._scale"], module.parts.get("weight._shift")
    if shift is not None and scale.shape == shift.shape and scale.dtype == shift.dtype and scale.dtype in FLOATS:
        is_even = scale.elements and scale.shape[1:] == (1,) and ref.elements % scale.elements == 0
        if is_even:
            ref = unpacked_ref(ref, "shifted", [weight, scale, shift], dtype="U16" if bits == 8 else "U8", bits=bits)
            ref = decoded_ref(ref, "shifted_values", {"codes": weight, "scales": scale, "shifts": shift}, bits=bits)
    return [ref, *auxiliary]


def _quanto_shape(config: QuantizationConfig, module: ModuleTensors, grouped: tuple[int, int]) -> tuple[int, int]:
    """The shape of a weight whose rows are stored in groups, (out * groups, in / groups). Raises LayoutError if it is open."""
    declared, role = config.declared.get("hidden_size"), module.name.rpartition(".")[2]
    hidden: int = declared if type(declared) is int and declared > 0 else 0
    reads, writes = FROM_HIDDEN.fullmatch(role), TO_HIDDEN.fullmatch(role)
    other, rest = divmod(math.prod(grouped), hidden) if hidden else (0, 1)
    shape = (other, hidden) if reads else (hidden, other)
    if rest or not (reads or writes) or shape[1] % max(1, grouped[1]):
        module.refuse(f"quanto's groups {list(grouped)}: neither the module's name nor hidden_size {declared} tells the inputs")
    return shape


def _quanto_bits(config: QuantizationConfig, module: str) -> int | None:
    qmap = config.declared.get("quanto_qmap")
    entry = qmap.get(module) if isinstance(qmap, Mapping) else None
    match = QUANTO_TYPE.fullmatch(str(entry.get("weights"))) if isinstance(entry, Mapping) else None
    return int(match[1]) if match else None


def _claims_torchao(config: QuantizationConfig, module: ModuleTensors) -> list[TensorRef]:
    """The weight (..., out, in). Raises InputError if nothing says whether values are packed in pairs."""
    weight, scale = module.parts["_weight_qdata"], module.parts.get("_weight_scale")
    if scale is None or len(weight.shape) < 2:
        module.refuse(f"_weight_qdata {list(weight.shape)} without _weight_scale: its form is not known")
    auxiliary = auxiliary_refs(module, TORCHAO_AUXILIARY, "torchao")
    if weight.dtype in FLOAT8:
        ref = weight_ref(module, "_weight_qdata", "torchao", weight.shape, values=CODES, bits=8)
        return [_torchao_values(config, module, ref), *auxiliary]
    inputs = _torchao_inputs(config, module, scale)
    if inputs not in (weight.shape[-1], 2 * weight.shape[-1]):
        shapes = f"_weight_qdata {weight.dtype} {list(weight.shape)} and _weight_scale {list(scale.shape)}"
        module.refuse(f"{shapes}: neither the file nor the config says how many inputs they are")
    bits = 8 if inputs == weight.shape[-1] else 4
    values = PACKED if bits == 4 or "_weight_zero_point" in module.parts else CODES
    shape = (*weight.shape[:-1], inputs)
    ref = weight_ref(module, "_weight_qdata", "torchao", shape, values=values, bits=bits)
    points = module.parts.get("_weight_zero_point")
    if bits == 8 and points is not None and are_points_of_groups(weight, points):
        ref = unpacked_ref(ref, "pointed", [weight, points])
    return [_torchao_values(config, module, ref) if bits == 8 and weight.dtype == "I8" else ref, *auxiliary]


def _torchao_values(config: QuantizationConfig, module: ModuleTensors, ref: TensorRef) -> TensorRef:
    """A weight of one byte an element with how its values are made, if its scales fit it and nothing else scales it."""
    weight, scale, points = (module.parts.get(f"_weight_{name}") for name in ("qdata", "scale", "zero_point"))
    assert weight is not None and scale is not None
    block = block_of(config, ref.shape, scale)
    has_points = points is None or (points.dtype in POINT_TYPES and points.shape == scale.shape)
    if block is None or not has_points or "_weight_act_pre_scale" in module.parts:
        return ref
    named = {"codes": weight, "scales": scale, "points": points}
    return decoded_ref(ref, "scaled_values", named, block=block, times=1)


def _torchao_inputs(config: QuantizationConfig, module: ModuleTensors, scale: TensorRef) -> int:
    """The inputs of a weight: scales along the inputs times the values that share one; 0 if that is not known."""
    data = _member(_description(module), "_data")
    block = _member(data, "block_size")
    group: Any = block[-1] if isinstance(block, list) and block else None
    if group is None:
        default = _member(_member(config.declared.get("quant_type"), "default"), "_data")
        group = _member(default, "group_size")
        group = _member(_member(_member(default, "granularity"), "_data"), "group_size") if group is None else group
    return scale.shape[-1] * group if type(group) is int and scale.shape else 0


def _description(module: ModuleTensors) -> Any:
    """What the metadata say of the weight: JSON text in safetensors, an object of a pickle."""
    described = module.metadata.get(f"{module.name}.weight")
    try:
        return json.loads(described) if isinstance(described, str) else described
    except (ValueError, RecursionError):
        return None


def _member(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


LAYOUT_QUANTO = WeightLayout("quanto", _claims_quanto, suffixes=("weight._data", "weight._data._data"))
LAYOUT_TORCHAO = WeightLayout("torchao", _claims_torchao, suffixes=("_weight_qdata",))
