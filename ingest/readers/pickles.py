"""Pickles of protocols 0 to 5, read by a machine of our own that runs nothing.

Names stay text (pickle_values), bytes are checked before they are read, and every limit ends the run by name (pickle_machine),
so that a hostile pickle costs seconds and bounded memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from layerhouse.ingest.readers.pickle_machine import DEFAULT_LIMITS, Machine, PickleLimits
from layerhouse.ingest.readers.pickle_opcodes import OPERATIONS
from layerhouse.ingest.readers.pickle_values import Global, is_understood
from layerhouse.warehouse.errors import InputError

CHECK_EVERY = 256
STOP = ord(".")


@dataclass(frozen=True)
class Unpickled:
    """The value of a pickle, the byte behind it, and the names that stayed inert, each once, in order of appearance."""

    value: Any
    end: int
    inert: tuple[Global, ...]


def load_pickle(data: bytes, where: str, *, start: int = 0, limits: PickleLimits = DEFAULT_LIMITS) -> Unpickled:
    """Read the pickle that begins at byte `start`. Raises InputError with the byte at which it cannot go on."""
    if len(data) - start > limits.bytes:
        raise InputError(where, f"limit exceeded: a pickle of {len(data) - start} bytes, over {limits.bytes}")
    machine = Machine(data, where, start, limits)
    value = _run(machine)
    inert = tuple(name for name in machine.globals.values() if not is_understood(name))
    return Unpickled(value, machine.position, inert)


def _run(machine: Machine) -> Any:
    data, end = machine.data, len(machine.data)
    until_check = CHECK_EVERY
    while True:
        at = machine.opcode_at = machine.position
        if at >= end:
            machine.fail("cut off: the pickle has no end")
        code = data[at]
        machine.position = at + 1
        if code == STOP:
            break
        operation = OPERATIONS[code]
        if operation is None:
            machine.fail(f"unknown opcode 0x{code:02x}")
        try:
            operation(machine)
        except IndexError:
            machine.fail("stack underflow")
        until_check -= 1
        if not until_check:
            until_check = CHECK_EVERY
            machine.opcodes += CHECK_EVERY
            machine.check_limits()
    if machine.below or len(machine.stack) != 1:
        machine.fail("the pickle ends with other than one value on its stack")
    return machine.stack[0]
