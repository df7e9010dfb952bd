"""Settings of a measure as text, `name=value,...`: two that differ never have one text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from layerhouse.ingest.results.runs import short_hash
from layerhouse.ingest.results.scores import is_number

MAX_SETTING = 100
"""Characters of a setting's value; a longer one ends with its hash."""
PLAIN = re.compile(r'[^,="\n]+')
"""A value that is no part of another setting's text."""


def settings_text(stated: Mapping[str, Any], first: str | None = None) -> str | None:
    """Settings in their order behind `first`, such as the name of a subset; None if there are none. Values of null and blank
    ones are not given."""
    texts = {name: text for name, value in stated.items() if (text := setting_text(value)) is not None}
    parts = [*([first] if first else []), *(f"{name}={text}" for name, text in texts.items())]
    return ",".join(parts) or None


def setting_text(value: Any) -> str | None:
    """A value as text: whole numbers without a fraction, true as 1, lists and objects as JSON; None if it is not given."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bool):
        return str(int(value))
    if is_number(value):
        return _number_text(value)
    text = value.strip() if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    if PLAIN.fullmatch(text) is None:
        text = json.dumps(text)
    return text if len(text) <= MAX_SETTING else f"{text[: MAX_SETTING - 13]} {short_hash(text)}"


def _number_text(number: float) -> str:
    is_whole = isinstance(number, float) and math.isfinite(number) and number == int(number) and abs(number) < 1e15
    return str(int(number)) if is_whole else str(number)
