"""What a checkpoint's config.json declares of how its weights are stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from layerhouse.ingest.checkpoint.name_pattern import is_simple, matches_name

Config = Mapping[str, Any]
"""A config.json, parsed."""

QUANTIZATION_KEYS = ("quantization_config", "quantization", "compression_config")
MAX_GROUPS = 100
MAX_PATTERNS, MAX_SLOW_PATTERNS = 1000, 32
"""Regular expressions of one group that are tried, and those of them with several repetitions."""


@dataclass(frozen=True)
class _Group:
    """A config group of compressed-tensors: the modules that it targets, by name or class and by pattern, and their bits."""

    names: frozenset[str]
    patterns: tuple[str, ...]
    bits: int

    def rank(self, module: str) -> int:
        """How closely it targets a module: 3 by its name, 2 by a regular expression, 1 by its class, 0 not at all."""
        parts = module.split(".")
        if any(".".join(parts[at:]) in self.names for at in range(len(parts))):
            return 3
        if any(matches_name(pattern, module) for pattern in self.patterns):
            return 2
        is_embedding = "embed" in module or module.endswith("wte")
        return int(("Embedding" if is_embedding else "Linear") in self.names)


@dataclass(frozen=True)
class QuantizationConfig:
    """The quantization block of a config; `declared` is empty where the config has none."""

    declared: Mapping[str, Any]

    @property
    def method(self) -> str | None:
        """The quantization method, such as `gptq`."""
        value = self.declared.get("quant_method")
        return value if isinstance(value, str) else None

    def number(self, key: str, module: str) -> int | None:
        """An integer for a module: from the module's own entry, as MLX writes them, or else the one for all modules."""
        for block in (self.declared.get(module), self.declared):
            value = block.get(key) if isinstance(block, Mapping) else None
            if type(value) is int:
                return value
        return None

    def group_bits(self, module: str) -> int | None:
        """Bits of a module's weights: those of the config group of compressed-tensors that targets it most closely."""
        ranked = [(rank, group.bits) for group in self._groups if (rank := group.rank(module))]
        return max(ranked)[1] if ranked else None

    @cached_property
    def _groups(self) -> tuple[_Group, ...]:
        groups = self.declared.get("config_groups")
        return tuple(islice(_read_groups(groups), MAX_GROUPS)) if isinstance(groups, Mapping) else ()


def quantization_config(config: Config | None) -> QuantizationConfig:
    """The quantization block of a config, from its top level or from the config of a part such as `text_config`."""
    levels = [config or {}, *(value for value in (config or {}).values() if isinstance(value, Mapping))]
    blocks = (level[key] for level in levels for key in QUANTIZATION_KEYS if isinstance(level.get(key), Mapping))
    return QuantizationConfig(next(blocks, {}))


def _read_groups(groups: Mapping[str, Any]) -> Iterator[_Group]:
    for group in groups.values():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        bits = weights.get("num_bits") if isinstance(weights, Mapping) else None
        targets = group.get("targets") if isinstance(group, Mapping) else None
        if type(bits) is int and isinstance(targets, list):
            texts = [target for target in targets if isinstance(target, str)]
            patterns = [text.removeprefix("re:") for text in texts if text.startswith("re:")][:MAX_PATTERNS]
            slow = [pattern for pattern in patterns if not is_simple(pattern)][MAX_SLOW_PATTERNS:]
            kept = tuple(pattern for pattern in patterns if pattern not in slow)
            yield _Group(frozenset(text for text in texts if not text.startswith("re:")), kept, bits)
