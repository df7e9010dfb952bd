"""Chooses the family of a checkpoint by its tensor names, and for a model of several towers the family of each tower."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from layerhouse.ingest.checkpoint.config_json import Config
from layerhouse.ingest.model.config import inner_config, model_types
from layerhouse.ingest.model.family import INPUTS, Family, Tower, with_towers
from layerhouse.vocabulary import Role, Stack

Shape = tuple[int, ...]
Score = tuple[int, bool, int, int, int, int]

MIN_TEMPLATES = 3
"""Different templates that tell a family where no tensor of a block is: an embedding alone has the same name in many."""

CACHED_MODELS = 8
"""Checkpoints of one study share names, configs and shapes, so the last few answers serve nearly all of them."""


@dataclass(frozen=True)
class Names:
    """The tensor names of a checkpoint with `{}` for each number: how many tensors have each, and the shape of one of them.

    Lengths of axes are replaced by numbers that are equal for equal lengths, as only equality matters: so models that were
    pruned in different ways have equal Names.
    """

    counts: Counter[str]
    shapes: Mapping[str, Shape]


@dataclass(frozen=True)
class DeclaredTypes:
    """The values of `model_type` that a config declares: of the model, and of its towers by their config keys.

    `is_unknown`: it declares one for the model, and no family has it.
    """

    model: tuple[str, ...]
    towers: tuple[tuple[str, tuple[str, ...]], ...] = ()
    is_unknown: bool = False


def choose_family(
    keys: Sequence[str], shapes: Sequence[Shape], config: Config | None, families: Iterable[Family]
) -> Family | None:
    """The family that places most of the tensors, with its towers filled in. `keys` are tensor names with `{}` for each number.

    A family qualifies if it places any tensor and the config declares its model_type. By names alone it must place half of the
    tensors, or two thirds if the config declares a model_type that no family has, among them one of a block, or MIN_TEMPLATES
    different ones. Ties are resolved in this order: declared by the config; axes that fit the embedding table; fewest required
    tensors missing, if blocks are there; most of them present; extended by the others (files that declare nothing).
    """
    known = tuple(families)
    numbers: dict[int, int] = {}
    numbered = {
        key: tuple([numbers.setdefault(length, len(numbers)) for length in shape])
        for key, shape in dict(zip(keys, shapes, strict=True)).items()
    }
    tower_keys = dict.fromkeys(tower.config for family in known for tower in family.towers)
    towers = tuple([(key, model_types(inner_config(config, key))) for key in tower_keys])
    types = DeclaredTypes(model_types(config)[:1], towers, has_unknown_type(config, known))
    return _choose_cached(tuple(Counter(keys).items()), tuple(numbered.items()), types, known)


def has_unknown_type(config: Config | None, families: Iterable[Family]) -> bool:
    """Whether the config declares a model_type that no family has."""
    declared = None if config is None else config.get("model_type")
    return isinstance(declared, str) and all(declared not in family.model_types for family in families)


@lru_cache(maxsize=CACHED_MODELS)
def _choose_cached(
    counts: tuple[tuple[str, int], ...],
    shapes: tuple[tuple[str, Shape], ...],
    types: DeclaredTypes,
    families: tuple[Family, ...],
) -> Family | None:
    return _choose(Names(Counter(dict(counts)), dict(shapes)), types, families)


def _choose(names: Names, types: DeclaredTypes, families: Sequence[Family]) -> Family | None:
    plain = [family for family in families if not family.towers]
    filled = [_fill_towers(family, names, types, plain) for family in families if family.towers]
    candidates = [*plain, *(family for family in filled if family is not None)]
    scored = [(score, family) for family in candidates if (score := _score(family, names, types))]
    return max(scored, key=lambda pair: pair[0])[1] if scored else None


def _score(family: Family, names: Names, types: DeclaredTypes) -> Score | None:
    keys = [key for key in names.counts if key in family.table]
    placed = sum(names.counts[key] for key in keys)
    is_declared = any(model_type in family.model_types for model_type in types.model)
    if placed == 0 or not (is_declared or _is_told_by_names(family, keys, placed, names, types)):
        return None
    present = family.required & {(template.name, part) for key in keys for template, part in family.table[key]}
    missing = len(family.required) - len(present) if _has_block(family, keys) else 0
    return placed, is_declared, -_count_misfits(family, keys, names), -missing, len(present), -family.depth


def _is_told_by_names(family: Family, keys: Sequence[str], placed: int, names: Names, types: DeclaredTypes) -> bool:
    """Whether the tensors that a family places are enough for it, though the config does not declare it."""
    total = names.counts.total()
    if 2 * placed < total or (types.is_unknown and 3 * placed <= 2 * total):
        return False
    templates = {family.table[key][0][0] for key in keys}
    return len(templates) >= MIN_TEMPLATES or _has_block(family, keys)


def _has_block(family: Family, keys: Iterable[str]) -> bool:
    return any("layer" in family.table[key][0][0].placeholders for key in keys)


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
    """The family with a family for each tower; None if it has no tensor outside them and the config does not declare it.

    None too if nothing tells the text model inside: another tower would pass for the model.
    """
    own = {key for key in names.counts if key in family.table}
    if not own and not any(model_type in family.model_types for model_type in types.model):
        return None
    types_by_tower = dict(types.towers)
    inner: dict[str, Family] = {}
    for tower in family.towers:
        allowed = [other for other in plain if not tower.families or other.name in tower.families]
        inside = _tower_names(tower, names, own)
        chosen = _choose(inside, DeclaredTypes(types_by_tower[tower.config]), allowed)
        if chosen is not None:
            inner[tower.stack] = chosen
        elif inside.counts and tower.stack == Stack.TEXT:
            return None
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
