"""The pickle machine reads every protocol, executes nothing, and refuses malformed and hostile pickles with the reason."""

from __future__ import annotations

import argparse
import collections
import datetime
import io
import os
import pickle
import pickletools
import random
import struct
import time

import pytest

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.pickle.find_model import find_model
from layerhouse.ingest.checkpoint.pickle.load import load_pickle
from layerhouse.ingest.checkpoint.pickle.machine import PickleLimits
from layerhouse.ingest.checkpoint.pickle.opcodes import OPCODES
from layerhouse.ingest.checkpoint.pickle.values import (
    Global,
    PickledDict,
    PickledSet,
    StorageStub,
    Stub,
    TensorStub,
)
from layerhouse.tests.weight_files import (
    p_call,
    p_dict,
    p_file,
    p_global,
    p_int,
    p_tensor,
    p_text,
    p_tuple,
)


def refusal(raw: bytes, **limits: int) -> str:
    started = time.process_time()
    with pytest.raises(InputError) as caught:
        load_pickle(raw, "shown.bin", limits=PickleLimits(**limits))
    assert time.process_time() - started < 20
    assert caught.value.where == "shown.bin"
    assert "\n" not in str(caught.value)
    return caught.value.what


def plain(value):
    """Back to Python's own types, for acyclic test values."""
    if isinstance(value, PickledDict):
        pairs = zip(value.flat[::2], value.flat[1::2], strict=True)
        return {plain(key): plain(item) for key, item in pairs}
    if isinstance(value, PickledSet):
        return {plain(item) for item in value.items}
    if isinstance(value, list | tuple):
        return type(value)(plain(item) for item in value)
    return value


class Plain:
    """A class to pickle."""

    def __init__(self):
        self.width = 3


class Slotted:
    __slots__ = ("a",)

    def __getnewargs_ex__(self):
        return (1,), {"b": 2}


def test_the_machine_knows_exactly_the_opcodes_of_the_standard_library():
    assert {*OPCODES, b"."} == {opcode.code.encode("latin-1") for opcode in pickletools.opcodes}


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_survives_every_protocol(protocol):
    value = {
        "text": "é😀\\ \n",
        "whole": [0, 1, -1, 255, 256, 65536, 2**31, -(2**31), 2**63, -(2**100), True, False],
        "real": [0.5, -1e300, float("inf")],
        "none": None,
        "nested": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [[]], {}),
        ("a", 1): {2: 3},
        "ordered": collections.OrderedDict(a=1),
        "default": collections.defaultdict(list, b=2),
    }
    unpickled = load_pickle(pickle.dumps(value, protocol), "x")
    assert plain(unpickled.value) == value
    assert list(map(type, plain(unpickled.value)["whole"])) == list(map(type, value["whole"]))
    assert unpickled.end == len(pickle.dumps(value, protocol))
    # Protocols 0 and 1 call the type of the values of a defaultdict by name.
    assert [name.name for name in unpickled.inert] == ["list"]


@pytest.mark.parametrize("protocol", range(6))
def test_sets_and_bytes(protocol):
    unpickled = load_pickle(pickle.dumps([{1, 2}, frozenset("ab")], protocol), "x")
    assert plain(unpickled.value) == [{1, 2}, {"a", "b"}]
    value = load_pickle(pickle.dumps([b"\0\xff" * 200, bytearray(b"x")], protocol), "x").value
    assert value[0] == b"\0\xff" * 200 if protocol > 2 else value[0].class_path == "_codecs.encode"


def test_shared_values_and_cycles_keep_their_identity():
    shared = [1]
    value = {"a": shared, "b": shared}
    value["self"] = value
    loaded = load_pickle(pickle.dumps(value), "x").value
    assert loaded.by_text["a"] is loaded.by_text["b"]
    assert loaded.by_text["self"] is loaded


@pytest.mark.parametrize("protocol", range(6))
def test_objects_become_stubs_with_their_arguments_and_state(protocol):
    space = argparse.Namespace(ratio=0.5)
    loaded = load_pickle(pickle.dumps([Plain(), space, datetime.date(2024, 1, 2), os.getcwd], protocol), "x")
    first, second, date, function = loaded.value
    assert first.class_path == f"{Plain.__module__}.Plain"
    assert not first.is_call
    assert first.state.by_text == {"width": 3}
    assert second.class_path == "argparse.Namespace"
    assert date.class_path == "datetime.date"
    assert date.is_call
    assert isinstance(function, Global)
    assert [name.path for name in loaded.inert][-1].endswith(".getcwd")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_keyword_arguments_are_kept(protocol):
    stub = load_pickle(pickle.dumps(Slotted(), protocol), "x").value
    if protocol == 2:
        assert stub.target.target.path == "functools.partial"
        assert stub.class_path == "result of functools.partial"
    else:
        assert (stub.arguments, plain(stub.keywords)) == ((1,), {"b": 2})


def test_protocol_zero_lines():
    raw = b"(I01\nI-7\nL5L\nF1.5\nS'a\\x41'\nVx\\u00e9\nNt."
    assert load_pickle(raw, "x").value == (True, -7, 5, 1.5, "aA", "xé", None)


def test_instances_by_name_are_calls():
    for raw in (b"(S'touch'\nios\nsystem\n.", b"(cos\nsystem\nS'touch'\no."):
        loaded = load_pickle(raw, "x")
        assert loaded.value.class_path == "os.system"
        assert loaded.value.is_call
        assert [name.path for name in loaded.inert] == ["os.system"]


def test_text_that_is_not_utf8_is_escaped():
    raw = b"\x80\x02X\x03\x00\x00\x00\xed\xa0\x80."
    assert load_pickle(raw, "x").value == "\\xed\\xa0\\x80"
    assert load_pickle(b"V\\ud800\n.", "x").value == "\\xed\\xa0\\x80"


def test_a_tensor_is_a_claim_about_a_storage():
    tensor = load_pickle(p_file(p_tensor((2, 3), (3, 1), offset=4, key="7", numel=99)), "x").value
    assert isinstance(tensor, TensorStub)
    assert isinstance(tensor.storage, StorageStub)
    assert (tensor.storage.key, tensor.storage.elements, tensor.dtype) == ("7", 99, "F32")
    assert (tensor.storage_offset, tensor.shape, tensor.strides, tensor.requires_grad) == (4, (2, 3), (3, 1), False)


def test_allowed_calls_with_unexpected_arguments_become_stubs():
    for value in (
        p_call("torch._utils", "_rebuild_tensor_v2", p_int(1)),
        p_call("torch._utils", "_rebuild_parameter", p_int(1), p_int(1), p_int(1)),
        p_call("torch._tensor", "_rebuild_from_type_v2"),
        p_call(
            "torch._tensor", "_rebuild_from_type_v2", p_global("os", "system"), p_global("a", "b"), p_tuple(p_text("x")), b"N"
        ),
        p_call("collections", "OrderedDict", p_text("xy")),
        p_call("torch", "Size", p_int(10**9)),
        p_global("torch._utils", "_rebuild_tensor_v2") + p_int(3) + b"R",
        p_int(3) + p_tuple() + b"R",
    ):
        assert isinstance(load_pickle(p_file(value), "x").value, Stub)


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"", "pickle: cut off: the pickle has no end, at byte 0"),
        (b"\x80\x02}", "pickle: cut off: the pickle has no end, at byte 3"),
        (b"\x80\x02X\xff\x00\x00\x00ab", "pickle: cut off: an argument of 255 bytes, 2 are left, at byte 2"),
        (b"\x80\x02X\xff\x00", "pickle: cut off: an argument of 255 bytes, 0 are left, at byte 2"),
        (b"\x8e" + b"\xff" * 8 + b"..", "pickle: cut off: an argument of 18446744073709551615 bytes, 2 are left, at byte 0"),
        (b"J\0\0", "pickle: cut off: an argument of 4 bytes, 2 are left, at byte 0"),
        (b"K", "pickle: cut off: an argument is missing, at byte 0"),
        (b"cos", "pickle: cut off: a line without end, at byte 0"),
        (b"R.", "pickle: stack underflow, at byte 0"),
        (b"N\x86.", "pickle: stack underflow, at byte 1"),
        (b"t.", "pickle: stack underflow: no mark, at byte 0"),
        (b"(o.", "pickle: stack underflow, at byte 1"),
        (b"NN(R.", "pickle: stack underflow, at byte 3"),
        (b".", "pickle: the pickle ends with other than one value on its stack, at byte 0"),
        (b"NN.", "pickle: the pickle ends with other than one value on its stack, at byte 2"),
        (b"(N.", "pickle: the pickle ends with other than one value on its stack, at byte 2"),
        (b"\x80\x06N.", "pickle: protocol 6 is not known, at byte 0"),
        (b"N?.", "pickle: unknown opcode 0x3f, at byte 1"),
        (b"\x82\x01.", "pickle: extension codes mean a table that the file does not hold, at byte 0"),
        (b"\x83\x01\0.", "pickle: extension codes mean a table that the file does not hold, at byte 0"),
        (b"\x84\x01\0\0\0.", "pickle: extension codes mean a table that the file does not hold, at byte 0"),
        (b"\x97.", "pickle: a buffer outside the pickle, which the file does not hold, at byte 0"),
        (b"h\x05.", "pickle: memo entry 5 was never stored, at byte 0"),
        (b"gx\n.", "pickle: not a whole number: b'x', at byte 0"),
        (b"F1x\n.", "pickle: not a number: b'1x', at byte 0"),
        (b"S'a\n.", "pickle: a string without quotes, at byte 0"),
        (b"S'\\x'\n.", "pickle: a string with a broken escape, at byte 0"),
        (b"V\\u12\n.", "pickle: a text with a broken escape, at byte 0"),
        (b"NNa.", "pickle: items for a NoneType, at byte 2"),
        (b"NNNs.", "pickle: keys for a NoneType, at byte 3"),
        (b"](N\x90.", "pickle: members for a list, at byte 3"),
        (b"}(Nu.", "pickle: a key without a value, at byte 3"),
        (b"NN\x93.", "pickle: a name that is not text, at byte 2"),
        (b"q\x01.", "pickle: stack underflow, at byte 0"),
    ],
)
def test_malformed_pickles_are_refused_with_the_byte(raw, what):
    assert refusal(raw) == what


@pytest.mark.parametrize(
    ("raw", "limits", "what"),
    [
        (b"N" * 100, {"bytes": 99}, "limit exceeded: a pickle of 100 bytes, over 99"),
        (b"N0" * 1000 + b"N.", {"opcodes": 1000}, "limit exceeded: pickle opcodes, over 1000"),
        (b"]0" * 1000 + b"N.", {"containers": 500}, "limit exceeded: pickle containers, over 500"),
        (b"N\x94" * 1000, {"memo_entries": 300}, "limit exceeded: pickle memo entries, over 300"),
        (b"N" * 1000, {"stack_depth": 300}, "limit exceeded: pickle stack depth, over 300"),
        (b"(" * 1000, {"stack_depth": 300}, "limit exceeded: pickle stack depth, over 300"),
        (b"NNN(" * 1000, {"stack_depth": 2000}, "limit exceeded: pickle stack depth, over 2000"),
        (b"".join(b"c%d\nx\n0" % i for i in range(1000)), {"names": 100}, "limit exceeded: pickle names, over 100"),
        (b"c" + b"x" * 5000 + b"\nx\n.", {}, "limit exceeded: bytes of a pickle line, over 4096"),
        (b"I" + b"1" * 2000 + b"\n.", {}, "limit exceeded: digits of a pickle integer, over 1024"),
        (b"\x8b\x00\x00\x00\x10" + bytes(100), {}, "limit exceeded: bytes of a pickle integer, over 1024"),
        (p_text("x" * 3000) + b"\x94h\x00\x93.", {}, "limit exceeded: characters of a pickle name, over 4096"),
    ],
)
def test_limits_are_named(raw, limits, what):
    assert refusal(raw, **limits).startswith(f"pickle: {what}" if "bytes, over 99" not in what else what)


def test_a_large_memo_index_costs_nothing():
    loaded = load_pickle(b"Nr\xff\xff\xff\xff0j\xff\xff\xff\xff.", "x")
    assert loaded.value is None
    assert load_pickle(b"Np" + b"9" * 500 + b"\n.", "x").value is None


def doubling(levels: int, opcode: bytes) -> bytes:
    """A value that contains the one of the level below twice, for so many levels."""
    return b"N" + b"".join(b"q\x01h\x01" + opcode for _ in range(levels))


@pytest.mark.parametrize("levels", [30, 100_000])
def test_exponential_structures_take_linear_time(levels):
    """As a value, a key of a dict and a member of a set: nothing is traversed, hashed or compared."""
    value = doubling(levels, b"\x86")
    started = time.process_time()
    for raw in (value, b"}(" + value + value + b"u", b"\x8f(" + value + value + b"\x90", value + b"0N"):
        load_pickle(p_file(raw), "x")
    unpickled = load_pickle(p_file(p_dict({"w": p_tensor(), "x": value})), "x")
    assert [named.name for named in find_model(unpickled, "x").tensors] == ["w"]
    assert time.process_time() - started < 10


def test_nothing_that_a_pickle_names_is_called(tmp_path, monkeypatch):
    """os.system, eval, posix.system, an import and a getattr chain, by REDUCE, NEWOBJ, OBJ, INST and BUILD."""
    monkeypatch.chdir(tmp_path)
    touch = p_text("touch sentinel")
    hostile = [
        p_call("os", "system", touch),
        p_call("posix", "system", touch),
        p_call("builtins", "eval", p_text("open('sentinel', 'w')")),
        p_call("__builtin__", "__import__", p_text("sentinel")),
        p_call("builtins", "getattr", p_global("os", "path"), p_text("system")) + p_tuple(touch) + b"R",
        p_global("os", "system") + p_tuple(touch) + b"\x81",
        p_global("os", "system") + p_tuple(touch) + b"}\x92",
        b"(" + p_global("os", "system") + touch + b"o",
        b"(" + touch + b"ios\nsystem\n",
        p_global("os", "environ") + p_dict({"PATH": p_text("x")}) + b"b",
        p_text("os") + p_text("system") + b"\x93" + p_tuple(touch) + b"R",
    ]
    before = dict(os.environ)
    loaded = load_pickle(p_file(b"(" + b"".join(hostile) + b"l"), "x")
    assert len(loaded.value) == len(hostile)
    assert list(tmp_path.iterdir()) == []
    assert dict(os.environ) == before
    assert {"os.system", "posix.system", "builtins.eval", "__builtin__.__import__", "builtins.getattr"} <= {
        name.path for name in loaded.inert
    }


def test_random_bytes_and_mutations_give_a_value_or_one_line():
    random_source = random.Random(5)
    buffer = io.BytesIO()
    pickle.dump([Plain(), {"a": (1, 2.5, "x")}, {1, 2}, b"xy", [Plain()] * 3], buffer, 4)
    whole = buffer.getvalue()
    for round_number in range(3000):
        raw = bytearray(whole if round_number % 3 else random_source.randbytes(60))
        for _ in range(random_source.randint(1, 4)):
            raw[random_source.randrange(len(raw))] = random_source.choice((random_source.randrange(256), ord("."), ord("(")))
        try:
            load_pickle(bytes(raw), "x")
        except InputError as error:
            assert "\n" not in str(error)


def test_a_float_is_big_endian():
    assert load_pickle(b"G" + struct.pack(">d", -2.5) + b".", "x").value == -2.5
