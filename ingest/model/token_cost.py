"""The cost of one token, from shapes: multiply-accumulates (MACs) of linear weights, and values kept in the KV cache.

Each weight element of a linear module is one MAC for each token; of a layer's experts count as many as the config says a token
is routed to. Embedding lookups cost none, and a tied head costs the embedding table once. Left out are attention scores (they
grow with the context), convolutions, scans, norms, and keys and values of cross-attention (computed once for each source).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from layerhouse.ingest.checkpoint.config_json import Config
from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.model.config import declared_text, declares_head
from layerhouse.ingest.model.layer_sizes import Sizes, has_unnamed_weights
from layerhouse.ingest.model.parameters import Totals, find_weight
from layerhouse.ingest.model.placement import LINEAR_PARTS, Placed, Placement, join_factors
from layerhouse.vocabulary import Module, Role, Stack

Row = Mapping[str, Any]

DECODING_STACKS = frozenset({Stack.TEXT, Stack.DECODER})
KEY_ROLES = frozenset({Role.K_PROJ, Role.QKV_PROJ})
SOURCE_ROLES = frozenset({Role.CROSS_K_PROJ, Role.CROSS_V_PROJ})
TOKEN_MODULES = frozenset({Module.LM_HEAD, Module.PROJECTOR})
"""Modules outside the layers that every token goes through."""

INT64_MAX = 2**63 - 1
DECLARED_BITS = {"float64": 64, "float32": 32, "float16": 16, "bfloat16": 16}


def layer_macs(tensors: Sequence[Placed], sizes: Sizes, experts_per_token: int | None) -> int | None:
    """MACs of one token in a layer; None if it has weights that no template describes, or the routed experts are unknown."""
    if has_unnamed_weights(tensors):
        return None
    weights = [tensor for tensor in tensors if _is_linear(tensor)]
    experts = [tensor for tensor in weights if tensor.module == Module.EXPERT]
    total = sum(tensor.ref.elements for tensor in experts)
    dense = sum(tensor.ref.elements for tensor in weights) - total
    if not experts:
        return dense
    if not sizes.num_experts or experts_per_token is None or not _have_equal_shapes(experts):
        return None
    active, rest = divmod(total * min(experts_per_token, sizes.num_experts), sizes.num_experts)
    return None if rest else dense + active


def layer_kv_values(tensors: Sequence[Placed], sizes: Sizes, stack: str) -> int | None:
    """Values that a layer keeps of one token: keys and values, or the vector that they are computed from (MLA)."""
    if stack not in DECODING_STACKS:
        return None
    weights = [tensor for tensor in join_factors(tensors) if tensor.part == "weight" and tensor.input_axis is not None]
    by_role = {tensor.role: tensor for tensor in weights}
    compressed = by_role.get(Role.KV_A_PROJ)
    if compressed is not None and compressed.output_axis is not None:
        return compressed.ref.shape[compressed.output_axis]
    if not KEY_ROLES & by_role.keys():
        return None if has_unnamed_weights(tensors) else 0
    if sizes.num_kv_heads is None or sizes.head_dim is None:
        return None
    return _storable(2 * sizes.num_kv_heads * sizes.head_dim)


def model_macs(placement: Placement, config: Config | None, totals: Totals, layers: Iterable[Row]) -> int | None:
    """MACs of one token in the main stack and the output head; None if a part is not known."""
    main = placement.main_stack
    by_layer: list[int | None] = [row["macs_per_token"] for row in layers if row["stack"] == main]
    outside = [t for t in placement.unique if t.layer_index is None and t.stack == main and _is_linear(t)]
    outside = [tensor for tensor in outside if tensor.module in TOKEN_MODULES]
    has_head = any(tensor.role == Role.LM_HEAD for tensor in outside)
    known = [count for count in by_layer if count is not None]
    if not known or len(known) < len(by_layer):
        return None
    head = 0
    if not has_head and totals.tied_embeddings:
        embedding = find_weight(placement, Role.EMBED_TOKENS)
        head = 0 if embedding is None else embedding.ref.elements
    elif not has_head and declares_head(config):
        return None
    return sum(known) + sum(tensor.ref.elements for tensor in outside) + head


def model_kv_bytes(placement: Placement, config: Config | None, layers: Iterable[Row]) -> int | None:
    """Bytes of one token in the KV cache of the main stack, in the dtype that the model computes in."""
    values: list[int | None] = [row["kv_values_per_token"] for row in layers if row["stack"] == placement.main_stack]
    known = [value for value in values if value is not None]
    bits = compute_bits(placement.placed, config)
    if not known or bits is None or len(known) < len(values):
        return None
    return _storable(sum(known) * bits // 8)


def compute_bits(placed: Iterable[Placed], config: Config | None) -> int | None:
    """Bits of an element in the dtype that the model computes in; None if not known.

    It is the dtype of most parameters, or, if that has fewer than 16 bits (packed, float8), the config's.
    """
    counts: Counter[str] = Counter()
    for tensor in placed:
        counts[tensor.ref.dtype] += tensor.params
    dtype = DTYPES[max(counts, key=lambda name: counts[name])] if counts else None
    if dtype is not None and dtype.kind == "float" and dtype.bits >= 16:
        return dtype.bits
    declared = declared_text(config, "dtype") or declared_text(config, "torch_dtype")
    return None if declared is None else DECLARED_BITS.get(declared.removeprefix("torch."))


def _storable(count: int) -> int | None:
    """A count that a column holds; None for a larger one, which only tensors without elements can claim."""
    return count if count <= INT64_MAX else None


def _is_linear(tensor: Placed) -> bool:
    is_weight = tensor.part in LINEAR_PARTS and tensor.input_axis is not None and tensor.is_parameter
    return is_weight and tensor.role not in SOURCE_ROLES


def _have_equal_shapes(experts: Iterable[Placed]) -> bool:
    """Whether every expert has the same shapes, so that the cost does not depend on the experts that a token is routed to."""
    shapes: dict[tuple[str | None, str], set[tuple[int, ...]]] = {}
    counts: Counter[tuple[str | None, str]] = Counter()
    for tensor in experts:
        key = tensor.role, tensor.part
        shapes.setdefault(key, set()).add(tensor.ref.shape)
        counts[key] += 1
    return all(len(role_shapes) == 1 for role_shapes in shapes.values()) and len(set(counts.values())) == 1
