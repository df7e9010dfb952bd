"""Prefixes of a whole model: what training frameworks put before every tensor name, such as `policy.` or `pretrained_model.`.

Such a prefix is any text at all, so it is recognised by what is left without it: names of a family that the names as they stand
are not. Names that fit a family as they stand keep their prefix, such as GPT-2's `transformer.`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from layerhouse.ingest.model.family import Family
from layerhouse.ingest.model.places import LAYER_IN_KEY, NameParts, split_names

MAX_COMPONENTS = 4
"""Components of a name that a prefix may have."""
MIN_SHARE = 0.75
"""The share of tensors that have the prefix, where others lie beside the model, such as a value head or a loss."""
MAX_NUMBERED = 8
"""Tensors beside the model that may be numbered, such as those of a head of several linears."""

Choose = Callable[[Sequence[str]], Family | None]
"""Chooses a family for names with `{}` for each number."""


def without_prefix(parts: NameParts, choose: Choose, *, has_unknown_type: bool) -> tuple[NameParts, Family | None]:
    """The names without the prefix of the whole model, and their family: the shortest prefix without which most are placed.

    Names of which a family places half as they stand are left as they are.
    `has_unknown_type`: the config declares a model_type that no family has. A prefix that some tensors lack is then the
    architecture's own, such as `roberta.`, and is left.
    """
    family = choose(parts.keys)
    placed = count_placed(parts.keys, family)
    total = len(parts.keys)
    best = parts, family
    for prefix, is_common in _prefixes(parts.keys) if 2 * placed < total else ():
        if has_unknown_type and not is_common:
            break
        shorter = split_names([name.removeprefix(prefix) for name in parts.names])
        other = choose(shorter.keys)
        count = count_placed(shorter.keys, other)
        if count > placed and 2 * count >= total:
            placed = count
            best = shorter, other
    return best


def count_placed(keys: Sequence[str], family: Family | None) -> int:
    """How many names a family's templates describe."""
    return 0 if family is None else sum([key in family.table for key in keys])


def _prefixes(keys: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Prefixes without numbers, shortest first, and whether all names have them.

    Names that lack one may be few, and none of a numbered layer, lest one tower of several passes for the model.
    """
    prefix = ""
    for _ in range(MAX_COMPONENTS):
        longer = Counter([prefix + key[len(prefix) :].partition(".")[0] + "." for key in keys if key.startswith(prefix)])
        if not longer:
            return
        ((prefix, count),) = longer.most_common(1)
        rest = [key for key in keys if not key.startswith(prefix)] if count < len(keys) else []
        if "{}" in prefix or len(keys) - len(rest) < MIN_SHARE * len(keys) or _may_be_tower(rest):
            return
        yield prefix, not rest


def _may_be_tower(keys: Sequence[str]) -> bool:
    """Whether names may be those of a part with layers of its own; a head of several numbered linears is none."""
    return any(LAYER_IN_KEY.search(key) for key in keys) or (len(keys) > MAX_NUMBERED and any("{}" in key for key in keys))
