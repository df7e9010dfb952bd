"""What layouts are told by: the tensors of one module under their suffixes, and what the config says of quantisation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NoReturn

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.shapes import MAX_ELEMENTS, count_elements
from layerhouse.ingest.checkpoint.containers.sniff import opened
from layerhouse.ingest.checkpoint.tensor_ref import PACKED, Layout, TensorRef
from layerhouse.ingest.model.config import Config

SMALL_BYTES = 1 << 16
"""A tensor that says something about others (a shape, a description in JSON) is no longer than this."""

OF_WEIGHT = ".weight."
GLUED = re.compile(r"(_blocks|_scales)$")
CONFIG_KEYS = ("quantization_config", "quantization", "compression_config")
SIMPLE_PATTERN = re.compile(r"(?:[\w.:\-/^$|]|\\[.dw]|\.\*|\.\+|\\d\+|\((?:\?:)?|\)(?![*+?{]))*")
MAX_WILDCARDS = 4


@dataclass(frozen=True)
class Module:
    """A module's name and its tensors by suffix. `shown` is the model as the user knows it, for errors."""

    name: str
    parts: Mapping[str, TensorRef]
    shown: str

    def refuse(self, what: str) -> NoReturn:
        raise InputError(f"{self.shown}: {self.name[:80]}", what)

    def integers(self, suffix: str) -> list[int]:
        """The values of a small tensor of 32- or 64-bit integers."""
        ref = self.parts[suffix]
        if ref.dtype not in ("I32", "I64", "U32", "U64"):
            self.refuse(f"{suffix} is {ref.dtype}, integers were expected")
        size = 4 if ref.dtype.endswith("32") else 8
        raw = self.small_bytes(suffix)
        return [int.from_bytes(raw[at : at + size], "little", signed=ref.dtype[0] == "I") for at in range(0, len(raw), size)]

    def document(self, suffix: str) -> Any:
        """The JSON value that a small tensor of bytes spells."""
        try:
            return json.loads(self.small_bytes(suffix))
        except (ValueError, RecursionError):
            self.refuse(f"{suffix} holds no JSON")

    def small_bytes(self, suffix: str) -> bytes:
        """The bytes of a small tensor."""
        ref = self.parts[suffix]
        if ref.logical_bytes > SMALL_BYTES or ref.strides is not None:
            self.refuse(f"limit exceeded: {suffix} of {ref.logical_bytes} bytes, over {SMALL_BYTES}, or not in C order")
        with opened(ref.path, self.shown) as (file, _):
            file.seek(ref.offset + ref.storage_offset * (ref.logical_bytes // max(1, ref.elements)))
            raw = file.read(ref.logical_bytes)
        if len(raw) < ref.logical_bytes:
            self.refuse(f"cut off: {suffix} has {ref.logical_bytes} bytes, found {len(raw)}")
        return raw


@dataclass(frozen=True)
class Quantization:
    """What a config says of quantisation: the outermost object of one of CONFIG_KEYS, wherever it is nested."""

    declared: Mapping[str, Any]

    @property
    def method(self) -> str | None:
        value = self.declared.get("quant_method")
        return value if isinstance(value, str) else None

    def number(self, key: str, module: str) -> int | None:
        """A whole number for a module: of the module's own entry (MLX keeps such), or of all."""
        own = self.declared.get(module)
        for place in (own, self.declared):
            value = place.get(key) if isinstance(place, Mapping) else None
            if type(value) is int:
                return value
        return None

    def group_bits(self, module: str) -> int | None:
        """Bits of the weights of a module, by the config group of compressed-tensors that aims at it."""
        found = [(rank, bits) for targets, bits in self._groups if (rank := _aims(targets, module))]
        return max(found)[1] if found else None

    @cached_property
    def _groups(self) -> tuple[tuple[tuple[str, ...], int], ...]:
        groups = self.declared.get("config_groups")
        return tuple(_bits_of(groups)) if isinstance(groups, Mapping) else ()


def quantization_of(config: Config | None) -> Quantization:
    """The quantisation that a config declares, at its top or inside the config of a part such as `text_config`."""
    places = [config or {}, *(value for value in (config or {}).values() if isinstance(value, Mapping))]
    found = (place[key] for place in places for key in CONFIG_KEYS if isinstance(place.get(key), Mapping))
    return Quantization(next(found, {}))


def split_name(name: str) -> tuple[str, str]:
    """The module's name and the suffix: `a.q_proj`, `qweight`; `a.q_proj`, `weight.absmax`; `a.up_proj`, `_blocks`."""
    glued = GLUED.search(name)
    if glued is not None:
        return name[: glued.start()], glued[1]
    before, found, after = name.partition(OF_WEIGHT)
    if found:
        return before, f"weight.{after}"
    module, _, suffix = name.rpartition(".")
    return module, suffix


def main(
    module: Module,
    suffix: str,
    scheme: str,
    shape: tuple[int, ...],
    *,
    values: str = PACKED,
    bits: int | None = None,
    weight: str = "weight",
) -> TensorRef:
    """The tensor that holds a weight of this shape. `weight` is the suffix that the plain weight would have, "" for none."""
    if any(extent < 0 for extent in shape) or count_elements(shape) is None:
        module.refuse(f"{suffix} stands for shape {list(shape)[:8]}, over {MAX_ELEMENTS} elements or negative")
    ref = module.parts[suffix]
    layout = Layout(_joined(module.name, weight), suffix.strip("_"), scheme, ref.shape, values, bits=bits)
    return replace(ref, shape=shape, layout=layout)


def auxiliary(module: Module, suffix: str, scheme: str, *, weight: str = "weight") -> TensorRef:
    """A tensor that serves the weight and is no parameter."""
    ref = module.parts[suffix]
    part = suffix.strip("_").removeprefix("weight.")
    return replace(ref, layout=Layout(_joined(module.name, weight), part, scheme, ref.shape, values="plain", is_aux=True))


def auxiliaries(
    module: Module, suffixes: Iterator[str] | tuple[str, ...], scheme: str, *, weight: str = "weight"
) -> list[TensorRef]:
    """Those of the suffixes that are there."""
    return [auxiliary(module, suffix, scheme, weight=weight) for suffix in suffixes if suffix in module.parts]


def _joined(module: str, suffix: str) -> str:
    return f"{module}.{suffix}" if suffix and module else module or suffix


def _bits_of(groups: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], int]]:
    for group in groups.values():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        bits = weights.get("num_bits") if isinstance(weights, Mapping) else None
        targets = group.get("targets") if isinstance(group, Mapping) else None
        if type(bits) is int and isinstance(targets, list):
            yield tuple(target for target in targets if isinstance(target, str)), bits


def _aims(targets: tuple[str, ...], module: str) -> int:
    """How closely targets name a module: 3 by its name, 2 by a pattern, 1 by its class, 0 not at all."""
    ranks = [0]
    for target in targets:
        if target.startswith("re:"):
            ranks.append(2 if _matches(target.removeprefix("re:"), module) else 0)
        elif target == module or module.endswith(f".{target}"):
            ranks.append(3)
        else:
            is_table = "embed" in module or module.endswith("wte")
            ranks.append(1 if target == ("Embedding" if is_table else "Linear") else 0)
    return max(ranks)


def _matches(pattern: str, module: str) -> bool:
    """Whether a pattern of a config fits; one that could take long on some name fits nothing."""
    if len(pattern) > 200 or not SIMPLE_PATTERN.fullmatch(pattern) or len(re.findall(r"[*+]", pattern)) > MAX_WILDCARDS:
        return False
    try:
        return re.match(pattern, module) is not None
    except re.error:
        return False
