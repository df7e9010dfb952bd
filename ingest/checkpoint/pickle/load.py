"""Read pickles of protocols 0 to 5 on a stack machine that executes nothing.

Globals are kept as names and never imported (pickle.rebuild), arguments are bounds-checked, and the machine stops with an error
at any of its limits (pickle.machine). A hostile pickle therefore costs bounded time and memory, and runs no code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.limits import exceeded
from layerhouse.ingest.checkpoint.pickle.machine import Machine, PickleLimits, default_limits
from layerhouse.ingest.checkpoint.pickle.opcodes import OPERATIONS
from layerhouse.ingest.checkpoint.pickle.rebuild import is_allowed
from layerhouse.ingest.checkpoint.pickle.values import Global, StorageStub

CHECK_EVERY = 256
"""Opcodes between two checks of the limits."""
STOP = ord(".")


@dataclass(frozen=True)
class Unpickled:
    """The result of a pickle.

    `end` is the byte behind its STOP opcode. `inert` are the globals outside of the allow-list, which became stubs, each once,
    in order of appearance. `storages` are by key; `containers` counts the containers and objects that were created.
    """

    value: Any
    end: int
    inert: tuple[Global, ...]
    storages: dict[str, StorageStub]
    containers: int


def load_pickle(data: bytes, display_path: str, *, start: int = 0, limits: PickleLimits | None = None) -> Unpickled:
    """Read the pickle that begins at byte `start`. Raises InputError with the byte of the opcode at fault."""
    limits = limits or default_limits()
    if len(data) - start > limits.bytes:
        raise InputError(display_path, exceeded(f"a pickle of {len(data) - start} bytes", limits.bytes))
    machine = Machine(data, display_path, start, limits)
    value = _run(machine)
    inert = tuple(name for name in machine.globals.values() if not is_allowed(name))
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
