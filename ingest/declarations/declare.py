"""What a model's name declares: method, share removed, layers removed. The rules are data, in declarations.toml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

INT32_MAX = 2**31 - 1
CHECKPOINT = re.compile(r"checkpoint-([0-9]+)")
SEPARATOR = re.compile(r"([-_+\s])")
LEADING_NAME = re.compile(r"([A-Za-z][A-Za-z0-9.+-]*)_(.*)", re.DOTALL)


@dataclass(frozen=True)
class Declaration:
    """What a name says about how the model was made; None and no tags where it says nothing.

    `ratio` is the share removed, a fraction; `removed_layers` a count of layers. `tags` are the rest of the name after
    the method or number, each word a key with an empty value; `checkpoint` is the step of a `checkpoint-N` folder.
    """

    method: str | None = None
    ratio: float | None = None
    removed_layers: int | None = None
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RatioRule:
    """How a number between separators says a share; see declarations.toml."""

    pattern: re.Pattern[str]
    divisor: int
    anywhere: bool
    names_method: bool


@dataclass(frozen=True)
class Rules:
    """declarations.toml with its patterns compiled. `spellings` maps a method's folded spellings to its name."""

    spellings: dict[str, str]
    pruner: re.Pattern[str]
    quantiser: re.Pattern[str]
    ratios: tuple[RatioRule, ...]
    removed_layers: re.Pattern[str]
    base: re.Pattern[str]
    size: re.Pattern[str]
    other_numbers: frozenset[str]
    no_methods: frozenset[str]
    file_endings: tuple[str, ...]


@dataclass(frozen=True)
class Word:
    """A piece of a name between separators, and the separator before it ("" at the start)."""

    separator: str
    text: str


def declare(model_id: str) -> Declaration:
    """What the last part of a model_id declares; for a `checkpoint-N` folder, the part before. Never raises.

    A known method anywhere wins, a pruner before a quantiser; then an unknown name before `_` and four digits or
    `remove_N` is a method (MyMethod_2000). A base's name is no method, and a share counts only outside of it:
    Qwen2.5-0.5B declares nothing, Llama-3-8B_0.2 declares 0.2.
    """
    rules = load_rules()
    name, tags = _name_of(model_id, rules)
    found = _declare_known(name, rules) or _declare_unknown(name, rules) or _declare_base(name, rules)
    return Declaration(found.method, found.ratio, found.removed_layers, {**found.tags, **tags})


@cache
def load_rules() -> Rules:
    """The rules of declarations.toml; ValueError if two methods share a spelling, KeyError if a rule is missing."""
    document = tomllib.loads(resources.files("layerhouse.ingest.declarations").joinpath("declarations.toml").read_text("utf-8"))
    names = document["names"]
    spellings: dict[str, str] = {}
    for method, further in (document["pruners"] | document["quantisers"]).items():
        for spelling in {_fold(text) for text in (method, *further)}:
            if spelling in spellings:
                raise ValueError(f"declarations.toml: {method} and {spellings[spelling]} share the spelling {spelling!r}")
            spellings[spelling] = method
    return Rules(
        spellings=spellings,
        pruner=_any_method(document["pruners"]),
        quantiser=_any_method(document["quantisers"]),
        ratios=tuple(_ratio_rule(rule) for rule in document["ratios"]),
        removed_layers=re.compile(rf"(?<![^-_+\s]){names['removed_layers']}(?![^-_+\s])", re.IGNORECASE),
        base=re.compile(rf"(?<![A-Za-z0-9])(?:{_alternatives(names['families'])})(?![A-Za-z])", re.IGNORECASE),
        size=re.compile(names["size"], re.IGNORECASE),
        other_numbers=frozenset(names["other_numbers"]),
        no_methods=frozenset(names["other_numbers"] + names["no_methods"]),
        file_endings=tuple(names["file_endings"]),
    )


def _name_of(model_id: str, rules: Rules) -> tuple[str, dict[str, str]]:
    parts = [part for part in model_id.split("/") if part]
    tags: dict[str, str] = {}
    if parts and (checkpoint := CHECKPOINT.fullmatch(parts[-1])):
        tags["checkpoint"] = checkpoint[1]
        parts.pop()
    name = parts[-1] if parts else ""
    for ending in rules.file_endings:
        if name.lower().endswith(ending):
            return name[: -len(ending)], tags
    return name, tags


def _declare_known(name: str, rules: Rules) -> Declaration | None:
    if found := rules.pruner.search(name):
        return _declare_tail(rules.spellings[_fold(found[0])], name[found.end() :], rules)
    if found := rules.quantiser.search(name):
        words = _words(name[found.end() :])
        return Declaration(rules.spellings[_fold(found[0])], tags=_tags(words))
    return None


def _declare_unknown(name: str, rules: Rules) -> Declaration | None:
    found = LEADING_NAME.fullmatch(name)
    if found is None or found[1].lower() in rules.no_methods or _is_base(found[1], rules):
        return None
    first = found[2].partition("_")[0].partition("-")[0]
    names_method = any(rule.names_method and rule.pattern.fullmatch(first) for rule in rules.ratios)
    if not names_method and not rules.removed_layers.match(found[2]):
        return None
    return _declare_tail(found[1], f"_{found[2]}", rules)


def _declare_base(name: str, rules: Rules) -> Declaration:
    """A name without a method: a share such as 0.2 or remove_N, and what follows it."""
    removed, before_removed, after_removed = _cut_removed(name, rules)
    words = _words(before_removed + after_removed)
    is_base = rules.base.search(name) is not None
    for index, word in enumerate(words):
        ratio = _ratio(word, words[:index], rules, after_method=False)
        is_sized = any(rules.size.fullmatch(before.text) for before in words[:index])
        if ratio is not None and word.separator in ("_", "-") and (not is_base or word.separator == "_" or is_sized):
            return Declaration(None, ratio, removed, _tags(words[index + 1 :]))
    return Declaration(None, None, removed, _tags(_words(after_removed)))


def _declare_tail(method: str, tail: str, rules: Rules) -> Declaration:
    removed, before_removed, after_removed = _cut_removed(tail, rules)
    words = _words(before_removed + after_removed)
    directly_after = not rules.removed_layers.match(tail[1:])
    for index, word in enumerate(words):
        ratio = _ratio(word, words[:index], rules, after_method=directly_after and index == 0)
        if ratio is not None:
            return Declaration(method, ratio, removed, _tags((*words[:index], *words[index + 1 :])))
    return Declaration(method, None, removed, _tags(words))


def _cut_removed(text: str, rules: Rules) -> tuple[int | None, str, str]:
    """The declared number of removed layers, and the text before and after it."""
    found = rules.removed_layers.search(text)
    if found is None or len(found[1]) > 10 or int(found[1]) > INT32_MAX:
        return None, text, ""
    return int(found[1]), text[: found.start()], text[found.end() :]


def _ratio(word: Word, before: tuple[Word, ...], rules: Rules, *, after_method: bool) -> float | None:
    if before and before[-1].text.lower() in rules.other_numbers:
        return None
    for rule in rules.ratios:
        if (rule.anywhere or after_method) and rule.pattern.fullmatch(word.text):
            return float(word.text) if rule.divisor == 1 else int(word.text) / rule.divisor
    return None


def _is_base(name: str, rules: Rules) -> bool:
    return rules.base.search(name) is not None or any(rules.size.fullmatch(word.text) for word in _words(name))


def _words(text: str) -> tuple[Word, ...]:
    pieces = ["", *SEPARATOR.split(text)]
    return tuple(Word(pieces[at], pieces[at + 1]) for at in range(0, len(pieces), 2) if pieces[at + 1])


def _tags(words: Iterable[Word]) -> dict[str, str]:
    return {word.text: "" for word in words}


def _fold(spelling: str) -> str:
    return re.sub(r"[-_ ]", "", spelling).lower()


def _alternatives(spellings: Iterable[str]) -> str:
    """A pattern for any of the spellings, the longest first, a hyphen standing for any or no separator."""
    longest_first = sorted(spellings, key=lambda spelling: (-len(spelling), spelling))
    return "|".join("[-_ ]?".join(re.escape(piece) for piece in spelling.split("-")) for spelling in longest_first)


def _any_method(methods: dict[str, list[str]]) -> re.Pattern[str]:
    spellings = [spelling for method, further in methods.items() for spelling in (method, *further)]
    return re.compile(rf"(?<![A-Za-z0-9])(?:{_alternatives(spellings)})(?![A-Za-z0-9])", re.IGNORECASE)


def _ratio_rule(rule: dict[str, Any]) -> RatioRule:
    return RatioRule(re.compile(rule["pattern"]), rule["divisor"], rule["anywhere"], rule["names_method"])
