"""The plain values of a pickled config object, as its config.json would have them."""

from __future__ import annotations

from typing import Any

from layerhouse.ingest.checkpoint.limits import allowed
from layerhouse.ingest.checkpoint.pickle.values import Global, PickledDict, Stub

MAX_COST, MAX_VALUE_COST = 1_000_000, 200_000
"""Limits on the values and characters of a config, and of one value in it, after shared values are written out."""
MAX_DEPTH = 32
MAX_INTEGER_BITS = 256

NOT_PLAIN: Any = object()
"""Stands for a value that JSON cannot represent, which is left out."""


class _OverLimitError(Exception):
    """A value of the config is over its limit."""


def plain_config(state: PickledDict) -> tuple[dict[str, Any], list[str]]:
    """The config's plain values (strings, numbers, booleans, None, lists and dicts), and the keys of values over the limits.

    As in JSON, a tuple becomes a list and an integer key a string. A torch dtype becomes its name, such as `float16`, and an
    object its state, such as the `text_config` of a config. Other values are left out.
    """
    config: dict[str, Any] = {}
    dropped: list[str] = []
    total = allowed(MAX_COST)
    for key, value in state.by_text.items():
        budget = min(total, allowed(MAX_VALUE_COST))
        remaining = [budget - len(key)]
        try:
            plain = _plain(value, remaining, 0)
        except _OverLimitError:
            dropped.append(key)
        else:
            if plain is not NOT_PLAIN:
                config[key] = plain
        total -= budget - max(remaining[0], 0)
    return config, dropped


def _plain(value: Any, remaining: list[int], depth: int) -> Any:
    """The value written out as a tree. `remaining` is its budget, counted down here; the depth of the recursion is limited."""
    if isinstance(value, Stub) and not value.is_call:
        value = value.state
    remaining[0] -= 1 + (len(value) if isinstance(value, str | list | tuple | PickledDict) else 0)
    if remaining[0] < 0 or depth > MAX_DEPTH:
        raise _OverLimitError
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= MAX_INTEGER_BITS else NOT_PLAIN
    if isinstance(value, Global):
        return value.name if value.module == "torch" else NOT_PLAIN
    if isinstance(value, PickledDict):
        pairs = [
            (str(key), item) for key, item in zip(value.flat[::2], value.flat[1::2], strict=True) if isinstance(key, str | int)
        ]
        remaining[0] -= sum(len(key) for key, _ in pairs)
        kept = ((key, _plain(item, remaining, depth + 1)) for key, item in pairs)
        return {key: item for key, item in kept if item is not NOT_PLAIN}
    if isinstance(value, list | tuple):
        items = [_plain(item, remaining, depth + 1) for item in value]
        return NOT_PLAIN if any(item is NOT_PLAIN for item in items) else items
    return NOT_PLAIN
