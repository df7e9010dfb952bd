"""The safetensors reader accepts what the format allows, and names the tensor at fault in everything else."""

from __future__ import annotations

import json
import random
import time

import pytest

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.registry import read_weight_file
from layerhouse.ingest.checkpoint.containers.safetensors import read_safetensors
from layerhouse.ingest.checkpoint.containers.sniff import Kind, sniff
from layerhouse.ingest.checkpoint.limits import scaled_limits
from layerhouse.tests.weight_files import (
    entry,
    mutated,
    p_file,
    p_text,
    safetensors_bytes,
    stored_values,
    torch_values,
    zip_bytes,
)

GOOD = {"__metadata__": {"format": "pt"}, "a": entry("F32", [2, 2], 0, 16), "b": entry("BF16", [3], 16, 22)}


def read(tmp_path, content: bytes, name: str = "model.safetensors"):
    path = tmp_path / name
    path.write_bytes(content)
    return read_weight_file(path, f"shown/{name}")


def refusal(tmp_path, content: bytes, name: str = "model.safetensors") -> str:
    with pytest.raises(InputError) as caught:
        read(tmp_path, content, name)
    assert caught.value.where == f"shown/{name}"
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)
    return caught.value.what


def test_tensors_are_references_into_the_file(tmp_path):
    raw = safetensors_bytes(GOOD, bytes(range(22)))
    contents = read(tmp_path, raw)
    assert (contents.container, contents.metadata, contents.skipped) == ("safetensors", {"format": "pt"}, ())
    first, second = contents.tensors
    assert (first.name, first.dtype, first.shape, first.storage_bytes, first.strides) == ("a", "F32", (2, 2), 16, None)
    assert first.offset == len(raw) - 22
    assert stored_values(second) == bytes(range(16, 22))


def test_every_dtype_that_the_library_writes_reads_back_to_the_bit(tmp_path):
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    values = torch.arange(24).reshape(2, 3, 4)
    names = "bool uint8 int8 int16 int32 int64 float16 bfloat16 float32 float64 float8_e4m3fn float8_e5m2 uint16 uint32 uint64"
    tensors = {name: values.to(getattr(torch, name)) for name in names.split()}
    tensors |= {"scalar": torch.tensor(1.5), "empty": torch.zeros(0, 5), "complex64": values.to(torch.complex64)}
    library.save_file(tensors, tmp_path / "x.safetensors", {"key": "value"})
    contents = read_weight_file(tmp_path / "x.safetensors", "x")
    assert contents.metadata == {"key": "value"}
    assert {ref.name: ref.shape for ref in contents.tensors} == {name: tuple(t.shape) for name, t in tensors.items()}
    for ref in contents.tensors:
        assert stored_values(ref) == torch_values(tensors[ref.name])


@pytest.mark.parametrize(
    ("header", "data", "shape", "elements"),
    [
        ({"a": entry("F4", [2, 8], 0, 8)}, 8, (2, 8), 16),
        ({"a": entry("F6_E2M3", [4], 0, 3)}, 3, (4,), 4),
        ({"a": entry("F8_E8M0", [5], 0, 5)}, 5, (5,), 5),
        ({"a": entry("F32", [], 0, 4)}, 4, (), 1),
        ({"a": entry("F32", [0, 5], 0, 0)}, 0, (0, 5), 0),
    ],
)
def test_odd_but_legal_shapes_and_types(tmp_path, header, data, shape, elements):
    (ref,) = read(tmp_path, safetensors_bytes(header, bytes(data))).tensors
    assert (ref.shape, ref.elements, ref.storage_bytes) == (shape, elements, data)


def test_metadata_alone_padding_and_an_empty_header_are_legal(tmp_path):
    assert read(tmp_path, safetensors_bytes({"__metadata__": {"a": "b"}})).tensors == ()
    assert read(tmp_path, safetensors_bytes({})).tensors == ()
    assert len(read(tmp_path, safetensors_bytes(json.dumps(GOOD).encode() + b"   ", bytes(22))).tensors) == 2


def wrong(**changes):
    """A header whose tensor `a` of four bytes has these fields changed; None removes one."""
    fields = {**entry("F32", [1], 0, 4), **changes}
    return {"a": {key: value for key, value in fields.items() if value is not None}}


def test_a_remembered_header_is_checked_against_every_file_and_limit(tmp_path):
    raw = safetensors_bytes(GOOD, bytes(22))
    first = read(tmp_path, raw)
    first.metadata["format"] = "changed"
    second = read(tmp_path, raw, "copy.safetensors")
    assert {tensor.path.name for tensor in second.tensors} == {"copy.safetensors"}
    assert second.metadata == {"format": "pt"}
    assert refusal(tmp_path, raw[:-1], "cut.safetensors").startswith("cut off: expected")
    with scaled_limits(1 / 200_000):
        assert refusal(tmp_path, raw).startswith("limit exceeded")
    damaged = safetensors_bytes({**GOOD, "b": entry("BF16", [4], 16, 22)}, bytes(22))
    for name in ("a.safetensors", "b.safetensors"):
        assert refusal(tmp_path, damaged, name).startswith("tensor 'b': BF16 of shape [4] takes 8 bytes")


@pytest.mark.parametrize(
    ("header", "data", "what"),
    [
        ({"__metadata__": {"n": 3}}, 0, "__metadata__ 'n' is 3, not a text"),
        ({"__metadata__": ["n"]}, 0, "__metadata__ is not an object of texts"),
        (b'{"a": {}, "a": {}}', 0, "damaged header: duplicate tensor name 'a'"),
        (b'{"a": {"dtype": "F32", "dtype": "F16"}}', 0, "damaged header: duplicate key 'dtype'"),
        (b'{"__metadata__": {"k": "1", "k": "2"}}', 0, "damaged header: duplicate key 'k'"),
        (wrong(dtype="F3"), 4, "tensor 'a': unknown dtype 'F3'"),
        (wrong(dtype=["F32"]), 4, "tensor 'a': unknown dtype \"['F32']\""),
        (wrong(dtype=None), 4, "tensor 'a': expected dtype, shape and data_offsets, found data_offsets, shape"),
        (wrong(extra=1), 4, "tensor 'a': expected dtype, shape and data_offsets, found data_offsets, dtype, extra, shape"),
        ({"a": 3}, 4, "tensor 'a': expected dtype, shape and data_offsets, found int"),
        (wrong(shape=[-1]), 4, "tensor 'a': shape is not a list of whole numbers from 0 to 2^63 - 1"),
        (wrong(shape=[1.0]), 4, "tensor 'a': shape is not a list of whole numbers from 0 to 2^63 - 1"),
        (wrong(shape=[True]), 4, "tensor 'a': shape is not a list of whole numbers from 0 to 2^63 - 1"),
        (
            {"a": entry("F32", [1], 0, 4), "b": entry("F32", [1.0], 4, 8)},
            8,
            "tensor 'b': shape is not a list of whole numbers from 0 to 2^63 - 1",
        ),
        (
            {"a": entry("F32", [1], 0, 4), "b": entry("F32", [True], 4, 8)},
            8,
            "tensor 'b': shape is not a list of whole numbers from 0 to 2^63 - 1",
        ),
        (
            {"a": entry("F32", [], 0, 4), "b": entry("F32", "", 4, 8)},
            8,
            "tensor 'b': shape is not a list of whole numbers from 0 to 2^63 - 1",
        ),
        (
            {"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 4, 8.0)},
            8,
            "tensor 'b': data_offsets are not two whole numbers from 0 to 2^63 - 1",
        ),
        (wrong(shape=4), 4, "tensor 'a': shape is not a list of whole numbers from 0 to 2^63 - 1"),
        (wrong(data_offsets=[0]), 4, "tensor 'a': data_offsets are not two whole numbers from 0 to 2^63 - 1"),
        (wrong(data_offsets=[-4, 0]), 4, "tensor 'a': data_offsets are not two whole numbers from 0 to 2^63 - 1"),
        (wrong(data_offsets=[4, 0]), 4, "tensor 'a': data_offsets run backwards, from 4 to 0"),
        (wrong(shape=[2**32, 2**32]), 4, "tensor 'a': limit exceeded: more than 64 dimensions or 9223372036854775807 elements"),
        (wrong(shape=[1] * 65), 4, "tensor 'a': limit exceeded: more than 64 dimensions or 9223372036854775807 elements"),
        (wrong(shape=[2]), 4, "tensor 'a': F32 of shape [2] takes 8 bytes, data_offsets give 4"),
        (wrong(dtype="F4", shape=[3], data_offsets=[0, 2]), 2, "tensor 'a': 3 elements of F4 do not fill whole bytes"),
        (wrong(data_offsets=[4, 8]), 8, "tensor 'a': begins at 4, leaving a gap of 4 bytes before it"),
        (
            {"a": entry("F32", [2], 0, 8), "b": entry("F32", [1], 4, 8)},
            8,
            "tensor 'b': overlaps tensor 'a': begins at 4, that one ends at 8",
        ),
        (
            {"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 6, 10)},
            10,
            "tensor 'b': begins at 6, leaving a gap of 2 bytes before it",
        ),
        (b'{"a": NaN}', 0, "damaged header: NaN is not JSON"),
        (b'{"a": 1} x', 0, "damaged header: Extra data at byte 17"),
        (b'{"a": 1', 0, "damaged header: Expecting ',' delimiter at byte 15"),
        (b'{"\xff": 1}', 0, "damaged header: not UTF-8 at byte 10"),
        (b'{"\\ud800": 1}', 0, "damaged header: a \\u escape is half of a surrogate pair, which is no character"),
        (b'{"a": ' + b"9" * 5000 + b"}", 0, "limit exceeded: an integer in the header has too many digits"),
    ],
)
def test_malformed_headers_name_what_is_wrong(tmp_path, header, data, what):
    assert refusal(tmp_path, safetensors_bytes(header, bytes(data))) == what


def test_sizes_that_disagree_are_named_in_bytes(tmp_path):
    whole = safetensors_bytes(GOOD, bytes(22))
    size = len(whole)
    assert refusal(tmp_path, whole[:-10]) == f"cut off: expected {size} bytes, found {size - 10}; fetch it again"
    assert refusal(tmp_path, whole + b"xyz") == f"3 trailing bytes: expected {size} bytes, found {size + 3}"
    assert (
        refusal(tmp_path, whole[:40]) == f"cut off in the header: expected at least {size - 22} bytes, found 40; fetch it again"
    )
    assert refusal(tmp_path, whole[:4]).startswith("cut off: a safetensors file has at least 8 bytes, found 4")
    huge = "limit exceeded: 1099511627776 bytes of a header, over 100000000; --limit-factor raises it"
    assert refusal(tmp_path, safetensors_bytes({}, length=2**40)) == huge
    assert (
        refusal(tmp_path, safetensors_bytes(b"[" + b" " * 40))
        == "damaged header: it begins with b'[               ', not with {"
    )


def test_header_bombs_take_bounded_time(tmp_path):
    started = time.process_time()
    for deep in (b'{"a":' + b"[" * 100_000, b'{"a":' * 100_000):
        assert refusal(tmp_path, safetensors_bytes(deep)) == "limit exceeded: nesting of the header"
    entries = b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(1_000_000))
    assert (
        refusal(tmp_path, safetensors_bytes(b"{" + entries + b"}"))
        == "limit exceeded: 1000000 tensors, over 200000; --limit-factor raises it"
    )
    hidden = b",".join(b'"%d":{"data\\u005foffsets":[]}' % i for i in range(200_001))
    assert (
        refusal(tmp_path, safetensors_bytes(b"{" + hidden + b"}"))
        == "limit exceeded: 200001 tensors, over 200000; --limit-factor raises it"
    )
    shape = b"[" + b",".join([b"9" * 4000] * 2000) + b"]"
    assert "whole numbers" in refusal(
        tmp_path, safetensors_bytes(b'{"a":{"dtype":"U8","shape":' + shape + b',"data_offsets":[0,0]}}')
    )
    assert time.process_time() - started < 40


def test_fifty_thousand_tensors_parse_in_about_a_second(tmp_path):
    header = {f"model.layers.{i}.weight": entry("BF16", [2, 2], 8 * i, 8 * i + 8) for i in range(50_000)}
    path = tmp_path / "many.safetensors"
    path.write_bytes(safetensors_bytes(header, bytes(400_000)))
    started = time.process_time()
    assert len(read_safetensors(path, "many").tensors) == 50_000
    assert time.process_time() - started < 3


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 4976698672\n"


@pytest.mark.parametrize(
    ("content", "kind", "what"),
    [
        (
            LFS,
            Kind.LFS_POINTER,
            "a Git LFS pointer of 135 bytes, not the weights of 4976698672 bytes; fetch them with: git lfs pull",
        ),
        (b"", Kind.EMPTY, "an empty file of 0 bytes where a safetensors file was expected; fetch it again"),
        (
            b"\n<!DOCTYPE html><html>",
            Kind.HTML,
            "an HTML page, 22 bytes that begin with b'\\n<!DOCTYPE html>', where a safetensors file was expected; fetch",
        ),
        (
            b"<?xml version='1.0'?><Error/>",
            Kind.XML,
            'an XML page, 29 bytes that begin with b"<?xml version=\'1", where a safetensors file was expected; fetch it again',
        ),
        (
            b'{"error": "x"}',
            Kind.JSON,
            'JSON text, 14 bytes that begin with b\'{"error": "x"}\', where a safetensors file was expected',
        ),
        (
            bytes(100),
            Kind.ZEROS,
            "a file that begins with zero bytes only, 100 bytes that begin with "
            + repr(bytes(16))
            + ", where a safetensors file was expected; fetch it again",
        ),
        (
            zip_bytes({"m/data.pkl": p_file(p_text("x"))}),
            Kind.TORCH_ZIP,
            "torch zip, 127 bytes that begin with b'PK\\x03\\x04",
        ),
        (
            zip_bytes({"m/data.pkl": b"x" * 50})[:100],
            Kind.TRUNCATED_ZIP,
            "a truncated zip file of 100 bytes where a safetensors file was",
        ),
    ],
)
def test_other_files_named_safetensors_are_identified(tmp_path, content, kind, what):
    assert refusal(tmp_path, content).startswith(what)
    assert sniff(tmp_path / "model.safetensors", "x").kind is kind


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (
            bytes.fromhex("80028a0a6cfc9c46f9206aa85019") + b"rest",
            "pickle: cut off: an argument is missing, at byte 14; the file has 18 bytes, fetch it again",
        ),
        (
            p_file(p_text("x")),
            "a plain pickle is not read by this version: 9 bytes that begin with 80 02 58",
        ),
        (b"x" * 257 + b"ustar\x0000", "a tar archive is not read by this version: 265 bytes"),
        (b"GGUF\x03\0\0\0", "cut off in the header: expected at least 16 bytes, found 8"),
        (b"\x1f\x8b\x08", "a gzip file is not read by this version"),
        (zip_bytes({"a.txt": b"x"}), "a zip file without a folder that holds data.pkl, 109 bytes that begin with b'PK"),
        (zip_bytes({"m/data.pkl": b"", "m/constants.pkl": b""}), "a TorchScript archive is not read by this version"),
        (zip_bytes({"m/data.pkl": b"", "m/code/a.py": b""}), "a TorchScript archive is not read by this version"),
        (
            b"hello there, this is no weight file",
            "a file of an unknown kind, 35 bytes that begin with b'hello there, thi', where a torch",
        ),
    ],
)
def test_other_containers_have_their_own_message(tmp_path, content, what):
    assert refusal(tmp_path, content, "pytorch_model.bin").startswith(what)


def test_safetensors_under_another_suffix_is_read_with_a_note(tmp_path):
    content = safetensors_bytes(GOOD, bytes(22))
    assert read(tmp_path, content, "a.bin").skipped == ("holds safetensors, though its name ends in .bin",)
    assert read(tmp_path, content, "0123abcd").skipped == ()


def test_unreadable_files_are_refused(tmp_path):
    for path, what in (
        (tmp_path, "is not a regular file"),
        (tmp_path / "no", "no such file"),
        (tmp_path / "a\0b", "is no path"),
    ):
        with pytest.raises(InputError, match=what):
            read_weight_file(path, "x")


def test_mutations_give_contents_or_one_line(tmp_path):
    random_source = random.Random(7)
    whole = safetensors_bytes({**GOOD, **{f"t{i}": entry("U8", [2], 22 + 2 * i, 24 + 2 * i) for i in range(8)}}, bytes(38))
    path = tmp_path / "m.safetensors"
    read_count = 0
    for round_number in range(2000):
        raw = mutated(random_source, whole)
        path.write_bytes(raw)
        started = time.process_time()
        try:
            read_count += bool((read_safetensors, read_weight_file)[round_number % 2](path, "m").container)
        except InputError as error:
            assert "\n" not in str(error)
        assert time.process_time() - started < 2
    assert 0 < read_count < 2000
