"""DeepSpeed's ZeRO-3 checkpoints: every rank has a part of each weight, in float32, in its optimizer's file.

deepspeed/utils/zero_to_fp32.py. A rank's `*_model_states.pt` has `param_shapes`, the names and shapes of the trained weights in
the order of their values, and in `module` the buffers, with tensors without elements in the place of weights. Its
`*_optim_states.pt` has `optimizer_state_dict.fp32_flat_groups`: flat tensors that follow each other, with
ceil(elements / ranks) values of each weight. `frozen_param_shapes` and `frozen_param_fragments` are those of weights that are
not trained; `shared_params` names weights that are another one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, NoReturn

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.sniff import Kind, sniff
from layerhouse.ingest.checkpoint.containers.torch_legacy import open_torch_legacy
from layerhouse.ingest.checkpoint.containers.torch_storages import PickledFile, Storages
from layerhouse.ingest.checkpoint.containers.torch_zip import open_torch_zip
from layerhouse.ingest.checkpoint.file_names import ZERO3_PARTITION, ZERO3_VALUES
from layerhouse.ingest.checkpoint.limits import check_limit
from layerhouse.ingest.checkpoint.pickle.find_model import printable
from layerhouse.ingest.checkpoint.pickle.values import PickledDict, TensorStub
from layerhouse.ingest.checkpoint.shapes import count_elements
from layerhouse.ingest.checkpoint.tensor_ref import JOINED, Assembly, Contents, TensorRef

MAX_GROUPS = 10_000
"""Limit on the flat tensors of one rank."""
OPENERS = {Kind.TORCH_ZIP: open_torch_zip, Kind.TORCH_LEGACY: open_torch_legacy}

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Rank:
    """The opened model states of one rank."""

    display_path: str
    storages: Storages
    size: int
    state: PickledDict

    def refuse(self, what: str) -> NoReturn:
        """Raise InputError that names the rank's file."""
        raise InputError(self.display_path, what)

    def entries(self, key: str) -> Mapping[str, Any]:
        """The entries of a dict of the state; none if it is not there, or null."""
        value = self.state.by_text.get(key)
        if value is not None and not isinstance(value, PickledDict):
            self.refuse(f"{key} is no dict")
        return {} if value is None else value.by_text

    @property
    def shapes(self) -> Shapes:
        """The shapes of the trained weights, in the order of their values."""
        groups = self.state.by_text.get("param_shapes")
        if not isinstance(groups, list) or not all(isinstance(group, PickledDict) for group in groups):
            self.refuse("no param_shapes in it: not the model states of a ZeRO-3 run")
        shapes: Shapes = {}
        for group in groups:
            if shapes.keys() & group.by_text.keys():
                self.refuse("param_shapes names a weight twice")
            shapes |= self.checked(group.by_text)
        return shapes

    def checked(self, shapes: Mapping[str, Any]) -> Shapes:
        """Shapes as the file claims them. Raises InputError for one that no tensor can have."""
        for name, shape in shapes.items():
            is_shape = isinstance(shape, tuple) and all(type(extent) is int and extent >= 0 for extent in shape)
            if not is_shape or count_elements(shape) is None:
                self.refuse(f"no shape of tensor {printable(name)!r}")
        return dict(shapes)


@dataclass(frozen=True)
class _Flat:
    """The flat tensors of all ranks, rank by rank; those of a rank begin at `bounds`."""

    sources: tuple[TensorRef, ...]
    bounds: tuple[int, ...]


def read_zero3(paths: Sequence[Path], display_path: str) -> Contents:
    """The weights of a run, from the files of all of its ranks. Raises InputError, which names the rank, if one is missing."""
    by_rank = _files_by_rank(paths, ZERO3_PARTITION, display_path)
    ranks = [_open_rank(path, f"{display_path}/{path.name}") for path in by_rank.values()]
    first = ranks[0]
    world = first.state.by_text.get("dp_world_size")
    if type(world) is not int or world < 1:
        first.refuse("no dp_world_size in it: the number of ranks is not known")
    values = _files_by_rank(paths, ZERO3_VALUES, display_path)
    _check_complete(world, by_rank, "zero_pp_rank_{}_mp_rank_00_model_states.pt", display_path)
    _check_complete(world, values, "*zero_pp_rank_{}_mp_rank_00_optim_states.pt", display_path)
    shapes = first.shapes
    for rank in ranks[1:]:
        if rank.shapes != shapes or rank.state.by_text.get("dp_world_size") != world:
            rank.refuse(f"other weights or ranks than in {by_rank[0].name}: not of one run")
    flat = _open_values(values, display_path)
    trained = list(_trained(shapes, flat, world, display_path))
    frozen = list(_frozen(ranks))
    weights = {ref.name: ref for ref in (*trained, *frozen)}
    if len(weights) < len(trained) + len(frozen):
        first.refuse("a weight is trained and frozen at once")
    tensors = list(_in_order(first, weights))
    return Contents("torch, ZeRO-3", tuple(tensors))


def _files_by_rank(paths: Sequence[Path], pattern: Any, display_path: str) -> dict[int, Path]:
    """The files of a kind by their rank, in order. Raises InputError for ranks of tensor parallelism, and for two of a rank."""
    matches = [(match, path) for path in paths if (match := pattern.fullmatch(path.name))]
    parts = {int(match["part"]) for match, _ in matches}
    if parts - {0}:
        what = f"{len(parts)} tensor-parallel ranks of a ZeRO-3 run; merge them first, with DeepSpeed's ds_to_universal.py"
        raise InputError(display_path, what)
    found: dict[int, Path] = {}
    for match, path in matches:
        other = found.setdefault(int(match["rank"]), path)
        if other != path:
            raise InputError(display_path, f"{other.name} and {path.name} are both of rank {int(match['rank'])}")
    return dict(sorted(found.items()))


def _check_complete(world: int, by_rank: Mapping[int, Path], name: str, display_path: str) -> None:
    missing = next((rank for rank in range(world) if rank not in by_rank), None)
    if missing is not None:
        what = f"rank {missing} of a ZeRO-3 run of {world} ranks is missing: {name.format(missing)}; fetch it"
        raise InputError(display_path, what)
    if len(by_rank) > world:
        what = f"{len(by_rank)} ranks of a ZeRO-3 run that says it has {world}: {[*by_rank.values()][world].name} is not of it"
        raise InputError(display_path, what)


def _open(path: Path, display_path: str) -> PickledFile:
    file = sniff(path, display_path)
    if file.kind not in OPENERS:
        raise InputError(display_path, file.diagnosis)
    return OPENERS[file.kind](path, display_path)


def _open_rank(path: Path, display_path: str) -> _Rank:
    opened = _open(path, display_path)
    state = opened.unpickled.value
    if not isinstance(state, PickledDict):
        raise InputError(display_path, "no dict of states in it: not the model states of a ZeRO-3 run")
    return _Rank(display_path, opened.storages, opened.size, state)


def _open_values(by_rank: Mapping[int, Path], display_path: str) -> _Flat:
    """The flat tensors of all ranks. Raises InputError unless every rank has as many values, in float32."""
    sources: list[TensorRef] = []
    sizes: list[int] | None = None
    for path in by_rank.values():
        where = f"{display_path}/{path.name}"
        opened = _open(path, where)
        value = opened.unpickled.value
        state = value.by_text.get("optimizer_state_dict") if isinstance(value, PickledDict) else None
        groups = state.by_text.get("fp32_flat_groups") if isinstance(state, PickledDict) else None
        if not isinstance(groups, list) or not groups or not all(isinstance(group, TensorStub) for group in groups):
            raise InputError(where, "no fp32_flat_groups in it: not the optimizer's state of a ZeRO-3 run")
        check_limit(where, "flat tensors", len(groups), MAX_GROUPS)
        refs = [opened.storages.reference(f"fp32_flat_groups.{at}", group) for at, group in enumerate(groups)]
        opened.storages.check_total(refs, opened.size)
        if any(ref.dtype != "F32" or len(ref.shape) != 1 or ref.strides is not None for ref in refs):
            raise InputError(where, "fp32_flat_groups are not flat tensors of float32")
        own = [ref.elements for ref in refs]
        if sizes not in (None, own):
            raise InputError(where, "other numbers of values than in the first rank: not of one run")
        sizes = own
        sources += refs
    return _Flat(tuple(sources), (0, *accumulate(sizes or [])))


def _trained(shapes: Shapes, flat: _Flat, world: int, display_path: str) -> Iterator[TensorRef]:
    """The trained weights. Raises InputError unless they have just the values that are there."""
    counts = {name: -(-(count_elements(shape) or 0) // world) for name, shape in shapes.items()}
    if sum(counts.values()) != flat.bounds[-1]:
        what = f"the weights take {sum(counts.values())} values of each rank, which has {flat.bounds[-1]}: not of one run"
        raise InputError(display_path, what)
    first = 0
    for name, shape in shapes.items():
        yield _joined_ref(name, shape, flat, first, counts[name], world)
        first += counts[name]


def _joined_ref(name: str, shape: tuple[int, ...], flat: _Flat, first: int, count: int, world: int) -> TensorRef:
    """A weight whose values the ranks hold, `count` each, from `first` on."""
    group = min(bisect_right(flat.bounds, first), len(flat.bounds) - 1) - 1
    source = flat.sources[group]
    size = 4 if source.dtype == "F32" else source.logical_bytes // max(1, source.elements)
    offset = source.offset + (source.storage_offset + first - flat.bounds[group]) * size
    ref = TensorRef(name, source.dtype, shape, source.path, offset, world * count * size)
    if not count:
        return ref
    parameters = {"first": first, "count": count, "bounds": flat.bounds}
    return replace(ref, assembly=Assembly(JOINED, flat.sources, shape or (1,), source.dtype, parameters))


def _frozen(ranks: Sequence[_Rank]) -> Iterator[TensorRef]:
    """The weights that are not trained, whose parts are in the model states of the ranks."""
    shapes = ranks[0].checked(ranks[0].entries("frozen_param_shapes"))
    if not shapes:
        return
    parts: dict[str, list[TensorRef]] = {name: [] for name in shapes}
    for rank in ranks:
        fragments, refs = rank.entries("frozen_param_fragments"), []
        for name in shapes:
            fragment = fragments.get(name)
            if not isinstance(fragment, TensorStub):
                rank.refuse(f"no part of the frozen weight {printable(name)!r} in it")
            refs.append(rank.storages.reference(name, fragment))
            parts[name].append(refs[-1])
        rank.storages.check_total(refs, rank.size)
    for name, shape in shapes.items():
        first, count = parts[name][0], -(-(count_elements(shape) or 0) // len(ranks))
        if any((part.dtype, part.shape, part.strides) != (first.dtype, (count,), None) for part in parts[name]):
            ranks[0].refuse(f"the parts of the frozen weight {printable(name)!r} are not {count} values of one type each")
        yield _joined_ref(name, shape, _Flat(tuple(parts[name]), (0, count)), 0, count, len(ranks))


def _in_order(rank: _Rank, weights: Mapping[str, TensorRef]) -> Iterator[TensorRef]:
    """The tensors in the order of `module`: weights, weights under a second name, and buffers, which are stored whole."""
    shared, buffers = rank.entries("shared_params"), rank.state.by_text.get("buffer_names")
    names = set(buffers) if isinstance(buffers, list) and all(isinstance(name, str) for name in buffers) else set()
    module = rank.entries("module")
    own: list[TensorRef] = []
    for name, entry in module.items():
        source = name if name in weights else shared.get(name)
        if isinstance(source, str) and source in weights:
            yield replace(weights[source], name=name)
        elif isinstance(entry, TensorStub) and 0 not in entry.shape:
            own.append(rank.storages.reference(name, entry, is_buffer=name in names))
            yield own[-1]
        else:
            rank.refuse(f"no shape of tensor {printable(name)!r}")
    rank.storages.check_total(own, rank.size)
    yield from (ref for name, ref in weights.items() if name not in module)
    for name, source in shared.items():
        if name not in module and isinstance(source, str) and source in weights and name not in weights:
            yield replace(weights[source], name=name)
