"""Write torch's zip files without torch. The pickle in them names classes and functions, which need not be installed here."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Global:
    """A class or function by its dotted path."""

    path: str


@dataclass(frozen=True)
class Call:
    """What a function gives when the pickle is loaded."""

    function: Global
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Instance:
    """An object of a class that is made without a call of `__init__`, and its state."""

    class_: Global
    state: dict[str, Any]


@dataclass(frozen=True)
class Persistent:
    """An object outside of the pickle, such as a storage, by its id."""

    id: tuple[Any, ...]


def write_torch_zip(path: Path, value: Any, storages: Mapping[str, bytes]) -> None:
    """Write a value and the storages that its persistent ids name, as `torch.save` lays them out; the same bytes every time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    members = {"data.pkl": pickled(value), "byteorder": b"little"}
    members |= {f"data/{key}": data for key, data in storages.items()}
    members |= {"version": b"3\n"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(f"{path.stem}/{name}"), data)  # without a time


def pickled(value: Any) -> bytes:
    """A pickle of protocol 2."""
    return b"\x80\x02" + _opcodes(value) + b"."


def _opcodes(value: Any) -> bytes:
    """The opcodes that leave the value on the stack of a pickle machine."""
    match value:
        case None | bool():
            opcodes = {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int():
            opcodes = b"J" + struct.pack("<i", value)
        case float():
            opcodes = b"G" + struct.pack(">d", value)
        case str():
            opcodes = b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            opcodes = b"(" + b"".join(map(_opcodes, value)) + b"t"
        case list():
            opcodes = b"](" + b"".join(map(_opcodes, value)) + b"e"
        case dict():
            opcodes = b"}(" + b"".join(_opcodes(key) + _opcodes(item) for key, item in value.items()) + b"u"
        case Global():
            module, _, name = value.path.rpartition(".")
            opcodes = f"c{module}\n{name}\n".encode()
        case Call():
            opcodes = _opcodes(value.function) + _opcodes(value.arguments) + b"R"
        case Instance():
            opcodes = _opcodes(value.class_) + b")\x81" + _opcodes(value.state) + b"b"
        case Persistent():
            opcodes = _opcodes(value.id) + b"Q"
        case _:
            raise TypeError(f"no opcodes for {type(value).__name__}")
    return opcodes
