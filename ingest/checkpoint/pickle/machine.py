"""The state of the pickle machine: bounds-checked input, stack and marks, memo, limits; and how it creates values.

A pickle is a program for a stack machine. Opcodes push values onto a stack, collect those above a mark into containers, and
store and fetch values in a memo, by which objects are shared. Globals (classes and functions) are called by REDUCE, NEWOBJ and
others, objects get their state by BUILD, and persistent ids stand for data outside of the pickle: torch's storages.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NoReturn

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.limits import allowed, exceeded
from layerhouse.ingest.checkpoint.pickle.rebuild import UNKNOWN, is_module_class, make_storage, rebuild
from layerhouse.ingest.checkpoint.pickle.values import Global, PickledDict, PickledSet, StorageStub, Stub

PERSISTENT = Global("pickle", "persistent_load")


@dataclass(frozen=True)
class PickleLimits:
    """What a pickle may cost. A whole model with a slow tokenizer of 150,000 words takes about two million opcodes.

    If an opcode does work in proportion to its operand, such as copying pairs into a dict, each item counts as an opcode.
    `memory` limits an estimate in bytes of the values together with the pickle itself.
    """

    bytes: int = 64 * 1024 * 1024
    opcodes: int = 4_000_000
    memory: int = 224 * 1024 * 1024
    containers: int = 1_000_000
    memo_entries: int = 1_500_000
    names: int = 10_000
    stack_depth: int = 500_000
    line_bytes: int = 4096
    integer_bytes: int = 1024


def default_limits() -> PickleLimits:
    """The default limits, scaled by the present factor."""
    return PickleLimits(**{field.name: allowed(getattr(PickleLimits, field.name)) for field in fields(PickleLimits)})


CHECKED_WORK = 1024
"""Work of a single opcode above which the limits are checked before it is done."""

OPCODE_BYTES, CONTAINER_BYTES, MEMO_BYTES = 48, 112, 72
"""Estimated memory in bytes of an opcode's value, of a container in addition, and of a memo entry."""


class CutOffError(InputError):
    """The bytes end before the pickle does."""


class Machine:
    """Input, stack and memo. `stack` has the values above the last mark, `below` the stacks under each mark."""

    def __init__(self, data: bytes, display_path: str, start: int, limits: PickleLimits) -> None:
        self.data, self.end, self.display_path, self.limits = data, len(data), display_path, limits
        self.position = self.opcode_at = start
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.below_depth = 0
        self.memo: dict[int, Any] = {}
        self.globals: dict[tuple[str, str], Global] = {}
        self.opcodes = self.containers = 0
        self.text_bytes = 2 * len(data)
        self.storages: dict[str, StorageStub] = {}

    def check_limits(self) -> None:
        """Raise InputError if any limit is exceeded."""
        limits = self.limits
        memory = self.text_bytes + OPCODE_BYTES * self.opcodes + CONTAINER_BYTES * self.containers + MEMO_BYTES * len(self.memo)
        for name, used, limit in (
            ("pickle opcodes", self.opcodes, limits.opcodes),
            ("pickle containers", self.containers, limits.containers),
            ("pickle memo entries", len(self.memo), limits.memo_entries),
            ("pickle names", len(self.globals), limits.names),
            ("pickle stack depth", self.below_depth + len(self.stack) + len(self.below), limits.stack_depth),
            ("pickle memory", memory, limits.memory),
        ):
            if used > limit:
                self.fail(exceeded(name, limit))

    def fail(self, what: str) -> NoReturn:
        """Raise InputError with the position of the current opcode."""
        raise InputError(self.display_path, f"pickle: {what}, at byte {self.opcode_at}")

    def cut_off(self, what: str) -> NoReturn:
        """Raise CutOffError with the position of the current opcode."""
        raise CutOffError(self.display_path, f"pickle: cut off: {what}, at byte {self.opcode_at}")

    # Arguments of opcodes.

    def take(self, count: int) -> bytes:
        """The next bytes of the input."""
        begin, end = self.position, self.position + count
        if end > self.end:
            self.cut_off(f"an argument of {count} bytes, {self.end - begin} are left")
        self.position = end
        return self.data[begin:end]

    def unsigned(self, count: int) -> int:
        """The next little-endian unsigned integer, of `count` bytes."""
        begin = self.position
        end = self.position = begin + count
        if end > self.end:
            self.cut_off("an argument is missing")
        return self.data[begin] if count == 1 else int.from_bytes(self.data[begin:end], "little")

    def counted(self, count: int) -> bytes:
        """The next bytes with a length prefix of `count` bytes."""
        begin = self.position + count
        end = begin + int.from_bytes(self.data[self.position : begin], "little")
        if end > self.end:
            self.cut_off(f"an argument of {end - begin} bytes, {max(self.end - begin, 0)} are left")
        self.position = end
        return self.data[begin:end]

    def line(self) -> bytes:
        """The next line, of limited length, without its newline."""
        limit = self.limits.line_bytes
        end = self.data.find(b"\n", self.position, self.position + limit)
        if end < 0:
            if self.position + limit <= self.end:
                self.fail(exceeded("bytes of a pickle line", limit))
            self.cut_off("a line without end")
        begin, self.position = self.position, end + 1
        return self.data[begin:end]

    def long_line(self) -> bytes:
        """The next line, of any length, without its newline."""
        end = self.data.find(b"\n", self.position)
        if end < 0:
            self.cut_off("a line without end")
        begin, self.position = self.position, end + 1
        return self.data[begin:end]

    def text(self, raw: bytes) -> str:
        """Decode UTF-8. Lone surrogates, which Python can pickle but UTF-8 cannot encode, become backslash escapes."""
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            self.charge(len(raw))
            text = raw.decode("utf-8", "backslashreplace")
        if not text.isascii():
            self.text_bytes += 4 * len(text)
        return text

    def charge(self, work: int) -> None:
        """Count work that is proportional to an operand as so many opcodes, before it is done."""
        self.opcodes += work
        if work > CHECKED_WORK:
            self.check_limits()

    def number(self, raw: bytes) -> int:
        """The integer that decimal digits spell."""
        if len(raw) > self.limits.integer_bytes:
            self.fail(exceeded("digits of a pickle integer", self.limits.integer_bytes))
        try:
            return int(raw)
        except ValueError:
            self.fail(f"not a whole number: {raw[:40]!r}")

    # The stack.

    def mark(self) -> None:
        """Set a mark above the current stack."""
        self.below_depth += len(self.stack)
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        """Pop the last mark and return the values above it."""
        if not self.below:
            self.fail("stack underflow: no mark")
        values = self.stack
        self.stack = self.below.pop()
        self.below_depth -= len(self.stack)
        return values

    def push_container(self, value: Any) -> None:
        """Push a new container or object."""
        self.containers += 1
        self.stack.append(value)

    def global_name(self, module: str, name: str) -> Global:
        """The one Global of this name."""
        known = self.globals.get((module, name))
        if known is None:
            known = self.globals[module, name] = Global(module, name)
        return known

    # Creating and filling values.

    def make(self, target: Any, arguments: Any, keywords: Any = None, *, is_call: bool) -> None:
        """Push the result of a call or of creating an object: a value if the target is on the allow-list, else a Stub."""
        self.containers += 1
        if isinstance(arguments, tuple) and arguments and isinstance(arguments[0], list):
            self.charge(len(arguments[0]))
        value = UNKNOWN if keywords is not None else rebuild(target, arguments)
        if value is UNKNOWN:
            if is_call and _is_reconstructor(target, arguments):
                target, is_call = arguments[0], False
            value = Stub(target, arguments, is_call, keywords)
        self.stack.append(value)

    def store(self, index: int) -> None:
        """Store the top of the stack in the memo."""
        self.memo[index] = self.stack[-1]

    def fetch(self, index: int) -> None:
        """Push a value of the memo."""
        try:
            self.stack.append(self.memo[index])
        except KeyError:
            self.fail(f"memo entry {index} was never stored")

    def extend(self, values: list[Any]) -> None:
        """Append values to the list, or to the object, on top of the stack."""
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, Stub):
            target.add_items(values)
        else:
            self.fail(f"items for a {type(target).__name__}")

    def set_items(self, flat: list[Any]) -> None:
        """Add pairs, keys and values in turn, to the dict or object on top of the stack."""
        target = self.stack[-1]
        if len(flat) % 2:
            self.fail("a key without a value")
        if isinstance(target, PickledDict):
            target.flat.extend(flat)
        elif isinstance(target, Stub):
            target.add_pairs(flat)
        else:
            self.fail(f"keys for a {type(target).__name__}")

    def add_items(self, values: list[Any]) -> None:
        """Add members to the set, or to the object, on top of the stack."""
        target = self.stack[-1]
        if isinstance(target, PickledSet) and isinstance(target.items, list):
            target.items.extend(values)
        elif isinstance(target, Stub):
            target.add_items(values)
        else:
            self.fail(f"members for a {type(target).__name__}")

    def build(self) -> None:
        """Pop a state and set it on the object below. Tensors and plain data need none."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Stub | PickledDict):
            target.state = state

    def push_persistent(self, persistent_id: Any) -> None:
        """Push what a persistent id stands for: a storage; the class of a module, as older torch files name it; else a Stub."""
        if is_module_class(persistent_id):
            self.stack.append(persistent_id[1])
            return
        storage = make_storage(persistent_id)
        if storage is UNKNOWN:
            self.push_container(Stub(PERSISTENT, (persistent_id,), is_call=True))
            return
        first = self.storages.setdefault(storage.key, storage)
        if (first.class_path, first.elements) != (storage.class_path, storage.elements):
            self.fail(f"storage {storage.key[:40]!r} is claimed with two types or sizes")
        self.push_container(storage)


def _is_reconstructor(target: Any, arguments: Any) -> bool:
    """Whether this is how protocols 0 and 1 create a plain object: copyreg._reconstructor(class, object, None)."""
    return (
        isinstance(target, Global)
        and target.path in ("copyreg._reconstructor", "copy_reg._reconstructor")
        and isinstance(arguments, tuple)
        and len(arguments) == 3
        and isinstance(arguments[0], Global | Stub)
    )
