"""Pickles of protocols 0 to 5, read by a machine of our own that runs nothing.

Names stay text (pickle_values), bytes are checked before they are read, and every limit ends the run by name (pickle_machine),
so that a hostile pickle costs seconds and bounded memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.limits import exceeded
from layerhouse.ingest.checkpoint.pickle.machine import Machine, PickleLimits, default_limits
from layerhouse.ingest.checkpoint.pickle.opcodes import OPERATIONS
from layerhouse.ingest.checkpoint.pickle.values import Global, StorageStub, is_understood

CHECK_EVERY = 256
STOP = ord(".")


@dataclass(frozen=True)
class Unpickled:
    """The value of a pickle, the byte behind it, the names that stayed inert, each once, in order of appearance, the storages
    that it names, by key, and how many containers it made."""

    value: Any
    end: int
    inert: tuple[Global, ...]
    storages: dict[str, StorageStub]
    containers: int


def load_pickle(data: bytes, where: str, *, start: int = 0, limits: PickleLimits | None = None) -> Unpickled:
    """Read the pickle that begins at byte `start`. Raises InputError with the byte at which it cannot go on."""
    limits = limits or default_limits()
    if len(data) - start > limits.bytes:
        raise InputError(where, exceeded(f"a pickle of {len(data) - start} bytes", limits.bytes))
    machine = Machine(data, where, start, limits)
    value = _run(machine)
    inert = tuple(name for name in machine.globals.values() if not is_understood(name))
    return Unpickled(value, machine.position, inert, machine.storages, machine.containers)


def _run(machine: Machine) -> Any:
    data, end = machine.data, len(machine.data)
    stopped = False
    try:
        while not stopped:
            for _ in range(CHECK_EVERY):
                at = machine.opcode_at = machine.position
                code = data[at]
                machine.position = at + 1
                if code == STOP:
                    stopped = True
                    break
                OPERATIONS[code](machine)
            machine.opcodes += CHECK_EVERY
            machine.check_limits()
    except IndexError:
        if machine.opcode_at >= end:
            machine.cut_off("the pickle has no end")
        machine.fail("stack underflow")
    if machine.below or len(machine.stack) != 1:
        machine.fail("the pickle ends with other than one value on its stack")
    return machine.stack[0]
