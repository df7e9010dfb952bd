"""Secrets in the texts of result files: they are taken out of a document before any format reads it, and out of every line.

Secret is what a URL has before its host (RFC 3986, 3.2.1), the parameters of a URL and the keys of an object that hold tokens,
and texts in the form of a token of a known service.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

HIDDEN = "***"
SHORTEST_TOKEN, SHORT = 20, 80
NAMES = (
    r"(?:api[_-]?keys?|secret(?:[_-]?(?:access[_-]?)?key)?|access[_-]?key(?:[_-]?id)?|passwords?|passwd|pwd|credentials?"
    r"|authorization|auth(?:[_-]?header)?|signature|sig|hf[_-]?key"
    r"|(?:hf|hub|hugging_?face|auth|access|api|refresh|bearer|id|security|session|github|wandb|openai|anthropic)[_-]?token"
    r"|(?<![\w-])token)"
)
"""Names of parameters, keys and variables that hold secrets, or how they end. `pad_token` and its like do not."""
WORDS = ("token", "key", "secret", "passw", "pwd", "credential", "auth", "sig", "bearer", "sk-", "hf_", "gh", "glpat-", "ia")
"""One of these is in every text with a named secret or a token, in small letters."""
SECRET_KEY = re.compile(rf"(?:[\w-]*[_-])?{NAMES}", re.IGNORECASE)
USER_INFO = re.compile(r"(:(?:/|\\/){2})[^/\s\\\"'<>]*@")
QUERY = re.compile(r"\?[^\s\"'<>#?]+")
NAMED = re.compile(
    rf"(?<![A-Za-z0-9])({NAMES}[\"']?\s{{0,8}}[:=]\s{{0,8}}[\"']?)(?:(?:Bearer|Basic|Token)\s{{1,8}})?"
    r"(?!\s|-?[\d.]{1,20}(?![\w.-])|(?:true|false|none|null)\b)([^\s,;&\"'<>]+)",
    re.IGNORECASE,
)
"""A name, an equals sign or colon, and the secret: no number, as in `token: 0.5`, and no yes or no."""
TOKEN = re.compile(
    r"\bhf_[A-Za-z0-9]{30,}|\bsk-(?:[a-z]{2,8}[0-9]{0,2}-){0,2}\w{20,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}"
    r"|\bglpat-[\w-]{20,}|\bA[KS]IA[0-9A-Z]{16}\b|(?<=\bbearer )[\w.~+/=-]{16,}",
    re.IGNORECASE,
)
"""Tokens of Hugging Face, OpenAI and Anthropic, GitHub, GitLab and AWS, and those of HTTP (RFC 6750)."""


def without_secrets(text: str) -> str:
    """A text without user names, passwords and tokens."""
    if len(text) <= SHORT:
        return _clean_short(text)
    if "\n" not in text:
        return _clean_line(text)
    clean = "\n".join(map(_clean_line, text.split("\n")))
    return text if clean == text else clean


@lru_cache(maxsize=1 << 14)
def _clean_short(text: str) -> str:
    """Cached, as files of one kind have the same keys and many of the same texts."""
    return "\n".join(map(_clean_line, text.split("\n"))) if "\n" in text else _clean_line(text)


def _clean_line(line: str) -> str:
    if len(line) < SHORTEST_TOKEN and not ("=" in line or ":" in line):
        return line
    clean = USER_INFO.sub(r"\1", line) if "@" in line and ":" in line else line
    small = clean.lower()
    if any(word in small for word in WORDS):
        clean = NAMED.sub(rf"\1{HIDDEN}", TOKEN.sub(HIDDEN, QUERY.sub(_public_query, clean)))
    return line if clean == line else clean


def clean_document(document: Any) -> Any:
    """A document without secrets in its texts, keys included, and a text under a key of a secret is hidden. It is changed where
    it is.
    """
    if isinstance(document, str):
        return type(document)(without_secrets(document))
    if isinstance(document, list):
        for index, value in enumerate(document):
            if isinstance(value, str | list | dict):
                document[index] = clean_document(value)
        return document
    return _clean_object(document) if isinstance(document, dict) else document


def _clean_object(document: dict[str, Any]) -> dict[str, Any]:
    new_keys = {}
    for key, value in document.items():
        clean_key, holds_secret = _read_key(key) if len(key) <= SHORT else (without_secrets(key), False)
        if clean_key != key:
            new_keys[key] = clean_key
        if isinstance(value, str):
            document[key] = HIDDEN if holds_secret else without_secrets(value)
        elif isinstance(value, list | dict):
            document[key] = clean_document(value)
    return {new_keys.get(key, key): value for key, value in document.items()} if new_keys else document


@lru_cache(maxsize=1 << 14)
def _read_key(key: str) -> tuple[str, bool]:
    """A key without secrets, and whether it is the name of one."""
    return without_secrets(key), SECRET_KEY.fullmatch(key) is not None


def _public_query(query: re.Match[str]) -> str:
    """The query of a URL without the parameters that hold secrets."""
    parameters = re.split("[&;]", query[0][1:])
    public = [parameter for parameter in parameters if not SECRET_KEY.fullmatch(parameter.partition("=")[0])]
    if len(public) == len(parameters):
        return query[0]
    return f"?{'&'.join(public)}" if public else ""
