"""A model family: templates that map tensor names to places in the model, and the config keys that hold the model's sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

from layerhouse.vocabulary import FusedLayout, Module, Stack

TEMPLATE_MODULES = tuple(module for module in Module if module not in (Module.ADAPTER, Module.QUANT_AUX, Module.OTHER))
"""The modules that a family file may name. The other three are for tensors that no template describes."""

INPUTS, OUTPUTS = "inputs", "outputs"
RESIDUAL = (INPUTS, OUTPUTS)
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
    """The place in the model of all tensors of one name.

    `role` is a `Role`, or a word of the user's own. `residual`: which axis of a weight the hidden size indexes, its inputs or
    its outputs. `transposed`: a 2-D weight has its inputs on axis 0 (Conv1D, embedding tables) instead of the last axis.
    `bias`: whether there is a bias: never (one that is there was added by a pruner), always, optional, or the config key that
    decides. `bare`: the tensor has the module's name without `.weight`, as buffers do; it is a weight unless `part` says bias.
    `optional`: models of the family may lack it. `per_head`: its last axis is head_dim. `linear`: false for weights that are
    not multiplied with a vector (convolutions, state tables).
    """

    name: str
    module: Module
    role: str
    stack: Stack = Stack.TEXT
    residual: str | None = None
    transposed: bool = False
    fused: FusedLayout | None = None
    bias: str = NEVER
    bare: bool = False
    optional: bool = False
    per_head: bool = False
    linear: bool = True
    part: str = "weight"

    @property
    def is_buffer(self) -> bool:
        return self.module == Module.BUFFER

    @property
    def required_parts(self) -> tuple[str, ...]:
        """The parts that every model of the family has."""
        if self.optional or self.is_buffer:
            return ()
        return ("weight", "bias") if self.bias == ALWAYS else (self.part,)

    @cached_property
    def placeholders(self) -> tuple[str, ...]:
        """What the placeholders in the name stand for, in order: layer, expert, number."""
        return tuple(PLACEHOLDER.findall(self.name))

    @cached_property
    def literals(self) -> tuple[str | None, ...]:
        """For each number in the name: the number if the template fixes it, None for a placeholder."""
        return tuple(None if mark[0].startswith("{") else mark[0] for mark in NUMBER_MARK.finditer(self.name))

    @property
    def file_names(self) -> dict[str, str]:
        """Names of the tensors in files -> their parts. Any module can have a bias, since pruners add biases."""
        if self.is_buffer:
            return {self.name: "buffer"}
        if self.bare:
            return {self.name: self.part, **({f"{self.name}_bias": "bias"} if self.part == "weight" else {})}
        old = {f"{self.name}.gamma": "weight", f"{self.name}.beta": "bias"} if self.module == Module.NORM else {}
        return {f"{self.name}.weight": "weight", f"{self.name}.bias": "bias", **old}


@dataclass(frozen=True)
class Tower:
    """A part of a model that is a model of another family.

    `config` is the key of its config inside the model's config, `names` are pairs of prefixes: that of the whole model and that
    of the tower's own family. `families` are the families that the tower may belong to; empty for any.
    """

    stack: Stack
    config: str
    names: tuple[tuple[str, str], ...]
    families: tuple[str, ...]

    def inner_name(self, name: str) -> str | None:
        """The name that the tower's own family has for a tensor of the model; None for a tensor outside the tower."""
        prefixes = max((pair for pair in self.names if name.startswith(pair[0])), key=lambda pair: len(pair[0]), default=None)
        return None if prefixes is None else prefixes[1] + name[len(prefixes[0]) :]

    def outer_names(self, name: str) -> list[str]:
        """The names that the whole model may have for a tensor of the tower's own family."""
        return [outer + name[len(inner) :] for outer, inner in self.names if name.startswith(inner)]


TemplatePart = tuple[Template, str]
"""A template and the part (weight, bias, buffer) of it that a tensor is."""


@dataclass(frozen=True, eq=False)
class Family:
    """One family file with all that it inherits. `depth` is 0 for a family that extends no other.

    Families are compared by identity, so that caches can have them as keys.
    """

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
    def table(self) -> Mapping[str, tuple[TemplatePart, ...]]:
        """Tensor name with `{}` for each number -> the templates and parts that have such names.

        Several templates of one key differ in the numbers that they fix.
        """
        table: dict[str, list[TemplatePart]] = {}
        for template in self.templates:
            for name, part in template.file_names.items():
                key = NUMBER_MARK.sub("{}", name)
                table.setdefault(key, []).append((template, part))
        for key in list(table):
            for root in self.roots:
                if key.startswith(root):
                    table.setdefault(key.removeprefix(root), table[key])
        return MappingProxyType({key: tuple(matches) for key, matches in table.items()})

    def match_name(self, key: str, numbers: Sequence[str]) -> TemplatePart | None:
        """The template and part of a tensor name, given as its key in `table` and its numbers."""
        for match in self.table.get(key, ()):
            if all(literal is None or literal == number for literal, number in zip(match[0].literals, numbers, strict=True)):
                return match
        return None

    def config_paths(self, word: str, stack: str) -> tuple[str, ...]:
        """Paths in the config that may hold a size (one of CONFIG_WORDS) of a stack, in order of precedence."""
        return self.stack_keys.get(stack, self.config_keys).get(word, ())

    @cached_property
    def required(self) -> frozenset[tuple[str, str]]:
        """Template names with the parts that every model of the family has."""
        return frozenset((template.name, part) for template in self.templates for part in template.required_parts)


def with_towers(family: Family, inner: Mapping[str, Family]) -> Family:
    """The family with the templates and config keys of its towers' families, under the names that they have in the whole model.

    `inner` has the family that was chosen for each tower, by stack.
    """
    templates = {template.name: template for template in family.templates}
    stack_keys = dict(family.stack_keys)
    head, embedding, tied, hybrid = family.head, family.embedding, family.tied_by_default, family.hybrid
    for tower in family.towers:
        chosen = inner.get(tower.stack)
        if chosen is None:
            continue
        hybrid = hybrid or chosen.hybrid
        for template in chosen.templates:
            plain = [template.name, *(template.name.removeprefix(root) for root in chosen.roots)]
            names = dict.fromkeys(outer for name in plain for outer in tower.outer_names(name))
            for position, name in enumerate(names):
                templates.setdefault(
                    name, replace(template, name=name, stack=tower.stack, optional=template.optional or position > 0)
                )
        stack_keys[tower.stack] = {
            word: tuple(f"{tower.config}.{key}" for key in keys) + (keys if tower.stack == Stack.TEXT else ())
            for word, keys in chosen.config_keys.items()
        }
        if tower.stack == Stack.TEXT and chosen.head and chosen.embedding:
            head, embedding = (next(iter(tower.outer_names(name)), None) for name in (chosen.head, chosen.embedding))
            tied = chosen.tied_by_default
    return replace(
        family,
        templates=tuple(templates.values()),
        stack_keys=MappingProxyType(stack_keys),
        head=head,
        embedding=embedding,
        tied_by_default=tied,
        hybrid=hybrid,
        towers=(),
    )
