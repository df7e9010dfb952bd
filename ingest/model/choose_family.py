"""Which family a checkpoint's tensors belong to, by their names; of a model of several towers, which family each tower is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layerhouse.ingest.checkpoint.memory import Memory
from layerhouse.ingest.model.config import Config, inner_config, model_types
from layerhouse.ingest.model.family import Family, Tower, with_towers

Score = tuple[int, bool, int, int, int, int]


@dataclass(frozen=True)
class Names:
    """The names of a checkpoint with `{}` for each number: how many tensors have each, and the shape of one of them, in which
    equal lengths have the same number: no more than that is asked of them."""

    counts: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]


def choose_family(
    keys: Sequence[str], shapes: Sequence[tuple[int, ...]], config: Config | None, families: Iterable[Family]
) -> Family | None:
    """The family that places most of the tensors, given as a name and a shape for each, its towers filled in.

    A family is taken if it places at least half of the tensors, or any of them while the config's model_type is its own. Of
    equals: the declared one, the one whose axes fit the token table best, with fewest required tensors missing, with most
    there, then the one that the others extend (files of one layout that declare nothing).
    """
    known = tuple(families)
    numbers: dict[int, int] = {}
    one_of_each = dict(zip(keys, shapes, strict=True))
    alike = {key: tuple([numbers.setdefault(length, len(numbers)) for length in shape]) for key, shape in one_of_each.items()}
    names = Names(Counter(keys), alike)
    asked = tuple(names.counts.items()), tuple(alike.items()), _declared_types(config, known)
    chosen = _CHOSEN.get(asked)
    if chosen is None or chosen[0] is not known:
        chosen = _CHOSEN.keep(asked, (known, _choose(names, config, known)))
    return chosen[1]


def _declared_types(config: Config | None, families: Sequence[Family]) -> tuple[Sequence[str], ...]:
    """All that is asked of the config: the types that it declares of the model, and of each tower that one may have."""
    inside = dict.fromkeys(tower.config for family in families for tower in family.towers)
    return tuple(model_types(config)), *(tuple(model_types(inner_config(config, key))) for key in inside)


_CHOSEN: Memory[tuple[Any, ...], tuple[tuple[Family, ...], Family | None]] = Memory()


def _choose(names: Names, config: Config | None, families: Sequence[Family]) -> Family | None:
    plain = [family for family in families if not family.towers]
    filled = [_fill(family, names, config, plain) for family in families if family.towers]
    candidates = [*plain, *(family for family in filled if family is not None)]
    types = model_types(config)
    scored = [(score, family) for family in candidates if (score := _score(family, names, types))]
    return max(scored, key=lambda pair: pair[0])[1] if scored else None


def _score(family: Family, names: Names, types: Sequence[str]) -> Score | None:
    found = [key for key in names.counts if key in family.table]
    placed = sum(names.counts[key] for key in found)
    is_declared = any(model_type in family.model_types for model_type in types)
    if placed == 0 or (2 * placed < sum(names.counts.values()) and not is_declared):
        return None
    present = family.required & {(template.name, part) for key in found for template, part in family.table[key]}
    misfits = _count_misfits(family, found, names)
    return placed, is_declared, -misfits, len(present) - len(family.required), len(present), -family.depth


def _count_misfits(family: Family, found: Sequence[str], names: Names) -> int:
    """Matrices whose residual axis, as the family has it, is not as long as a row of the token table: families that name their
    tensors alike may store them either way round."""
    matches = [(family.table[key][0], names.shapes[key]) for key in found if len(names.shapes[key]) == 2]
    width = next((shape[1] for (template, _), shape in matches if template.role == "embed_tokens"), None)
    return sum(
        shape[0 if (template.residual == "inputs") is template.transposed else 1] != width
        for (template, part), shape in matches
        if width is not None and template.residual is not None and part == "weight"
    )


def _fill(family: Family, names: Names, config: Config | None, plain: Sequence[Family]) -> Family | None:
    """The family with a family for each of its towers; None where nothing of its own is there and no config declares it."""
    own = {key for key in names.counts if key in family.table}
    if not own and not any(model_type in family.model_types for model_type in model_types(config)):
        return None
    inner = {}
    for tower in family.towers:
        inside = _inside(tower, names, own)
        allowed = [other for other in plain if not tower.families or other.name in tower.families]
        chosen = _choose(inside, inner_config(config, tower.config), allowed)
        if chosen is not None:
            inner[tower.stack] = chosen
    return with_towers(family, inner)


def _inside(tower: Tower, names: Names, own: set[str]) -> Names:
    """What lies in a tower, under the names that its own family has for it."""
    counts: Counter[str] = Counter()
    shapes: dict[str, tuple[int, ...]] = {}
    for key, count in names.counts.items():
        name = None if key in own else tower.inner_name(key)
        if name is not None:
            counts[name] += count
            shapes[name] = names.shapes[key]
    return Names(counts, shapes)
