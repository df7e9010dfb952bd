"""Parts of a model that are no model: files and folders of the ranks of a parallel run, shards, partitions.

The names tell; one rank alone is a whole model, as a run without parallelism has one, too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.sniff import holds_weights
from layerhouse.ingest.checkpoint.file_names import (
    CONFIG_NAME,
    DCP_SUFFIX,
    PARAMETER_FILES,
    SHARD_NAME,
    TRAINING_STATE,
    ZERO3_PARTITION,
    is_weight_file,
)
from layerhouse.ingest.checkpoint.json_files import read_json
from layerhouse.ingest.checkpoint.regular_file import confined_to
from layerhouse.ingest.checkpoint.symlinks import HUB_PREFIX

ORIGINAL = "or ingest the model they were made of"
RANK_FILES = (
    (re.compile(r"mp_rank_(?P<rank>\d+)_model_states\.pt"), "tensor-parallel ranks (DeepSpeed)", ORIGINAL),
    (re.compile(r"model_world_size_\d+_rank_(?P<rank>\d+)\.pt"), "FSDP ranks", "with the trainer that wrote them"),
    (re.compile(r"rank(?P<rank>\d+)\.safetensors"), "tensor-parallel ranks (TensorRT-LLM)", ORIGINAL),
    (re.compile(r"model-rank-(?P<rank>\d+)-part-\d+\.safetensors"), "tensor-parallel ranks (vLLM)", ORIGINAL),
    (
        re.compile(r"shard-(?P<rank>\d+)-model-\d+-of-\d+\.safetensors"),
        "ranks (torch.distributed.checkpoint)",
        "with torch's consolidate_safetensors_files",
    ),
    (
        re.compile(r"consolidated\.(?P<rank>\d{2})\.pth"),
        "model-parallel ranks (Meta)",
        "with transformers' convert_llama_weights_to_hf.py",
    ),
)
"""The names of one rank's file, what they are, and how they are merged."""
STATE_FILES = (
    (
        re.compile(r"(bf16_|fp16_)?(zero_pp_rank_\d+_)?mp_rank_\d+_(model|optim)_states\.pt|layer_\d+-.*_states\.pt"),
        "DeepSpeed",
    ),
    (re.compile(r"(model|optim|extra_state)_world_size_\d+_rank_\d+\.pt"), "FSDP"),
    (re.compile(r".*\.distcp"), "torch.distributed.checkpoint"),
)
"""The files in which a training run keeps its state, and what writes them."""
STEP_FOLDER = re.compile(r"(?!global_)(\w*[-_])?(step|iter|iteration|ep|epoch|ckpt|checkpoint)s?[-_=]?\d+.*", re.IGNORECASE)
"""A folder of a step of its own, whose model is another one than that of the folder above."""
LAYER_FILE = re.compile(r"layer_\d+-model_\d+-model_states\.pt")
"""One layer of a model that DeepSpeed trained in pipeline stages."""
PART_FILE = re.compile(
    r"(?P<begin>(?:.*[-_.])?(?P<kind>part|shard|rank|tp|pp)[-_]?)(?P<number>\d{1,4})(?P<end>\D*\.(?:safetensors|bin|pt|pth|ckpt))",
    re.IGNORECASE,
)
"""A part that is numbered in the file's name. It tells only in a set of 0, 1, ..., n-1; parts and shards may begin with 1."""
HUB_BLOBS = "blobs"
"""The folder of a hub cache in which the files of all snapshots lie under other names."""
PARTS_OF_WORLD = re.compile(r"world_size_(?!1_)")


@dataclass(frozen=True)
class RankFolders:
    """The names that a tool gives to one rank's folder; `is_certain` where no whole model has such a name."""

    name: re.Pattern[str]
    what: str
    how: str = ORIGINAL
    is_certain: bool = True


AXIS = r"(?:tp|pp|ep|cp|dp|mp)"
RANK_FOLDERS = (
    RankFolders(
        re.compile(r"mp_rank_\d{2,3}(_\d{3}){0,2}"),
        "tensor-parallel ranks (Megatron-LM)",
        "with Megatron-LM's tools/checkpoint/convert.py",
    ),
    RankFolders(re.compile(r"tp_rank_\d+(_pp_rank_\d+)?"), "tensor-parallel ranks (NeMo)"),
    RankFolders(re.compile(rf"{AXIS}_?rank_?\d+([_-]{AXIS}_?rank_?\d+)*"), "parallel ranks"),
    RankFolders(re.compile(r"(tp|pp|mp)[_-]?\d+([_-](tp|pp|mp|ep)[_-]?\d+)*"), "parallel ranks", is_certain=False),
    RankFolders(re.compile(r"((model|pipeline)[_-])?(rank|stage|shard|part)[_-]?\d+"), "parts", is_certain=False),
)
"""Asked in this order. A name that is not certain, such as that of a LoRA's rank, tells only in a set of 0, 1, ..., n-1."""
COUNTED_FROM_ONE = re.compile(r"(?:^|[_-])(?:shard|part)[_-]?\d+$")
MAX_LOOKED_AT = 4
MAX_LEVELS = 3
"""Levels of folders that a rank's weights are looked for in."""
MAX_FOLDERS = 64
"""Folders of a rank that are looked into."""


@dataclass(frozen=True)
class RankSet:
    """The folders of the ranks of one model, and what they are in one line."""

    folders: tuple[Path, ...]
    text: str


def rank_sets(folders: Iterable[Path]) -> list[RankSet]:
    """The sets of ranks among the folders of one folder. A folder without weights is of none."""
    groups: dict[tuple[int, str, Path], list[Path]] = {}
    for folder in folders:
        number = next((number for number, kind in enumerate(RANK_FOLDERS) if kind.name.fullmatch(folder.name)), None)
        home = None if number is None else _weights_home(folder)
        if number is not None and home is not None:
            # disks and projects have such names, too; the ranks of one run have their weights in the same place
            place = Path() if RANK_FOLDERS[number].is_certain else home.relative_to(folder)
            groups.setdefault((number, re.sub(r"\d+", "#", folder.name), place), []).append(folder)
    sets = []
    for (number, *_), group in groups.items():
        kind = RANK_FOLDERS[number]
        if _is_complete(group) or (kind.is_certain and (len(group) > 1 or any(_numbers(group[0].name)))):
            ranks = sorted(group, key=lambda folder: _numbers(folder.name))
            sets.append(RankSet(tuple(ranks), _set_text(kind, ranks)))
    return sets


def training_state(name: str, files: Sequence[Path], folders: Sequence[Path], *, is_in_model: bool) -> str | None:
    """What a folder of this name is in one line, if it holds the state of a training run and no model; None if it may hold one.

    `is_in_model`: weights of a model lie in the folder above, of which it is the state.
    """
    if any(_is_file(folder / file) for folder in folders[:MAX_LOOKED_AT] for file in PARAMETER_FILES):
        return "a universal checkpoint of DeepSpeed, one folder a parameter, not a model"
    writers = [writer for pattern, writer in STATE_FILES if any(pattern.fullmatch(file.name) for file in files)]
    if writers and TRAINING_STATE.fullmatch(name):
        return f"the state of an optimizer or a run, by {writers[0]}, not a model"
    if writers and is_in_model and not STEP_FOLDER.fullmatch(name):
        return f"the state of the run that made the model above, by {writers[0]}, not another model"
    return None


def refuse_part(path: Path, files: Sequence[Path], display_path: str) -> None:
    """Raise InputError, which names the set and what to do, where a folder's files or a single file are a part of a model."""
    is_folder = _is_folder(path)
    home = path if is_folder else path.parent
    if not is_folder:
        _refuse_shard(path, display_path)
    for folder in (home, *home.parents)[:MAX_LEVELS]:
        if any(kind.name.fullmatch(folder.name) for kind in RANK_FOLDERS):
            for ranks in rank_sets(_subfolders(folder.parent)):
                if folder in ranks.folders:
                    raise InputError(display_path, f"{folder.name} is one of {ranks.text}")
    names = sorted(file.name for file in (files if is_folder else _entries(home)) if file.parent == home)
    if {*names} >= PARAMETER_FILES:
        what = "one parameter of a DeepSpeed universal checkpoint, not a model"
        raise InputError(display_path, f"{what}; ingest the model that it was made of")
    _refuse_rank_files(home, names if is_folder else [path.name], names, display_path)


def _refuse_rank_files(home: Path, own: Sequence[str], names: Sequence[str], display_path: str) -> None:
    """Raise InputError if one's own files are of a set of ranks, among all names in the folder."""
    layers = [name for name in names if LAYER_FILE.fullmatch(name)]
    if layers and any(STATE_FILES[0][0].fullmatch(name) for name in own):
        named = f"{len(layers)} layers of one model, a file each ({_span(layers)})"
        raise InputError(display_path, f"{named}, as DeepSpeed writes pipeline stages; merge them first, {ORIGINAL}")
    for pattern, what, how in RANK_FILES:
        ranks = {match[0]: match.groupdict().get("rank", match[0]) for match in map(pattern.fullmatch, names) if match}
        count = len({*ranks.values()})
        if any(name in ranks for name in own) and (count > 1 or _is_of_several(home, *next(iter(ranks.items())))):
            raise InputError(display_path, f"{count} {what} of one model ({_span([*ranks])}); merge them first, {how}")
    parts: dict[tuple[str, str], list[re.Match[str]]] = {}
    for match in filter(None, map(PART_FILE.fullmatch, names)):
        parts.setdefault((match["begin"], match["end"]), []).append(match)
    for group in parts.values():
        first = 0 if group[0]["kind"].lower() == "rank" else 1
        numbers = {int(match["number"]) for match in group}
        is_complete = len(numbers) > 1 and numbers in ({*range(len(numbers))}, {*range(first, first + len(numbers))})
        if is_complete and any(match[0] in own for match in group):
            text = f"{len(numbers)} parts of one model ({_span([match[0] for match in group])}); merge them first, {ORIGINAL}"
            raise InputError(display_path, f"{text}; rename the files if each is a whole model")


def _is_of_several(home: Path, name: str, rank: str) -> bool:
    """Whether the only rank in a folder is of several: by its number, by its name, or by the config of TensorRT-LLM."""
    first = 1 if name.startswith("shard-") else 0
    is_later = rank.isdecimal() and int(rank) > first
    return is_later or PARTS_OF_WORLD.search(name) is not None or (name.startswith("rank") and _world_size(home) > 1)


def _world_size(home: Path) -> int:
    """The number of ranks that a config of TensorRT-LLM declares; 1 if there is none."""
    path = home / CONFIG_NAME
    if not _is_file(path):
        return 1
    try:
        _, config = read_json(path, path.name)
    except InputError:
        return 1
    mapping = config.get("mapping") if isinstance(config, dict) else None
    sizes = [mapping.get(key) for key in ("world_size", "tp_size", "pp_size")] if isinstance(mapping, dict) else []
    return max([size for size in sizes if type(size) is int], default=1)


def _refuse_shard(path: Path, display_path: str) -> None:
    if path.parent.name == HUB_BLOBS and path.parent.parent.name.startswith(HUB_PREFIX):
        raise InputError(display_path, "a file of a hub cache, which may be a shard; name the folder of a snapshot instead")
    if path.suffix.lower() == DCP_SUFFIX:
        raise InputError(display_path, "one file of a distributed checkpoint; name its folder instead")
    if match := ZERO3_PARTITION.fullmatch(path.name):
        raise InputError(display_path, f"rank {int(match['rank'])} of a ZeRO-3 run; name the folder of all ranks instead")
    match = SHARD_NAME.fullmatch(path.name)
    if match and int(match["count"]) > 1:
        what = f"shard {int(match['number'])} of {int(match['count'])} of a model; name its folder instead"
        raise InputError(display_path, what)


def _set_text(kind: RankFolders, ranks: Sequence[Path]) -> str:
    text = f"{len(ranks)} {kind.what} of one model ({_span([folder.name for folder in ranks])}); merge them first, {kind.how}"
    return text if kind.is_certain else f"{text}; rename the folders if each is a whole model"


def _span(names: Sequence[str]) -> str:
    return f"{names[0]} to {names[-1]}" if len(names) > 1 else names[0]


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", name)))


def _is_complete(folders: Sequence[Path]) -> bool:
    """Whether two or more folders are numbered 0, 1, ..., n-1, in each of the numbers in their names; parts and shards, as in
    files' names, may begin with 1.
    """
    columns = [{*column} for column in zip(*(_numbers(folder.name) for folder in folders), strict=True)]
    starts = (0, 1) if folders and COUNTED_FROM_ONE.search(folders[0].name) else (0,)
    return len(folders) > 1 and all(any(column == {*range(at, at + len(column))} for at in starts) for column in columns)


def _weights_home(folder: Path) -> Path | None:
    """The folder, this one or one not far below it, in which weight files lie; None if there are none."""
    level, looked_into = [folder], 0
    for _ in range(MAX_LEVELS):
        below: list[Path] = []
        for each in level:
            looked_into += 1
            if looked_into > MAX_FOLDERS:
                return None
            entries = _entries(each)
            if any(_is_file(entry) and (is_weight_file(entry.name) or _holds_weights(entry)) for entry in entries):
                return each
            below += [entry for entry in entries if _is_folder(entry) and not _is_link(entry)]
        level = below
    return None


def _holds_weights(path: Path) -> bool:
    """As `holds_weights`, of a file that may lie in another rank's folder than the one that is read; no link is followed."""
    with confined_to(None):
        return not _is_link(path) and holds_weights(path)


def _subfolders(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder) if _is_folder(entry)]


# Unlike those of pathlib, these raise nothing: a folder that may not be looked into is no rank.


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112


def _is_link(path: Path) -> bool:
    return os.path.islink(path)  # noqa: PTH114


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
