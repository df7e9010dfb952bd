"""The opcodes of pickle protocols 0 to 5, one small function each, as documented in the standard library's pickletools."""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import Any

from layerhouse.ingest.checkpoint.limits import exceeded
from layerhouse.ingest.checkpoint.pickle.machine import Machine
from layerhouse.ingest.checkpoint.pickle.values import PickledDict, PickledSet

Operation = Callable[[Machine], None]
"""What an opcode does. Popping from an empty stack raises IndexError, which `load_pickle` reports as a stack underflow."""


def _constant(value: Any) -> Operation:
    return lambda machine: machine.stack.append(value)


def _unsigned(count: int) -> Operation:
    return lambda machine: machine.stack.append(machine.unsigned(count))


def _text(count: int) -> Operation:
    """A string with a length prefix of `count` bytes."""
    return lambda machine: machine.stack.append(machine.text(machine.counted(count)))


def _bytes(count: int) -> Operation:
    """Bytes with a length prefix of `count` bytes."""
    return lambda machine: machine.stack.append(machine.counted(count))


def _tuple(count: int) -> Operation:
    def operation(machine: Machine) -> None:
        values = machine.stack[-count:]
        if len(values) < count:
            raise IndexError
        del machine.stack[-count:]
        machine.push_container(tuple(values))

    return operation


def _store(count: int) -> Operation:
    def operation(machine: Machine) -> None:
        machine.memo[machine.unsigned(count)] = machine.stack[-1]

    return operation


def _fetch(count: int) -> Operation:
    return lambda machine: machine.fetch(machine.unsigned(count))


def _refuse(what: str) -> Operation:
    return lambda machine: machine.fail(what)


def _signed(machine: Machine) -> None:
    machine.stack.append(int.from_bytes(machine.take(4), "little", signed=True))


def _long(count: int) -> Operation:
    def operation(machine: Machine) -> None:
        length = machine.unsigned(count)
        if length > machine.limits.integer_bytes:
            machine.fail(exceeded("bytes of a pickle integer", machine.limits.integer_bytes))
        machine.stack.append(int.from_bytes(machine.take(length), "little", signed=True))

    return operation


def _int_line(machine: Machine) -> None:
    """INT of protocol 0, where 00 and 01 are booleans."""
    raw = machine.line()
    machine.stack.append(raw == b"01" if raw in (b"00", b"01") else machine.number(raw))


def _long_line(machine: Machine) -> None:
    machine.stack.append(machine.number(machine.line().removesuffix(b"L")))


def _float_line(machine: Machine) -> None:
    raw = machine.line()
    try:
        machine.stack.append(float(raw))
    except ValueError:
        machine.fail(f"not a number: {raw[:40]!r}")


def _float(machine: Machine) -> None:
    machine.stack.append(struct.unpack(">d", machine.take(8))[0])


def _string_line(machine: Machine) -> None:
    """STRING of protocol 0: a Python 2 string literal."""
    raw = machine.long_line().strip()
    if len(raw) < 2 or raw[:1] != raw[-1:] or raw[:1] not in (b"'", b'"'):
        machine.fail("a string without quotes")
    try:
        machine.stack.append(machine.text(codecs.escape_decode(raw[1:-1])[0]))
    except ValueError:
        machine.fail("a string with a broken escape")


def _unicode_line(machine: Machine) -> None:
    try:
        text = machine.long_line().decode("raw-unicode-escape")
    except UnicodeDecodeError:
        machine.fail("a text with a broken escape")
    machine.stack.append(machine.text(text.encode("utf-8", "surrogatepass")))


def _pop(machine: Machine) -> None:
    """POP: drop the top value, or the mark if there is nothing above it."""
    if machine.stack:
        machine.stack.pop()
    else:
        machine.since_mark()


def _pop_mark(machine: Machine) -> None:
    machine.since_mark()


def _protocol(machine: Machine) -> None:
    protocol = machine.unsigned(1)
    if protocol > 5:
        machine.fail(f"protocol {protocol} is not known")


def _frame(machine: Machine) -> None:
    """FRAME: the size of the next read, which is not needed here."""
    machine.take(8)


def _read_only(machine: Machine) -> None:
    """READONLY_BUFFER: nothing to do, as values are never modified after they are read. Checks that the stack is not empty."""
    machine.stack[-1]


def _duplicate(machine: Machine) -> None:
    machine.stack.append(machine.stack[-1])


def _tuple_since_mark(machine: Machine) -> None:
    values = machine.since_mark()
    machine.push_container(tuple(values))


def _list_since_mark(machine: Machine) -> None:
    values = machine.since_mark()
    machine.push_container(values)


def _set_since_mark(machine: Machine) -> None:
    values = machine.since_mark()
    machine.push_container(PickledSet(tuple(values)))


def _dict_since_mark(machine: Machine) -> None:
    values = machine.since_mark()
    machine.push_container(PickledDict())
    machine.set_items(values)


def _append(machine: Machine) -> None:
    value = machine.stack.pop()
    machine.extend([value])


def _set_item(machine: Machine) -> None:
    value = machine.stack.pop()
    key = machine.stack.pop()
    machine.set_items([key, value])


def _store_line(machine: Machine) -> None:
    machine.store(machine.number(machine.line()))


def _fetch_line(machine: Machine) -> None:
    machine.fetch(machine.number(machine.line()))


def _memoize(machine: Machine) -> None:
    machine.store(len(machine.memo))


def _global_lines(machine: Machine) -> None:
    module = machine.text(machine.line())
    machine.stack.append(machine.global_name(module, machine.text(machine.line())))


def _stack_global(machine: Machine) -> None:
    name = machine.stack.pop()
    module = machine.stack.pop()
    if not isinstance(module, str) or not isinstance(name, str):
        machine.fail("a name that is not text")
    if len(module) + len(name) > machine.limits.line_bytes:
        machine.fail(exceeded("characters of a pickle name", machine.limits.line_bytes))
    machine.stack.append(machine.global_name(module, name))


def _reduce(machine: Machine) -> None:
    arguments = machine.stack.pop()
    machine.make(machine.stack.pop(), arguments, is_call=True)


def _new(machine: Machine) -> None:
    arguments = machine.stack.pop()
    machine.make(machine.stack.pop(), arguments, is_call=False)


def _new_with_keywords(machine: Machine) -> None:
    keywords = machine.stack.pop()
    arguments = machine.stack.pop()
    machine.make(machine.stack.pop(), arguments, keywords, is_call=False)


def _instance(machine: Machine) -> None:
    """INST of protocol 0: a class by name, with its arguments above the mark. It can name any callable, so it is a call."""
    _global_lines(machine)
    target = machine.stack.pop()
    machine.make(target, tuple(machine.since_mark()), is_call=True)


def _object(machine: Machine) -> None:
    values = machine.since_mark()
    target = values.pop(0)
    machine.make(target, tuple(values), is_call=True)


def _persistent_line(machine: Machine) -> None:
    machine.push_persistent(machine.text(machine.line()))


NO_EXTENSIONS = "extension codes mean a table that the file does not hold"

OPCODES: dict[bytes, Operation] = {
    b"(": Machine.mark,
    b"0": _pop,
    b"1": _pop_mark,
    b"2": _duplicate,
    b"F": _float_line,
    b"I": _int_line,
    b"J": _signed,
    b"K": _unsigned(1),
    b"L": _long_line,
    b"M": _unsigned(2),
    b"N": _constant(None),
    b"P": _persistent_line,
    b"Q": lambda machine: machine.push_persistent(machine.stack.pop()),
    b"R": _reduce,
    b"S": _string_line,
    b"T": _text(4),
    b"U": _text(1),
    b"V": _unicode_line,
    b"X": _text(4),
    b"B": _bytes(4),
    b"C": _bytes(1),
    b"G": _float,
    b"a": _append,
    b"b": Machine.build,
    b"c": _global_lines,
    b"d": _dict_since_mark,
    b"}": lambda machine: machine.push_container(PickledDict()),
    b"e": lambda machine: machine.extend(machine.since_mark()),
    b"g": _fetch_line,
    b"h": _fetch(1),
    b"i": _instance,
    b"j": _fetch(4),
    b"l": _list_since_mark,
    b"]": lambda machine: machine.push_container([]),
    b"o": _object,
    b"p": _store_line,
    b"q": _store(1),
    b"r": _store(4),
    b"s": _set_item,
    b"t": _tuple_since_mark,
    b")": _constant(()),
    b"u": lambda machine: machine.set_items(machine.since_mark()),
    b"\x80": _protocol,
    b"\x81": _new,
    b"\x82": _refuse(NO_EXTENSIONS),
    b"\x83": _refuse(NO_EXTENSIONS),
    b"\x84": _refuse(NO_EXTENSIONS),
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b"\x8a": _long(1),
    b"\x8b": _long(4),
    b"\x8c": _text(1),
    b"\x8d": _text(8),
    b"\x8e": _bytes(8),
    b"\x8f": lambda machine: machine.push_container(PickledSet([])),
    b"\x90": lambda machine: machine.add_items(machine.since_mark()),
    b"\x91": _set_since_mark,
    b"\x92": _new_with_keywords,
    b"\x93": _stack_global,
    b"\x94": _memoize,
    b"\x95": _frame,
    b"\x96": _bytes(8),
    b"\x97": _refuse("a buffer outside the pickle, which the file does not hold"),
    b"\x98": _read_only,
}


def _unknown(machine: Machine) -> None:
    machine.fail(f"unknown opcode 0x{machine.data[machine.opcode_at]:02x}")


OPERATIONS = [OPCODES.get(bytes([code]), _unknown) for code in range(256)]
"""The dispatch table, by the value of the opcode's byte."""
