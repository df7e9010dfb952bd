"""What stands around the members of a zip: local headers, data descriptors, members that nothing lists or refers to."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import pytest

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.registry import read_weight_file
from layerhouse.tests.weight_files import p_dict, p_file, p_tensor, torch_zip_bytes, zip_bytes

ONE = p_dict({"w": p_tensor()})
LOCAL, LISTED = 30, 46
DATA = bytes(range(24))


class _Unseekable(io.RawIOBase):
    """A stream that is written once, so that zipfile puts checksums and sizes behind the members."""

    def __init__(self) -> None:
        self.raw = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.raw += data
        return len(data)


def streamed(*, force_zip64: bool = False) -> bytes:
    """The same zip with data descriptors."""
    stream = _Unseekable()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, raw in {"m/data.pkl": p_file(ONE), "m/data/0": DATA}.items():
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=force_zip64) as member:
                member.write(raw)
    return bytes(stream.raw)


def read(tmp_path, raw: bytes):
    path = tmp_path / "m.bin"
    path.write_bytes(raw)
    return read_weight_file(path, "m.bin")


def refusal(tmp_path, raw: bytes) -> str:
    with pytest.raises(InputError) as caught:
        read(tmp_path, raw)
    return caught.value.what


def changed(raw: bytes, at: int, new: bytes) -> bytes:
    return raw[:at] + new + raw[at + len(new) :]


def local_header(raw: bytes, name: bytes) -> int:
    return raw.index(name) - LOCAL


def listed(raw: bytes, name: bytes) -> int:
    return raw.index(name, raw.index(b"PK\x01\x02")) - LISTED


@pytest.mark.parametrize(
    ("field", "new", "what"),
    [
        (6, b"\x00\x08", "flags"),
        (6, b"\x08\x00", "flags"),
        (8, b"\x08\x00", "method"),
        (14, b"\1\2\3\4", "checksum"),
        (14, b"\0\0\0\0", "checksum"),
        (18, b"\x17\0\0\0", "sizes"),
        (22, b"\x19\0\0\0", "sizes"),
        (18, b"\xff\xff\xff\xff\xff\xff\xff\xff", "sizes"),
        (26, b"\x07\0", "name"),
        (30, b"M", "name"),
    ],
)
@pytest.mark.parametrize("member", [b"m/data.pkl", b"m/data/0"])
def test_a_local_header_that_differs_from_the_directory_is_refused(tmp_path, member, field, new, what):
    raw = torch_zip_bytes(ONE)
    at = local_header(raw, member)
    expected = f"ambiguous zip: the header of member {member.decode()!r} disagrees with the directory on its {what}"
    assert refusal(tmp_path, changed(raw, at + field, new)) == expected


@pytest.mark.parametrize("force_zip64", [False, True])
def test_a_data_descriptor_has_to_say_what_the_directory_says(tmp_path, force_zip64):
    raw = streamed(force_zip64=force_zip64)
    assert [ref.name for ref in read(tmp_path, raw).tensors] == ["w"]
    at = raw.index(DATA) + len(DATA)
    assert raw[at : at + 8] == b"PK\x07\x08" + struct.pack("<L", zlib.crc32(DATA))
    expected = "ambiguous zip: the data descriptor of member 'm/data/0' disagrees with the directory"
    for place in (at + 4, at + 8, len(raw[:at]) + (16 if force_zip64 else 12)):
        assert refusal(tmp_path, changed(raw, place, bytes([raw[place] ^ 1]))) == expected
    assert refusal(tmp_path, changed(raw, listed(raw, b"m/data/0") + 16, b"\1\2\3\4")) == expected


def test_a_file_of_torch_has_descriptors_and_no_notes(tmp_path):
    import torch

    torch.save({"w": torch.ones(2, 3)}, tmp_path / "m.bin")
    raw = (tmp_path / "m.bin").read_bytes()
    contents = read(tmp_path, raw)
    assert (len(contents.tensors), contents.skipped) == (1, ())
    at = raw.index(b"PK\x07\x08")
    assert "the data descriptor of member" in refusal(tmp_path, changed(raw, at + 8, bytes([raw[at + 8] ^ 1])))


def test_a_pickle_whose_checksum_is_wrong_is_refused_and_one_without_is_noted(tmp_path):
    import torch

    raw = torch_zip_bytes(ONE)
    at = raw.index(b"_rebuild_tensor_v2")
    assert refusal(tmp_path, changed(raw, at, b"_rebuild_tensor_v3")).startswith("damaged zip: the checksum of data.pkl")
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(2, 3)}, tmp_path / "m.bin")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read(tmp_path, (tmp_path / "m.bin").read_bytes()).skipped == ("the zip has no checksum of data.pkl",)


def test_members_that_nothing_refers_to_are_named(tmp_path):
    members = {"m/data.pkl": p_file(ONE), "m/data/0": DATA, "m/data/1": b"x", "m/extra/run.sh": b"x", "m/version": b"3\n"}
    (line,) = read(tmp_path, zip_bytes(members)).skipped
    assert line == "not read, as nothing refers to it: 'm/data/1', 'm/extra/run.sh'"
    many = {"m/data.pkl": p_file(ONE), "m/data/0": DATA, **{f"m/x{number}": b"" for number in range(9)}}
    (line,) = read(tmp_path, zip_bytes(many)).skipped
    assert line.endswith("'m/x4' and 4 more")


def test_a_member_that_the_directory_does_not_list_is_named(tmp_path):
    """It lies between two others, where a tool that reads from the begin finds it."""
    raw = torch_zip_bytes(ONE)
    hidden = zip_bytes({"m/data/9": b"hidden"})
    hidden = hidden[: hidden.index(b"PK\x01\x02")]
    directory = raw.index(b"PK\x01\x02")
    end = len(raw) - 22
    shifted = raw[:directory] + hidden + raw[directory:end] + changed(raw[end:], 16, struct.pack("<L", directory + len(hidden)))
    (line,) = read(tmp_path, shifted).skipped
    assert line == f"not in the zip's directory, so not read: member 'm/data/9' at byte {directory}"
    plain = raw[:directory] + b"12345" + raw[directory:end] + changed(raw[end:], 16, struct.pack("<L", directory + 5))
    (line,) = read(tmp_path, plain).skipped
    assert line == f"not in the zip's directory, so not read: 5 bytes at byte {directory}"


@pytest.mark.parametrize("field", ["offset", "size"])
@pytest.mark.parametrize("far", [2**63 + 5, 2**64 - 2])
def test_a_member_behind_the_end_of_any_file_is_refused(tmp_path, field, far):
    raw = torch_zip_bytes(ONE, {"0": DATA})
    at = listed(raw, b"m/data/0")
    name_bytes, extra_bytes = struct.unpack_from("<2H", raw, at + 28)
    wide = struct.pack("<2HQ", 1, 8, far) if field == "offset" else struct.pack("<2H2Q", 1, 16, far, far)
    marks = {42: b"\xff" * 4} if field == "offset" else {20: b"\xff" * 4, 24: b"\xff" * 4}
    for place, mark in marks.items():
        raw = changed(raw, at + place, mark)
    raw = changed(raw, at + 30, struct.pack("<H", extra_bytes + len(wide)))
    behind = at + LISTED + name_bytes + extra_bytes
    raw = raw[:behind] + wide + raw[behind:]
    end = raw.rindex(b"PK\5\6")
    raw = changed(raw, end + 12, struct.pack("<L", struct.unpack_from("<L", raw, end + 12)[0] + len(wide)))
    assert refusal(tmp_path, raw).startswith("damaged zip: member 'm/data/0' is ")
