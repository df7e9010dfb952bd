"""What one token costs: multiply-accumulates of linear weights and values that the KV cache keeps, from shapes.

A weight element of a linear module is one multiply-accumulate a token; of a layer's experts, as many as the config says a token
goes through. Tables are looked up, so they cost none, and a tied head costs the table once. Left out are attention scores (they
grow with the context), convolutions, scans, norms, and keys and values of cross-attention (once a source, not a token).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.model.config import Config, declared_text, declares_head
from layerhouse.ingest.model.layer_sizes import Sizes, has_unnamed_weights
from layerhouse.ingest.model.parameters import Totals
from layerhouse.ingest.model.placement import TEXT, Placed, Placement

Row = Mapping[str, Any]

DECODING_STACKS = frozenset({TEXT, "decoder"})
KEY_ROLES = frozenset({"k_proj", "qkv_proj"})
COMPRESSED_KV_ROLE = "kv_a_proj"
SOURCE_ROLES = frozenset({"cross_k_proj", "cross_v_proj"})
TOKEN_MODULES = frozenset({"lm_head", "projector"})
DECLARED_BITS = {"float64": 64, "float32": 32, "float16": 16, "bfloat16": 16}


def layer_macs(tensors: Sequence[Placed], sizes: Sizes, experts_per_token: int | None) -> int | None:
    """Multiply-accumulates of one token in a layer; None where weights are unnamed or active experts unknown."""
    if has_unnamed_weights(tensors):
        return None
    weights = [tensor for tensor in tensors if _is_linear(tensor)]
    experts = [tensor for tensor in weights if tensor.module == "expert"]
    dense = sum(tensor.ref.elements for tensor in weights if tensor.module != "expert")
    if not experts:
        return dense
    held = sum(tensor.ref.elements for tensor in experts)
    if not sizes.num_experts or experts_per_token is None or not _are_alike(experts):
        return None
    active, rest = divmod(held * min(experts_per_token, sizes.num_experts), sizes.num_experts)
    return None if rest else dense + active


def layer_kv_values(tensors: Sequence[Placed], sizes: Sizes, stack: str) -> int | None:
    """Values that a layer keeps of one token: keys and values, or what they are computed from (MLA)."""
    if stack not in DECODING_STACKS:
        return None
    by_role = {tensor.role: tensor for tensor in tensors if tensor.part == "weight" and tensor.input_axis is not None}
    compressed = by_role.get(COMPRESSED_KV_ROLE)
    if compressed is not None and compressed.output_axis is not None:
        return compressed.ref.shape[compressed.output_axis]
    if not KEY_ROLES & by_role.keys():
        return None if has_unnamed_weights(tensors) else 0
    if sizes.num_kv_heads is None or sizes.head_dim is None:
        return None
    return 2 * sizes.num_kv_heads * sizes.head_dim


def model_macs(placement: Placement, config: Config | None, totals: Totals, layers: Iterable[Row]) -> int | None:
    """Multiply-accumulates of one token in the main stack and the output head; None where a part of it is not known."""
    main = placement.main_stack
    by_layer: list[int | None] = [row["macs_per_token"] for row in layers if row["stack"] == main]
    outside = [t for t in placement.unique if t.layer_index is None and t.stack == main and _is_linear(t)]
    outside = [tensor for tensor in outside if tensor.module in TOKEN_MODULES]
    has_head = any(tensor.role == "lm_head" for tensor in outside)
    known = [count for count in by_layer if count is not None]
    if not known or len(known) < len(by_layer):
        return None
    head = 0
    if not has_head and totals.tied_embeddings:
        head = next((t.ref.elements for t in placement.placed if t.role == "embed_tokens" and t.part == "weight"), 0)
    elif not has_head and declares_head(config):
        return None
    return sum(known) + sum(tensor.ref.elements for tensor in outside) + head


def model_kv_bytes(placement: Placement, config: Config | None, layers: Iterable[Row]) -> int | None:
    """Bytes that one token takes in the KV cache of the main stack, in the dtype that the model computes in."""
    values: list[int | None] = [row["kv_values_per_token"] for row in layers if row["stack"] == placement.main_stack]
    known = [value for value in values if value is not None]
    bits = compute_bits(placement.placed, config)
    if not known or bits is None or len(known) < len(values):
        return None
    return sum(known) * bits // 8


def compute_bits(placed: Iterable[Placed], config: Config | None) -> int | None:
    """Bits of an element as the model computes: of most of its parameters, or, where those are narrower than 16 (packed,
    float8), as the config says."""
    counts: Counter[str] = Counter()
    for tensor in placed:
        counts[tensor.ref.dtype] += tensor.params
    dtype = DTYPES[max(counts, key=lambda name: counts[name])] if counts else None
    if dtype is not None and dtype.kind == "float" and dtype.bits >= 16:
        return dtype.bits
    stated = declared_text(config, "dtype") or declared_text(config, "torch_dtype")
    return None if stated is None else DECLARED_BITS.get(stated.removeprefix("torch."))


def _is_linear(tensor: Placed) -> bool:
    is_weight = tensor.part == "weight" and tensor.input_axis is not None and tensor.is_parameter
    return is_weight and tensor.role not in SOURCE_ROLES


def _are_alike(experts: Iterable[Placed]) -> bool:
    """Whether every expert has the same shapes, so that it does not matter which ones a token goes through."""
    shapes: dict[str | None, set[tuple[int, ...]]] = {}
    counts: Counter[str | None] = Counter()
    for tensor in experts:
        shapes.setdefault(tensor.role, set()).add(tensor.ref.shape)
        counts[tensor.role] += 1
    return all(len(found) == 1 for found in shapes.values()) and len(set(counts.values())) == 1
