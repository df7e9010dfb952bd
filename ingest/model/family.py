"""What a model family is: templates that say where tensors of a name belong, and keys at which its config says its sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

MODULES = (
    "attention",
    "mlp",
    "expert",
    "ssm",
    "router",
    "norm",
    "embedding",
    "lm_head",
    "head",
    "projector",
    "rotation",
    "buffer",
)
STACKS = ("text", "decoder", "encoder", "vision", "audio", "projector", "mtp")
FUSED = ("qkv", "qkv_thirds", "qkv_grouped", "gate_up", "experts")
RESIDUAL = ("inputs", "outputs")
CONFIG_WORDS = (
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "value_head_dim",
    "kv_up_head_dim",
    "hidden_size",
    "intermediate_size",
    "expert_size",
    "num_experts",
    "experts_per_token",
)
NEVER, ALWAYS, OPTIONAL = "never", "always", "optional"
PLACEHOLDER = re.compile(r"\{(layer|expert|number)\}")
LITERAL = re.compile(r"(?<![^.])[0-9]+(?![^.])")
NUMBER_MARK = re.compile(PLACEHOLDER.pattern + "|" + LITERAL.pattern)


@dataclass(frozen=True)
class Template:
    """Where tensors of one name belong.

    `transposed`: a 2-D weight has its inputs on axis 0 (Conv1D, a table), not on the last one. `residual`: which of inputs and
    outputs the hidden size indexes. `fused`: how several weights share one: `qkv` (queries, keys, values in a row, sized by
    their heads), `qkv_thirds` (the same, equal sizes), `qkv_grouped` (by KV group: its queries, its key, its value), `gate_up`
    (halves, or rows in turn), `experts` (a 2-D weight of all experts, one after the other). `bias`: never (then one is an
    addition), always, optional, or the config key that says. `bare`: the tensor carries the module's name itself, with no
    `.weight`; so do buffers; a bare one is a weight unless `part` says bias. `optional`: no model has to have it. `per_head`:
    its last axis is head_dim. `linear`: false for what multiplies no vector (a convolution, a table of states).
    """

    name: str
    module: str
    role: str
    stack: str = "text"
    residual: str | None = None
    transposed: bool = False
    fused: str | None = None
    bias: str = NEVER
    bare: bool = False
    optional: bool = False
    per_head: bool = False
    linear: bool = True
    part: str = "weight"

    @property
    def is_buffer(self) -> bool:
        return self.module == "buffer"

    @property
    def required_parts(self) -> tuple[str, ...]:
        """Parts that a model of the family has."""
        if self.optional or self.is_buffer:
            return ()
        return ("weight", "bias") if self.bias == ALWAYS else (self.part,)

    @cached_property
    def placeholders(self) -> tuple[str, ...]:
        """What the numbers in the name stand for, in order."""
        return tuple(PLACEHOLDER.findall(self.name))

    @cached_property
    def literals(self) -> tuple[str | None, ...]:
        """For each number in the name: itself where the name fixes it, else None."""
        return tuple(None if mark[0].startswith("{") else mark[0] for mark in NUMBER_MARK.finditer(self.name))

    @property
    def file_names(self) -> dict[str, str]:
        """Names of its tensors in files -> the part that each is. Every module can have a bias."""
        if self.is_buffer:
            return {self.name: "buffer"}
        if self.bare:
            return {self.name: self.part, **({f"{self.name}_bias": "bias"} if self.part == "weight" else {})}
        old = {f"{self.name}.gamma": "weight", f"{self.name}.beta": "bias"} if self.module == "norm" else {}
        return {f"{self.name}.weight": "weight", f"{self.name}.bias": "bias", **old}


@dataclass(frozen=True)
class Tower:
    """A part of a model that is a model of another family: its stack, its config's key, `names` as (here, there) beginnings."""

    stack: str
    config: str
    names: tuple[tuple[str, str], ...]
    families: tuple[str, ...]

    def inner_name(self, name: str) -> str | None:
        """A name as the tower's own family has it; None for one outside of the tower."""
        found = max((pair for pair in self.names if name.startswith(pair[0])), key=lambda pair: len(pair[0]), default=None)
        return None if found is None else found[1] + name[len(found[0]) :]

    def outer_names(self, name: str) -> list[str]:
        """What a name of the tower's own family may be in the whole model."""
        return [here + name[len(there) :] for here, there in self.names if name.startswith(there)]


Match = tuple[Template, str]


@dataclass(frozen=True)
class Family:
    """One family file, with what it inherits; `depth` is 0 for one that extends none."""

    name: str
    depth: int
    model_types: tuple[str, ...]
    roots: tuple[str, ...]
    head: str | None
    embedding: str | None
    tied_by_default: bool
    config_keys: Mapping[str, tuple[str, ...]]
    stack_keys: Mapping[str, Mapping[str, tuple[str, ...]]]
    templates: tuple[Template, ...]
    towers: tuple[Tower, ...] = ()
    hybrid: bool = False

    @cached_property
    def table(self) -> Mapping[str, tuple[Match, ...]]:
        """A tensor's name with `{}` for each number -> templates and parts that it may be, which literal numbers tell apart."""
        table: dict[str, list[Match]] = {}
        for template in self.templates:
            for name, part in template.file_names.items():
                key = NUMBER_MARK.sub("{}", name)
                table.setdefault(key, []).append((template, part))
        for key in list(table):
            for root in self.roots:
                if key.startswith(root):
                    table.setdefault(key.removeprefix(root), table[key])
        return MappingProxyType({key: tuple(matches) for key, matches in table.items()})

    def find(self, key: str, numbers: Sequence[str]) -> Match | None:
        """The template and part of a name, given as its key and its numbers."""
        for match in self.table.get(key, ()):
            if all(said is None or said == number for said, number in zip(match[0].literals, numbers, strict=True)):
                return match
        return None

    def keys(self, word: str, stack: str) -> tuple[str, ...]:
        """Paths in the config at which a word may stand for a stack."""
        return self.stack_keys.get(stack, self.config_keys).get(word, ())

    @cached_property
    def required(self) -> frozenset[tuple[str, str]]:
        """Names of templates and their parts that some model of the family has."""
        return frozenset((template.name, part) for template in self.templates for part in template.required_parts)


def with_towers(family: Family, inner: Mapping[str, Family]) -> Family:
    """The family with the tensors and config keys of its towers' families, by stack, under the names that they have in it."""
    templates = {template.name: template for template in family.templates}
    stack_keys = dict(family.stack_keys)
    head, embedding, tied = family.head, family.embedding, family.tied_by_default
    for tower in family.towers:
        chosen = inner.get(tower.stack)
        if chosen is None:
            continue
        for template in chosen.templates:
            plain = [template.name, *(template.name.removeprefix(root) for root in chosen.roots)]
            names = dict.fromkeys(outer for name in plain for outer in tower.outer_names(name))
            for position, name in enumerate(names):
                templates.setdefault(
                    name, replace(template, name=name, stack=tower.stack, optional=template.optional or position > 0)
                )
        stack_keys[tower.stack] = {
            word: tuple(f"{tower.config}.{key}" for key in keys) + (keys if tower.stack == "text" else ())
            for word, keys in chosen.config_keys.items()
        }
        if tower.stack == "text" and chosen.head and chosen.embedding:
            head, embedding = (next(iter(tower.outer_names(name)), None) for name in (chosen.head, chosen.embedding))
            tied = chosen.tied_by_default
    return replace(
        family,
        templates=tuple(templates.values()),
        stack_keys=MappingProxyType(stack_keys),
        head=head,
        embedding=embedding,
        tied_by_default=tied,
        towers=(),
    )
