"""A folder of hostile and broken files beside one good model: the good one is in, each other one has its line, nothing is run,
and neither time nor memory follow what the files claim."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

import layerhouse as lh
from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.registry import read_weight_file
from layerhouse.tests.running import CLEAN
from layerhouse.tests.test_containers import ONE, legacy, tar_bytes
from layerhouse.tests.weight_files import (
    entry,
    p_call,
    p_dict,
    p_file,
    p_global,
    p_tensor,
    p_text,
    safetensors_bytes,
    torch_zip_bytes,
    zip_bytes,
)

HARNESS = Path(__file__).resolve().parents[2] / "shared/data/harness/malformed"
LIMIT = "limit exceeded: "
MILLION = 1 << 20
# A process begins with the peak of the one that starts it, which is this one's unless another one stands between.
SMALL_PARENT = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"


def module(parameters: bytes = b"}", modules: bytes = b"}") -> bytes:
    return p_global("a", "B") + b")\x81" + p_dict({"_parameters": parameters, "_modules": modules}) + b"b"


def shared_modules(levels: int) -> bytes:
    value = module(p_dict({"w": p_tensor()}))
    for _ in range(levels):
        value = module(modules=p_dict({"a": value + b"q\x01", "b": b"h\x01"}))
    return value


def pairs_bomb() -> bytes:
    """One list of pairs in the memo, made into an OrderedDict again and again."""
    make = p_global("collections", "OrderedDict") + b"q\x01"
    return make + b"0](" + b"NN\x86" * 200_000 + b"e\x85q\x020(" + b"h\x01h\x02R" * 10_000 + b"t"


def shape_bomb() -> bytes:
    """One shape of very many dimensions in the memo, in very many tensors."""
    make = p_global("torch._utils", "_rebuild_tensor") + b"q\x02"
    return b"(" + b"K\x01" * 400_000 + b"tq\x010" + make + b"0(" + b"h\x02(NK\x00h\x01h\x01tR" * 200_000 + b"t"


def dicts_bomb() -> bytes:
    """Many names for one dict of many numbers, which may or may not hold a tensor."""
    many = b"}(" + b"".join(p_text(f"k{i}") + b"N" for i in range(50_000)) + b"uq\x01"
    return p_dict({"x": many, **{f"d{i}": b"h\x01" for i in range(50_000)}})


def hqq_bomb() -> bytes:
    """Many names for one module of HQQ, which has many entries."""
    many = {"W_q": p_tensor(), "shape": b")", **{f"k{i}": b"N" for i in range(5000)}}
    return p_dict({"x": p_dict(many) + b"q\x01", **{f"m{i}": b"h\x01" for i in range(5000)}})


def hqq_of_hqq_bomb() -> bytes:
    """Many names for one dict of many dicts, one of which may be a module of HQQ."""
    many = b"}(" + b"".join(p_text(f"k{i}") + b"}" for i in range(50_000)) + b"uq\x01"
    return p_dict({"x": many, **{f"d{i}": b"h\x01" for i in range(50_000)}})


def children_bomb() -> bytes:
    """Many children of a module that are no modules, and one list of many numbers in all of them."""
    many = b"](" + b"K\x01" * 300_000 + b"eq\x010"
    child = p_global("a", "B") + b")\x81(h\x01tb"
    children = p_dict({f"c{i}": child for i in range(3000)})
    return many + module(p_dict({"w": p_tensor()}), children)


def inflating_zip(path: Path) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("m/data.pkl", "w", force_zip64=True) as member,
    ):
        for _ in range(256):
            member.write(bytes(MILLION))


# Made when they are used: together they are some hundred MiB.
BOMBS = {
    "opcodes": lambda: b"(" + b"N0" * (4 * MILLION),
    "appends": lambda: b"]" + b"Na" * (4 * MILLION),
    "stack": lambda: b"(" + b"K\x05" * (4 * MILLION),
    "marks": lambda: b"(" * (4 * MILLION),
    "dicts": lambda: b"(" + b"}" * (4 * MILLION),
    "memo": lambda: b"N" + b"\x94" * (4 * MILLION),
    "doubling": lambda: b"N" + b"q\x01h\x01\x86" * (2 * MILLION),
    "stubs": lambda: b"](" + p_global("os", "system") + b"q\x01" + b"h\x01)R0" * (2 * MILLION),
    "states": lambda: p_global("os", "system") + b")\x81" + b"}b" * (2 * MILLION),
    "no utf-8": lambda: b"X" + struct.pack("<I", 32 * MILLION) + b"\xff" * (32 * MILLION),
    "pairs": pairs_bomb,
    "modules": lambda: shared_modules(30),
    "modules and more": lambda: p_dict({"model": shared_modules(30), "more": p_dict({f"x{i}": b"}" for i in range(200_000)})}),
    "names": lambda: p_dict({"w" * 5000: p_tensor()}),
    "modules of hqq": hqq_bomb,
    "large": lambda: b"(" + b"X" + struct.pack("<I", 80 * MILLION) + bytes(80 * MILLION),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_ends_by_a_named_limit(tmp_path, name):
    path = tmp_path / "m.bin"
    path.write_bytes(torch_zip_bytes(BOMBS[name]()))
    with pytest.raises(InputError) as caught:
        read_weight_file(path, "m.bin")
    assert LIMIT in str(caught.value)
    assert len(str(caught.value)) < 200


SHARED = {"shapes": shape_bomb, "dicts of dicts": dicts_bomb, "dicts of dicts of dicts": hqq_of_hqq_bomb}


@pytest.mark.parametrize("name", SHARED)
def test_what_is_shared_is_looked_at_once(tmp_path, name):
    """These end by themselves; they take hours if every use of a shared value is looked at."""
    path = tmp_path / "m.bin"
    path.write_bytes(torch_zip_bytes(SHARED[name]()))
    with pytest.raises(InputError):
        read_weight_file(path, "m.bin")


def test_what_children_of_a_module_share_is_looked_at_once(tmp_path):
    path = tmp_path / "m.bin"
    path.write_bytes(torch_zip_bytes(children_bomb()))
    started = time.process_time()
    assert [ref.name for ref in read_weight_file(path, "m.bin").tensors] == ["w"]
    assert time.process_time() - started < 10


@pytest.mark.parametrize("layers", [80])
def test_large_real_models_are_far_from_the_limits(tmp_path, layers):
    """A whole Llama of 80 layers, a state dict of a thousand tensors, and a slow tokenizer's vocabulary of 150,000 words."""
    import torch
    import transformers

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 16}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(num_hidden_layers=layers, **sizes))
    vocabulary = {f"token-{i}": i for i in range(150_000)}
    tokenizer = {"encoder": vocabulary, "decoder": {number: word for word, number in vocabulary.items()}}
    torch.save({"model": model, "tokenizer": tokenizer}, tmp_path / "m.bin")
    assert len(read_weight_file(tmp_path / "m.bin", "m.bin").tensors) == 3 + 9 * layers
    torch.save({f"w{i}": torch.ones(2) for i in range(1000)}, tmp_path / "m.bin")
    assert len(read_weight_file(tmp_path / "m.bin", "m.bin").tensors) == 1000


def hostile_files(folder: Path) -> None:
    """Thirty models, none of which can be taken."""
    touch = p_text(f"touch {folder / 'sentinel'}")
    call = p_call("os", "system", touch)
    cut = torch_zip_bytes(ONE)[:-30]
    files = {
        **{f"bomb {name}/m.bin": torch_zip_bytes(make()) for name, make in BOMBS.items() if name not in ("large", "dicts")},
        "call/m.bin": torch_zip_bytes(call),
        "call legacy/m.bin": legacy(call),
        "claim/m.bin": torch_zip_bytes(p_dict({"w": p_tensor(numel=2**40), "x": call})),
        "stride/m.bin": torch_zip_bytes(p_dict({"w": p_tensor(strides=(-3, 1)), "x": call})),
        "offset/m.bin": torch_zip_bytes(p_dict({"w": p_tensor(offset=2**62), "x": call})),
        "plain pickle/m.bin": p_file(call),
        "tar/m.bin": tar_bytes("sys_info", "pickle", "storages", "tensors"),
        "script/m.pt": zip_bytes({"m/data.pkl": p_file(call), "m/code/x.py": b"import os"}),
        "alien/m.bin": zip_bytes({"a.txt": b"x"}),
        "cut/m.bin": cut,
        "cut legacy/m.bin": legacy(ONE)[:-3],
        "html/model.safetensors": b"<!DOCTYPE html>",
        "xml/model.safetensors": b"<?xml version='1.0'?><Error/>",
        "empty/model.safetensors": b"",
        "lfs/model.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99\n",
        "length/model.safetensors": struct.pack("<Q", 2**40) + b"{}",
        "deep/model.safetensors": safetensors_bytes(b'{"a":' + b"[" * 100_000),
        "lists/model.safetensors": safetensors_bytes(b'{"a":[' + b"[]," * (8 * MILLION) + b"[]]}"),
        "many/model.safetensors": safetensors_bytes(
            json.dumps({f"{i}": entry("U8", [0], 0, 0) for i in range(300_000)}).encode()
        ),
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    (folder / "inflating").mkdir()
    inflating_zip(folder / "inflating/m.bin")
    (folder / "index of lists").mkdir()
    (folder / "index of lists/m.index.json").write_bytes(b"[" + b"[]," * (8 * MILLION) + b"[]]")
    shutil.copy(folder / "good/model.safetensors", folder / "index of lists/x.safetensors")
    (folder / "outside").mkdir()
    index = {"weight_map": {"w": "../good/model.safetensors"}}
    (folder / "outside/model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(folder / "good/model.safetensors", folder / "outside/other.safetensors")


def test_one_good_model_among_many_hostile_ones_is_in(tmp_path):
    models = tmp_path / "models"
    (models / "good").mkdir(parents=True)
    (models / "good/model.safetensors").write_bytes(safetensors_bytes({"w": entry("F32", [2, 3], 0, 24)}, bytes(24)))
    hostile_files(models)
    count = len(list(models.iterdir())) - 1
    assert count > 30
    code = (
        "import resource, sys\nfrom layerhouse.cli import main\ntry:\n    main()\nfinally:\n"
        "    print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", SMALL_PARENT, sys.executable, "-c", code, "ingest", "models", "--threads", "2"],
        cwd=tmp_path,
        env=CLEAN,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 1
    failures = [line for line in done.stderr.splitlines() if line.startswith("FAILED")]
    assert len(failures) == count
    assert {line.split("models/")[1].split("/")[0].split(":")[0] for line in failures} == {
        path.name for path in models.iterdir() if path.name != "good"
    }
    assert f"1 taken, {count} failed" in done.stderr
    assert not (models / "sentinel").exists()
    assert int(done.stdout.split("peak")[1]) < 500
    assert lh.open(tmp_path / "layerhouse-data").sql("SELECT model_id FROM models").rows() == [("models/good",)]


@pytest.mark.skipif(not HARNESS.is_dir(), reason=f"{HARNESS} is not there")
@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("duplicate_keys_in_header.safetensors", "duplicate"),
        ("header_size_too_big.safetensors", "header"),
        ("zero_len_file.safetensors", "an empty file of 0 bytes where a safetensors file was expected; fetch it again"),
    ],
)
def test_malformed_files_that_others_published_are_refused(name, what):
    with pytest.raises(InputError, match=what):
        read_weight_file(HARNESS / name, name)
