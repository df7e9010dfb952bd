"""Find the model in the value of a pickle: a dict of tensors or a module tree, with the names of its state_dict.

The first rule that applies chooses the model; the other entries are listed as skipped:
1. the value itself, if it is a module, or a dict of modules as HQQ saves it;
2. of a dict, the entry state_dict, model_state_dict, model, module, net or weights, in this order, if it is a module or a dict
   that has a tensor;
3. the dict itself, if it has a tensor;
4. of a dict, the only entry of any other name that is a module or a dict that has a tensor; several are an error;
5. rules 1 to 4 on an entry of rule 2 that is any dict, or on an entry `state` that has one of rule 2, up to four levels down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.limits import MAX_TENSOR_NAME, check_limit
from layerhouse.ingest.checkpoint.pickle.load import Unpickled
from layerhouse.ingest.checkpoint.pickle.parallel_run import refuse_rank
from layerhouse.ingest.checkpoint.pickle.parts import (
    HQQ_CODES,
    PACKED_DTYPE,
    NamedTensor,
    Parts,
    flat_hqq,
    has_tensor_inside,
    hqq_parts,
    hqq_size,
    is_hqq,
    is_hqq_module,
    is_packed,
    parts_of,
    serving_parts,
)
from layerhouse.ingest.checkpoint.pickle.plain_config import plain_config
from layerhouse.ingest.checkpoint.pickle.values import (
    AnyTensor,
    Global,
    PickledDict,
    PickledSet,
    Stub,
    SubclassStub,
    TensorStub,
)

WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "weights")
OUTER = "state"
"""The entry that MosaicML's Composer keeps a run in: `{"state": {"model": ..., "optimizers": ...}, "rng": ...}`."""
MAX_WRAPPED = 4
MAX_MODULE_DEPTH = 200
MIN_STEPS, MAX_STEPS = 20_000, 300_000
STEPS_A_CONTAINER = 4
"""Limit on the steps of a walk, for each container of the pickle. A step is a module, an entry of a module, or 64 characters of
a name. Shared modules multiply the steps; a module that is not shared has ten containers and takes fewer steps than that."""
TRAINING_STATES = {
    "the state of an optimizer": {"state", "param_groups"},
    "the state of a learning-rate schedule": {"last_epoch", "_step_count"},
    "the states of random numbers": {"python", "numpy", "cpu"},
}
"""The keys by which the dicts of a training run are told."""
MAX_LISTED = 100
MAX_SHOWN = 200
UNINITIALIZED = ("torch.nn.parameter.UninitializedParameter", "torch.nn.parameter.UninitializedBuffer")
"""Parameters of lazy modules, whose shapes are not known."""
SPARSE = ("torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_sparse_csr_tensor")


@dataclass(frozen=True)
class PickledModel:
    """The tensors of a pickled model. `class_path` and `config` are None for a bare dict of tensors.

    `descriptions` say of some tensors, by their names, how they hold the values of a weight. `entry_names` are the names of the
    entries that hold tensors of other names.
    """

    tensors: tuple[NamedTensor, ...]
    class_path: str | None
    config: dict[str, Any] | None
    skipped: tuple[str, ...]
    descriptions: Mapping[str, Any]
    entry_names: Mapping[str, str]


class Notes:
    """Notes without duplicates. After MAX_LISTED of them further ones are only counted, which bounds their length."""

    def __init__(self) -> None:
        self.lines: dict[str, None] = {}
        self.more = 0

    def add(self, what: str, name: str, value: Any = None) -> None:
        """Add a note on the thing of this name, with a description of its value if there is one."""
        if len(self.lines) >= MAX_LISTED:
            self.more += 1
        else:
            self.lines[f"{what} {printable(name)}" + ("" if value is None else f" ({describe(value)})")] = None

    def as_texts(self) -> tuple[str, ...]:
        """The notes, and a last one with the number of further ones."""
        return (*self.lines, f"and {self.more} more") if self.more else tuple(self.lines)


def find_model(unpickled: Unpickled, display_path: str) -> PickledModel:
    """The model by the rules above. Raises InputError if there is no tensor, with a description of what there is, and if the
    run that saved it had cut the model into parts.
    """
    refuse_rank(unpickled.value, display_path)
    walk = _Walk(display_path, min(MIN_STEPS + STEPS_A_CONTAINER * unpickled.containers, MAX_STEPS))
    value = _Choice(walk.notes, display_path).choose(unpickled.value)
    class_path = None
    if _is_module(value):
        walk.read_modules(value)
        class_path = printable(value.class_path)
    elif is_hqq(value):
        walk.read_hqq(value)
    elif isinstance(value, PickledDict):
        walk.read_dict(value)
    walk.check_names()
    _refuse_partition(unpickled.value, walk.tensors, display_path)
    if not walk.tensors:
        unsupported = f"; {walk.unsupported.as_texts()[0]}" if walk.unsupported.lines else ""
        state = _training_state(unpickled.value)
        what = f"{describe(unpickled.value)}{f': {state}, not a model' if state else ''}{unsupported}"
        raise InputError(display_path, f"no tensor found in it, but {what}")
    inert = Notes()
    for name in unpickled.inert:
        if name not in walk.classes:
            inert.add("skipped, not executed:", name.path)
    skipped = (*walk.unsupported.as_texts(), *inert.as_texts(), *walk.notes.as_texts())
    tensors = serving_parts(walk.tensors, walk.quantized) if walk.quantized else walk.tensors
    return PickledModel(tuple(tensors), class_path, walk.config, skipped, walk.descriptions, walk.entry_names)


def describe(value: Any) -> str:
    """A short description of a value."""
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
        "QuantizedStub": "a quantised tensor without a name",
        "ShapeStub": "a tensor without a name and values",
        "SubclassStub": "a tensor of a class of its own without a name",
        "NoneType": "nothing",
    }
    return words.get(type(value).__name__, type(value).__name__)


def _refuse_partition(value: Any, tensors: Sequence[NamedTensor], display_path: str) -> None:
    """Raise InputError for one rank's file of a ZeRO-3 run, where tensors without elements stand in the place of weights."""
    groups = value.by_text.get("param_shapes") if isinstance(value, PickledDict) else None
    shapes = {name: group.by_text[name] for group in _dicts(groups) for name in group.by_text}
    for named in tensors if shapes else ():
        shape = shapes.get(named.name)
        if isinstance(named.tensor, TensorStub) and 0 in named.tensor.shape and isinstance(shape, tuple) and 0 not in shape:
            what = "a rank of a ZeRO-3 run, whose weights lie in the *_optim_states.pt of all ranks"
            raise InputError(display_path, f"{what}; name their folder, with the files as DeepSpeed names them")


def _dicts(values: Any) -> list[PickledDict]:
    return [value for value in values if isinstance(value, PickledDict)] if isinstance(values, list) else []


def _training_state(value: Any) -> str | None:
    """What a value without a model keeps of a training run, as torch and transformers save it; None if it is something else."""
    if isinstance(value, Stub):
        return "the arguments of a training run" if value.class_path.endswith("TrainingArguments") else None
    keys = value.by_text.keys() if isinstance(value, PickledDict) else ()
    return next((what for what, typical in TRAINING_STATES.items() if typical <= set(keys)), None)


def printable(text: str) -> str:
    """Text from a file, cut to MAX_SHOWN characters, with unprintable ones as escapes."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:MAX_SHOWN])


class _Choice:
    """The search for the model. Whether a dict has tensors is remembered, as a shared dict can be visited often."""

    def __init__(self, notes: Notes, display_path: str) -> None:
        self.notes, self.display_path = notes, display_path
        self.with_tensors: dict[int, bool] = {}
        self.of_hqq: dict[int, bool] = {}

    def choose(self, value: Any) -> Any:
        """The model in a value; the value itself if no rule applies."""
        for _ in range(MAX_WRAPPED):
            if not isinstance(value, PickledDict) or self.is_hqq(value):
                break
            entries = value.by_text
            chosen = next((key for key in WRAPPERS if self.is_model(entries.get(key))), None)
            if chosen is None and not self.has_tensor(value):
                others = [key for key, entry in entries.items() if self.is_model(entry)]
                if len(others) > 1:
                    names = ", ".join(printable(key) for key in others[:8])
                    raise InputError(self.display_path, f"several models in one file, which one is meant is not known: {names}")
                wrapped = (key for key in (*WRAPPERS, OUTER) if self.is_wrapper(key, entries.get(key)))
                chosen = others[0] if others else next(wrapped, None)
            if chosen is None:
                break
            for key, entry in entries.items():
                if key != chosen and entry is not None:
                    self.notes.add("not taken:", key, entry)
            value = entries[chosen]
        return value

    def is_wrapper(self, key: str, value: Any) -> bool:
        """Whether a dict may hold the model deeper down; `state` only if it has an entry of WRAPPERS, unlike an optimizer's."""
        return isinstance(value, PickledDict) and (key != OUTER or any(name in value.by_text for name in WRAPPERS))

    def has_tensor(self, value: PickledDict) -> bool:
        """Whether a tensor is among the entries, also one of an unsupported kind."""
        known = self.with_tensors.get(id(value))
        if known is None:
            known = any(isinstance(entry, AnyTensor) or _is_unsupported_tensor(entry) for entry in value.by_text.values())
            self.with_tensors[id(value)] = known
        return known

    def is_model(self, value: Any) -> bool:
        """Whether a value is a module, or a dict that has a tensor or is one of HQQ."""
        return _is_module(value) or (isinstance(value, PickledDict) and (self.has_tensor(value) or self.is_hqq(value)))

    def is_hqq(self, value: PickledDict) -> bool:
        """Whether a dict is one of modules as HQQ saves it."""
        known = self.of_hqq.get(id(value))
        if known is None:
            known = self.of_hqq[id(value)] = is_hqq(value)
        return known


def _is_module(value: Any) -> bool:
    """Whether this is an object whose state is that of a torch.nn.Module."""
    if not isinstance(value, Stub) or not isinstance(value.state, PickledDict):
        return False
    state = value.state.by_text
    return isinstance(state.get("_modules"), PickledDict) or isinstance(state.get("_parameters"), PickledDict)


def _is_unsupported_tensor(value: Any) -> bool:
    """Whether torch would have rebuilt a tensor of a kind that is not read, such as a nested one, or parameters in C++."""
    if is_packed(value):
        return True
    if not isinstance(value, Stub) or not isinstance(value.target, Global):
        return False
    if value.class_path in UNINITIALIZED:
        return True
    return value.target.path.startswith(("torch._utils._rebuild_", "torch._tensor._rebuild_"))


class _Walk:
    """A walk over the model in the order of state_dict(), which collects tensors, notes and classes.

    `max_steps` bounds it: torch names a shared module once for every path to it, and 30 levels of two paths are 10^9 names.
    """

    def __init__(self, display_path: str, max_steps: int) -> None:
        self.display_path, self.max_steps = display_path, max_steps
        self.tensors: list[NamedTensor] = []
        self.notes = Notes()
        self.unsupported = Notes()
        self.classes: set[Global] = set()
        self.config: dict[str, Any] | None = None
        self.quantized: set[str] = set()
        self.descriptions: dict[str, Any] = {}
        self.entry_names: dict[str, str] = {}
        self.steps = 0
        self._searched: set[int] = set()
        self._packed: dict[int, list[tuple[str, Any]]] = {}
        """The attributes of a module, by the identity of its state, that are parameters in C++."""

    def read_dict(self, value: PickledDict) -> None:
        """Take the tensors of a bare state dict."""
        described = flat_hqq(value.by_text)
        self.descriptions |= described
        modules = {name.removesuffix(HQQ_CODES) for name in described}
        for name, entry in value.by_text.items():
            is_known = entry is None or name.endswith(PACKED_DTYPE) or name[: name.rfind(".") + 1] in modules
            if not self.take(name, entry, is_buffer=False) and not is_known:
                self.notes.add("not a tensor:", name, entry)
        if value.other_keys:
            self.notes.add("not taken:", f"{value.other_keys} entries whose key is not text")

    def read_hqq(self, value: PickledDict) -> None:
        """Take the tensors of a dict of modules that HQQ has saved."""
        for module, entry in value.by_text.items():
            members = {module: entry}
            if isinstance(entry, PickledDict):
                self.spend(hqq_size(entry))
                members = {f"{module}.{key}": member for key, member in entry.by_text.items()}
                if is_hqq_module(entry):
                    self.add(hqq_parts(module, entry))
                    members = {
                        name: member
                        for name, member in members.items()
                        if isinstance(member, AnyTensor) and not isinstance(member, TensorStub)
                    }
            for name, member in members.items():
                if not self.take(name, member, is_buffer=False) and member is not None:
                    self.notes.add("not a tensor:", name, member)

    def read_modules(self, root: Stub) -> None:
        """Take the tensors of a module and of those below it."""
        pending: list[tuple[str, Stub, int]] = [("", root, 0)]
        while pending:
            prefix, module, depth = pending.pop()
            self.spend(1)
            if depth > MAX_MODULE_DEPTH:
                raise InputError(self.display_path, f"limit exceeded: modules are nested over {MAX_MODULE_DEPTH} deep")
            if isinstance(module.target, Global) and not module.is_call:
                self.classes.add(module.target)
            state = module.state.by_text
            self.read_config(state.get("config"))
            self.read_own(prefix, state)
            children = _entries(state.get("_modules"))
            self.spend(len(children))
            for name, child in reversed(children.items()):
                if _is_module(child):
                    pending.append((self.join(prefix, f"{name}."), child, depth + 1))
                elif has_tensor_inside(child, self._searched):
                    self.unsupported.add(f"kind of module ({describe(child)}) unsupported: tensor", self.join(prefix, name))

    def read_own(self, prefix: str, state: dict[str, Any]) -> None:
        """Take the module's own parameters, then its persistent buffers."""
        listed = state.get("_non_persistent_buffers_set")
        non_persistent: set[str] = set()
        if isinstance(listed, PickledSet):
            self.spend(len(listed.items))
            non_persistent = {name for name in listed.items if isinstance(name, str)}
        for table, is_buffer in (("_parameters", False), ("_buffers", True)):
            for key, entry in _entries(state.get(table)).items():
                self.spend(1)
                if entry is None or (is_buffer and key in non_persistent):
                    continue
                name = self.join(prefix, key)
                if not self.take(name, entry, is_buffer=is_buffer):
                    self.notes.add("not a tensor:", name, entry)
        codes, meta = _entries(state.get("_parameters")).get(HQQ_CODES), state.get("meta")
        if isinstance(codes, TensorStub) and isinstance(meta, PickledDict):
            whole = PickledDict([HQQ_CODES, codes, "meta", meta])
            self.spend(hqq_size(whole))
            parts = hqq_parts(prefix.removesuffix("."), whole)
            self.add(replace(parts, tensors=[named for named in parts.tensors if named.tensor is not codes]))
        packed = self._packed.get(id(state))
        if packed is None:
            packed = self._packed[id(state)] = [(key, entry) for key, entry in state.items() if is_packed(entry)]
        for key, entry in packed:
            self.spend(1)
            self.take(self.join(prefix, key), entry, is_buffer=False)

    def read_config(self, config: Any) -> None:
        """Take the config of the outermost module that has one."""
        if self.config is None and isinstance(config, Stub) and isinstance(config.state, PickledDict):
            self.config, dropped = plain_config(config.state)
            for key in dropped:
                self.notes.add("limit exceeded, config value not taken:", key)
            if isinstance(config.target, Global) and not config.is_call:
                self.classes.add(config.target)

    def take(self, name: str, entry: Any, *, is_buffer: bool) -> bool:
        """Take an entry if it is a tensor, and note it if it is an unsupported one; returns whether it is either."""
        parts = parts_of(name, entry, is_buffer=is_buffer)
        if parts is not None:
            if isinstance(entry, SubclassStub) and parts.descriptions:
                self.classes.add(entry.class_name)
            elif isinstance(entry, Stub) and isinstance(entry.target, Global):
                self.classes.add(entry.target)
            self.entry_names |= {named.name: name for named in parts.tensors if named.name != name}
            self.add(parts)
            return True
        if not _is_unsupported_tensor(entry):
            return False
        class_path = getattr(entry, "class_path", "quantised tensors in a tuple")
        kind = "sparse layout" if class_path in SPARSE else f"kind of tensor ({printable(class_path)})"
        self.unsupported.add(f"{kind} unsupported: tensor", name)
        return True

    def add(self, parts: Parts) -> None:
        """Add the tensors of an entry."""
        for named in parts.tensors:
            self.check_name(named.name)
        self.tensors += parts.tensors
        self.descriptions |= parts.descriptions
        if parts.quantized is not None:
            self.quantized.add(parts.quantized)

    def check_names(self) -> None:
        """Raise InputError if a tensor from inside of another entry has the name of a tensor."""
        names: set[str] = set()
        for named in self.tensors if self.quantized or self.descriptions else ():
            if named.name in names:
                raise InputError(self.display_path, f"two tensors are named {printable(named.name)!r}")
            names.add(named.name)

    def join(self, prefix: str, key: str) -> str:
        """A name in the state dict. Raises InputError if it is too long."""
        self.check_name(key)
        name = prefix + key
        self.check_name(name)
        self.spend(len(name) // 64)
        return name

    def check_name(self, name: str) -> None:
        """Raise InputError if a name is too long."""
        if len(name) > MAX_TENSOR_NAME:
            raise InputError(self.display_path, f"limit exceeded: a tensor name of over {MAX_TENSOR_NAME} characters")

    def spend(self, steps: int) -> None:
        """Count steps. Raises InputError beyond the limit."""
        self.steps += steps
        check_limit(self.display_path, "modules and their entries", self.steps, self.max_steps)


def _entries(value: Any) -> dict[str, Any]:
    return value.by_text if isinstance(value, PickledDict) else {}
