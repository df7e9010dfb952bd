"""Typed access to the values of one JSON document."""

from __future__ import annotations

from typing import Any

from layerhouse.errors import InputError
from layerhouse.escapes import visible

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
MAX_LAYERS = 100_000


class JsonReader:
    """One value of a JSON document. Its methods raise InputError, which names the file and the key, if the value is of
    another type."""

    def __init__(self, display_path: str, value: Any, key: str = "") -> None:
        self.display_path, self.value, self.key = display_path, value, key

    def mapping(self) -> dict[str, Any]:
        """The value as an object."""
        if not isinstance(self.value, dict):
            raise self._wrong_type("an object")
        return self.value

    def child(self, name: str) -> JsonReader | None:
        """The value under a name of this object; None if it is missing or null."""
        value = self.mapping().get(name)
        return None if value is None else JsonReader(self.display_path, value, self._key_of(name))

    def required(self, name: str) -> JsonReader:
        """The value under a name of this object, which must have one."""
        child = self.child(name)
        if child is None:
            raise InputError(self.display_path, f"{self._key_of(name)}: missing")
        return child

    def items(self) -> list[JsonReader]:
        """The items of this list of layers."""
        if not isinstance(self.value, list):
            raise self._wrong_type("a list")
        if len(self.value) > MAX_LAYERS:
            problem = f"limit exceeded: {len(self.value)} layers, at most {MAX_LAYERS}"
            raise InputError(self.display_path, f"{self.key}: {problem}")
        return [JsonReader(self.display_path, item, f"{self.key}[{position}]") for position, item in enumerate(self.value)]

    def integer(self, most: int = INT64_MAX) -> int:
        """A count from 0 to `most`: an integer, or a float that is exactly one."""
        value = self.value
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise self._wrong_type("an integer that is not negative" if most == INT64_MAX else f"an integer from 0 to {most}")
        return value

    def text(self) -> str:
        """The value as text."""
        if not isinstance(self.value, str):
            raise self._wrong_type("a text")
        return self.value

    def optional_integer(self, name: str, most: int = INT64_MAX) -> int | None:
        """The count under a name of this object; None if it is missing or null."""
        child = self.child(name)
        return None if child is None else child.integer(most)

    def optional_text(self, name: str) -> str | None:
        """The text under a name of this object; None if it is missing or null."""
        child = self.child(name)
        return None if child is None else child.text()

    def _key_of(self, name: str) -> str:
        return f"{self.key}.{visible(name)}".lstrip(".")

    def _wrong_type(self, expected: str) -> InputError:
        actual = type(self.value).__name__ if isinstance(self.value, (dict, list)) else repr(self.value)[:40]
        return InputError(self.display_path, f"{self.key or 'top level'}: expected {expected}, found {actual}")
