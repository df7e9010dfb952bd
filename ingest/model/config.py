"""What a checkpoint's config declares, by our words. A value of another type than expected counts as not declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layerhouse.ingest.model.family import Family

Config = Mapping[str, Any]

TEXT_CONFIG = "text_config"


def model_types(config: Config | None) -> tuple[str, ...]:
    """`model_type` of the config, then of the text model inside it."""
    found = [] if config is None else [config.get("model_type"), inner_config(config, TEXT_CONFIG).get("model_type")]
    return tuple(value for value in found if isinstance(value, str))


def inner_config(config: Config | None, path: str) -> Config:
    """The config inside a config; an empty one where there is none."""
    inner = None if config is None else config.get(path)
    return inner if isinstance(inner, Mapping) else {}


def declared_numbers(
    config: Config | None, family: Family | None, word: str, stack: str = "text"
) -> tuple[int | None, ...] | int | None:
    """The number for a word of CONFIG_WORDS: one for all layers, one a layer (None: not said of it), or None."""
    found = _find(config, family, word, stack)
    return None if found is None else found[1]


def declared_number(config: Config | None, family: Family | None, word: str, stack: str = "text") -> int | None:
    """The number for a word, where the config has one for all layers."""
    if config is None or family is None:
        return None
    values = (_sum(config, path) for path in family.keys(word, stack))
    found = next((value for value in values if value is not None), None)
    return found if _is_count(found) else None


def declared_key(config: Config | None, family: Family | None, word: str, stack: str = "text") -> str | None:
    """The key under which the config says it."""
    found = _find(config, family, word, stack)
    return None if found is None else found[0]


def declared_flag(config: Config | None, key: str) -> bool | None:
    """A truth value of the config or of the text model inside it."""
    value = None if config is None else _look_up(config, key)
    return value if isinstance(value, bool) else None


def declared_text(config: Config | None, key: str) -> str | None:
    """A text of the config or of the text model inside it."""
    value = None if config is None else _look_up(config, key)
    return value if isinstance(value, str) else None


def dropped_layers(config: Config | None, key: str) -> frozenset[int]:
    """Layers of `drop_attn_list` or `drop_mlp_list`, which LLM-Drop writes: numbers of layers, or a truth value for each."""
    value = None if config is None else _look_up(config, key)
    if not isinstance(value, list):
        return frozenset()
    if value and all(isinstance(item, bool) for item in value):
        return frozenset(index for index, item in enumerate(value) if item)
    return frozenset(item for item in value if _is_count(item))


def declares_head(config: Config | None) -> bool:
    """Whether the architecture has an output head; True where nothing says."""
    architectures = None if config is None else config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        return True
    return any(word in architectures[0] for word in ("CausalLM", "LMHead", "ConditionalGeneration", "MaskedLM", "PreTraining"))


def _find(
    config: Config | None, family: Family | None, word: str, stack: str
) -> tuple[str, tuple[int | None, ...] | int] | None:
    if config is None or family is None:
        return None
    by_block = _of_blocks(config, family, word, stack)
    if by_block is not None:
        return by_block
    for path in family.keys(word, stack):
        value = _sum(config, path)
        if isinstance(value, list) and value and all(_is_count(item) for item in value):
            return path, tuple(value)
        if _is_count(value):
            return path, value
    return None


def _sum(config: Config, path: str) -> Any:
    """The value at a path; of a sum `a + b` the sum, where every part is a number."""
    values = [_look_up(config, part.strip()) for part in path.split("+")]
    if len(values) == 1:
        return values[0]
    return sum(values) if all(_is_count(value) for value in values) else None


def _look_up(config: Config, path: str) -> Any:
    """The value at a dotted path, of the config or else of the text model inside it; a key may have dots itself, as in GGUF."""
    for start in (config, inner_config(config, TEXT_CONFIG)):
        if start.get(path) is not None:
            return start[path]
        value: Any = start
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            return value
    return None


def _of_blocks(config: Config, family: Family, word: str, stack: str) -> tuple[str, tuple[int | None, ...]] | None:
    """What `block_configs` says of each layer (DeciLM and other models of Puzzle): attention and MLP by layer, or left out.

    KV heads are the query heads over `n_heads_in_group`; the width is `intermediate_size`, or 2 x ffn_mult x hidden / 3 rounded
    up to a multiple of 256.
    """
    blocks = config.get("block_configs")
    part = {"num_heads": "attention", "num_kv_heads": "attention", "intermediate_size": "ffn"}.get(word)
    if part is None or not isinstance(blocks, list) or not all(isinstance(block, Mapping) for block in blocks):
        return None
    sizes = [declared_number(config, family, name, stack) for name in ("num_heads", "hidden_size")]
    return f"block_configs.{part}", tuple(_of_block(block.get(part), word, *sizes) for block in blocks)


def _of_block(said: Any, word: str, heads: int | None, hidden: int | None) -> int | None:
    if not isinstance(said, Mapping) or said.get("replace_with_linear"):
        return None
    if said.get("no_op") or word == "num_heads":
        return 0 if said.get("no_op") else heads
    if word == "num_kv_heads":
        group = said.get("n_heads_in_group")
        return heads // group if heads and _is_count(group) and group and heads % group == 0 else None
    width, multiple = said.get("intermediate_size"), said.get("ffn_mult")
    if isinstance(width, int):
        return width
    if isinstance(multiple, (int, float)) and not isinstance(multiple, bool) and hidden:
        return -(-int(2 * multiple * hidden / 3) // 256) * 256
    return None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
