"""What a checkpoint's config declares. A value of another type than expected counts as not declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from layerhouse.ingest.checkpoint.config_json import Config
from layerhouse.ingest.model.family import Family
from layerhouse.vocabulary import Stack

Numbers = tuple[int | None, ...]
"""A number for each layer; None for a layer of which the config gives none."""

TEXT_CONFIG = "text_config"
MAX_COUNT = 2**63 - 1
"""A larger number counts as not declared: nothing has so many layers, heads or neurons, and no column holds it."""
MAX_FFN_MULT = 1024
"""The largest multiple of the hidden size that an MLP may declare as its width; those of models are below 10."""


def model_types(config: Config | None) -> tuple[str, ...]:
    """`model_type` of the config, then of the text model's config inside it."""
    values = [] if config is None else [config.get("model_type"), inner_config(config, TEXT_CONFIG).get("model_type")]
    return tuple(value for value in values if isinstance(value, str))


def inner_config(config: Config | None, key: str) -> Config:
    """The config under a key of a config; an empty one if there is none."""
    inner = None if config is None else config.get(key)
    return inner if isinstance(inner, Mapping) else {}


def declared_numbers(config: Config | None, family: Family | None, word: str, stack: str = Stack.TEXT) -> Numbers | int | None:
    """The number for a word of CONFIG_WORDS: one for all layers, one for each layer, or None."""
    declared = _find_numbers(config, family, word, stack)
    return None if declared is None else declared[1]


def declared_number(config: Config | None, family: Family | None, word: str, stack: str = Stack.TEXT) -> int | None:
    """The number for a word of CONFIG_WORDS, if the config has one for all layers."""
    if config is None or family is None:
        return None
    values = (_look_up_sum(config, path) for path in family.config_paths(word, stack))
    value = next((value for value in values if value is not None), None)
    return value if _is_count(value) else None


def declared_key(config: Config | None, family: Family | None, word: str, stack: str = Stack.TEXT) -> str | None:
    """The config key that holds the number for a word of CONFIG_WORDS."""
    declared = _find_numbers(config, family, word, stack)
    return None if declared is None else declared[0]


def declared_flag(config: Config | None, key: str) -> bool | None:
    """A boolean of the config or of the text model's config inside it."""
    value = None if config is None else _look_up(config, key)
    return value if isinstance(value, bool) else None


def declared_text(config: Config | None, key: str) -> str | None:
    """A text of the config or of the text model's config inside it."""
    value = None if config is None else _look_up(config, key)
    return value if isinstance(value, str) else None


def dropped_layers(config: Config | None, key: str) -> frozenset[int]:
    """Layers of `drop_attn_list` or `drop_mlp_list`, as LLM-Drop writes them: layer numbers, or a boolean for each layer."""
    value = None if config is None else _look_up(config, key)
    if not isinstance(value, list):
        return frozenset()
    if value and all(isinstance(item, bool) for item in value):
        return frozenset(index for index, item in enumerate(value) if item)
    return frozenset(item for item in value if _is_count(item))


def declares_head(config: Config | None) -> bool:
    """Whether the architecture has an output head; True if the config does not say."""
    architectures = None if config is None else config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        return True
    return any(word in architectures[0] for word in ("CausalLM", "LMHead", "ConditionalGeneration", "MaskedLM", "PreTraining"))


def _find_numbers(config: Config | None, family: Family | None, word: str, stack: str) -> tuple[str, Numbers | int] | None:
    """The key that holds the numbers for a word, and the numbers."""
    if config is None or family is None:
        return None
    by_block = _block_numbers(config, family, word, stack)
    if by_block is not None:
        return by_block
    for path in family.config_paths(word, stack):
        value = _look_up_sum(config, path)
        if isinstance(value, list) and value and all(_is_count(item) for item in value):
            return path, tuple(value)
        if _is_count(value):
            return path, value
    return None


def _look_up_sum(config: Config, path: str) -> Any:
    """The value at a path; for `a + b` the sum, or None if a summand is not a number."""
    values = [_look_up(config, part.strip()) for part in path.split("+")]
    if len(values) == 1:
        return values[0]
    return sum(values) if all(_is_count(value) for value in values) else None


def _look_up(config: Config, path: str) -> Any:
    """The value at a dotted path, in the config or else in the text model's config inside it.

    A key may contain dots itself, as in GGUF.
    """
    for start in (config, inner_config(config, TEXT_CONFIG)):
        if start.get(path) is not None:
            return start[path]
        value: Any = start
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            return value
    return None


def _block_numbers(config: Config, family: Family, word: str, stack: str) -> tuple[str, Numbers] | None:
    """The numbers that `block_configs` declares for each layer (DeciLM and other models of Puzzle).

    KV heads are the query heads over `n_heads_in_group`; the width is `intermediate_size`, or 2 x ffn_mult x hidden / 3 rounded
    up to a multiple of 256.
    """
    blocks = config.get("block_configs")
    key = {"num_heads": "attention", "num_kv_heads": "attention", "intermediate_size": "ffn"}.get(word)
    if key is None or not isinstance(blocks, list) or not all(isinstance(block, Mapping) for block in blocks):
        return None
    sizes = [declared_number(config, family, name, stack) for name in ("num_heads", "hidden_size")]
    return f"block_configs.{key}", tuple(_block_number(block.get(key), word, *sizes) for block in blocks)


def _block_number(block: Any, word: str, heads: int | None, hidden: int | None) -> int | None:
    """The number that the attention or MLP config of one layer declares."""
    if not isinstance(block, Mapping) or block.get("replace_with_linear"):
        return None
    if block.get("no_op") or word == "num_heads":
        return 0 if block.get("no_op") else heads
    if word == "num_kv_heads":
        group = block.get("n_heads_in_group")
        return heads // group if heads and _is_count(group) and group and heads % group == 0 else None
    width, multiple = block.get("intermediate_size"), block.get("ffn_mult")
    if _is_count(width):
        return width
    if hidden and isinstance(multiple, int | float) and not isinstance(multiple, bool) and 0 <= multiple <= MAX_FFN_MULT:
        return -(-int(2 * multiple * hidden / 3) // 256) * 256
    return None


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MAX_COUNT
