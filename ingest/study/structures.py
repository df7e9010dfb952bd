"""A model's layers and parameters as analysis scripts counted them. Every number is an integer that the file states.

The file of one model is `{model_name, total_params, embedding_params, lm_head_params, layers[{layer_idx, total,
attention{type, q_proj, k_proj, v_proj, o_proj, total, num_heads?, num_kv_heads?}, mlp{type, gate_proj, up_proj, down_proj,
total, intermediate_size}, norm, is_zero_layer}], layer_summary{num_layers, total_layer_params}}`. The file of two models is
`{original_name, pruned_name, total_params, layer_params, layers[{layer_idx, total, attention, mlp}]}`, where each count is a
pair `{original, pruned}`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.study.json_reader import INT32_MAX, INT64_MAX, JsonReader

NO_ROLES = {"total", "intermediate_size", "num_heads", "num_kv_heads", "head_dim"}
"""Keys of a module that are not the parameters of a role."""


@dataclass(frozen=True)
class Layer:
    """One layer: parameters by module and by role, and its sizes; None where the file states none."""

    index: int
    params: int | None
    attention_params: int | None
    mlp_params: int | None
    norm_params: int | None = None
    role_params: Mapping[str, int] = field(default_factory=dict)
    num_heads: int | None = None
    num_kv_heads: int | None = None
    head_dim: int | None = None
    intermediate_size: int | None = None
    attention_type: str | None = None
    mlp_type: str | None = None

    @property
    def other_params(self) -> int | None:
        """Parameters outside of attention, MLP and norms; None if a part is unknown or the parts exceed the total."""
        if self.params is None or self.attention_params is None or self.mlp_params is None or self.norm_params is None:
            return None
        rest = self.params - self.attention_params - self.mlp_params - self.norm_params
        return rest if rest >= 0 else None

    @property
    def is_zero_layer(self) -> bool | None:
        """Whether attention and MLP have no parameters, as in an emptied block that keeps its norms; None if unknown."""
        if self.attention_params is None or self.mlp_params is None:
            return None
        return self.attention_params == 0 and self.mlp_params == 0

    @property
    def facts(self) -> list[Any]:
        """Everything that the file states of the layer, in a fixed order, for hashing."""
        sizes = [
            self.index,
            self.params,
            self.attention_params,
            self.mlp_params,
            self.norm_params,
            sorted(self.role_params.items()),
        ]
        heads = [self.num_heads, self.num_kv_heads, self.head_dim, self.intermediate_size]
        return [*sizes, *heads, self.attention_type, self.mlp_type]

    @property
    def size(self) -> tuple[int | None, ...]:
        """What layers of one size have in common."""
        return (self.params, self.attention_params, self.mlp_params, self.intermediate_size)


@dataclass(frozen=True)
class Structure:
    """A model's parameters and layers.

    `num_layers` and `layer_params` are those of the listed layers, or of all layers where a file states or implies them;
    either may be known without the other. The `stated_` numbers are from a file's `layer_summary`.
    """

    name: str | None
    params: int
    layer_params: int | None
    layers: tuple[Layer, ...]
    num_layers: int | None
    embedding_params: int | None = None
    lm_head_params: int | None = None
    stated_layer_params: int | None = None
    stated_num_layers: int | None = None

    @cached_property
    def structure_id(self) -> str:
        """Hash of the content, 32 hex digits: equal structures with equal names are one checkpoint."""
        own = [self.name, self.params, self.layer_params, self.num_layers, self.embedding_params, self.lm_head_params]
        text = json.dumps([own, [layer.facts for layer in self.layers]])
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Comparison:
    """Both models of a comparison file, which lists only as many layers as the model with fewer of them has."""

    original: Structure
    pruned: Structure


def read_structure(document: Any, display_path: str) -> Structure:
    """Read one model's analysis. Raises InputError, which names the key, if one is missing or of the wrong type."""
    top = JsonReader(display_path, document)
    layers = _in_order(top, [_layer(item) for item in top.required("layers").items()])
    summary = top.child("layer_summary")
    stated_layer_params = None if summary is None else summary.optional_integer("total_layer_params")
    return Structure(
        name=top.optional_text("model_name"),
        params=top.required("total_params").integer(),
        layer_params=sum(layer.params or 0 for layer in layers) if layers else stated_layer_params,
        layers=layers,
        num_layers=len(layers),
        embedding_params=top.optional_integer("embedding_params"),
        lm_head_params=top.optional_integer("lm_head_params"),
        stated_layer_params=stated_layer_params,
        stated_num_layers=None if summary is None else summary.optional_integer("num_layers"),
    )


def read_comparison(document: Any, display_path: str) -> Comparison:
    """Read a comparison of two models. Raises InputError, which names the key, if one is missing or of the wrong type."""
    top = JsonReader(display_path, document)
    items = top.required("layers").items()
    sides = {}
    for side, name_key in (("original", "original_name"), ("pruned", "pruned_name")):
        layer_totals = top.child("layer_params")
        layers = _in_order(top, [layer for item in items if (layer := _side_layer(item, side)) is not None])
        sides[side] = Structure(
            name=top.optional_text(name_key),
            params=top.required("total_params").required(side).integer(),
            layer_params=None if layer_totals is None else layer_totals.optional_integer(side),
            layers=layers,
            num_layers=None,
        )
    return Comparison(**sides)


def _layer(item: JsonReader) -> Layer:
    attention, mlp = item.child("attention"), item.child("mlp")
    roles: dict[str, int] = {}
    for module in (attention, mlp):
        if module is not None:
            for name, value in module.mapping().items():
                if name not in NO_ROLES and not isinstance(value, (str, bool)) and value is not None:
                    roles[name] = module.required(name).integer()
    return Layer(
        index=item.required("layer_idx").integer(INT32_MAX),
        params=item.required("total").integer(),
        attention_params=None if attention is None else attention.required("total").integer(),
        mlp_params=None if mlp is None else mlp.required("total").integer(),
        norm_params=item.optional_integer("norm"),
        role_params=roles,
        num_heads=None if attention is None else attention.optional_integer("num_heads", INT32_MAX),
        num_kv_heads=None if attention is None else attention.optional_integer("num_kv_heads", INT32_MAX),
        head_dim=None if attention is None else attention.optional_integer("head_dim", INT32_MAX),
        intermediate_size=None if mlp is None else mlp.optional_integer("intermediate_size", INT32_MAX),
        attention_type=None if attention is None else attention.optional_text("type"),
        mlp_type=None if mlp is None else mlp.optional_text("type"),
    )


def _side_layer(item: JsonReader, side: str) -> Layer | None:
    """A layer of one of the compared models; None if the file lists the layer for the other model alone."""
    total = item.required("total")
    if total.child(side) is None:
        return None
    attention, mlp = item.child("attention"), item.child("mlp")
    return Layer(
        index=item.required("layer_idx").integer(INT32_MAX),
        params=total.required(side).integer(),
        attention_params=None if attention is None else attention.optional_integer(side),
        mlp_params=None if mlp is None else mlp.optional_integer(side),
        num_heads=_side_integer(item, attention, "num_heads", side),
        num_kv_heads=_side_integer(item, attention, "num_kv_heads", side),
        intermediate_size=_side_integer(item, mlp, "intermediate_size", side),
    )


def _side_integer(item: JsonReader, module: JsonReader | None, name: str, side: str) -> int | None:
    """One side of a pair `{original, pruned}` in the module, or else in the layer."""
    for holder in (module, item):
        if holder is not None and (pair := holder.child(name)) is not None:
            return pair.optional_integer(side, INT32_MAX)
    return None


def _in_order(top: JsonReader, layers: list[Layer]) -> tuple[Layer, ...]:
    ordered = sorted(layers, key=lambda layer: layer.index)
    for layer, following in pairwise(ordered):
        if layer.index == following.index:
            raise InputError(top.display_path, f"layers: layer_idx {layer.index} stands twice")
    if sum(layer.params or 0 for layer in layers) > INT64_MAX:
        raise InputError(top.display_path, "layers: limit exceeded: parameters of all layers, at most 2^63 - 1")
    return tuple(ordered)
