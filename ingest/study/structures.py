"""Layers and parameters as counted, from the JSON of analysis scripts. Every number is an integer that the file states.

Form of the files: `{model_name, total_params, embedding_params, lm_head_params, layers[{layer_idx, total, attention{type,
q_proj, k_proj, v_proj, o_proj, total, num_heads?, num_kv_heads?}, mlp{type, gate_proj, up_proj, down_proj, total,
intermediate_size}, norm, is_zero_layer}], layer_summary{num_layers, total_layer_params}}` for one model, and `{original_name,
pruned_name, total_params, layer_params, layers[{layer_idx, total, attention, mlp}]}` with `{original, pruned}` pairs for two.
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

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
MAX_LAYERS = 100_000
STATED_SUMS = {"total", "intermediate_size", "num_heads", "num_kv_heads", "head_dim"}


@dataclass(frozen=True)
class Layer:
    """One layer as counted: parameters by module and by role; None where the file does not say."""

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
        """What is left of the layer; None where its parts add up to more than its total."""
        if self.params is None or self.attention_params is None or self.mlp_params is None or self.norm_params is None:
            return None
        rest = self.params - self.attention_params - self.mlp_params - self.norm_params
        return rest if rest >= 0 else None

    @property
    def is_zero_layer(self) -> bool | None:
        """No attention and no MLP parameters; true of an emptied block that keeps its norms."""
        if self.attention_params is None or self.mlp_params is None:
            return None
        return self.attention_params == 0 and self.mlp_params == 0

    @property
    def facts(self) -> list[Any]:
        """Everything that the file says of the layer, in a fixed order."""
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
        return (self.params, self.attention_params, self.mlp_params, self.intermediate_size)


@dataclass(frozen=True)
class Structure:
    """A model as counted. `num_layers` may be known where not every layer is listed, and the other way round.

    `layer_params` and `num_layers` are what the listed layers add up to; the `stated_` ones are what a file says beside them.
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
        """Content hash, 32 hex digits: equal structures under equal names are one checkpoint."""
        own = [self.name, self.params, self.layer_params, self.num_layers, self.embedding_params, self.lm_head_params]
        text = json.dumps([own, [layer.facts for layer in self.layers]])
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Comparison:
    """Both sides of a comparison file. `original` lists only as many layers as the shorter side has."""

    original: Structure
    pruned: Structure


class Reader:
    """Typed access into one JSON document; every complaint names the file and the key."""

    def __init__(self, shown: str, value: Any, key: str = "") -> None:
        self.shown, self.value, self.key = shown, value, key

    def fail(self, expected: str) -> InputError:
        found = type(self.value).__name__ if isinstance(self.value, (dict, list)) else repr(self.value)[:40]
        return InputError(self.shown, f"{self.key or 'top level'}: expected {expected}, found {found}")

    def mapping(self) -> dict[str, Any]:
        if not isinstance(self.value, dict):
            raise self.fail("an object")
        return self.value

    def child(self, name: str) -> Reader | None:
        value = self.mapping().get(name)
        return None if value is None else Reader(self.shown, value, f"{self.key}.{name}".lstrip("."))

    def required(self, name: str) -> Reader:
        child = self.child(name)
        if child is None:
            raise InputError(self.shown, f"{f'{self.key}.{name}'.lstrip('.')}: missing")
        return child

    def items(self) -> list[Reader]:
        if not isinstance(self.value, list):
            raise self.fail("a list")
        if len(self.value) > MAX_LAYERS:
            raise InputError(self.shown, f"{self.key}: limit exceeded: {len(self.value)} layers, at most {MAX_LAYERS}")
        return [Reader(self.shown, item, f"{self.key}[{position}]") for position, item in enumerate(self.value)]

    def integer(self, most: int = INT64_MAX) -> int:
        """A count: an integer, or a float that is exactly one; not negative."""
        value = self.value
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise self.fail("an integer that is not negative" if most == INT64_MAX else f"an integer from 0 to {most}")
        return value

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.fail("a text")
        return self.value

    def optional_integer(self, name: str, most: int = INT64_MAX) -> int | None:
        child = self.child(name)
        return None if child is None else child.integer(most)

    def optional_text(self, name: str) -> str | None:
        child = self.child(name)
        return None if child is None else child.text()


def read_structure(document: Any, shown: str) -> Structure:
    """One model's analysis. Raises InputError that names the key which is missing or of the wrong type."""
    top = Reader(shown, document)
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


def read_comparison(document: Any, shown: str) -> Comparison:
    """Two models side by side. Raises InputError that names the key which is missing or of the wrong type."""
    top = Reader(shown, document)
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


def _layer(item: Reader) -> Layer:
    attention, mlp = item.child("attention"), item.child("mlp")
    roles: dict[str, int] = {}
    for module in (attention, mlp):
        if module is not None:
            for name, value in module.mapping().items():
                if name not in STATED_SUMS and not isinstance(value, (str, bool)) and value is not None:
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


def _side_layer(item: Reader, side: str) -> Layer | None:
    """One side of a layer of a comparison; None where the file lists the layer for the other side alone."""
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


def _side_integer(item: Reader, module: Reader | None, name: str, side: str) -> int | None:
    """A pair `{original, pruned}` inside the module, or beside it in the layer."""
    for holder in (module, item):
        if holder is not None and (pair := holder.child(name)) is not None:
            return pair.optional_integer(side, INT32_MAX)
    return None


def _in_order(top: Reader, layers: list[Layer]) -> tuple[Layer, ...]:
    ordered = sorted(layers, key=lambda layer: layer.index)
    for layer, following in pairwise(ordered):
        if layer.index == following.index:
            raise InputError(top.shown, f"layers: layer_idx {layer.index} stands twice")
    if sum(layer.params or 0 for layer in layers) > INT64_MAX:
        raise InputError(top.shown, "layers: limit exceeded: parameters of all layers, at most 2^63 - 1")
    return tuple(ordered)
