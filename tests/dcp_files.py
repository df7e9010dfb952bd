"""Builds checkpoints of torch.distributed.checkpoint as several ranks write them, without ranks: chunks, files and metadata."""

from __future__ import annotations

import io
import itertools
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Cuts = Mapping[str, Sequence[Sequence[int]]]
"""Of a tensor: for every axis the indices at which it is cut."""


def write_dcp(
    folder: Path,
    tensors: Mapping[str, Any],
    cuts: Cuts | None = None,
    *,
    files: int = 1,
    paths: Mapping[str, tuple[Any, ...]] | None = None,
    edit: Callable[[Any], None] = lambda metadata: None,
) -> Path:
    """Write tensors, each cut into chunks that go to the files in turn. `paths` are those of nested names; `edit` changes the
    metadata before they are written.
    """
    import torch
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import (
        BytesStorageMetadata,
        ChunkStorageMetadata,
        Metadata,
        MetadataIndex,
        TensorProperties,
        TensorStorageMetadata,
    )

    folder.mkdir(parents=True, exist_ok=True)
    blobs = [io.BytesIO() for _ in range(files)]
    described: dict[str, Any] = {}
    stored: dict[Any, Any] = {}
    turn = itertools.cycle(range(files))

    def store(value: Any, index: Any) -> None:
        number = next(turn)
        begin = blobs[number].tell()
        torch.save(value, blobs[number])
        stored[index] = _StorageInfo(f"__{number}_0.distcp", begin, blobs[number].tell() - begin)

    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            described[name] = BytesStorageMetadata()
            store(tensor, MetadataIndex(name))
            continue
        own = (cuts or {}).get(name, [()] * tensor.dim())
        spans = [list(itertools.pairwise([0, *at, size])) for at, size in zip(own, tensor.shape, strict=True)]
        chunks = []
        for block in itertools.product(*spans):
            origin = torch.Size(first for first, _ in block)
            part = tensor[tuple(slice(first, last) for first, last in block)].clone()
            chunks.append(ChunkStorageMetadata(origin, part.shape))
            store(part, MetadataIndex(name, origin, len(chunks) - 1))
        described[name] = TensorStorageMetadata(TensorProperties.create_from_tensor(tensor), tensor.shape, chunks)
    planned = {name: (paths or {}).get(name, (name,)) for name in tensors}
    metadata = Metadata(described, planned, stored, version="1.0.0")
    edit(metadata)
    for number, blob in enumerate(blobs):
        (folder / f"__{number}_0.distcp").write_bytes(blob.getvalue())
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    return folder
