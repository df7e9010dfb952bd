"""What a model's name declares: pruning method, ratio, removed layers. The rules are data, in declarations.toml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import Any

INT32_MAX = 2**31 - 1
MAX_NAME = 500
"""Characters of a name that may declare something: no folder has a longer one, and words are looked at beside each other."""
CHECKPOINT = re.compile(r"checkpoint-([0-9]+)")
REVISION = re.compile(r"@[0-9a-f]{8,40}(?=/|$)")
"""The commit in the name of a snapshot of a hub cache, `org/name@COMMIT`."""
SEPARATOR = re.compile(r"([-_+\s])")
LEADING_NAME = re.compile(r"([A-Za-z][A-Za-z0-9.+-]*)_(.*)", re.DOTALL)
NAME_WORD = re.compile(r"[A-Za-z][A-Za-z0-9.+-]*")
MAX_WORDS = 4
"""Words that the name of an unknown method has at most."""


@dataclass(frozen=True)
class Declaration:
    """What a name declares about how the model was made; None, or no tags, for what it does not declare.

    `ratio` is the fraction that was removed, `removed_layers` a number of layers. `tags` has the words of the rest of the name,
    each as a key with an empty value, and the step of a `checkpoint-N` folder under the key `checkpoint`.
    """

    method: str | None = None
    ratio: float | None = None
    removed_layers: int | None = None
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RatioRule:
    """How a number between separators is read as a ratio; see declarations.toml."""

    pattern: re.Pattern[str]
    divisor: int
    anywhere: bool
    names_method: bool
    names_words: bool


@dataclass(frozen=True)
class Rules:
    """declarations.toml with its patterns compiled. `spellings` maps a method's normalized spellings to its name."""

    spellings: dict[str, str]
    pruner: re.Pattern[str]
    quantiser: re.Pattern[str]
    ratios: tuple[RatioRule, ...]
    removed_layers: re.Pattern[str]
    base: re.Pattern[str]
    size: re.Pattern[str]
    other_numbers: frozenset[str]
    no_methods: frozenset[str]
    no_last_words: frozenset[str]
    file_endings: tuple[str, ...]


@dataclass(frozen=True)
class Word:
    """The text between two separators of a name, and the separator before it ("" at the start)."""

    separator: str
    text: str


def declare(model_id: str) -> Declaration:
    """What the last component of a model_id declares; of a `checkpoint-N` folder, the component before. Never raises.

    A known method anywhere in the name has precedence, a pruner before a quantiser. Otherwise an unknown word that is followed
    by `_` and four digits or `remove_N` is the method (MyMethod_2000), and so are several such words, which a fraction may
    follow too (my_method_0.2). The name of a base model is not a method, and numbers within it are not ratios: Qwen2.5-0.5B
    declares nothing, Llama-3-8B_0.2 declares 0.2. Nor does a name over MAX_NAME.
    """
    rules = load_rules()
    name, tags = _name_of(model_id, rules)
    if len(name) > MAX_NAME:
        return Declaration(tags=tags)
    declared = _declare_known(name, rules) or _declare_unknown(name, rules) or _declare_words(name, rules)
    declared = declared or _declare_base(name, rules)
    return replace(declared, tags={**declared.tags, **tags})


@cache
def load_rules() -> Rules:
    """The rules of declarations.toml. Raises ValueError if two methods share a spelling, KeyError if a rule is missing."""
    document = tomllib.loads(resources.files("layerhouse.ingest.declarations").joinpath("declarations.toml").read_text("utf-8"))
    names = document["names"]
    spellings: dict[str, str] = {}
    for method, further in (document["pruners"] | document["quantisers"]).items():
        for spelling in {_normalize(text) for text in (method, *further)}:
            if spelling in spellings:
                raise ValueError(f"declarations.toml: {method} and {spellings[spelling]} share the spelling {spelling!r}")
            spellings[spelling] = method
    return Rules(
        spellings=spellings,
        pruner=_method_pattern(document["pruners"]),
        quantiser=_method_pattern(document["quantisers"]),
        ratios=tuple(_ratio_rule(rule) for rule in document["ratios"]),
        removed_layers=re.compile(rf"(?<![^-_+\s]){names['removed_layers']}(?![^-_+\s])", re.IGNORECASE),
        base=re.compile(rf"(?<![A-Za-z0-9])(?:{_alternatives(names['families'])})(?![A-Za-z])", re.IGNORECASE),
        size=re.compile(names["size"], re.IGNORECASE),
        other_numbers=frozenset(names["other_numbers"]),
        no_methods=frozenset(names["other_numbers"] + names["no_methods"]),
        no_last_words=frozenset(names["other_numbers"] + names["no_methods"] + names["sizes"]),
        file_endings=tuple(names["file_endings"]),
    )


def _name_of(model_id: str, rules: Rules) -> tuple[str, dict[str, str]]:
    """The component of a model_id that declares, without the ending of a weight file; and the tag of a checkpoint's step."""
    parts = [part for part in REVISION.sub("", model_id).split("/") if part]
    tags: dict[str, str] = {}
    if parts and len(parts[-1]) <= MAX_NAME and (checkpoint := CHECKPOINT.fullmatch(parts[-1])):
        tags["checkpoint"] = checkpoint[1]
        parts.pop()
    name = parts[-1] if parts else ""
    for ending in rules.file_endings:
        if name.lower().endswith(ending):
            return name[: -len(ending)], tags
    return name, tags


def _declare_known(name: str, rules: Rules) -> Declaration | None:
    """What a name with a known method declares."""
    if match := rules.pruner.search(name):
        return _declare_tail(rules.spellings[_normalize(match[0])], name[match.end() :], rules)
    if match := rules.quantiser.search(name):
        return Declaration(rules.spellings[_normalize(match[0])], tags=_tags(_words(name[match.end() :])))
    return None


def _declare_unknown(name: str, rules: Rules) -> Declaration | None:
    """What a name declares whose first word is an unknown method, by the number that follows it."""
    match = LEADING_NAME.fullmatch(name)
    if match is None or match[1].lower() in rules.no_methods or _is_base(match[1], rules):
        return None
    next_word = match[2].partition("_")[0].partition("-")[0]
    names_method = any(rule.names_method and rule.pattern.fullmatch(next_word) for rule in rules.ratios)
    if not names_method and not rules.removed_layers.match(match[2]):
        return None
    return _declare_tail(match[1], f"_{match[2]}", rules)


def _declare_words(name: str, rules: Rules) -> Declaration | None:
    """What a name declares that begins with several words of an unknown method, by the number that follows them.

    The method is in lower case: Foo_bar_2000 and foo_bar_3000 are of one.
    """
    words = name.split("_")
    for count in range(2, min(MAX_WORDS, len(words) - 1) + 1):
        method, tail = words[:count], "_".join(words[count:])
        if not NAME_WORD.fullmatch(method[-1]) or not NAME_WORD.fullmatch(method[0]):
            return None
        number = tail.partition("_")[0].partition("-")[0]
        is_ratio = any(rule.names_words and rule.pattern.fullmatch(number) for rule in rules.ratios)
        if not is_ratio and not rules.removed_layers.match(tail):
            continue
        lowered = [word.lower() for word in method]
        if lowered[-1] in rules.no_last_words or rules.no_methods.issuperset(lowered) or _is_base("_".join(method), rules):
            return None
        return _declare_tail("_".join(lowered), f"_{tail}", rules)
    return None


def _declare_base(name: str, rules: Rules) -> Declaration:
    """What a name without a method declares: a ratio such as 0.2, or remove_N, and the tags behind it."""
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
    """What the rest of a name behind its method declares."""
    removed, before_removed, after_removed = _cut_removed(tail, rules)
    words = _words(before_removed + after_removed)
    directly_after = not rules.removed_layers.match(tail[1:])
    for index, word in enumerate(words):
        ratio = _ratio(word, words[:index], rules, after_method=directly_after and index == 0)
        if ratio is not None:
            return Declaration(method, ratio, removed, _tags((*words[:index], *words[index + 1 :])))
    return Declaration(method, None, removed, _tags(words))


def _cut_removed(text: str, rules: Rules) -> tuple[int | None, str, str]:
    """The number of removed layers, and the text before and after it."""
    match = rules.removed_layers.search(text)
    if match is None or len(match[1]) > 10 or int(match[1]) > INT32_MAX:
        return None, text, ""
    return int(match[1]), text[: match.start()], text[match.end() :]


def _ratio(word: Word, before: tuple[Word, ...], rules: Rules, *, after_method: bool) -> float | None:
    """The ratio that a word declares, given the words before it."""
    if before and before[-1].text.lower() in rules.other_numbers:
        return None
    for rule in rules.ratios:
        if (rule.anywhere or after_method) and rule.pattern.fullmatch(word.text):
            return float(word.text) if rule.divisor == 1 else int(word.text) / rule.divisor
    return None


def _is_base(name: str, rules: Rules) -> bool:
    """Whether a name has the name of a base model, or a model's size."""
    return rules.base.search(name) is not None or any(rules.size.fullmatch(word.text) for word in _words(name))


def _words(text: str) -> tuple[Word, ...]:
    pieces = ["", *SEPARATOR.split(text)]
    return tuple(Word(pieces[at], pieces[at + 1]) for at in range(0, len(pieces), 2) if pieces[at + 1])


def _tags(words: Iterable[Word]) -> dict[str, str]:
    return {word.text: "" for word in words}


def _normalize(spelling: str) -> str:
    """A spelling in lower case without separators."""
    return re.sub(r"[-_ ]", "", spelling).lower()


def _alternatives(spellings: Iterable[str]) -> str:
    """A pattern that matches any of the spellings, trying long ones first; a hyphen matches any separator or none."""
    longest_first = sorted(spellings, key=lambda spelling: (-len(spelling), spelling))
    return "|".join("[-_ ]?".join(re.escape(piece) for piece in spelling.split("-")) for spelling in longest_first)


def _method_pattern(methods: dict[str, list[str]]) -> re.Pattern[str]:
    spellings = [spelling for method, further in methods.items() for spelling in (method, *further)]
    return re.compile(rf"(?<![A-Za-z0-9])(?:{_alternatives(spellings)})(?![A-Za-z0-9])", re.IGNORECASE)


def _ratio_rule(rule: dict[str, Any]) -> RatioRule:
    return RatioRule(re.compile(rule["pattern"]), rule["divisor"], rule["anywhere"], rule["names_method"], rule["names_words"])
