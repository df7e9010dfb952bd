"""Chooses the family of a checkpoint by its tensor names, and for a model of several towers the family of each tower."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from layerhouse.ingest.checkpoint.config_json import Config
from layerhouse.ingest.model.config import inner_config, model_types
from layerhouse.ingest.model.family import INPUTS, Family, Tower, with_towers
from layerhouse.vocabulary import Role

Shape = tuple[int, ...]
Score = tuple[int, bool, int, int, int, int]

CACHED_MODELS = 8
"""Checkpoints of one study share names, configs and shapes, so the last few answers serve nearly all of them."""


@dataclass(frozen=True)
class Names:
    """The tensor names of a checkpoint with `{}` for each number: how many tensors have each, and the shape of one of them.

    Lengths of axes are replaced by numbers that are equal for equal lengths, as only equality matters: so models that were
    pruned in different ways have equal Names.
    """

    counts: Mapping[str, int]
    shapes: Mapping[str, Shape]


@dataclass(frozen=True)
class DeclaredTypes:
    """The values of `model_type` that a config declares: of the model, and of its towers by their config keys."""

    model: tuple[str, ...]
    towers: tuple[tuple[str, tuple[str, ...]], ...] = ()


def choose_family(
    keys: Sequence[str], shapes: Sequence[Shape], config: Config | None, families: Iterable[Family]
) -> Family | None:
    """The family that places most of the tensors, with its towers filled in. `keys` are tensor names with `{}` for each number.

    A family qualifies if it places at least half of the tensors, or any of them and the config declares its model_type. Ties
    are resolved in this order: declared by the config; axes that fit the embedding table; fewest required tensors missing;
    most of them present; extended by the others (files of one layout that declare nothing).
    """
    known = tuple(families)
    numbers: dict[int, int] = {}
    numbered = {
        key: tuple([numbers.setdefault(length, len(numbers)) for length in shape])
        for key, shape in dict(zip(keys, shapes, strict=True)).items()
    }
    tower_keys = dict.fromkeys(tower.config for family in known for tower in family.towers)
    towers = tuple([(key, model_types(inner_config(config, key))) for key in tower_keys])
    return _choose_cached(
        tuple(Counter(keys).items()), tuple(numbered.items()), DeclaredTypes(model_types(config), towers), known
    )


@lru_cache(maxsize=CACHED_MODELS)
def _choose_cached(
    counts: tuple[tuple[str, int], ...],
    shapes: tuple[tuple[str, Shape], ...],
    types: DeclaredTypes,
    families: tuple[Family, ...],
) -> Family | None:
    return _choose(Names(dict(counts), dict(shapes)), types, families)


def _choose(names: Names, types: DeclaredTypes, families: Sequence[Family]) -> Family | None:
    plain = [family for family in families if not family.towers]
    filled = [_fill_towers(family, names, types, plain) for family in families if family.towers]
    candidates = [*plain, *(family for family in filled if family is not None)]
    scored = [(score, family) for family in candidates if (score := _score(family, names, types.model))]
    return max(scored, key=lambda pair: pair[0])[1] if scored else None


def _score(family: Family, names: Names, types: Sequence[str]) -> Score | None:
    keys = [key for key in names.counts if key in family.table]
    placed = sum(names.counts[key] for key in keys)
    is_declared = any(model_type in family.model_types for model_type in types)
    if placed == 0 or (2 * placed < sum(names.counts.values()) and not is_declared):
        return None
    present = family.required & {(template.name, part) for key in keys for template, part in family.table[key]}
    misfits = _count_misfits(family, keys, names)
    return placed, is_declared, -misfits, len(present) - len(family.required), len(present), -family.depth


def _count_misfits(family: Family, keys: Sequence[str], names: Names) -> int:
    """Matrices whose residual axis, by the family's templates, is not as long as a row of the embedding table.

    It tells apart families with equal tensor names that store their weights transposed or not.
    """
    matrices = [(family.table[key][0], names.shapes[key]) for key in keys if len(names.shapes[key]) == 2]
    width = next((shape[1] for (template, _), shape in matrices if template.role == Role.EMBED_TOKENS), None)
    return sum(
        shape[0 if (template.residual == INPUTS) is template.transposed else 1] != width
        for (template, part), shape in matrices
        if width is not None and template.residual is not None and part == "weight"
    )


def _fill_towers(family: Family, names: Names, types: DeclaredTypes, plain: Sequence[Family]) -> Family | None:
    """The family with a family for each tower; None if it has no tensor outside them and the config does not declare it."""
    own = {key for key in names.counts if key in family.table}
    if not own and not any(model_type in family.model_types for model_type in types.model):
        return None
    types_by_tower = dict(types.towers)
    inner: dict[str, Family] = {}
    for tower in family.towers:
        allowed = [other for other in plain if not tower.families or other.name in tower.families]
        chosen = _choose(_tower_names(tower, names, own), DeclaredTypes(types_by_tower[tower.config]), allowed)
        if chosen is not None:
            inner[tower.stack] = chosen
    return with_towers(family, inner)


def _tower_names(tower: Tower, names: Names, own: set[str]) -> Names:
    """The names that lie in a tower, as the tower's own family has them."""
    counts: Counter[str] = Counter()
    shapes: dict[str, Shape] = {}
    for key, count in names.counts.items():
        name = None if key in own else tower.inner_name(key)
        if name is not None:
            counts[name] += count
            shapes[name] = names.shapes[key]
    return Names(counts, shapes)
