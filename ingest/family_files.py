"""Model families, read from `families/*.toml`. A family is one file; nothing else in the code knows a family's names.

Keys of a file:

- `name`, `model_types` (values of `config.model_type`), `extends` (a family whose tensors, config keys and defaults it takes
  over, each replaced by what the file itself says), `drops` (inherited tensors that it lacks);
- `root`: the leading part of names that files of a model without head, and some old ones, lack;
- `head`, `embedding`: the tensors that a tied model shares; `tied_by_default`: what a config that is silent means;
- `[config]`: the config's key for each of our words (CONFIG_WORDS), where it has one;
- `[tensors]`: name of a module with `{layer}` and `{expert}` for numbers -> a Template's fields.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from types import MappingProxyType
from typing import Any

from layerhouse.warehouse.errors import InputError

MODULES = ("attention", "mlp", "expert", "router", "norm", "embedding", "lm_head", "rotation", "buffer")
FUSED = ("qkv", "qkv_thirds", "qkv_interleaved", "gate_up")
RESIDUAL = ("inputs", "outputs")
CONFIG_WORDS = ("num_layers", "num_heads", "num_kv_heads", "head_dim", "hidden_size", "intermediate_size", "num_experts")
NEVER, ALWAYS = "never", "always"
PLACEHOLDER = re.compile(r"\{(layer|expert)\}")


@dataclass(frozen=True)
class Template:
    """Where tensors of one name belong.

    `transposed`: a 2-D weight has its inputs on axis 0 (Conv1D, a table), not on the last one. `residual`: which of inputs and
    outputs the hidden size indexes. `fused`: how several weights share one: `qkv` (queries, keys, values in a row, sized by
    their heads), `qkv_thirds` (the same, equal sizes), `qkv_interleaved` (by head, its three in a row), `gate_up` (two halves).
    `bias`: never (then one is an addition), always, or the config key that says. `bare`: the tensor carries the module's name
    itself, with no `.weight`; so do buffers. `optional`: no model has to have it. `per_head`: its length is head_dim.
    """

    name: str
    module: str
    role: str
    residual: str | None = None
    transposed: bool = False
    fused: str | None = None
    bias: str = NEVER
    bare: bool = False
    optional: bool = False
    per_head: bool = False

    @property
    def is_buffer(self) -> bool:
        return self.module == "buffer"

    @property
    def required_parts(self) -> tuple[str, ...]:
        """Parts that a model of the family has."""
        if self.optional or self.is_buffer:
            return ()
        return ("weight", "bias") if self.bias == ALWAYS else ("weight",)

    @cached_property
    def placeholders(self) -> tuple[str, ...]:
        """What the numbers in the name stand for, in order."""
        return tuple(PLACEHOLDER.findall(self.name))


@dataclass(frozen=True)
class Family:
    """One family file, with what it inherits; `depth` is 0 for one that extends none."""

    name: str
    depth: int
    model_types: tuple[str, ...]
    root: str
    head: str
    embedding: str
    tied_by_default: bool
    config_keys: Mapping[str, str]
    templates: tuple[Template, ...]

    @cached_property
    def table(self) -> Mapping[str, tuple[Template, str]]:
        """A tensor's name with `{}` for each number -> its template and part. Every template can have a bias."""
        table: dict[str, tuple[Template, str]] = {}
        for template in self.templates:
            key = PLACEHOLDER.sub("{}", template.name)
            parts = {f"{key}.weight": "weight", f"{key}.bias": "bias"}
            if template.bare or template.is_buffer:
                parts = {key: "buffer" if template.is_buffer else "weight"}
            for name, part in parts.items():
                table[name] = (template, part)
                if name.startswith(self.root):
                    table.setdefault(name.removeprefix(self.root), (template, part))
        return MappingProxyType(table)

    @property
    def required(self) -> frozenset[tuple[str, str]]:
        """Names of templates and their parts that some model of the family has."""
        return frozenset((template.name, part) for template in self.templates for part in template.required_parts)


@cache
def load_families() -> tuple[Family, ...]:
    """The families that come with the package, by name."""
    return read_families(resources.files("layerhouse.ingest.families"))


def read_families(folder: Traversable) -> tuple[Family, ...]:
    """Every family file of a folder, by name. Raises InputError that names the file and what is wrong in it."""
    documents: dict[str, tuple[str, dict[str, Any]]] = {}
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
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
    known = {"name", "model_types", "extends", "drops", "root", "head", "embedding", "tied_by_default", "config", "tensors"}
    _refuse_unknown(document, known, shown)
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
    config_keys = _of_type(document, "config", dict, shown, {})
    _refuse_unknown(config_keys, set(CONFIG_WORDS), shown, "config.")
    family = Family(
        name=name,
        depth=parent.depth + 1 if parent else 0,
        model_types=tuple(_of_type(document, "model_types", list, shown)),
        root=_of_type(document, "root", str, shown, parent.root if parent else None),
        head=_of_type(document, "head", str, shown, parent.head if parent else None),
        embedding=_of_type(document, "embedding", str, shown, parent.embedding if parent else None),
        tied_by_default=_of_type(document, "tied_by_default", bool, shown, parent.tied_by_default if parent else None),
        config_keys=MappingProxyType({**(parent.config_keys if parent else {}), **config_keys}),
        templates=tuple(templates.values()),
    )
    for key, module in (("head", "lm_head"), ("embedding", "embedding")):
        pointed = templates.get(getattr(family, key))
        if pointed is None or pointed.module != module:
            raise InputError(shown, f"{key}: {getattr(family, key)!r} is no tensor of module {module}")
    return family


def _template(name: str, fields: Any, shown: str) -> Template:
    where = f"tensors.{name}"
    if not isinstance(fields, dict):
        raise InputError(shown, f"{where}: expected a table")
    kinds = {
        field: bool if field in ("transposed", "bare", "optional", "per_head") else str for field in Template.__annotations__
    }
    _refuse_unknown(fields, set(kinds) - {"name"}, shown, f"{where}.")
    for key in ("module", "role"):
        if key not in fields:
            raise InputError(shown, f"{where}.{key}: missing")
    for key in fields:
        _of_type(fields, key, kinds[key], shown)
    for key, choices in (("module", MODULES), ("fused", FUSED), ("residual", RESIDUAL)):
        if key in fields and fields[key] not in choices:
            raise InputError(shown, f"{where}.{key}: {fields[key]!r}; it is one of {', '.join(choices)}")
    template = Template(name, **fields)
    rest = PLACEHOLDER.sub("", name)
    if len(set(template.placeholders)) < len(template.placeholders) or re.search(r"[{}]|(?<![^.])[0-9]+(?![^.])", rest):
        raise InputError(shown, f"{where}: {{layer}} and {{expert}} stand once at most, and for every number")
    return template


def _of_type(document: Mapping[str, Any], key: str, kind: type, shown: str, default: Any = None) -> Any:
    value = document.get(key, default)
    if value is None:
        raise InputError(shown, f"{key}: missing")
    if not isinstance(value, kind):
        raise InputError(shown, f"{key}: expected {kind.__name__}, found {value!r}")
    return value


def _refuse_unknown(document: Mapping[str, Any], known: set[str], shown: str, where: str = "") -> None:
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
