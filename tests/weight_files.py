"""Builders of small weight files, valid and hostile, and a reference implementation of reading a tensor."""

from __future__ import annotations

import io
import json
import random
import struct
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

MODEL_SOURCE = """
import torch

class Config:
    def __init__(self):
        self.hidden_size, self.rms_norm_eps, self.layers, self.dtype = 8, 1e-6, (1, 2), torch.float16
        self.names, self.hook, self.inner = {0: "a", "b": None}, print, Inner()

class Inner:
    def __init__(self):
        self.depth = 3

class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = torch.nn.Linear(8, 6, bias=False)
        self.register_buffer("mask", torch.tril(torch.ones(4, 4)))
        self.register_buffer("inv_freq", torch.arange(4.0), persistent=False)
        self.register_buffer("absent", None)
        self.act = torch.nn.SiLU()

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.config = Config()
        self.embed = torch.nn.Embedding(12, 8)
        self.blocks = torch.nn.ModuleList([Block(), Block()])
        self.head = torch.nn.Linear(8, 12, bias=False)
        self.head.weight = self.embed.weight
        self.register_parameter("gone", None)

class Tokenizer:
    def __init__(self):
        self.vocab = {f"token{i}": i for i in range(50)}
"""


def save_vanished(path: Path, make: str = "Model()", **options: Any) -> Any:
    """torch.save the value of an expression over MODEL_SOURCE, then delete the module of its classes. Returns the value."""
    import torch

    module = types.ModuleType("vanished")
    sys.modules["vanished"] = module
    try:
        exec(MODEL_SOURCE, module.__dict__)
        saved = eval(make, module.__dict__)  # noqa: S307 - an expression of this file's callers
        torch.save(saved, path, **options)
    finally:
        del sys.modules["vanished"]
    return saved


def stored_values(ref: Any) -> bytes:
    """The tensor's bytes in C order, read by its path, offset and strides alone."""
    import numpy as np

    from layerhouse.ingest.checkpoint.dtypes import DTYPES

    with ref.path.open("rb") as file:
        file.seek(ref.offset)
        raw = file.read(ref.storage_bytes)
    if ref.strides is None:
        width = DTYPES[ref.dtype].bits
        return raw[ref.storage_offset * width // 8 :][: ref.logical_bytes]
    width = DTYPES[ref.dtype].bits // 8
    storage = np.frombuffer(raw, np.dtype(f"V{width}"))[ref.storage_offset :]
    return np.lib.stride_tricks.as_strided(storage, ref.shape, [stride * width for stride in ref.strides]).tobytes()


def torch_values(tensor: Any) -> bytes:
    """A torch tensor's bytes in C order."""
    import torch

    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def safetensors_bytes(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A file of this header (a JSON value, or raw bytes) and data."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


# A pickle assembler, protocol 2: each function returns opcodes that push one value.


def p_text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def p_int(value: int) -> bytes:
    raw = value.to_bytes((value.bit_length() // 8) + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def p_tuple(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def p_dict(entries: dict[str, bytes]) -> bytes:
    return b"}(" + b"".join(p_text(key) + value for key, value in entries.items()) + b"u"


def p_global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def p_call(module: str, name: str, *arguments: bytes) -> bytes:
    return p_global(module, name) + p_tuple(*arguments) + b"R"


def p_tensor(
    shape: tuple[int, ...] = (2, 3),
    strides: tuple[int, ...] = (3, 1),
    *,
    offset: int = 0,
    key: str = "0",
    numel: int = 6,
    storage: tuple[str, str] = ("torch", "FloatStorage"),
) -> bytes:
    """A tensor as torch pickles it, with these claims."""
    parts = (p_text("storage"), p_global(*storage), p_text(key), p_text("cpu"), p_int(numel))
    sizes = (p_tuple(*map(p_int, shape)), p_tuple(*map(p_int, strides)))
    hooks = p_global("collections", "OrderedDict") + b")R"
    return p_call("torch._utils", "_rebuild_tensor_v2", p_tuple(*parts) + b"Q", p_int(offset), *sizes, b"\x89", hooks)


def p_file(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


def zip_bytes(members: dict[str, bytes], *, deflated: tuple[str, ...] = ()) -> bytes:
    """A zip of these members, uncompressed except for the deflated ones."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, raw in members.items():
            member = zipfile.ZipInfo(name)  # without a time: test processes name their tests after such bytes
            archive.writestr(member, raw, zipfile.ZIP_DEFLATED if name in deflated else zipfile.ZIP_STORED)
    return buffer.getvalue()


def torch_zip_bytes(value: bytes, storages: dict[str, bytes] | None = None, **options: Any) -> bytes:
    """A torch zip with the assembled value as its data.pkl, and with one storage of 24 bytes unless others are given."""
    storages = {"0": bytes(range(24))} if storages is None else storages
    members = {"m/data.pkl": p_file(value), "m/byteorder": b"little"}
    return zip_bytes({**members, **{f"m/data/{key}": raw for key, raw in storages.items()}, "m/version": b"3\n"}, **options)


def mutated(random_source: random.Random, whole: bytes) -> bytes:
    """The bytes with a few of them changed, or with a part cut off, removed or doubled."""
    raw = bytearray(whole)
    kind = random_source.randrange(4)
    at, to = sorted(random_source.randrange(len(raw) + 1) for _ in range(2))
    if kind == 0:
        return bytes(raw[:at])
    if kind == 1:
        return bytes(raw[:at] + raw[to:])
    if kind == 2:
        return bytes(raw[:to] + raw[at:])
    for _ in range(random_source.randint(1, 5)):
        raw[random_source.randrange(len(raw))] = random_source.choice((0, 255, random_source.randrange(256)))
    return bytes(raw)
