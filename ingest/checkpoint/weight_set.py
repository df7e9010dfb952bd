"""Choose the one weight set of a folder, and read it whole.

The choice, in this order:
1. An index: `model.safetensors.index.json`, then `pytorch_model.bin.index.json`, then any other `*.index.json` by name. Its
   shards are the set, even beside a complete single file. Only an index none of whose shards is there gives way to others.
2. Without an index, a file of a preferred name, safetensors before torch.
3. Shards by their names, `NAME-00001-of-0000N.SUFFIX`, safetensors before torch; every one of the N must be there.
4. The one file that is left. Several are several models, of which none is chosen: an error that names them.
An adapter (`adapter_model.*`) is the set only if there is nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.registry import read_weight_file
from layerhouse.ingest.checkpoint.file_names import (
    ADAPTER_WEIGHTS,
    INDEX_NAMES,
    INDEX_SUFFIX,
    PREFERRED_WEIGHT_NAMES,
    SHARD_NAME,
    SLICEGPT_SUFFIX,
    TRAINING_STATE,
    WEIGHT_SUFFIXES,
)
from layerhouse.ingest.checkpoint.json_files import read_json
from layerhouse.ingest.checkpoint.slicegpt import (
    config_beside,
    is_sliced,
    read_slicing,
    slicing_notes,
)
from layerhouse.ingest.checkpoint.symlinks import leads_out
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef

MAX_NAMED = 5
MAX_INDEX_BYTES = 64 << 20


@dataclass(frozen=True)
class WeightSet:
    """The files that together are one model, in reading order. `weight_map` is the index's own: tensor name to file name.

    `folder` is the file itself where that was asked for alone. `ignored` lists every other weight file that was offered, with
    the reason.
    """

    folder: Path
    files: tuple[Path, ...]
    index: Path | None = None
    declared_total_size: int | None = None
    weight_map: dict[str, str] | None = None
    ignored: tuple[tuple[Path, str], ...] = ()


@dataclass(frozen=True)
class WeightSetContents:
    """What a weight set holds, its files taken together.

    `containers` are those of the files, each once; `metadata` the entries that the files declare, the first file's winning;
    `skipped` what readers did not take, after the file's name; `notes` how the files differ from the index.
    """

    tensors: tuple[TensorRef, ...]
    containers: tuple[str, ...]
    metadata: dict[str, Any]
    class_path: str | None
    config: dict[str, Any] | None
    skipped: tuple[str, ...]
    notes: tuple[str, ...]


def find_weight_set(folder: Path, files: Sequence[Path], shown: str) -> WeightSet:
    """Choose among the weight files of a folder, by the rules above; `folder` may also be the one weight file itself.

    Index files are looked for in the folder. Raises InputError if shards are missing, if the index names a file outside of
    the folder, if no weight file is there, or if the choice would be a guess.
    """
    if not folder.is_dir():
        return WeightSet(folder, (folder,))
    choice = _Choice(folder, shown)
    candidates = choice.sort_out(files)
    chosen = choice.by_index(candidates) or choice.by_names(candidates)
    taken = set(chosen.files)
    reason = f"{chosen.index.name} does not name it" if chosen.index else f"{chosen.files[0].name} is taken"
    ignored = {path: reason for path in candidates if path not in taken} | dict(choice.ignored)
    return replace(chosen, ignored=tuple(sorted(ignored.items())))


class _Choice:
    """One choice: the folder, and what was passed over so far."""

    def __init__(self, folder: Path, shown: str) -> None:
        self.folder, self.shown = folder, shown
        self.ignored: list[tuple[Path, str]] = []

    def sort_out(self, files: Sequence[Path]) -> list[Path]:
        """The files that could be the model, by name; an adapter only if there is nothing else."""
        candidates: list[Path] = []
        adapters: list[Path] = []
        for path in sorted(set(files)):
            if path.parent != self.folder:
                self.ignored.append((path, "in a folder below"))
            elif TRAINING_STATE.fullmatch(path.name):
                self.ignored.append((path, "state of a training run, not a model"))
            elif not path.name.lower().endswith(WEIGHT_SUFFIXES):
                self.ignored.append((path, "not a weight file by its name"))
            elif ADAPTER_WEIGHTS.fullmatch(path.name):
                adapters.append(path)
            else:
                candidates.append(path)
        if not candidates:
            return adapters
        self.ignored += [(path, "an adapter beside a model") for path in adapters]
        return candidates

    def by_index(self, candidates: list[Path]) -> WeightSet | None:
        found = sorted(
            (path for path in self.folder.iterdir() if path.name.endswith(INDEX_SUFFIX)),
            key=lambda path: (INDEX_NAMES.index(path.name) if path.name in INDEX_NAMES else len(INDEX_NAMES), path.name),
        )
        chosen: WeightSet | None = None
        for index in found:
            if chosen:
                self.ignored.append((index, f"{chosen.index.name if chosen.index else ''} is taken"))
                continue
            weight_map, total_size = read_index(index, f"{self.shown}/{index.name}")
            names = list(dict.fromkeys(weight_map.values()))
            absent = [name for name in names if not self.shard(index, name).is_file()]
            if len(absent) == len(names) and any(not ADAPTER_WEIGHTS.fullmatch(path.name) for path in candidates):
                self.ignored.append((index, f"none of its {len(names)} shards is here"))
                continue
            if absent:
                tensors = sum(shard == absent[0] for shard in weight_map.values())
                more = f"; {len(absent)} of {len(names)} shards are missing" if len(absent) > 1 else ""
                what = f"names shard {absent[0]!r} of {tensors} tensors, which is not there{more}; fetch it"
                raise InputError(f"{self.shown}/{index.name}", what)
            files = tuple(self.folder / name for name in sorted(names))
            chosen = WeightSet(self.folder, files, index, total_size, weight_map)
        return chosen

    def shard(self, index: Path, name: str) -> Path:
        """The shard's path, if the name cannot lead out of the folder."""
        path = self.folder / name
        where = f"{self.shown}/{index.name}"
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name or path.name != name:
            raise InputError(where, f"names shard {name[:200]!r}, which is not a plain file name in this folder")
        if leads_out(self.folder, path):
            raise InputError(where, f"names shard {name[:200]!r}, a link that leads out of this folder")
        return path

    def by_names(self, candidates: list[Path]) -> WeightSet:
        if not candidates:
            passed = "; ".join(f"{path.name}: {why}" for path, why in self.ignored[:MAX_NAMED])
            raise InputError(self.shown, "no weight file" + (f" ({passed})" if passed else ""))
        by_name = {path.name: path for path in candidates}
        for name in PREFERRED_WEIGHT_NAMES:
            if name in by_name:
                return WeightSet(self.folder, (by_name[name],))
        shards = self.by_shards(candidates)
        if shards:
            return shards
        singles = self.without_twins([path for path in candidates if not SHARD_NAME.fullmatch(path.name)])
        if len(singles) > 1:
            names = ", ".join(path.name for path in singles[:MAX_NAMED])
            more = f" and {len(singles) - MAX_NAMED} more" if len(singles) > MAX_NAMED else ""
            what = f"{len(singles)} weight files without an index, each a model of its own: {names}{more}; name one of them"
            raise InputError(self.shown, what)
        return WeightSet(self.folder, tuple(singles))

    def by_shards(self, candidates: list[Path]) -> WeightSet | None:
        """The shards that their names count, of the first format that has any."""
        groups: dict[tuple[int, str, str, int], dict[int, Path]] = {}
        for path in candidates:
            match = SHARD_NAME.fullmatch(path.name)
            if match:
                suffix = match["suffix"].lower()
                key = (WEIGHT_SUFFIXES.index(suffix), match["stem"], match["suffix"], int(match["count"]))
                groups.setdefault(key, {})[int(match["number"])] = path
        if not groups:
            return None
        best = min(groups)
        _, stem, suffix, count = best
        rivals = [key for key in groups if key[0] == best[0] and key != best]
        if rivals:
            raise InputError(
                self.shown, f"shards of several models without an index: {stem}{suffix}, {rivals[0][1]}{rivals[0][2]}"
            )
        wrong = [number for number in groups[best] if not 1 <= number <= count]
        if wrong:
            raise InputError(self.shown, f"{groups[best][wrong[0]].name!r} is no shard of {count}")
        missing = [number for number in range(1, count + 1) if number not in groups[best]]
        if missing:
            name = f"{stem}-{missing[0]:05}-of-{count:05}{suffix}"
            raise InputError(self.shown, f"{len(missing)} of {count} shards are missing, the first is {name!r}; fetch it")
        return WeightSet(self.folder, tuple(groups[best][number] for number in sorted(groups[best])))

    def without_twins(self, singles: list[Path]) -> list[Path]:
        """Of files with one stem the safetensors one, or else the first in the order of suffixes."""
        by_stem: dict[str, Path] = {}
        for path in sorted(singles, key=lambda path: WEIGHT_SUFFIXES.index(path.suffix.lower())):
            kept = by_stem.setdefault(path.stem, path)
            if kept != path:
                self.ignored.append((path, f"{kept.name} is the same model by its name"))
        return sorted(by_stem.values())


def read_index(path: Path, shown: str) -> tuple[dict[str, str], int | None]:
    """The weight map of an index (transformers' layout): tensor name to shard name, and the total size that it declares."""
    _, document = read_json(path, shown, max_bytes=MAX_INDEX_BYTES)
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(shown, "no weight_map of tensors to shards in the index")
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str):
            raise InputError(shown, f"weight_map: the shard of tensor {tensor[:80]!r} is not a text")
    metadata = document.get("metadata")
    total_size = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(total_size, float) and total_size.is_integer():
        total_size = int(total_size)
    return weight_map, total_size if type(total_size) is int else None


def read_weight_set(weight_set: WeightSet, shown: str) -> WeightSetContents:
    """Read every file of the set. `shown` is the folder's path as the user knows it.

    A tensor that the index does not name is left out and noted; one that it names and no shard holds, or that two shards hold,
    is an InputError.
    """
    holders: dict[str, Path] = {}
    tensors: list[TensorRef] = []
    containers: dict[str, None] = {}
    metadata: dict[str, Any] = {}
    skipped: list[str] = []
    class_path = config = None
    for path in weight_set.files:
        contents = read_weight_file(path, shown if path == weight_set.folder else f"{shown}/{path.name}")
        own = dict.fromkeys([tensor.name for tensor in contents.tensors], path)
        if twice := holders.keys() & own.keys():
            first = next(name for name in own if name in twice)
            raise InputError(shown, f"tensor {first[:80]!r} is in {holders[first].name} and in {path.name}")
        holders |= own
        tensors += contents.tensors
        containers[contents.container] = None
        metadata = {**contents.metadata, **metadata}
        class_path, config = class_path or contents.class_path, config or contents.config
        skipped += [f"{path.name}: {what}" for what in contents.skipped]
    notes = _read_slicing(weight_set, tensors, metadata, shown)
    if weight_set.weight_map is not None:
        _check_map(weight_set.weight_map, holders, f"{shown}/{weight_set.index.name if weight_set.index else ''}")
        unnamed = [tensor.name for tensor in tensors if tensor.name not in weight_set.weight_map]
        if unnamed:
            notes.append(f"not in the index: {len(unnamed)} tensors, {_first(unnamed)}")
            tensors = [tensor for tensor in tensors if tensor.name in weight_set.weight_map]
    return WeightSetContents(tuple(tensors), tuple(containers), metadata, class_path, config, tuple(skipped), tuple(notes))


def _read_slicing(weight_set: WeightSet, tensors: Sequence[TensorRef], metadata: dict[str, Any], shown: str) -> list[str]:
    """Put SliceGPT's JSON of the file into the metadata; notes on what it and the tensors do not agree on."""
    path = weight_set.files[0]
    beside = config_beside(path)
    slicing = None
    if beside is not None:
        where = f"{shown}.json" if path == weight_set.folder else f"{shown}/{beside.name}"
        if leads_out(path.parent, beside):
            return [f"{beside.name} not read: a link that leads out of this folder"]
        try:
            slicing = read_slicing(beside, where)
        except InputError as error:
            return [f"{beside.name} cannot be read: {error.what}"] if is_sliced(tensors) else []
    if slicing is not None:
        metadata["slicing"] = slicing
    elif not (path.suffix.lower() == SLICEGPT_SUFFIX and is_sliced(tensors)):
        return []
    return slicing_notes(path.stem, tensors, slicing)


def _check_map(weight_map: dict[str, str], holders: dict[str, Path], shown: str) -> None:
    """Every tensor that the index names is in the shard that it names."""
    absent = [name for name in weight_map if name not in holders]
    if absent:
        what = (
            f"names {len(absent)} tensors that no shard holds, {_first(absent)}; {weight_map[absent[0]]} should hold the first"
        )
        raise InputError(shown, what)
    for name, shard in weight_map.items():
        if holders[name].name != shard:
            raise InputError(shown, f"names {shard!r} for tensor {name[:80]!r}, which is in {holders[name].name}")


def _first(names: list[str]) -> str:
    return ", ".join(repr(name[:80]) for name in names[:3]) + (", ..." if len(names) > 3 else "")
