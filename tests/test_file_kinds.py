"""Binary files are told by their first bytes and called what they are, wherever they lie and whatever their suffix."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import random
import sqlite3
import struct
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet
import pytest

import layerhouse as lh
from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.kinds import ADVICE, NOT_READ, READ_AS_WEIGHTS, TEXTS, Kind
from layerhouse.ingest.checkpoint.containers.registry import read_weight_file
from layerhouse.ingest.checkpoint.containers.sniff import sniff, unread_weights
from layerhouse.ingest.results.documents import read_document
from layerhouse.tests.study_files import lines, plan, put
from layerhouse.tests.weight_files import entry, p_dict, p_global, p_tensor, safetensors_bytes, torch_zip_bytes, zip_bytes

TABLE = pa.table({"model": ["a"] * 50, "value": range(50)})
ONE_TENSOR = safetensors_bytes({"w": entry("F32", [2], 0, 8)}, bytes(8))
ARRAY = np.ones((3, 4))


def written(write) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def database() -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE results (model TEXT)")
    return connection.serialize()


def tar() -> bytes:
    def write(buffer) -> None:
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("config.json"))

    return written(write)


def arrow_stream(buffer) -> None:
    with pa.ipc.new_stream(buffer, TABLE.schema) as stream:
        stream.write(TABLE)


def arrow_file(buffer) -> None:
    with pa.ipc.new_file(buffer, TABLE.schema) as file:
        file.write(TABLE)


# The first bytes of formats whose packages are not here, as their own programs write them.
ONNX = b'\x08\x08\x12\x07pytorch\x1a\x052.1.0:\xd2\x03\n\x1d\n\x05input\x12\x06output\x1a\x04node"\x06MatMul'
ONNX_WITHOUT_PRODUCER = b'\x08\x0a\x3a\x8f\x02\x0a\x0c\x0a\x01x\x0a\x01w\x12\x01y"\x03Add'
SAVED_MODEL = b"\x08\x01\x12\xf3\x0b\x0a\xd3\x02\x12\x05serve*\x062.15.0"
SENTENCEPIECE = b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02\n\f\n\x03<s>\x15\0\0\0\0\x18\x03"
FLAX = b"\x82\xa5model\x81\xacembed_tokens\x81\xa9embedding\xc7\x88\x01\x93\x92\x04\x08\xa7float32"
FLAX_LONG = b"\xde\x00\x11\xd9\x2dtransformer_wte_embedding_of_a_long_long_name\xc7\x88\x01"
FILES: dict[str, tuple[bytes, Kind]] = {
    "onnx": (ONNX, Kind.ONNX),
    "onnx without producer": (ONNX_WITHOUT_PRODUCER, Kind.ONNX),
    "saved_model.pb": (SAVED_MODEL, Kind.TENSORFLOW),
    "sentencepiece": (SENTENCEPIECE, Kind.SENTENCEPIECE),
    "flax": (FLAX, Kind.MSGPACK),
    "flax long": (FLAX_LONG, Kind.MSGPACK),
    "keras h5": (b"\x89HDF\r\n\x1a\n\0\0\0\0\0\x08\x08\0", Kind.HDF5),
    "keras zip": (zip_bytes({"metadata.json": b"{}", "config.json": b"{}", "model.weights.h5": b"x"}), Kind.KERAS),
    "tflite": (b"\x1c\0\0\0TFL3\x14\0\x20\0\x1c\0", Kind.TFLITE),
    "ggml": (b"tjgg\x03\0\0\0\0\x7d\0\0", Kind.GGML),
    "npy": (written(lambda buffer: np.save(buffer, ARRAY)), Kind.NUMPY),
    "npz": (written(lambda buffer: np.savez(buffer, weight=ARRAY)), Kind.NUMPY_ZIP),
    "pickle": (pickle.dumps({"a": [1, 2]}), Kind.PICKLE),
    "torchscript": (zip_bytes({"m/data.pkl": b"N.", "m/code/x.py": b"", "m/constants.pkl": b"N."}), Kind.TORCHSCRIPT),
    "torch export": (zip_bytes({"m/archive_format": b"pt2", "m/models/model.json": b"{}"}), Kind.TORCH_EXPORT),
    "torch export before": (zip_bytes({"serialized_exported_program.json": b"{}", "version": b"1"}), Kind.TORCH_EXPORT),
    "zip": (zip_bytes({"a/config.json": b"{}"}), Kind.OTHER_ZIP),
    "empty zip": (zip_bytes({}), Kind.OTHER_ZIP),
    "xlsx": (zip_bytes({"[Content_Types].xml": b"", "xl/workbook.xml": b""}), Kind.WORKBOOK),
    "docx": (zip_bytes({"[Content_Types].xml": b"", "word/document.xml": b""}), Kind.OLE),
    "tar": (tar(), Kind.TAR),
    "gzip": (gzip.compress(b"model,task,metric,value\n" * 9), Kind.GZIP),
    "bzip2": (bz2.compress(b"model,task\n" * 99), Kind.BZIP2),
    "xz": (lzma.compress(b"model,task\n" * 99), Kind.XZ),
    "zstd": (pa.compress(b"model,task\n" * 99, "zstd", asbytes=True), Kind.ZSTD),
    "lz4": (pa.compress(b"model,task\n" * 99, "lz4", asbytes=True), Kind.LZ4),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\x04", Kind.SEVEN_ZIP),
    "rar": (b"Rar!\x1a\x07\x01\0", Kind.RAR),
    "parquet": (written(lambda buffer: pyarrow.parquet.write_table(TABLE, buffer)), Kind.PARQUET),
    "arrow file": (written(arrow_file), Kind.ARROW),
    "arrow stream": (written(arrow_stream), Kind.ARROW),
    "feather": (written(lambda buffer: pyarrow.feather.write_feather(TABLE, buffer)), Kind.ARROW),
    "orc": (written(lambda buffer: pyarrow.orc.write_table(TABLE, buffer)), Kind.ORC),
    "avro": (b"Obj\x01\x04\x14avro.codec", Kind.AVRO),
    "sqlite": (database(), Kind.SQLITE),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16), Kind.OLE),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", Kind.PDF),
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", Kind.IMAGE),
    "jpeg": (b"\xff\xd8\xff\xe0\0\x10JFIF\0", Kind.IMAGE),
    "gif": (b"GIF89a\x01\0\x01\0\x80\0\0", Kind.IMAGE),
    "webp": (b"RIFF\x24\0\0\0WEBPVP8 \x18\0\0\0", Kind.IMAGE),
    "wav": (b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0", Kind.MEDIA),
    "mp4": (b"\0\0\0\x20ftypisom\0\0\x02\0", Kind.MEDIA),
    "elf": (b"\x7fELF\x02\x01\x01" + bytes(9), Kind.PROGRAM),
    "exe": (b"MZ\x90\0\x03\0\0\0\x04\0\0\0\xff\xff\0\0", Kind.PROGRAM),
    "zim": (b"ZIM\x04\x05\0\0\0", Kind.ZIM),
}
UNKNOWN = {
    "random": (random.Random(1).randbytes(4000), Kind.BINARY),
    "numbers": (struct.pack("<64f", *range(64)), Kind.BINARY),
    "utf-16": ("\ufeffmodel,task,metric,value\n".encode("utf-16"), Kind.UTF16),
    "utf-16 without a mark": ("model,task,metric,value\n".encode("utf-16-le"), Kind.UTF16),
}
PAGES = {"page": (b"<!DOCTYPE html><html>", Kind.HTML), "error": (b"<?xml version='1.0'?><Error/>", Kind.XML)}


def refusal(tmp_path, name: str, content: bytes) -> str:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_document(tmp_path / name, name)
    assert "\n" not in str(caught.value)
    return caught.value.what


@pytest.mark.parametrize("name", FILES)
def test_each_kind_is_told_by_its_first_bytes(tmp_path, name):
    content, kind = FILES[name]
    (tmp_path / "m.bin").write_bytes(content)
    assert sniff(tmp_path / "m.bin", "m.bin").kind is kind
    with pytest.raises(InputError) as caught:
        read_weight_file(tmp_path / "m.bin", "m.bin")
    assert caught.value.what.startswith(str(kind))
    assert caught.value.what.endswith(f"; {ADVICE[kind]}")


@pytest.mark.parametrize("suffix", [".csv", ".txt", ".json", ".jsonl", ".log", ".dat"])
@pytest.mark.parametrize("name", FILES | UNKNOWN | PAGES)
def test_a_file_that_holds_no_text_is_never_called_a_result_of_an_unknown_form(tmp_path, name, suffix):
    content, kind = (FILES | UNKNOWN | PAGES)[name]
    assert refusal(tmp_path, f"file{suffix}", content) == f"{kind}: not read; {ADVICE[kind]}"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (ONE_TENSOR, "weights (safetensors), not results: give the file the suffix .safetensors"),
        (torch_zip_bytes(p_dict({"w": p_tensor()})), "weights (torch zip), not results: give the file the suffix .bin"),
        (b"GGUF\x03\0\0\0" + bytes(16), "weights (GGUF), not results: give the file the suffix .gguf"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99\n",
            "a Git LFS pointer, not the file of 99 bytes; fetch it with: git lfs pull",
        ),
    ],
    ids=["safetensors", "torch", "gguf", "pointer"],
)
def test_weights_under_another_name_are_called_weights(tmp_path, content, what):
    assert refusal(tmp_path, "results.csv", content) == what


@pytest.mark.parametrize("name", ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth"])
def test_the_state_of_a_training_run_is_called_so_where_the_user_names_it_and_passes_quietly_beside_a_model(tmp_path, name):
    import torch

    put(tmp_path / "m/model.safetensors", ONE_TENSOR)
    torch.save({"state": {}, "param_groups": [{"lr": 0.1}]}, tmp_path / "m" / name)
    (line,) = lines(plan(tmp_path / "m" / name))
    assert line.endswith(f"m/{name}: state of a training run: not read; it holds no weights of a model: name the weights")
    assert [line.split()[0] for line in lines(plan(tmp_path / "m"))] == ["planned"]


@pytest.mark.parametrize("name", ["results.csv", "results.json", "run.log"])
def test_binary_files_beside_a_model_pass_quietly_or_are_named_by_their_kind(tmp_path, name):
    put(tmp_path / "m/model.safetensors", ONE_TENSOR)
    put(tmp_path / "m/evaluation" / name, ONNX)
    put(tmp_path / "m/model.onnx", ONNX)
    put(tmp_path / "m/tokenizer.model", SENTENCEPIECE)
    report = lh.ingest(tmp_path / "m", warehouse=tmp_path / "w")
    failures = [str(event.what) for event in report.events if event.kind == "failed"]
    assert failures == [f"{Kind.ONNX}: not read; {ADVICE[Kind.ONNX]}"]
    assert report.count("taken") == 1


def test_texts_that_begin_like_other_kinds_stay_texts(tmp_path):
    for text in (
        *("GGUF conversion log\n", "results,DUCK\n", "PAR1,task\n", "ORC,1\n", "MZ,1\n", "BZh91AY&SY is a magic number\n"),
        *("\n#\n# a log\n", "\n\n\n\u4e2d\n", "RIFF raff WAVE\n", "the ftyp box\n", "\x1b[32mloss\x1b[0m 1.5\n", "II* notes\n"),
    ):
        (tmp_path / "a.log").write_text(text)
        assert read_document(tmp_path / "a.log", "a.log")[1] == text
    (tmp_path / "a.log").write_bytes("perplexité,ü\n".encode("latin-1") * 9)
    assert read_document(tmp_path / "a.log", "a.log")[1].startswith("perplexit")


def test_every_kind_has_an_advice_or_is_read():
    assert {kind for kind in Kind if kind not in ADVICE} == {*READ_AS_WEIGHTS, Kind.LFS_POINTER}
    assert not NOT_READ & (TEXTS | READ_AS_WEIGHTS.keys())
    named = {kind for _, kind in (FILES | UNKNOWN | PAGES).values()}
    assert NOT_READ - named <= {Kind.TORCH_TAR, Kind.DUCKDB}


def test_a_zip_of_numpy_arrays_is_no_torch_file_and_zip_members_decide(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("m/data.pkl", b"N.")
        archive.writestr("m/archive_format", b"pt2")
    (tmp_path / "m.pt").write_bytes(buffer.getvalue())
    assert sniff(tmp_path / "m.pt", "m").kind is Kind.TORCH_EXPORT


def test_weights_that_are_not_read_are_found_in_a_folder(tmp_path):
    put(tmp_path / "README.txt", "text")
    put(tmp_path / "notes.h5", "text after all")
    put(tmp_path / "model.onnx", ONNX)
    files = sorted(tmp_path.iterdir())
    assert unread_weights(files, "m") == f"model.onnx: {Kind.ONNX}: not read; {ADVICE[Kind.ONNX]}"
    assert unread_weights([path for path in files if path.suffix != ".onnx"], "m") is None


@pytest.mark.parametrize(
    ("value", "state"),
    [
        ("{'state': {}, 'param_groups': [{'lr': 0.1}]}", "the state of an optimizer"),
        ("{'last_epoch': 3, '_step_count': 4, 'base_lrs': [0.1]}", "the state of a learning-rate schedule"),
        ("{'python': (3, (1, 2), None), 'numpy': ('MT19937',), 'cpu': None}", "the states of random numbers"),
    ],
)
def test_the_state_of_a_training_run_under_the_name_of_weights_is_called_so(tmp_path, value, state):
    import ast

    import torch

    torch.save(ast.literal_eval(value), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=f"no tensor found in it, but a dict of .*: {state}, not a model"):
        read_weight_file(tmp_path / "pytorch_model.bin", "m")


def test_the_arguments_of_a_training_run_under_the_name_of_weights_are_called_so(tmp_path):
    value = p_global("transformers.training_args", "TrainingArguments") + b")\x81}b"
    put(tmp_path / "model.bin", torch_zip_bytes(value))
    with pytest.raises(InputError, match=r"training_args.TrainingArguments: the arguments of a training run, not a model"):
        read_weight_file(tmp_path / "model.bin", "m")


def test_a_folder_whose_only_weights_are_not_read_is_named_by_their_kind(tmp_path):
    for folder, has_config in (("zoo/exported", True), ("zoo/bare", False), ("zoo/other", False)):
        (tmp_path / folder).mkdir(parents=True)
        if has_config:
            (tmp_path / folder / "config.json").write_text("{}")
    for folder in ("exported", "bare"):
        (tmp_path / "zoo" / folder / "model.onnx").write_bytes(ONNX)
    (tmp_path / "zoo/other/notes.md").write_text("nothing")
    report = lh.ingest([tmp_path / "zoo"], warehouse=tmp_path / "w")
    said = {event.where.rpartition("/")[2]: (str(event.kind), event.what) for event in report.events}
    named = f"model.onnx: {Kind.ONNX}: not read; {ADVICE[Kind.ONNX]}"
    assert said["exported"] == ("failed", named)
    assert said["bare"] == ("passed", named)
    assert said["other"] == ("passed", "no weights, no analysis, no results")
