"""What a checkpoint's config declares, by our words. A value of another type than expected counts as not declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layerhouse.ingest.family_files import Family

Config = Mapping[str, Any]


def model_types(config: Config | None) -> tuple[str, ...]:
    """`model_type` of the config, then of the text model inside it."""
    found = [] if config is None else [config.get("model_type"), _text_config(config).get("model_type")]
    return tuple(value for value in found if isinstance(value, str))


def declared_numbers(config: Config | None, family: Family | None, word: str) -> tuple[int, ...] | int | None:
    """The number for a word of CONFIG_WORDS: one for all layers, one a layer, or None."""
    key = None if family is None else family.config_keys.get(word)
    if config is None or key is None:
        return None
    value = config.get(key, _text_config(config).get(key))
    if isinstance(value, list) and value and all(_is_count(item) for item in value):
        return tuple(value)
    return value if _is_count(value) else None


def declared_number(config: Config | None, family: Family | None, word: str) -> int | None:
    """The number for a word, where the config has one for all layers."""
    value = declared_numbers(config, family, word)
    return value if isinstance(value, int) else None


def declared_flag(config: Config | None, key: str) -> bool | None:
    """A truth value of the config or of the text model inside it."""
    value = None if config is None else config.get(key, _text_config(config).get(key))
    return value if isinstance(value, bool) else None


def declares_head(config: Config | None) -> bool:
    """Whether the architecture has an output head; True where nothing says."""
    architectures = None if config is None else config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        return True
    return any(word in architectures[0] for word in ("CausalLM", "LMHead", "ConditionalGeneration"))


def _text_config(config: Config) -> Config:
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) else {}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
