"""Model families, read from `families/*.toml`. A family is one file; nothing else in the code knows a family's names.

Keys of a file:

- `name`, `model_types` (values of `config.model_type`), `extends` (a family whose tensors, config keys and defaults it takes
  over, each replaced by what the file itself says), `drops` (inherited tensors that it lacks);
- `root`: the leading part of names that files of a model without head, and some old ones, lack; a list where files differ;
- `head`, `embedding`: the tensors that a tied model shares; `tied_by_default`: what a config that is silent means. A family
  without an output head has none of the three;
- `hybrid`: whether layers may lack attention or MLP, which is then no contradiction to the config's numbers;
- `[config]`: where the config has each of our words (CONFIG_WORDS): a key, a path (`attn_config.kv_n_heads`), a sum (`a + b`),
  or a list of which the first that is there counts; `[stacks.STACK]`: the same for one stack of several;
- `[towers.STACK]`: a part that is a model of another family: `names` (what its names start with here -> there), `config` (the
  key of its own config), `families` (those that it can be; any, where it does not say);
- `[tensors]`: name of a module with `{layer}`, `{expert}` and `{number}` (any other) for numbers -> a Template's fields.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Any

from layerhouse.errors import InputError, UsageError
from layerhouse.ingest.model.family import (
    CONFIG_WORDS,
    FUSED,
    MODULES,
    PLACEHOLDER,
    RESIDUAL,
    STACKS,
    Family,
    Template,
    Tower,
)

PLAIN_KEYS = frozenset({"name", "model_types", "extends", "drops", "root", "head", "embedding", "tied_by_default", "hybrid"})
TABLE_KEYS = frozenset({"config", "stacks", "towers", "tensors"})


OWN_FAMILIES = "LAYERHOUSE_FAMILIES"
"""The environment variable that names a folder of a user's own family files."""


def load_families() -> tuple[Family, ...]:
    """The families that come with the package and those of a user's own folder, by name. Raises InputError."""
    return _load_families(os.environ.get(OWN_FAMILIES) or None)


def check_own_families() -> None:
    """Raise UsageError where a user's own family files cannot be taken."""
    if os.environ.get(OWN_FAMILIES):
        try:
            load_families()
        except InputError as error:
            raise UsageError(f"{OWN_FAMILIES}: {error.where}: {error.what}") from None


@cache
def _load_families(own: str | None) -> tuple[Family, ...]:
    package = resources.files("layerhouse.ingest.model.families")
    if own is None:
        return read_families(package)
    if not Path(own).is_dir():
        raise InputError(own, f"no folder of family files, though {OWN_FAMILIES} names it")
    return read_families(package, Path(own))


def read_families(*folders: Traversable) -> tuple[Family, ...]:
    """Every family file of some folders, by name. Raises InputError that names the file and what is wrong in it."""
    documents: dict[str, tuple[str, dict[str, Any]]] = {}
    for file in (file for folder in folders for file in sorted(folder.iterdir(), key=lambda file: file.name)):
        if not file.name.endswith(".toml"):
            continue
        try:
            document = tomllib.loads(file.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(file.name, f"no TOML: {error}") from None
        name = _of_type(document, "name", str, file.name)
        if name in documents:
            raise InputError(file.name, f"name: {name!r} is also the family of {documents[name][0]}")
        documents[name] = (file.name, document)
    families = tuple(_family(name, documents, ()) for name in sorted(documents))
    _refuse_shared_types(families)
    return families


def _family(name: str, documents: Mapping[str, tuple[str, dict[str, Any]]], children: tuple[str, ...]) -> Family:
    shown, document = documents[name]
    _refuse_unknown(document, PLAIN_KEYS | TABLE_KEYS, shown)
    parent: Family | None = None
    if "extends" in document:
        extended = _of_type(document, "extends", str, shown)
        if extended not in documents or extended in (name, *children):
            raise InputError(shown, f"extends: {extended!r} is no other family; there is {', '.join(sorted(documents))}")
        parent = _family(extended, documents, (name, *children))
    templates = {template.name: template for template in parent.templates} if parent else {}
    for dropped in _of_type(document, "drops", list, shown, []):
        if templates.pop(dropped, None) is None:
            raise InputError(shown, f"drops: no {dropped!r} is inherited")
    for template_name, fields in _of_type(document, "tensors", dict, shown, {}).items():
        templates[template_name] = _template(template_name, fields, shown)
    stacks = _of_type(document, "stacks", dict, shown, {})
    _refuse_unknown(stacks, STACKS, shown, "stacks.")
    root = document.get("root", parent.roots if parent else "")
    family = Family(
        name=name,
        depth=parent.depth + 1 if parent else 0,
        model_types=tuple(_of_type(document, "model_types", list, shown)),
        roots=(root,) if isinstance(root, str) and root else tuple(root),
        head=_of_type(document, "head", str, shown, parent.head if parent else None, is_optional=True),
        embedding=_of_type(document, "embedding", str, shown, parent.embedding if parent else None, is_optional=True),
        tied_by_default=_of_type(document, "tied_by_default", bool, shown, parent.tied_by_default if parent else False),
        config_keys=MappingProxyType(
            {**(parent.config_keys if parent else {}), **_config_keys(document.get("config", {}), shown, "config.")}
        ),
        stack_keys=MappingProxyType(
            {
                **(parent.stack_keys if parent else {}),
                **{stack: _config_keys(keys, shown, f"stacks.{stack}.") for stack, keys in stacks.items()},
            }
        ),
        templates=tuple(templates.values()),
        hybrid=_of_type(document, "hybrid", bool, shown, parent.hybrid if parent else False),
        towers=_towers(document, shown) or (parent.towers if parent else ()),
    )
    for key, module in (("head", "lm_head"), ("embedding", "embedding")):
        named = getattr(family, key)
        pointed = templates.get(named)
        if named is not None and (pointed is None or pointed.module != module):
            raise InputError(shown, f"{key}: {named!r} is no tensor of module {module}")
    return family


def _config_keys(keys: Any, shown: str, where: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(keys, dict):
        raise InputError(shown, f"{where.rstrip('.')}: expected dict, found {keys!r}")
    _refuse_unknown(keys, CONFIG_WORDS, shown, where)
    found = {word: [value] if isinstance(value, str) else value for word, value in keys.items()}
    for word, paths in found.items():
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise InputError(shown, f"{where}{word}: expected a key or a list of keys, found {paths!r}")
    return {word: tuple(paths) for word, paths in found.items()}


def _towers(document: Mapping[str, Any], shown: str) -> tuple[Tower, ...]:
    towers = []
    for stack, fields in _of_type(document, "towers", dict, shown, {}).items():
        _refuse_unknown({stack: None}, STACKS, shown, "towers.")
        if not isinstance(fields, dict):
            raise InputError(shown, f"towers.{stack}: expected a table")
        _refuse_unknown(fields, {"names", "config", "families"}, shown, f"towers.{stack}.")
        names = _of_type(fields, "names", dict, shown)
        config = _of_type(fields, "config", str, shown)
        towers.append(Tower(stack, config, tuple(names.items()), tuple(_of_type(fields, "families", list, shown, []))))
    return tuple(towers)


def _template(name: str, fields: Any, shown: str) -> Template:
    where = f"tensors.{name}"
    if not isinstance(fields, dict):
        raise InputError(shown, f"{where}: expected a table")
    kinds = {
        field: bool if field in ("transposed", "bare", "optional", "per_head", "linear") else str
        for field in Template.__annotations__
    }
    _refuse_unknown(fields, set(kinds) - {"name"}, shown, f"{where}.")
    for key in ("module", "role"):
        if key not in fields:
            raise InputError(shown, f"{where}.{key}: missing")
    for key in fields:
        _of_type(fields, key, kinds[key], shown)
    choices_by_key = {"module": MODULES, "stack": STACKS, "fused": FUSED, "residual": RESIDUAL, "part": ("weight", "bias")}
    for key, choices in choices_by_key.items():
        if key in fields and fields[key] not in choices:
            raise InputError(shown, f"{where}.{key}: {fields[key]!r}; it is one of {', '.join(choices)}")
    template = Template(name, **fields)
    if len(set(template.placeholders)) < len(template.placeholders) or re.search(r"[{}]", PLACEHOLDER.sub("", name)):
        raise InputError(shown, f"{where}: a number is {{layer}}, {{expert}} or {{number}}, each once at most, or itself")
    return template


def _of_type(
    document: Mapping[str, Any], key: str, kind: type, shown: str, default: Any = None, is_optional: bool = False
) -> Any:
    value = document.get(key, default)
    if value is None and is_optional:
        return None
    if value is None:
        raise InputError(shown, f"{key}: missing")
    if not isinstance(value, kind):
        raise InputError(shown, f"{key}: expected {kind.__name__}, found {value!r}")
    return value


def _refuse_unknown(document: Mapping[str, Any], known: Iterable[str], shown: str, where: str = "") -> None:
    for key in document:
        if key not in known:
            raise InputError(shown, f"{where}{key}: unknown key; there is {', '.join(sorted(known))}")


def _refuse_shared_types(families: Iterable[Family]) -> None:
    owners: dict[str, str] = {}
    for family in families:
        for model_type in family.model_types:
            if model_type in owners:
                raise InputError(f"{family.name}.toml", f"model_types: {model_type!r} belongs to {owners[model_type]}")
            owners[model_type] = family.name
