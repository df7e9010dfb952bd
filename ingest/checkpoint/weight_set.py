"""Choose the one weight set of a folder, without reading weight files.

The choice, in this order:
1. An index: `model.safetensors.index.json`, then `pytorch_model.bin.index.json`, then any other `*.index.json` by name. Its
   shards are the set, even if a complete single file is there, too. An index is passed over only if none of its shards exists.
2. Without an index, a file of a preferred name, safetensors before torch.
3. Shards by their names, `NAME-00001-of-0000N.SUFFIX`, safetensors before torch; all N must be there.
4. A checkpoint of torch.distributed.checkpoint: `.metadata` and all files `*.distcp`.
5. The files of all ranks of a ZeRO-3 run, if there are no others.
6. The only remaining file. Several would be several models: an error that lists them, never a guess.
An adapter (`adapter_model.*`) or averaged weights (`ema.*`) are the set only if there is nothing else, and so are files without
a suffix of weights, which were chosen by their content.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.file_names import (
    ADAPTER_WEIGHTS,
    AVERAGED_WEIGHTS,
    DCP_METADATA,
    DCP_SUFFIX,
    INDEX_NAMES,
    INDEX_SUFFIX,
    PREFERRED_WEIGHT_NAMES,
    SHARD_NAME,
    TRAINING_STATE,
    WEIGHT_SUFFIXES,
    ZERO3_PARTITION,
    ZERO3_VALUES,
)
from layerhouse.ingest.checkpoint.json_files import read_json
from layerhouse.ingest.checkpoint.limits import check_limit
from layerhouse.ingest.checkpoint.ranks import refuse_part
from layerhouse.ingest.checkpoint.symlinks import leads_out
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef

MAX_NAMED = 5
MAX_SHARDS = 10_000
MAX_NAME_BYTES = 255
"""Bytes of a file's name in the file systems in use."""
MAX_SHOWN = 200
"""Characters of a name in a message."""
MAX_INDEX_BYTES = 64 << 20
MAX_DECLARED = 40
"""Characters of a declared value in a message."""
DIGITS = re.compile(r"[0-9]{1,30}")


@dataclass(frozen=True)
class WeightSet:
    """The files that together are one model, in reading order.

    `folder` is the file itself if a single file was asked for. `weight_map` is the index's, tensor name to file name, and
    `index_metadata` what it declares beside it. `ignored` lists all other weight files of the folder, each with the reason.
    """

    folder: Path
    files: tuple[Path, ...]
    index: Path | None = None
    index_metadata: Mapping[str, Any] = field(default_factory=dict)
    weight_map: dict[str, str] | None = None
    ignored: tuple[tuple[Path, str], ...] = ()

    def declared_notes(self, logical_bytes: int, params: int | None) -> list[str]:
        """Where the index declares other totals than those of the tensors, as far as these are known, or none that can be
        read.
        """
        notes = []
        for key, what, found in (("total_size", "bytes", logical_bytes), ("total_parameters", "parameters", params)):
            value = self.index_metadata.get(key)
            declared = _whole_number(value)
            if declared is None and value is not None:
                notes.append(f"the index declares {key} {str(value)[:MAX_DECLARED]!r}, which is no number of {what}")
            elif declared is not None and found not in (None, declared):
                notes.append(f"the index declares {str(declared)[:MAX_DECLARED]} {what}, the tensors have {found}")
        return notes


@dataclass(frozen=True)
class WeightSetContents:
    """What all files of a weight set hold together.

    `containers` are those of the files, each once. `metadata` merges the files' own; of two entries with one key, that of the
    first file is kept. `skipped` says what was not read, with the file's name in front; `notes` how the files differ from the
    index. `class_path` and `config` are those of the first file that has them. `descriptions` are those of all files.
    """

    tensors: tuple[TensorRef, ...]
    containers: tuple[str, ...]
    metadata: dict[str, Any]
    class_path: str | None
    config: dict[str, Any] | None
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    descriptions: Mapping[str, Any] = field(default_factory=dict)


def find_weight_set(folder: Path, files: Sequence[Path], display_path: str) -> WeightSet:
    """Choose among the weight files of a folder by the rules above. `folder` may also be a single weight file.

    Index files are looked up in the folder. Raises InputError if shards are missing, if the index names a file outside of the
    folder, if there is no weight file, or if there are several models.
    """
    refuse_part(folder, files, display_path)
    if not folder.is_dir():
        _refuse_indexed(folder, display_path)
        return WeightSet(folder, (folder,))
    choice = _Choice(folder, display_path)
    candidates = choice.sort_out(files)
    chosen = choice.by_index(candidates) or choice.by_names(candidates)
    taken = set(chosen.files)
    reason = f"{chosen.index.name} does not name it" if chosen.index else f"{chosen.files[0].name} is taken"
    ignored = dict.fromkeys((*candidates, *choice.distributed), reason) | dict(choice.ignored)
    ignored = {path: reason for path, reason in ignored.items() if path not in taken}
    return replace(chosen, ignored=tuple(sorted(ignored.items())))


class _Choice:
    """The state of one choice: the folder, and the files ignored so far with the reasons."""

    def __init__(self, folder: Path, display_path: str) -> None:
        self.folder, self.display_path = folder, display_path
        self.ignored: list[tuple[Path, str]] = []
        self.distributed: list[Path] = []

    def sort_out(self, files: Sequence[Path]) -> list[Path]:
        """The files that could be the model, sorted by name; adapters and averages only if there is nothing else."""
        candidates: list[Path] = []
        second: list[Path] = []
        is_named = any(path.name.lower().endswith((*WEIGHT_SUFFIXES, DCP_SUFFIX)) for path in files)
        for path in sorted(set(files)):
            if path.parent != self.folder:
                self.ignored.append((path, "in a folder below"))
            elif TRAINING_STATE.fullmatch(path.name):
                self.ignored.append((path, "state of a training run, not a model"))
            elif path.suffix.lower() == DCP_SUFFIX:
                self.distributed.append(path)
            elif is_named and not path.name.lower().endswith(WEIGHT_SUFFIXES):
                self.ignored.append((path, "not a weight file by its name"))
            elif ADAPTER_WEIGHTS.fullmatch(path.name) or AVERAGED_WEIGHTS.fullmatch(path.stem):
                second.append(path)
            else:
                candidates.append(path)
        if not candidates and not self.distributed:
            return second
        adapters = {path for path in second if ADAPTER_WEIGHTS.fullmatch(path.name)}
        self.ignored += [
            (path, f"{'an adapter' if path in adapters else 'averaged weights'} beside a model") for path in second
        ]
        return candidates

    def by_index(self, candidates: list[Path]) -> WeightSet | None:
        indices = sorted(
            (path for path in self.folder.iterdir() if path.name.endswith(INDEX_SUFFIX)),
            key=lambda path: (INDEX_NAMES.index(path.name) if path.name in INDEX_NAMES else len(INDEX_NAMES), path.name),
        )
        chosen: WeightSet | None = None
        for index in indices:
            if chosen:
                self.ignored.append((index, f"{chosen.index.name if chosen.index else ''} is taken"))
                continue
            weight_map, metadata = read_index(index, f"{self.display_path}/{index.name}")
            names = list(dict.fromkeys(weight_map.values()))
            check_limit(f"{self.display_path}/{index.name}", "shards", len(names), MAX_SHARDS)
            absent = [name for name in names if not _is_file(self.shard(index, name))]
            if len(absent) == len(names) and any(not ADAPTER_WEIGHTS.fullmatch(path.name) for path in candidates):
                self.ignored.append((index, f"none of its {len(names)} shards is here"))
                continue
            if absent:
                tensors = sum(shard == absent[0] for shard in weight_map.values())
                more = f"; {len(absent)} of {len(names)} shards are missing" if len(absent) > 1 else ""
                what = f"names shard {absent[0][:MAX_SHOWN]!r} of {tensors} tensors, which is not there{more}; fetch it"
                raise InputError(f"{self.display_path}/{index.name}", what)
            files = tuple(self.folder / name for name in sorted(names))
            chosen = WeightSet(self.folder, files, index, metadata, weight_map)
        return chosen

    def shard(self, index: Path, name: str) -> Path:
        """The path of a shard that the index names. Raises InputError if the name leads out of the folder."""
        path = self.folder / name
        where = f"{self.display_path}/{index.name}"
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name or path.name != name:
            raise InputError(where, f"names shard {name[:MAX_SHOWN]!r}, which is not a plain file name in this folder")
        if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
            raise InputError(
                where, f"names shard {name[:MAX_SHOWN]!r}, a name of over {MAX_NAME_BYTES} bytes, which no file has"
            )
        if leads_out(self.folder, path):
            raise InputError(where, f"names shard {name[:MAX_SHOWN]!r}, a link that leads out of this folder")
        return path

    def by_metadata(self) -> WeightSet | None:
        """The set of torch.distributed.checkpoint, if there is one."""
        if not self.distributed:
            return None
        metadata = self.folder / DCP_METADATA
        if not _is_file(metadata):
            first = self.distributed[0].name
            what = f"{first} is a part of a distributed checkpoint whose hidden file {DCP_METADATA} is missing"
            raise InputError(self.display_path, f"{what}; copy it too, or save the checkpoint again")
        return WeightSet(self.folder, (metadata, *self.distributed))

    def by_names(self, candidates: list[Path]) -> WeightSet:
        if not candidates and not self.distributed:
            ignored = "; ".join(f"{path.name}: {reason}" for path, reason in self.ignored[:MAX_NAMED])
            raise InputError(self.display_path, "no weight file" + (f" ({ignored})" if ignored else ""))
        by_name = {path.name: path for path in candidates}
        for name in PREFERRED_WEIGHT_NAMES:
            if name in by_name:
                return WeightSet(self.folder, (by_name[name],))
        shards = self.by_shards(candidates)
        if shards:
            return shards
        distributed = self.by_metadata()
        if distributed:
            return distributed
        singles = self.without_twins([path for path in candidates if not SHARD_NAME.fullmatch(path.name)])
        partitions = [path for path in singles if ZERO3_PARTITION.fullmatch(path.name)]
        if partitions and len(partitions) == len(singles):
            return WeightSet(self.folder, (*partitions, *zero3_values(self.folder)))
        if len(singles) > 1:
            names = ", ".join(path.name for path in singles[:MAX_NAMED])
            more = f" and {len(singles) - MAX_NAMED} more" if len(singles) > MAX_NAMED else ""
            what = f"{len(singles)} weight files without an index, each a model of its own: {names}{more}; name one of them"
            if len({re.sub(r"\d+", "", path.name) for path in singles}) == 1:
                what += ", or add their index if they are parts of one model"
            raise InputError(self.display_path, what)
        return WeightSet(self.folder, tuple(singles))

    def by_shards(self, candidates: list[Path]) -> WeightSet | None:
        """The shards of the first suffix that has any, by the numbers in their names."""
        groups: dict[tuple[int, str, str, int], dict[int, Path]] = {}
        for path in candidates:
            match = SHARD_NAME.fullmatch(path.name)
            if match:
                suffix = match["suffix"].lower()
                key = (_preference(suffix), match["stem"], match["suffix"], int(match["count"]))
                groups.setdefault(key, {})[int(match["number"])] = path
        if not groups:
            return None
        best = min(groups)
        _, stem, suffix, count = best
        rivals = [key for key in groups if key[0] == best[0] and key != best]
        if rivals:
            raise InputError(
                self.display_path, f"shards of several models without an index: {stem}{suffix}, {rivals[0][1]}{rivals[0][2]}"
            )
        first = 0 if 0 in groups[best] and count not in groups[best] else 1  # some tools count from zero
        wrong = [number for number in groups[best] if not first <= number < first + count]
        if wrong:
            raise InputError(self.display_path, f"{groups[best][wrong[0]].name!r} is no shard of {count}")
        missing = [number for number in range(first, first + count) if number not in groups[best]]
        if missing:
            match = SHARD_NAME.fullmatch(next(iter(groups[best].values())).name)
            assert match
            begin, end = match.span("number")
            name = f"{match[0][:begin]}{missing[0]:0{end - begin}}{match[0][end:]}"
            raise InputError(
                self.display_path, f"{len(missing)} of {count} shards are missing, the first is {name!r}; fetch it"
            )
        return WeightSet(self.folder, tuple(groups[best][number] for number in sorted(groups[best])))

    def without_twins(self, singles: list[Path]) -> list[Path]:
        """One file of each stem: the one whose suffix comes first in WEIGHT_SUFFIXES."""
        by_stem: dict[str, Path] = {}
        for path in sorted(singles, key=lambda path: _preference(path.suffix.lower())):
            kept = by_stem.setdefault(path.stem, path)
            if kept != path:
                self.ignored.append((path, f"{kept.name} is the same model by its name"))
        return sorted(by_stem.values())


def zero3_values(folder: Path) -> list[Path]:
    """The files of a ZeRO-3 run that hold the values of its weights."""
    return sorted(path for path in folder.iterdir() if ZERO3_VALUES.fullmatch(path.name) and _is_file(path))


def _preference(suffix: str) -> int:
    """The place of a suffix in WEIGHT_SUFFIXES; that of any other one comes last."""
    return WEIGHT_SUFFIXES.index(suffix) if suffix in WEIGHT_SUFFIXES else len(WEIGHT_SUFFIXES)


def _refuse_indexed(path: Path, display_path: str) -> None:
    """Raise InputError where an index beside a single file says that it is one of several shards."""
    for index in sorted(path.parent.glob(f"*{INDEX_SUFFIX}")):
        try:
            weight_map, _ = read_index(index, f"{display_path}: {index.name}")
        except InputError:
            continue
        shards = {*weight_map.values()}
        if path.name in shards and len(shards) > 1:
            what = f"one of {len(shards)} shards of a model, as {index.name} says; name its folder instead"
            raise InputError(display_path, what)


def _is_file(path: Path) -> bool:
    """Whether there is a file; also for a path that the system refuses, such as one that is too long."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def read_index(path: Path, display_path: str) -> tuple[dict[str, str], dict[str, Any]]:
    """The weight map of an index as transformers writes it, tensor name to shard name, and its metadata."""
    _, document = read_json(path, display_path, max_bytes=MAX_INDEX_BYTES)
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(display_path, "no weight_map of tensors to shards in the index")
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str):
            raise InputError(display_path, f"weight_map: the shard of tensor {tensor[:80]!r} is not a text")
    metadata = document.get("metadata")
    return weight_map, metadata if isinstance(metadata, dict) else {}


def _whole_number(value: Any) -> int | None:
    """A number that an index declares, also as text; None if it is none."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and DIGITS.fullmatch(value):
        return int(value)
    return value if type(value) is int else None
