"""One weight set for each folder: the index has precedence, ignored files have a reason, and nothing outside is read."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

import layerhouse as lh
from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.weight_set import WeightSetContents, find_weight_set
from layerhouse.ingest.checkpoint.weight_set_reader import read_weight_set
from layerhouse.tests.test_package import loaded_after
from layerhouse.tests.weight_files import (
    entry,
    p_dict,
    p_tensor,
    safetensors_bytes,
    stored_values,
    torch_values,
    torch_zip_bytes,
)

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def shard(*names: str) -> bytes:
    """A safetensors file with tensors of two bytes, each the code of the first letter of its name."""
    header = {name: entry("U8", [2], 2 * i, 2 * i + 2) for i, name in enumerate(names)}
    return safetensors_bytes(header, b"".join(bytes([ord(name[0])] * 2) for name in names))


def torch_file(*names: str) -> bytes:
    return torch_zip_bytes(p_dict({name: p_tensor() for name in names}))


def index(weight_map: dict, **metadata) -> bytes:
    return json.dumps({"metadata": metadata, "weight_map": weight_map}).encode()


def folder_of(tmp_path: Path, files: dict[str, bytes]) -> Path:
    folder = tmp_path / "model"
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def weight_set_of(folder: Path):
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"]
    return find_weight_set(folder, files, "shown")


def read(folder: Path) -> WeightSetContents:
    return read_weight_set(weight_set_of(folder), "shown")


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


TWO_SHARDS = {
    FIRST: shard("a", "b"),
    SECOND: shard("c"),
    "model.safetensors.index.json": index({"a": FIRST, "b": FIRST, "c": SECOND}, total_size=6, total_parameters=6),
}


def test_the_index_wins_and_everything_else_is_ignored_with_a_reason(tmp_path):
    strays = {
        "model.safetensors": shard("a", "b", "c"),
        "pytorch_model.bin": torch_file("a"),
        "optimizer.pt": b"x",
        "training_args.bin": b"x",
        "scheduler.pt": b"x",
        "rng_state_0.pth": b"x",
        "adapter_model.safetensors": b"x",
        "notes.txt": b"x",
        "original/consolidated.00.pth": b"x",
    }
    folder = folder_of(tmp_path, {**TWO_SHARDS, **strays})
    weight_set = weight_set_of(folder)
    assert [path.name for path in weight_set.files] == [FIRST, SECOND]
    assert weight_set.index == folder / "model.safetensors.index.json"
    assert weight_set.index_metadata == {"total_size": 6, "total_parameters": 6}
    unnamed = "model.safetensors.index.json does not name it"
    state = "state of a training run, not a model"
    assert {path.relative_to(folder).as_posix(): reason for path, reason in weight_set.ignored} == {
        "model.safetensors": unnamed,
        "pytorch_model.bin": unnamed,
        "optimizer.pt": state,
        "training_args.bin": state,
        "scheduler.pt": state,
        "rng_state_0.pth": state,
        "adapter_model.safetensors": "an adapter beside a model",
        "notes.txt": "not a weight file by its name",
        "original/consolidated.00.pth": "in a folder below",
    }
    contents = read(folder)
    assert [(ref.name, ref.path.name) for ref in contents.tensors] == [("a", FIRST), ("b", FIRST), ("c", SECOND)]
    assert [stored_values(ref) for ref in contents.tensors] == [b"aa", b"bb", b"cc"]
    assert (contents.containers, contents.notes, contents.skipped) == (("safetensors",), (), ())


def test_an_absent_shard_is_named_with_the_tensors_it_holds(tmp_path):
    files = {**TWO_SHARDS, "model.safetensors": shard("a")}
    del files[FIRST]
    where = "shown/model.safetensors.index.json"
    assert refusal(folder_of(tmp_path, files)) == f"{where}: names shard '{FIRST}' of 2 tensors, which is not there; fetch it"
    (tmp_path / "model" / SECOND).unlink()
    (tmp_path / "model/model.safetensors").unlink()
    what = f"names shard '{FIRST}' of 2 tensors, which is not there; 2 of 2 shards are missing; fetch it"
    assert refusal(tmp_path / "model") == f"{where}: {what}"
    (tmp_path / "model/adapter_model.bin").write_bytes(torch_file("a"))
    assert refusal(tmp_path / "model") == f"{where}: {what}"


def test_an_index_without_any_of_its_shards_is_passed_over(tmp_path):
    old = index({"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"})
    folder = folder_of(tmp_path, {"pytorch_model.bin.index.json": old, "model.safetensors": shard("a", "b")})
    weight_set = weight_set_of(folder)
    assert [path.name for path in weight_set.files] == ["model.safetensors"]
    assert weight_set.ignored == ((folder / "pytorch_model.bin.index.json", "none of its 2 shards is here"),)


def test_of_several_indexes_the_safetensors_one_is_taken(tmp_path):
    others = {name: index({"x": "x.bin"}) for name in ("aaa.index.json", "pytorch_model.bin.index.json")}
    folder = folder_of(tmp_path, {**TWO_SHARDS, **others, "x.bin": torch_file("x")})
    weight_set = weight_set_of(folder)
    assert weight_set.index.name == "model.safetensors.index.json"
    assert ("aaa.index.json", "model.safetensors.index.json is taken") in [(p.name, why) for p, why in weight_set.ignored]


def test_tensors_that_the_index_does_not_name_are_noted_and_not_counted(tmp_path):
    files = {**TWO_SHARDS, SECOND: shard("c", "extra", "more")}
    contents = read(folder_of(tmp_path, files))
    assert [ref.name for ref in contents.tensors] == ["a", "b", "c"]
    assert contents.notes == ("not in the index: 2 tensors, 'extra', 'more'",)


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        (("a",), ("c",), f"index.json: names 1 tensors that no shard holds, 'b'; {FIRST} should hold the first"),
        (("a", "b"), ("c", "a"), f"shown: tensor 'a' is in {FIRST} and in {SECOND}"),
        (("a",), ("c", "b"), f"index.json: names '{FIRST}' for tensor 'b', which is in {SECOND}"),
    ],
)
def test_shards_that_contradict_the_index_are_refused(tmp_path, first, second, what):
    files = {**TWO_SHARDS, FIRST: shard(*first), SECOND: shard(*second)}
    assert refusal(folder_of(tmp_path, files)).endswith(what)


@pytest.mark.parametrize(
    ("document", "what"),
    [
        (b"[]", "no weight_map of tensors to shards in the index"),
        (b"{}", "no weight_map of tensors to shards in the index"),
        (b'{"weight_map": {}}', "no weight_map of tensors to shards in the index"),
        (b'{"weight_map": {"a": 3}}', "weight_map: the shard of tensor 'a' is not a text"),
        (b'{"weight_map": {"a": "x", "a": "y"}}', "duplicate key 'a'"),
        (b"version https", "invalid JSON: Expecting value at line 1, column 1"),
    ],
)
def test_malformed_indexes_are_refused(tmp_path, document, what):
    assert refusal(folder_of(tmp_path, {"model.safetensors.index.json": document})).endswith(what)


@pytest.mark.parametrize(
    ("declared", "notes"),
    [
        *((size, []) for size in (6, 6.0, "6", "0006", None)),
        *((size, ["the index declares 7 bytes, the tensors have 6"]) for size in (7, 7.0, "7")),
        (6.5, ["the index declares total_size '6.5', which is no number of bytes"]),
        ("6 GB", ["the index declares total_size '6 GB', which is no number of bytes"]),
        (True, ["the index declares total_size 'True', which is no number of bytes"]),
        ("9" * 500, [f"the index declares total_size '{'9' * 40}', which is no number of bytes"]),
        (10**400, [f"the index declares {10**39} bytes, the tensors have 6"]),
    ],
)
def test_a_declared_size_is_compared_also_as_text(tmp_path, declared, notes):
    files = {"m.index.json": index({"a": "a.safetensors"}, total_size=declared), "a.safetensors": shard("a")}
    weight_set = weight_set_of(folder_of(tmp_path, files))
    assert weight_set.declared_notes(6, 3) == notes


def test_declared_parameters_are_compared_and_what_is_declared_is_kept(tmp_path):
    for name, metadata in (("right", {"total_parameters": "3"}), ("wrong", {"total_parameters": 4, "total_size": "12"})):
        weights = safetensors_bytes({"a": entry("F16", [3], 0, 6)}, bytes(6))
        folder_of(tmp_path / name, {"m.index.json": index({"a": "a.safetensors"}, **metadata), "a.safetensors": weights})
    lh.ingest([tmp_path / "right", tmp_path / "wrong"], warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as wh:
        rows = wh.sql("SELECT notes, declared FROM current_checkpoints ORDER BY model_id").rows()
    declared = [[note["text"] for note in notes if note["code"] == "declared"] for notes, _ in rows]
    assert declared == [
        [],
        ["the index declares 12 bytes, the tensors have 6", "the index declares 4 parameters, the tensors have 3"],
    ]
    assert [json.loads(text)["index"] for _, text in rows] == [
        {"total_parameters": "3"},
        {"total_parameters": 4, "total_size": "12"},
    ]


@pytest.mark.parametrize(
    "name",
    ["../other/model.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ".", "", "sub\\x.safetensors", "a\0b", "./a"],
)
def test_shard_names_that_leave_the_folder_are_refused_by_name(tmp_path, name):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/model.safetensors").write_bytes(shard("a"))
    folder = folder_of(tmp_path, {"model.safetensors.index.json": index({"a": name}), "sub/x.safetensors": shard("a")})
    expected = f"shown/model.safetensors.index.json: names shard {name!r}, which is not a plain file name in this folder"
    assert refusal(folder) == expected


def test_a_link_is_followed_only_inside_its_folder_or_its_hub_repository(tmp_path):
    outside = tmp_path / "secret.safetensors"
    outside.write_bytes(shard("a"))
    folder = folder_of(tmp_path, {"m.index.json": index({"a": "a.safetensors"}), "b.safetensors": shard("a")})
    link = folder / "a.safetensors"
    link.symlink_to(outside)
    leads_out = "shown/m.index.json: names shard 'a.safetensors', a link that leads out of this folder"
    assert refusal(folder) == leads_out
    link.unlink()
    link.symlink_to("b.safetensors")
    assert len(read(folder).tensors) == 1

    for repository, blob, accepted in (
        ("models--org--name", "../../blobs/0a1b", True),
        ("models--org--other", "../../../models--org--name/blobs/0a1b", False),
        ("plain", "../../blobs/0a1b", False),
    ):
        snapshot = tmp_path / "hub" / repository / "snapshots/f00"
        snapshot.mkdir(parents=True)
        blobs = tmp_path / "hub" / repository / "blobs"
        blobs.mkdir()
        (blobs / "0a1b").write_bytes(shard("a"))
        (snapshot / "m.index.json").write_bytes(index({"a": "a.safetensors"}))
        (snapshot / "a.safetensors").symlink_to(blob)
        if accepted:
            assert len(read(snapshot).tensors) == 1
        else:
            assert refusal(snapshot) == leads_out


def test_a_link_in_a_loop_is_refused(tmp_path):
    folder = folder_of(tmp_path, {"m.index.json": index({"a": "a.safetensors"})})
    (folder / "a.safetensors").symlink_to("a.safetensors")
    assert refusal(folder).startswith("shown/m.index.json: names shard 'a.safetensors'")


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        ((FIRST, SECOND), [FIRST, SECOND]),
        ((FIRST, SECOND, "model.safetensors", "pytorch_model.bin"), ["model.safetensors"]),
        ((FIRST, SECOND, "other.bin", "other.safetensors"), [FIRST, SECOND]),
        ((FIRST, SECOND, "x-00001-of-00001.bin"), [FIRST, SECOND]),
        (("pytorch_model-00001-of-00001.bin", "notes.pt"), ["pytorch_model-00001-of-00001.bin"]),
        (("pytorch_model.bin", "pruned_model.bin", "a.safetensors"), ["pytorch_model.bin"]),
        (("consolidated.safetensors", "pytorch_model.bin"), ["consolidated.safetensors"]),
        (("tiny_0.25.pt",), ["tiny_0.25.pt"]),
        (("tiny.pt", "tiny.safetensors", "tiny.bin"), ["tiny.safetensors"]),
        (("tiny.pt", "optimizer.pt", "adapter_model.safetensors"), ["tiny.pt"]),
        (("adapter_model.safetensors", "optimizer.pt"), ["adapter_model.safetensors"]),
    ],
)
def test_the_choice_without_an_index(tmp_path, names, taken):
    weight_set = weight_set_of(folder_of(tmp_path, dict.fromkeys(names, b"x")))
    assert [path.name for path in weight_set.files] == taken
    assert sorted([path.name for path, _ in weight_set.ignored] + taken) == sorted(names)


@pytest.mark.parametrize(
    ("names", "what"),
    [
        ((SECOND,), f"shown: 1 of 2 shards are missing, the first is '{FIRST}'; fetch it"),
        (("a.pt", "b.pt"), "shown: 2 weight files without an index, each a model of its own: a.pt, b.pt; name one of them"),
        (
            tuple(f"{i}.pt" for i in range(7)),
            "shown: 7 weight files without an index, each a model of its own: "
            "0.pt, 1.pt, 2.pt, 3.pt, 4.pt and 2 more; name one of them, or add their index if they are parts of one model",
        ),
        (("a-00001-of-00001.bin", "b-00001-of-00001.bin"), "shown: shards of several models without an index: a.bin, b.bin"),
        (("a-00003-of-00002.bin",), "shown: 'a-00003-of-00002.bin' is no shard of 2"),
        (("optimizer.pt",), "shown: no weight file (optimizer.pt: state of a training run, not a model)"),
        (("sub/x.bin",), "shown: no weight file (x.bin: in a folder below)"),
    ],
)
def test_a_choice_that_would_be_a_guess_is_refused(tmp_path, names, what):
    assert refusal(folder_of(tmp_path, dict.fromkeys(names, b"x"))) == what


def test_the_readers_load_no_heavy_package():
    assert loaded_after("import layerhouse.ingest.checkpoint.weight_set_reader") == set()


def test_a_single_file_is_its_own_set(tmp_path):
    path = tmp_path / "tiny.pt"
    path.write_bytes(torch_file("w"))
    weight_set = find_weight_set(path, [path], "shown")
    contents = read_weight_set(weight_set, "shown")
    assert ([ref.name for ref in contents.tensors], contents.containers) == (["w"], ("torch zip",))
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"^shown: an empty file of 0 bytes where a torch zip file was expected"):
        read_weight_set(weight_set, "shown")


def test_a_set_of_both_containers_and_notes_of_its_files(tmp_path):
    weight_map = {"a": "x.safetensors", "w": "y.bin"}
    both = {"x.safetensors": shard("a"), "y.bin": torch_file("w"), "z.index.json": index(weight_map)}
    contents = read(folder_of(tmp_path, both))
    assert contents.containers == ("safetensors", "torch zip")
    both["y.bin"] = shard("w")
    assert read(folder_of(tmp_path, both)).skipped == ("y.bin: holds safetensors, though its name ends in .bin",)


FIVE_FAULTS = {
    b"version https://git-lfs.github.com/spec/v1\noid 0\nsize 99\n": "a Git LFS pointer of 57 bytes, not the weights of 99",
    shard("a", "b")[:70]: "cut off in the header: expected at least 128 bytes, found 70",
    shard("a", "b")[:-2]: "cut off: expected 132 bytes, found 130",
    torch_file("a", "b"): "torch zip, ",
    b"<!DOCTYPE html><title>404</title>": "an HTML page, 33 bytes that begin with",
    b"": "an empty file of 0 bytes where a safetensors file was expected",
}


@pytest.mark.parametrize(("content", "what"), FIVE_FAULTS.items())
def test_a_shard_that_is_something_else_is_named(tmp_path, content, what):
    assert refusal(folder_of(tmp_path, {**TWO_SHARDS, FIRST: content})).startswith(f"shown/{FIRST}: {what}")


def test_a_saved_llama_in_shards_reads_back_to_the_bit(tmp_path):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=32, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48, num_hidden_layers=2, vocab_size=40
    )
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "model", max_shard_size="30KB")
    contents = read(tmp_path / "model")
    weight_set = weight_set_of(tmp_path / "model")
    assert len(weight_set.files) > 2
    state = model.state_dict()
    assert {ref.name: ref.shape for ref in contents.tensors} == {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert all(stored_values(ref) == torch_values(state[ref.name]) for ref in contents.tensors)
    assert weight_set.index_metadata["total_size"] == sum(ref.logical_bytes for ref in contents.tensors)
    assert contents.metadata == {"format": "pt"}


def test_fifty_thousand_tensors_in_an_index_cost_about_a_second(tmp_path):
    names = [f"model.layers.{i}.mlp.experts.weight" for i in range(50_000)]
    halves = {FIRST: names[:25_000], SECOND: names[25_000:]}
    weight_map = {name: file for file, held in halves.items() for name in held}
    files = {file: shard(*held) for file, held in halves.items()}
    folder = folder_of(tmp_path, {**files, "model.safetensors.index.json": index(weight_map)})
    started = time.process_time()
    assert len(read(folder).tensors) == 50_000
    assert time.process_time() - started < 4
