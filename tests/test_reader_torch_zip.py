"""The torch zip reader finds every tensor without torch, executes nothing, and checks every claim of the pickle."""

from __future__ import annotations

import random
import struct
import time
import zipfile

import pytest

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers import zip_directory as zip_members
from layerhouse.ingest.checkpoint.containers.registry import read_weight_file
from layerhouse.ingest.checkpoint.containers.torch_zip import read_torch_zip
from layerhouse.ingest.checkpoint.pickle.machine import PickleLimits
from layerhouse.tests.weight_files import (
    mutated,
    p_call,
    p_dict,
    p_file,
    p_global,
    p_int,
    p_tensor,
    p_text,
    p_tuple,
    save_vanished,
    stored_values,
    torch_values,
    torch_zip_bytes,
    zip_bytes,
)

TOO_MANY = "tensor 'w': limit exceeded: more than 64 dimensions or 9223372036854775807 elements"


def read(tmp_path, content: bytes):
    path = tmp_path / "m.bin"
    path.write_bytes(content)
    return read_weight_file(path, "shown/m.bin")


def refusal(tmp_path, content: bytes) -> str:
    started = time.process_time()
    with pytest.raises(InputError) as caught:
        read(tmp_path, content)
    assert time.process_time() - started < 20
    assert caught.value.where == "shown/m.bin"
    assert "\n" not in str(caught.value)
    return caught.value.what


def one_tensor(**claims) -> bytes:
    return torch_zip_bytes(p_dict({"w": p_tensor(**claims)}))


def assert_same(refs, tensors: dict) -> None:
    """The same names in the same order, and every tensor equal in dtype, shape and bits."""
    assert [ref.name for ref in refs] == list(tensors)
    for ref in refs:
        tensor = tensors[ref.name]
        assert ref.shape == tuple(tensor.shape)
        assert (ref.strides is None) == (tensor.is_contiguous() or tensor.numel() == 0)
        assert stored_values(ref) == torch_values(tensor)


def test_a_state_dict_of_every_dtype_and_kind_of_view(tmp_path):
    torch = pytest.importorskip("torch")
    base = torch.arange(60, dtype=torch.float32).reshape(6, 10)
    names = "bool uint8 int8 int16 int32 int64 float16 bfloat16 float32 float64 complex64 float8_e4m3fn float8_e5m2 uint16"
    tensors = {name: base.to(getattr(torch, name)) for name in names.split()}
    tensors |= {
        "columns": base[:, 2:5],
        "transposed": base.t(),
        "rows": base[2:4],
        "stepped": base[::2, ::3],
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 5),
        "single": base[3:4, 4:5],
        "expanded": torch.arange(7.0).expand(4, 7),
        "tied": base,
        "parameter": torch.nn.Parameter(base.clone()),
    }
    torch.save(tensors, tmp_path / "m.bin")
    contents = read_weight_file(tmp_path / "m.bin", "m.bin")
    assert (contents.container, contents.class_path, contents.config, contents.skipped) == ("torch zip", None, None, ())
    assert_same(contents.tensors, tensors)
    refs = {ref.name: ref for ref in contents.tensors}
    assert refs["columns"].storage_bytes == 240
    assert refs["columns"].strides == (10, 1)
    assert refs["tied"].place == refs["float32"].place != refs["parameter"].place


def test_a_whole_model_gives_what_its_state_dict_would_without_its_classes(tmp_path):
    torch = pytest.importorskip("torch")
    model = save_vanished(tmp_path / "m.bin")
    contents = read_weight_file(tmp_path / "m.bin", "m.bin")
    assert (contents.container, contents.class_path) == ("torch zip, pickled whole model", "vanished.Model")
    state = model.state_dict()
    assert_same(contents.tensors, state)
    assert [ref.name for ref in contents.tensors if ref.is_buffer] == ["blocks.0.mask", "blocks.1.mask"]
    refs = {ref.name: ref for ref in contents.tensors}
    assert refs["head.weight"].place == refs["embed.weight"].place
    assert contents.config == {
        "hidden_size": 8,
        "rms_norm_eps": 1e-6,
        "layers": [1, 2],
        "dtype": "float16",
        "names": {"0": "a", "b": None},
        "inner": {"depth": 3},
    }
    assert "skipped, not executed: vanished.Inner" in contents.skipped
    assert not any("vanished.Model" in text or "torch.nn.modules" in text for text in contents.skipped)
    torch.save(state, tmp_path / "s.bin")
    saved = read_weight_file(tmp_path / "s.bin", "s.bin").tensors
    assert [(ref.name, ref.shape) for ref in saved] == [(ref.name, ref.shape) for ref in contents.tensors]


@pytest.mark.parametrize("protocol", range(1, 6))
def test_a_dict_of_model_tokenizer_and_arguments_in_every_protocol(tmp_path, protocol):
    pytest.importorskip("torch")
    make = "dict(tokenizer=Tokenizer(), args=__import__('argparse').Namespace(ratio=0.2), model=Model(), step=3)"
    saved = save_vanished(tmp_path / "m.bin", make, pickle_protocol=protocol)
    contents = read_weight_file(tmp_path / "m.bin", "m.bin")
    assert_same(contents.tensors, saved["model"].state_dict())
    assert contents.class_path == "vanished.Model"
    assert {"skipped, not executed: vanished.Tokenizer", "skipped, not executed: argparse.Namespace"} <= set(contents.skipped)
    assert {
        "not taken: tokenizer (vanished.Tokenizer)",
        "not taken: args (argparse.Namespace)",
        "not taken: step (int)",
    } <= set(contents.skipped)


def test_a_state_dict_next_to_foreign_objects(tmp_path):
    torch = pytest.importorskip("torch")
    numpy = pytest.importorskip("numpy")
    tensors = {f"t{i}": torch.full((2, i + 1), float(i)) for i in range(6)}
    extra = {"args": __import__("argparse").Namespace(a=1), "step": numpy.float64(3), "epoch": 2, "note": "x"}
    torch.save({"state_dict": tensors, **extra}, tmp_path / "m.pt")
    contents = read_weight_file(tmp_path / "m.pt", "m.pt")
    assert_same(contents.tensors, tensors)
    assert contents.skipped == (
        "skipped, not executed: argparse.Namespace",
        "not taken: args (argparse.Namespace)",
        "not taken: step (numpy._core.multiarray.scalar)",
        "not taken: epoch (int)",
        "not taken: note (text)",
    )
    torch.save({**tensors, **extra}, tmp_path / "m.pt")
    contents = read_weight_file(tmp_path / "m.pt", "m.pt")
    assert_same(contents.tensors, tensors)
    assert "not a tensor: step (numpy._core.multiarray.scalar)" in contents.skipped


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_unsupported_tensors_are_noted_and_the_others_read(tmp_path):
    torch = pytest.importorskip("torch")
    dense = torch.ones(3, 3)
    nested = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)])
    state = {"dense": dense, "nested": nested}
    torch.save(state, tmp_path / "m.pt")
    contents = read_weight_file(tmp_path / "m.pt", "m.pt")
    assert_same(contents.tensors, {"dense": dense})
    assert "kind of tensor (torch._utils._rebuild_nested_tensor) unsupported: tensor nested" in contents.skipped
    torch.save({"nested": nested}, tmp_path / "m.pt")
    with pytest.raises(
        InputError, match=r"no tensor found in it, but a dict of 1: nested; kind of tensor .* unsupported: tensor n"
    ):
        read_weight_file(tmp_path / "m.pt", "m.pt")


def test_one_tiny_llama_in_four_ways_has_the_same_tensors(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
    config = transformers.LlamaConfig(num_hidden_layers=2, vocab_size=40, tie_word_embeddings=True, **sizes)
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "single")
    torch.save(model.state_dict(), tmp_path / "state.bin")
    torch.save(model, tmp_path / "model.bin")
    torch.save({"model": model, "tokenizer": None}, tmp_path / "dict.bin")
    saved = {ref.name: ref for ref in read_weight_file(tmp_path / "single/model.safetensors", "x").tensors}
    for name in ("state.bin", "model.bin", "dict.bin"):
        contents = read_weight_file(tmp_path / name, name)
        assert_same(contents.tensors, model.state_dict())
        refs = {ref.name: ref for ref in contents.tensors}
        assert refs.pop("lm_head.weight").place == refs["model.embed_tokens.weight"].place
        assert {key: ref.shape for key, ref in refs.items()} == {key: ref.shape for key, ref in saved.items()}
        if name != "state.bin":
            assert contents.class_path == "transformers.models.llama.modeling_llama.LlamaForCausalLM"
            assert contents.config.items() >= sizes.items()


def test_a_hostile_pickle_leaves_no_file_and_the_good_tensors_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch = p_text("touch sentinel")
    module = p_call("os", "system", touch) + p_dict({"_modules": b"}", "_parameters": p_dict({"w": p_tensor()})}) + b"b"
    for value, names in (
        (p_dict({"w": p_tensor(), "x": p_call("posix", "system", touch), "y": p_call("builtins", "eval", touch)}), ["w"]),
        (p_dict({"state_dict": p_dict({"w": p_tensor(), "sub": p_dict({"x": p_call("os", "system", touch)})})}), ["w"]),
        (module, ["w"]),
    ):
        contents = read(tmp_path, torch_zip_bytes(value))
        assert [ref.name for ref in contents.tensors] == names
        assert any(text.endswith((".system", ".eval")) for text in contents.skipped)
        assert stored_values(contents.tensors[0]) == bytes(range(24))
    assert [path.name for path in tmp_path.iterdir()] == ["m.bin"]


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (p_text("x"), "no tensor found in it, but text"),
        (p_tuple(p_tensor()), "no tensor found in it, but a tuple of 1"),
        (p_tensor(), "no tensor found in it, but a tensor without a name"),
        (p_dict({"a": p_int(1), "b": b"]"}), "no tensor found in it, but a dict of 2: a, b"),
        (p_call("os", "system", p_text("x")), "no tensor found in it, but os.system"),
        (
            p_dict({"one": p_dict({"w": p_tensor()}), "two": p_dict({"w": p_tensor()})}),
            "several models in one file, which one is meant is not known: one, two",
        ),
        (b"}" + b"q\x01(" + p_text("state_dict") + b"h\x01u", "no tensor found in it, but a dict of 1: state_dict"),
    ],
)
def test_a_file_without_a_model_says_what_is_in_it(tmp_path, value, what):
    assert refusal(tmp_path, torch_zip_bytes(value)) == what


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (p_dict({"student": p_dict({"w": p_tensor()}), "n": p_int(1)}), ["w"]),
        (p_dict({"model": p_dict({"m": p_tensor()}), "state_dict": p_dict({"s": p_tensor()})}), ["s"]),
        (p_dict({"model": p_dict({"state_dict": p_dict({"w": p_tensor()})})}), ["w"]),
        (p_dict({"weights": p_tensor(), "model": p_dict({"n": p_int(1)})}), ["weights"]),
        (p_dict({"state_dict": p_dict({"w": p_tensor()}), "step": p_tensor()}), ["w"]),
        (b"}(" + p_text("w") + p_tensor() + p_int(3) + p_tensor() + b"u", ["w"]),
    ],
)
def test_the_choice_among_several_dicts(tmp_path, value, names):
    assert [ref.name for ref in read(tmp_path, torch_zip_bytes(value)).tensors] == names


@pytest.mark.parametrize(
    ("claims", "what"),
    [
        ({"numel": 7}, "tensor 'w': its storage claims 7 elements, 24 bytes of it are there"),
        ({"numel": 2**70}, "tensor 'w': its storage claims 1180591620717411303424 elements, 24 bytes of it are there"),
        ({"numel": -1}, "tensor 'w': its storage claims -1 elements, 24 bytes of it are there"),
        ({"key": "9"}, "tensor 'w': its storage '9' is not in the file"),
        ({"key": "../data.pkl"}, "tensor 'w': its storage '../data.pkl' is not in the file"),
        ({"storage": ("torch", "QInt8Storage")}, "tensor 'w': unknown dtype torch.QInt8Storage"),
        ({"storage": ("os", "FloatStorage")}, "tensor 'w': unknown dtype os.FloatStorage"),
        ({"shape": (2, 4), "strides": (4, 1)}, "tensor 'w': needs 32 bytes of a storage of 24"),
        ({"offset": 1}, "tensor 'w': needs 28 bytes of a storage of 24"),
        ({"shape": (0,), "strides": (1,), "offset": 7}, "tensor 'w': needs 28 bytes of a storage of 24"),
        ({"offset": -1}, "tensor 'w': negative offset"),
        ({"strides": (-3, 1)}, "tensor 'w': negative stride"),
        ({"shape": (-2, 3)}, "tensor 'w': negative size"),
        ({"strides": (2**62, 1)}, f"tensor 'w': needs {(2**62 + 3) * 4} bytes of a storage of 24"),
        ({"strides": (2**64, 1)}, "tensor 'w': stride over 9223372036854775807"),
        ({"shape": (2**64, 1)}, "tensor 'w': size over 9223372036854775807"),
        ({"shape": (2**40, 2**40), "strides": (0, 0)}, TOO_MANY),
        ({"shape": (1,) * 65, "strides": (1,) * 65}, TOO_MANY),
        ({"strides": (1,)}, "tensor 'w': 2 dimensions with 1 strides"),
        ({"shape": (2**40, 3), "strides": (0, 1)}, f"tensor 'w': overlapping view: {2**40 * 12} bytes out of a storage of 24"),
    ],
)
def test_claims_that_cannot_be_true_are_refused(tmp_path, claims, what):
    assert refusal(tmp_path, one_tensor(**claims)) == what


def test_strides_are_kept_only_where_they_matter(tmp_path):
    for claims, strides in (
        ({"shape": (1, 6), "strides": (99, 1)}, None),
        ({"shape": (3, 1, 2), "strides": (2, 77, 1)}, None),
        ({"shape": (2, 1, 2), "strides": (3, 77, 1)}, (3, 2, 1)),
        ({"shape": (3, 0), "strides": (5, 5)}, None),
        ({"shape": (), "strides": ()}, None),
        ({"shape": (4, 6), "strides": (0, 1)}, (0, 1)),
    ):
        assert read(tmp_path, one_tensor(**claims)).tensors[0].strides == strides


def test_small_overlapping_views_are_limited_together(tmp_path):
    views = {f"w{i}": p_tensor((2**20, 3), (0, 1), offset=i % 4) for i in range(12)}
    assert len(read(tmp_path, torch_zip_bytes(p_dict(views))).tensors) == 12
    views = {f"w{i}": p_tensor((2**20 - i, 3), (0, 1)) for i in range(9)}
    assert refusal(tmp_path, torch_zip_bytes(p_dict(views))).startswith("limit exceeded: tensors of 113245")


@pytest.mark.parametrize(
    ("members", "deflated", "what"),
    [
        ({"m/data.pkl": b"N.", "n/data.pkl": b"N."}, (), "2 members named FOLDER/data.pkl in the zip file, expected one"),
        ({"m/data.pkl": b"N.", "n/x": b""}, (), "ambiguous zip: 'n' beside the folder 'm' of data.pkl"),
        ({"m/data.pkl": b"N.", "x": b""}, (), "ambiguous zip: 'x' beside the folder 'm' of data.pkl"),
        ({"m/data.pkl": b"N.", "m/byteorder": b"big"}, (), "byte order b'big': only little-endian files are read"),
        ({"m/data.pkl": b"N.", "m/byteorder": b"x" * 99}, (), "member 'm/byteorder' names no byte order"),
        ({"m/data.pkl": b"N.."}, (), "pickle: 1 bytes after its end, at byte 2"),
        ({"m/data.pkl": b"\x82\x01."}, (), "pickle: extension codes mean a table that the file does not hold, at byte 0"),
        (
            {"m/data.pkl": p_file(p_dict({"w": p_tensor()})), "m/data/0": bytes(24)},
            ("m/data/0",),
            "tensor 'w': compressed member 'm/data/0': its bytes have no place in the file",
        ),
        (
            {"m/data.pkl": bytes(2**20)},
            ("m/data.pkl",),
            "limit exceeded: times its size that data.pkl unpacks to, over 200; --limit-factor raises it",
        ),
    ],
)
def test_zips_that_are_not_torch_zips_are_refused(tmp_path, members, deflated, what):
    assert refusal(tmp_path, zip_bytes(members, deflated=deflated)) == what


def test_a_deflated_pickle_is_read_within_its_limits(tmp_path):
    members = {"m/data.pkl": p_file(p_dict({"w": p_tensor()})), "m/data/0": bytes(24)}
    raw = zip_bytes(members, deflated=("m/data.pkl",))
    assert [ref.name for ref in read(tmp_path, raw).tensors] == ["w"]
    with pytest.raises(InputError, match=r"limit exceeded: data.pkl of \d+ bytes, over 10"):
        read_torch_zip(tmp_path / "m.bin", "x", limits=PickleLimits(bytes=10))
    damaged = bytearray(raw)
    damaged[45:60] = b"\xff" * 15
    assert refusal(tmp_path, bytes(damaged)).startswith("damaged zip: data.pkl does not unpack")


def directory_entry(raw: bytes, number: int = 0) -> int:
    """The offset of the entry of this number in the zip's directory."""
    at = -1
    for _ in range(number + 1):
        at = raw.index(b"PK\x01\x02", at + 1)
    return at


def changed(raw: bytes, at: int, new: bytes) -> bytes:
    return raw[:at] + new + raw[at + len(new) :]


def test_ambiguous_and_damaged_zips_are_refused(tmp_path):
    raw = one_tensor()
    entry, end = directory_entry(raw), len(raw) - 22
    long = struct.pack("<L", 2**31)
    for content, what in (
        (raw[:-30], "a truncated zip file of"),
        (raw + b"x", "ambiguous zip: 1 bytes after its end record"),
        (raw[:-2] + b"\x05\0extra", "ambiguous zip: 5 bytes after its end record"),
        (raw[:4] + b"prefix" + raw[4:], "ambiguous zip: its directory is"),
        (changed(raw, end + 8, b"\x09\0"), "a zip file in several parts is not read"),
        (changed(raw, end + 8, b"\x09\0\x09\0"), "damaged zip: no directory entry at byte"),
        (changed(raw, end + 8, b"\x01\0\x01\0"), "damaged zip: "),
        (changed(raw, end + 12, long), "ambiguous zip: its directory is 2147483648 bytes"),
        (changed(raw, entry + 8, b"\x01\0"), "encrypted zip member 'm/data.pkl'"),
        (changed(raw, entry + 24, b"\x01"), "ambiguous zip: the header of member 'm/data.pkl' disagrees with the directory"),
        (changed(raw, entry + 42, b"\x01"), "damaged zip: no header of member 'm/data.pkl' at byte 1"),
        (changed(raw, entry + 20, b"\xff" * 4), "damaged zip: the 64-bit sizes of member 'm/data.pkl' are missing"),
        (changed(raw, entry + 10, b"\x08\0"), "ambiguous zip: the header of member 'm/data.pkl' disagrees with the directory"),
        (raw.replace(b"m/byteorder", b"m/byteordeR", 1), "ambiguous zip: the header of member 'm/byteorder' disagrees"),
        (raw.replace(b"m/version", b"m/versio\0"), "ambiguous zip: the name 'm/versio\\x00' ends early for other tools"),
    ):
        assert refusal(tmp_path, content).startswith(what)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(tmp_path / "d.bin", "w") as archive:
        archive.writestr("m/data.pkl", b"N.")
        archive.writestr("m/data.pkl", b"N.")
    assert refusal(tmp_path, (tmp_path / "d.bin").read_bytes()) == "ambiguous zip: two members are named 'm/data.pkl'"


def test_members_that_overlap_are_refused(tmp_path):
    raw = one_tensor()
    local, listed = raw.index(b"m/data/0") - 30, directory_entry(raw, 2)
    sizes = struct.pack("<2L", 40, 40)
    overlapping = changed(changed(raw, local + 18, sizes), listed + 20, sizes)
    assert refusal(tmp_path, overlapping).startswith("ambiguous zip: member 'm/data/0' ends at ")


def test_the_64_bit_forms_of_a_zip_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    raw = one_tensor()
    assert b"PK\x06\x06" in raw
    (ref,) = read(tmp_path, raw).tensors
    assert stored_values(ref) == bytes(range(24))
    at = raw.index(b"PK\x06\x06")
    assert refusal(tmp_path, changed(raw, at, b"XX")) == "ambiguous zip: its 64-bit end record is not where it should be"
    assert refusal(tmp_path, changed(raw, at + 32, b"\x07")) == "ambiguous zip: its two end records disagree"
    assert refusal(tmp_path, changed(raw, len(raw) - 12, b"\x07\0")) == "ambiguous zip: its two end records disagree"


def test_limits_of_the_zip_directory_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(zip_members, "MAX_MEMBERS", 3)
    assert refusal(tmp_path, one_tensor()).startswith("limit exceeded: 4 zip members, over 3;")
    monkeypatch.setattr(zip_members, "MAX_DIRECTORY_BYTES", 100)
    assert refusal(tmp_path, one_tensor()).endswith(" bytes of a zip directory, over 100; --limit-factor raises it")


def module(parameters: bytes = b"}", modules: bytes = b"}", **more: bytes) -> bytes:
    return p_global("a", "B") + b")\x81" + p_dict({"_parameters": parameters, "_modules": modules, **more}) + b"b"


def test_shared_modules_are_named_once_a_path_within_a_limit(tmp_path):
    leaf = module(p_dict({"w": p_tensor()}))
    twice = module(modules=p_dict({"a": leaf + b"q\x01", "b": b"h\x01"}))
    contents = read(tmp_path, torch_zip_bytes(twice))
    assert [ref.name for ref in contents.tensors] == ["a.w", "b.w"]
    assert contents.tensors[0].place == contents.tensors[1].place
    value = leaf
    for _ in range(30):
        value = module(modules=p_dict({"a": value + b"q\x01", "b": b"h\x01"}))
    assert "modules and their entries, over 20524" in refusal(tmp_path, torch_zip_bytes(value))
    cycle = p_global("a", "B") + b")\x81q\x01" + p_dict({"_modules": p_dict({"x": b"h\x01"})}) + b"b"
    assert refusal(tmp_path, torch_zip_bytes(cycle)) == "limit exceeded: modules are nested over 200 deep"
    long = module(p_dict({"w" * 3000: p_tensor()}))
    assert refusal(tmp_path, torch_zip_bytes(long)) == "limit exceeded: a tensor name of over 2048 characters"


def test_a_config_is_written_out_within_a_limit(tmp_path):
    bomb = b"]" + b"".join(b"q\x01h\x01\x86" for _ in range(30))
    loop = b"]q\x02h\x02a"
    state = p_dict({"width": p_int(4), "bomb": bomb, "loop": loop, "big": p_int(2**600), "call": p_call("os", "getcwd")})
    config = p_global("a", "Config") + b")\x81" + state + b"b"
    contents = read(tmp_path, torch_zip_bytes(module(p_dict({"w": p_tensor()}), config=config)))
    assert contents.config == {"width": 4}
    assert {f"limit exceeded, config value not taken: {name}" for name in ("bomb", "loop")} <= set(contents.skipped)


def test_many_notes_are_counted_and_do_not_displace_calls(tmp_path):
    entries = {f"x{i}": p_int(i) for i in range(300)}
    contents = read(tmp_path, torch_zip_bytes(p_dict({**entries, "w": p_tensor(), "y": p_call("os", "system", p_text("x"))})))
    assert contents.skipped[0] == "skipped, not executed: os.system"
    assert contents.skipped[-1] == "and 201 more"
    assert len(contents.skipped) == 102


def test_names_of_the_file_stay_on_one_line(tmp_path):
    contents = read(tmp_path, torch_zip_bytes(p_dict({"w": p_tensor(), "a\nb\x1b": p_int(1)})))
    assert contents.skipped == ("not a tensor: a\\nb\\x1b (int)",)


def test_mutations_give_contents_or_one_line(tmp_path):
    random_source = random.Random(11)
    whole = one_tensor()
    path = tmp_path / "m.bin"
    read_count = 0
    for round_number in range(2000):
        path.write_bytes(mutated(random_source, whole))
        started = time.process_time()
        try:
            read_count += bool((read_torch_zip, read_weight_file)[round_number % 2](path, "m").container)
        except InputError as error:
            assert "\n" not in str(error)
        assert time.process_time() - started < 2
    assert 0 < read_count < 2000
