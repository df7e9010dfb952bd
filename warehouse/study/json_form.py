"""The JSON conventions of the study scripts: indented, and a key without data is absent, never null."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def known_values(**values: Any) -> dict[str, Any]:
    """The keyword arguments that are not None, in order."""
    return {key: value for key, value in values.items() if value is not None}


def study_json(document: Mapping[str, Any]) -> str:
    """A document as JSON text, with non-ASCII characters unescaped and a final newline."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
