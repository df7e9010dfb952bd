"""Find the model in what a pickle holds: a dict of tensors, or a whole module tree, and the names that its tensors would have.

Where several things could be the model, the first that holds of these is taken, and the others are listed:
1. the value itself, if it is a module;
2. in a dict, the entry state_dict, model_state_dict, model, module, net or weights, in this order, if it is a module or a dict
   with a tensor in it;
3. the dict itself, if it has a tensor in it;
4. in a dict, the one entry of any other name that is a module or a dict with a tensor in it; several are an error;
5. rules 1 to 4 again for an entry named in rule 2 that is a dict, at most four levels down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.limits import check_limit
from layerhouse.ingest.checkpoint.pickle.load import Unpickled
from layerhouse.ingest.checkpoint.pickle.plain_config import plain_config
from layerhouse.ingest.checkpoint.pickle.values import (
    Global,
    PickledDict,
    PickledSet,
    SparseStub,
    Stub,
    TensorStub,
)

WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "weights")
MAX_WRAPPED = 4
MAX_MODULE_DEPTH = 200
MIN_STEPS, MAX_STEPS = 20_000, 300_000
STEPS_A_CONTAINER = 4
"""Modules, entries of modules and 64s of characters in names that one walk may cost, by the containers of the pickle: what
shared modules multiply. A module that is there once has ten containers and costs fewer steps."""
MAX_NAME = 2048
MAX_LISTED = 100
MAX_SHOWN = 200
SPARSE = ("torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_sparse_csr_tensor")


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """A tensor of the model under the name that the model's state_dict gives it."""

    name: str
    tensor: TensorStub | SparseStub
    is_buffer: bool = False


@dataclass(frozen=True)
class PickledModel:
    """The tensors of a pickled model. `class_path` and `config` are None for a bare dict of tensors."""

    tensors: tuple[NamedTensor, ...]
    class_path: str | None
    config: dict[str, Any] | None
    skipped: tuple[str, ...]


class Notes:
    """Remarks, each once; beyond MAX_LISTED they are only counted, so that no file can make them long."""

    def __init__(self) -> None:
        self.lines: dict[str, None] = {}
        self.more = 0

    def add(self, what: str, name: str, value: Any = None) -> None:
        """Remark on the thing of this name, with a description of its value if there is one."""
        if len(self.lines) >= MAX_LISTED:
            self.more += 1
        else:
            self.lines[f"{what} {printable(name)}" + ("" if value is None else f" ({describe(value)})")] = None

    def as_texts(self) -> tuple[str, ...]:
        return (*self.lines, f"and {self.more} more") if self.more else tuple(self.lines)


def find_model(unpickled: Unpickled, where: str) -> PickledModel:
    """The model, chosen by the rules above. Raises InputError if there is no tensor, saying what there is instead."""
    walk = _Walk(where, min(MIN_STEPS + STEPS_A_CONTAINER * unpickled.containers, MAX_STEPS))
    value = _Choice(walk.notes, where).choose(unpickled.value)
    class_path = None
    if _is_module(value):
        walk.read_modules(value)
        class_path = printable(value.class_path)
    elif isinstance(value, PickledDict):
        walk.read_dict(value)
    if not walk.tensors:
        odd = f"; {walk.odd_tensors.as_texts()[0]}" if walk.odd_tensors.lines else ""
        raise InputError(where, f"no tensor found in it, but {describe(unpickled.value)}{odd}")
    inert = Notes()
    for name in unpickled.inert:
        if name not in walk.classes:
            inert.add("skipped, not executed:", name.path)
    skipped = (*walk.odd_tensors.as_texts(), *inert.as_texts(), *walk.notes.as_texts())
    return PickledModel(tuple(walk.tensors), class_path, walk.config, skipped)


def describe(value: Any) -> str:
    """What a value is, in a few words."""
    if isinstance(value, PickledDict):
        keys = ", ".join(printable(key) for key in list(value.by_text)[:8])
        return f"a dict of {len(value)}" + (f": {keys}" if keys else "")
    if isinstance(value, Stub):
        return printable(value.class_path)
    if isinstance(value, Global):
        return printable(value.path)
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    words = {
        "str": "text",
        "PickledSet": "a set",
        "TensorStub": "a tensor without a name",
        "SparseStub": "a sparse tensor without a name",
        "NoneType": "nothing",
    }
    return words.get(type(value).__name__, type(value).__name__)


def printable(text: str) -> str:
    """Text of the file in one short line, what cannot be printed as escapes."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:MAX_SHOWN])


class _Choice:
    """The search for the model among what a pickle holds. What was found out about a dict is kept: a dict may be met often."""

    def __init__(self, notes: Notes, where: str) -> None:
        self.notes, self.where = notes, where
        self.with_tensors: dict[int, bool] = {}

    def choose(self, value: Any) -> Any:
        for _ in range(MAX_WRAPPED):
            if not isinstance(value, PickledDict):
                break
            entries = value.by_text
            chosen = next((key for key in WRAPPERS if self.is_model(entries.get(key))), None)
            if chosen is None and not self.has_tensor(value):
                others = [key for key, entry in entries.items() if self.is_model(entry)]
                if len(others) > 1:
                    names = ", ".join(printable(key) for key in others[:8])
                    raise InputError(self.where, f"several models in one file, which one is meant is not known: {names}")
                wrapped = (key for key in WRAPPERS if isinstance(entries.get(key), PickledDict))
                chosen = others[0] if others else next(wrapped, None)
            if chosen is None:
                break
            for key, entry in entries.items():
                if key != chosen and entry is not None:
                    self.notes.add("not taken:", key, entry)
            value = entries[chosen]
        return value

    def has_tensor(self, value: PickledDict) -> bool:
        found = self.with_tensors.get(id(value))
        if found is None:
            found = any(_is_tensor(entry) or _is_odd_tensor(entry) for entry in value.by_text.values())
            self.with_tensors[id(value)] = found
        return found

    def is_model(self, value: Any) -> bool:
        return _is_module(value) or (isinstance(value, PickledDict) and self.has_tensor(value))


def _is_module(value: Any) -> bool:
    """Whether this is an object with the state of a torch.nn.Module."""
    if not isinstance(value, Stub) or not isinstance(value.state, PickledDict):
        return False
    state = value.state.by_text
    return isinstance(state.get("_modules"), PickledDict) or isinstance(state.get("_parameters"), PickledDict)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, TensorStub | SparseStub)


def _is_odd_tensor(value: Any) -> bool:
    """Whether torch would have made a tensor here that is not plain strided data: quantized, nested, without data."""
    return (
        isinstance(value, Stub) and isinstance(value.target, Global) and value.target.path.startswith("torch._utils._rebuild_")
    )


class _Walk:
    """Tensors, remarks and classes in the order of state_dict(). It costs no more than `max_steps`, however modules are shared:
    torch names a module once a path, and 30 levels of two paths each are a thousand million names."""

    def __init__(self, where: str, max_steps: int) -> None:
        self.where, self.max_steps = where, max_steps
        self.tensors: list[NamedTensor] = []
        self.notes = Notes()
        self.odd_tensors = Notes()
        self.classes: set[Global] = set()
        self.config: dict[str, Any] | None = None
        self.steps = 0

    def read_dict(self, value: PickledDict) -> None:
        for name, entry in value.by_text.items():
            if not self.take(name, entry, is_buffer=False) and entry is not None:
                self.notes.add("not a tensor:", name, entry)
        if value.other_keys:
            self.notes.add("not taken:", f"{value.other_keys} entries whose key is not text")

    def read_modules(self, root: Stub) -> None:
        waiting: list[tuple[str, Stub, int]] = [("", root, 0)]
        while waiting:
            prefix, module, depth = waiting.pop()
            self.spend(1)
            if depth > MAX_MODULE_DEPTH:
                raise InputError(self.where, f"limit exceeded: modules are nested over {MAX_MODULE_DEPTH} deep")
            if isinstance(module.target, Global) and not module.is_call:
                self.classes.add(module.target)
            state = module.state.by_text
            self.read_config(state.get("config"))
            self.read_own(prefix, state)
            children = _entries(state.get("_modules"))
            self.spend(len(children))
            waiting += [
                (self.join(prefix, f"{name}."), child, depth + 1)
                for name, child in reversed(children.items())
                if _is_module(child)
            ]

    def read_own(self, prefix: str, state: dict[str, Any]) -> None:
        """The module's own parameters, then the buffers that it would save."""
        volatile = state.get("_non_persistent_buffers_set")
        left_out: set[str] = set()
        if isinstance(volatile, PickledSet):
            self.spend(len(volatile.items))
            left_out = {name for name in volatile.items if isinstance(name, str)}
        for table, is_buffer in (("_parameters", False), ("_buffers", True)):
            for key, entry in _entries(state.get(table)).items():
                self.spend(1)
                if entry is None or (is_buffer and key in left_out):
                    continue
                name = self.join(prefix, key)
                if not self.take(name, entry, is_buffer=is_buffer):
                    self.notes.add("not a tensor:", name, entry)

    def read_config(self, config: Any) -> None:
        """The outermost module that has a config says what the model is."""
        if self.config is None and isinstance(config, Stub) and isinstance(config.state, PickledDict):
            self.config, dropped = plain_config(config.state)
            for key in dropped:
                self.notes.add("limit exceeded, config value not taken:", key)
            if isinstance(config.target, Global) and not config.is_call:
                self.classes.add(config.target)

    def take(self, name: str, entry: Any, *, is_buffer: bool) -> bool:
        """Whether the entry is a tensor; one that cannot be read is told."""
        if isinstance(entry, TensorStub | SparseStub):
            self.check_name(name)
            self.tensors.append(NamedTensor(name, entry, is_buffer))
            return True
        if not _is_odd_tensor(entry):
            return False
        kind = "sparse layout" if entry.class_path in SPARSE else f"kind of tensor ({printable(entry.class_path)})"
        self.odd_tensors.add(f"{kind} unsupported: tensor", name)
        return True

    def join(self, prefix: str, key: str) -> str:
        self.check_name(key)
        name = prefix + key
        self.check_name(name)
        self.spend(len(name) // 64)
        return name

    def check_name(self, name: str) -> None:
        if len(name) > MAX_NAME:
            raise InputError(self.where, f"limit exceeded: a tensor name of over {MAX_NAME} characters")

    def spend(self, steps: int) -> None:
        self.steps += steps
        check_limit(self.where, "modules and their entries", self.steps, self.max_steps)


def _entries(value: Any) -> dict[str, Any]:
    return value.by_text if isinstance(value, PickledDict) else {}
