"""What a checkpoint's config.json declares of how its weights are stored."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Config = Mapping[str, Any]
"""A config.json, parsed."""

QUANTIZATION_KEYS = ("quantization_config", "quantization", "compression_config")
SAFE_PATTERN = re.compile(r"(?:[\w.:\-/^$|]|\\[.dw]|\.\*|\.\+|\\d\+|\((?:\?:)?|\)(?![*+?{]))*")
MAX_PATTERN = 200
MAX_WILDCARDS = 4


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
        ranked = [(rank, bits) for targets, bits in self._groups if (rank := _target_rank(targets, module))]
        return max(ranked)[1] if ranked else None

    @cached_property
    def _groups(self) -> tuple[tuple[tuple[str, ...], int], ...]:
        groups = self.declared.get("config_groups")
        return tuple(_targets_and_bits(groups)) if isinstance(groups, Mapping) else ()


def quantization_config(config: Config | None) -> QuantizationConfig:
    """The quantization block of a config, from its top level or from the config of a part such as `text_config`."""
    levels = [config or {}, *(value for value in (config or {}).values() if isinstance(value, Mapping))]
    blocks = (level[key] for level in levels for key in QUANTIZATION_KEYS if isinstance(level.get(key), Mapping))
    return QuantizationConfig(next(blocks, {}))


def _targets_and_bits(groups: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], int]]:
    for group in groups.values():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        bits = weights.get("num_bits") if isinstance(weights, Mapping) else None
        targets = group.get("targets") if isinstance(group, Mapping) else None
        if type(bits) is int and isinstance(targets, list):
            yield tuple(target for target in targets if isinstance(target, str)), bits


def _target_rank(targets: tuple[str, ...], module: str) -> int:
    """How closely targets match a module: 3 by its name, 2 by a regular expression, 1 by its class, 0 not at all."""
    ranks = [0]
    for target in targets:
        if target.startswith("re:"):
            ranks.append(2 if _matches(target.removeprefix("re:"), module) else 0)
        elif target == module or module.endswith(f".{target}"):
            ranks.append(3)
        else:
            is_embedding = "embed" in module or module.endswith("wte")
            ranks.append(1 if target == ("Embedding" if is_embedding else "Linear") else 0)
    return max(ranks)


def _matches(pattern: str, module: str) -> bool:
    """Whether a config's pattern matches a name. One that might backtrack exponentially is not tried, and matches nothing."""
    is_safe = len(pattern) <= MAX_PATTERN and SAFE_PATTERN.fullmatch(pattern) is not None
    if not is_safe or len(re.findall(r"[*+]", pattern)) > MAX_WILDCARDS:
        return False
    try:
        return re.match(pattern, module) is not None
    except re.error:
        return False
