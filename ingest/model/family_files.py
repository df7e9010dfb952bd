"""Reads model families from `families/*.toml`. One file describes one family; the code itself knows no family's names.

Keys of a file:

- `name`, `model_types` (values of `config.model_type`), `extends` (a family whose templates, config keys and defaults are
  inherited; what the file itself says takes precedence), `drops` (inherited templates that the family lacks);
- `root`: the prefix of tensor names that some files leave out, such as those of a model without head; a list if files differ;
- `head`, `embedding`: the templates of the tensors that a tied model shares; `tied_by_default`: whether a model is tied if its
  config does not say. A family without an output head has none of the three;
- `hybrid`: whether layers may lack attention or MLP. If so, a layer without them does not contradict the config;
- `[config]`: where the config holds each of CONFIG_WORDS: a key, a path (`attn_config.kv_n_heads`), a sum (`a + b`), or a list
  of these, of which the first that exists is used; `[stacks.STACK]`: the same for one stack of several;
- `[towers.STACK]`: a part that is a model of another family: `names` (prefix in the model -> prefix in the tower's family),
  `config` (the key of its own config), `families` (those that it may belong to; any if left out);
- `[tensors]`: module name, with placeholders `{layer}`, `{expert}` and `{number}` (any other number) -> fields of a Template.
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
from layerhouse.file_door import read_regular
from layerhouse.ingest.model.family import (
    CONFIG_WORDS,
    PLACEHOLDER,
    RESIDUAL,
    TEMPLATE_MODULES,
    Family,
    Template,
    Tower,
)
from layerhouse.vocabulary import FusedLayout, Module, Stack

PLAIN_KEYS = frozenset({"name", "model_types", "extends", "drops", "root", "head", "embedding", "tied_by_default", "hybrid"})
TABLE_KEYS = frozenset({"config", "stacks", "towers", "tensors"})
TOWER_KEYS = frozenset({"names", "config", "families"})
BOOL_FIELDS = frozenset({"transposed", "bare", "optional", "per_head", "linear"})
WORDS = {"module": Module, "stack": Stack, "fused": FusedLayout}
CHOICES: dict[str, tuple[str, ...]] = {
    "module": TEMPLATE_MODULES,
    "stack": tuple(Stack),
    "fused": tuple(FusedLayout),
    "residual": RESIDUAL,
    "part": ("weight", "bias"),
}
"""The values that fields of a template may have."""

OWN_FAMILIES = "LAYERHOUSE_FAMILIES"
"""The environment variable that names a folder of a user's own family files."""

MAX_FILE_BYTES = 4 << 20
"""Limit on the size of a family file."""

Documents = Mapping[str, tuple[str, dict[str, Any]]]
"""Family name -> the name of its file and the parsed TOML."""


def load_families() -> tuple[Family, ...]:
    """The families that come with the package and those of the user's own folder, by name. Raises InputError."""
    return _load_families(os.environ.get(OWN_FAMILIES) or None)


def check_own_families() -> None:
    """Raise UsageError if the user's own family files are invalid."""
    if os.environ.get(OWN_FAMILIES):
        try:
            load_families()
        except InputError as error:
            raise UsageError(f"{OWN_FAMILIES}: {error.where}: {error.what}") from None


@cache
def _load_families(own_folder: str | None) -> tuple[Family, ...]:
    package = resources.files("layerhouse.ingest.model.families")
    if own_folder is None:
        return read_families(package)
    if not Path(own_folder).is_dir():
        raise InputError(own_folder, f"no folder of family files, though {OWN_FAMILIES} names it")
    return read_families(package, Path(own_folder))


def read_families(*folders: Traversable) -> tuple[Family, ...]:
    """Every family file of some folders, by name. Raises InputError that names the file and what is wrong in it."""
    documents: dict[str, tuple[str, dict[str, Any]]] = {}
    for file in (file for folder in folders for file in sorted(folder.iterdir(), key=lambda file: file.name)):
        if not file.name.endswith(".toml"):
            continue
        try:
            raw = read_regular(file, MAX_FILE_BYTES) if isinstance(file, Path) else file.read_bytes()
            document = tomllib.loads(raw.decode("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(file.name, f"no TOML: {error}") from None
        except OSError as error:
            raise InputError(file.name, f"cannot be read: {error.strerror}") from None
        name = _value_of(document, "name", str, file.name)
        if name in documents:
            raise InputError(file.name, f"name: {name!r} is also the family of {documents[name][0]}")
        documents[name] = (file.name, document)
    families = tuple(_read_family(name, documents, ()) for name in sorted(documents))
    _refuse_shared_types(families)
    return families


def _read_family(name: str, documents: Documents, children: tuple[str, ...]) -> Family:
    """One family; `children` are the families that extend it and are being read, so that circular extension is detected."""
    file_name, document = documents[name]
    _refuse_unknown(document, PLAIN_KEYS | TABLE_KEYS, file_name)
    parent = _read_parent(name, documents, children)
    templates = _read_templates(document, parent, file_name)
    stacks = _value_of(document, "stacks", dict, file_name, {})
    _refuse_unknown(stacks, tuple(Stack), file_name, "stacks.")
    root = document.get("root", parent.roots if parent else "")
    family = Family(
        name=name,
        depth=parent.depth + 1 if parent else 0,
        model_types=tuple(_value_of(document, "model_types", list, file_name)),
        roots=(root,) if isinstance(root, str) and root else tuple(root),
        head=_value_of(document, "head", str, file_name, parent.head if parent else None, is_optional=True),
        embedding=_value_of(document, "embedding", str, file_name, parent.embedding if parent else None, is_optional=True),
        tied_by_default=_value_of(document, "tied_by_default", bool, file_name, parent.tied_by_default if parent else False),
        config_keys=MappingProxyType(
            {**(parent.config_keys if parent else {}), **_read_config_keys(document.get("config", {}), file_name, "config.")}
        ),
        stack_keys=MappingProxyType(
            {
                **(parent.stack_keys if parent else {}),
                **{stack: _read_config_keys(keys, file_name, f"stacks.{stack}.") for stack, keys in stacks.items()},
            }
        ),
        templates=tuple(templates.values()),
        hybrid=_value_of(document, "hybrid", bool, file_name, parent.hybrid if parent else False),
        towers=_read_towers(document, file_name) or (parent.towers if parent else ()),
    )
    for key, module in (("head", Module.LM_HEAD), ("embedding", Module.EMBEDDING)):
        template_name = getattr(family, key)
        template = templates.get(template_name)
        if template_name is not None and (template is None or template.module != module):
            raise InputError(file_name, f"{key}: {template_name!r} is no tensor of module {module}")
    return family


def _read_parent(name: str, documents: Documents, children: tuple[str, ...]) -> Family | None:
    file_name, document = documents[name]
    if "extends" not in document:
        return None
    extended = _value_of(document, "extends", str, file_name)
    if extended not in documents or extended in (name, *children):
        raise InputError(file_name, f"extends: {extended!r} is no other family; there is {', '.join(sorted(documents))}")
    return _read_family(extended, documents, (name, *children))


def _read_templates(document: Mapping[str, Any], parent: Family | None, file_name: str) -> dict[str, Template]:
    """The family's templates by name: those of the parent that are not dropped, and the file's own."""
    templates = {template.name: template for template in parent.templates} if parent else {}
    for dropped in _value_of(document, "drops", list, file_name, []):
        if templates.pop(dropped, None) is None:
            raise InputError(file_name, f"drops: no {dropped!r} is inherited")
    for template_name, fields in _value_of(document, "tensors", dict, file_name, {}).items():
        templates[template_name] = _read_template(template_name, fields, file_name)
    return templates


def _read_config_keys(keys: Any, file_name: str, where: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(keys, dict):
        raise InputError(file_name, f"{where.rstrip('.')}: expected dict, found {keys!r}")
    _refuse_unknown(keys, CONFIG_WORDS, file_name, where)
    paths_by_word = {word: [value] if isinstance(value, str) else value for word, value in keys.items()}
    for word, paths in paths_by_word.items():
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise InputError(file_name, f"{where}{word}: expected a key or a list of keys, found {paths!r}")
    return {word: tuple(paths) for word, paths in paths_by_word.items()}


def _read_towers(document: Mapping[str, Any], file_name: str) -> tuple[Tower, ...]:
    towers = []
    for stack, fields in _value_of(document, "towers", dict, file_name, {}).items():
        _refuse_unknown({stack: None}, tuple(Stack), file_name, "towers.")
        if not isinstance(fields, dict):
            raise InputError(file_name, f"towers.{stack}: expected a table")
        _refuse_unknown(fields, TOWER_KEYS, file_name, f"towers.{stack}.")
        names = _value_of(fields, "names", dict, file_name)
        config = _value_of(fields, "config", str, file_name)
        families = _value_of(fields, "families", list, file_name, [])
        towers.append(Tower(Stack(stack), config, tuple(names.items()), tuple(families)))
    return tuple(towers)


def _read_template(name: str, fields: Any, file_name: str) -> Template:
    where = f"tensors.{name}"
    if not isinstance(fields, dict):
        raise InputError(file_name, f"{where}: expected a table")
    types = {field: bool if field in BOOL_FIELDS else str for field in Template.__annotations__}
    _refuse_unknown(fields, set(types) - {"name"}, file_name, f"{where}.")
    for key in ("module", "role"):
        if key not in fields:
            raise InputError(file_name, f"{where}.{key}: missing")
    for key in fields:
        _value_of(fields, key, types[key], file_name)
    for key, choices in CHOICES.items():
        if key in fields and fields[key] not in choices:
            raise InputError(file_name, f"{where}.{key}: {fields[key]!r}; it is one of {', '.join(choices)}")
    words: dict[str, Any] = {key: enum(fields[key]) for key, enum in WORDS.items() if key in fields}
    template = Template(name, **{**fields, **words})
    if len(set(template.placeholders)) < len(template.placeholders) or re.search(r"[{}]", PLACEHOLDER.sub("", name)):
        raise InputError(file_name, f"{where}: a number is {{layer}}, {{expert}} or {{number}}, each once at most, or itself")
    return template


def _value_of(
    document: Mapping[str, Any], key: str, expected: type, file_name: str, default: Any = None, is_optional: bool = False
) -> Any:
    """The value of a key. Raises InputError if it is of another type, or missing without a default."""
    value = document.get(key, default)
    if value is None and is_optional:
        return None
    if value is None:
        raise InputError(file_name, f"{key}: missing")
    if not isinstance(value, expected):
        raise InputError(file_name, f"{key}: expected {expected.__name__}, found {value!r}")
    return value


def _refuse_unknown(document: Mapping[str, Any], known: Iterable[str], file_name: str, where: str = "") -> None:
    for key in document:
        if key not in known:
            raise InputError(file_name, f"{where}{key}: unknown key; there is {', '.join(sorted(known))}")


def _refuse_shared_types(families: Iterable[Family]) -> None:
    owners: dict[str, str] = {}
    for family in families:
        for model_type in family.model_types:
            if model_type in owners:
                raise InputError(f"{family.name}.toml", f"model_types: {model_type!r} belongs to {owners[model_type]}")
            owners[model_type] = family.name
