"""Torch files with more than plain tensors: codes of torch and torchao, modules of HQQ, tensors without values."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import layerhouse as lh
from layerhouse.errors import InputError
from layerhouse.tests.test_layouts import CONFIG, Entry, rows_of, write
from layerhouse.tests.tiny_models import Width, llama_shapes
from layerhouse.tests.weight_files import p_call, p_dict, p_global, p_int, p_tensor, p_text, p_tuple, torch_zip_bytes

pytestmark = pytest.mark.filterwarnings("ignore")  # torch announces that it will drop its quantised tensors; files stay

FORMATS = Path(__file__).parents[2] / "shared/data/formats"
SHAPES = llama_shapes({0: Width(), 1: Width(queries=32, keys=16, intermediate=96)})
PARAMS = sum(math.prod(shape) for shape in SHAPES.values())
LINEAR = [name for name in SHAPES if "_proj." in name]
UP = "model.layers.0.mlp.up_proj.weight"


def dense_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {name: torch.randn(shape) for name, shape in SHAPES.items()}


def saved(folder: Path, value: Any, config: Mapping[str, Any] | None = CONFIG, name: str = "pytorch_model.bin") -> Path:
    """A folder with one torch file."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(value, folder / name)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def read(folder: Path) -> Any:
    return rows_of(folder, "*.[bp]*")


def parameters(tensors: Mapping[str, dict[str, Any]]) -> dict[str, list[int]]:
    """The shapes of the parameters by their canonical names."""
    own = (row for row in tensors.values() if row["is_parameter"])
    return {row["canonical_name"]: row["weight_shape"] or row["shape"] for row in own}


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return read(saved(tmp_path_factory.mktemp("dense"), dense_state()))


def assert_as_dense(rows: Any, dense: Any) -> None:
    """The same parameters in the same places, and the same layers."""
    checkpoint, tensors, layers = rows
    assert parameters(tensors) == parameters(dense[1])
    assert (checkpoint["params"], checkpoint["family"]) == (PARAMS, "llama")
    sizes = ("layer_index", "hidden_size", "num_heads", "num_kv_heads", "intermediate_size", "params")
    assert [[row[size] for size in sizes] for row in layers] == [[row[size] for size in sizes] for row in dense[2]]


# Codes of torch's own.


def per_tensor(weight: torch.Tensor, dtype: torch.dtype = torch.qint8, point: int = 3) -> torch.Tensor:
    return torch.quantize_per_tensor(weight, 0.05, point, dtype)


def per_channel(weight: torch.Tensor, axis: int = 0, points: torch.dtype = torch.int64) -> torch.Tensor:
    count = weight.shape[axis]
    zero_points = torch.arange(count).remainder(5).to(points)
    return torch.quantize_per_channel(weight, torch.linspace(0.02, 0.08, count), zero_points, axis, torch.quint8)


QUANTIZED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "qint8": per_tensor,
    "quint8": lambda weight: per_tensor(weight, torch.quint8, 100),
    "qint32": lambda weight: per_tensor(weight, torch.qint32),
    "symmetric": lambda weight: per_tensor(weight, point=0),
    "rows": per_channel,
    "columns": lambda weight: per_channel(weight, 1),
    "points of floats": lambda weight: per_channel(weight, points=torch.float32),
    "parameter": lambda weight: torch.nn.Parameter(per_tensor(weight), requires_grad=False),
    "transposed": lambda weight: per_tensor(weight.t().contiguous()).t(),
}


@pytest.mark.parametrize("kind", QUANTIZED)
def test_quantised_tensors_of_torch_have_their_shapes_and_zeros(tmp_path, dense, kind):
    state = dense_state()
    for name in LINEAR:
        state[name] = QUANTIZED[kind](state[name])
    rows = read(saved(tmp_path / "m", state))
    assert_as_dense(rows, dense)
    for name in LINEAR:
        values = state[name].dequantize()
        assert rows[1][name]["zeros"] == int((values == 0).sum())
    assert sum(rows[1][name]["zeros"] for name in LINEAR) > 0
    assert {rows[1][name]["mean"] for name in LINEAR} == {None}
    assert any("codes of torch.per_" in note["text"] for note in rows[0]["notes"])


@pytest.mark.parametrize("changed", ["scale", "zero point", "code"])
def test_quantised_tensors_that_differ_are_never_one_checkpoint(tmp_path, changed):
    weight = torch.randn(8, 8)
    first = torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)
    other = torch._make_per_tensor_quantized_tensor(
        first.int_repr() + (changed == "code"), 0.2 if changed == "scale" else 0.1, int(changed == "zero point")
    )
    ids = [
        read(saved(tmp_path / str(at), {"a.weight": tensor}))[0]["checkpoint_id"] for at, tensor in enumerate((first, other))
    ]
    again = read(saved(tmp_path / "again", {"a.weight": first}))[0]["checkpoint_id"]
    assert ids[0] == again != ids[1]


def test_codes_of_four_bits_have_their_shape_and_no_values(tmp_path):
    weight = torch.randn(8, 6)
    packed = torch.quantize_per_channel(weight, torch.rand(8) + 0.1, torch.rand(8), 0, torch.quint4x2)
    checkpoint, tensors, _ = read(saved(tmp_path / "m", {"a.weight": packed}, None))
    row = tensors["a.weight"]
    assert (row["weight_shape"], row["params"], row["zeros"], row["content_hash"]) == ([8, 6], 48, None, None)
    assert (checkpoint["params"], checkpoint["zeros"]) == (48, None)
    assert any(note["code"] == "no_values" and "torch.per_channel_affine" in note["text"] for note in checkpoint["notes"])


def tiny_llama() -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
    config = transformers.LlamaConfig(num_hidden_layers=2, vocab_size=40, tie_word_embeddings=False, **sizes)
    torch.manual_seed(2)
    return transformers.LlamaForCausalLM(config)


@pytest.mark.parametrize("dtype", [torch.qint8, torch.float16])
@pytest.mark.parametrize("is_whole", [False, True])
def test_a_dynamically_quantised_model_has_all_of_its_parameters(tmp_path, dtype, is_whole):
    model = tiny_llama()
    plain = read(saved(tmp_path / "plain", model.state_dict(), model.config.to_dict()))
    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=dtype)
    value = quantised if is_whole else quantised.state_dict()
    checkpoint, tensors, layers = read(saved(tmp_path / "m", value, model.config.to_dict()))
    assert parameters(tensors) == parameters(plain[1])
    assert checkpoint["params"] == sum(parameter.numel() for parameter in model.parameters())
    assert [row["params"] for row in layers] == [row["params"] for row in plain[2]]
    assert [row["num_heads"] for row in layers] == [4, 4]
    served = {row["name"].rpartition(".")[2] for row in tensors.values() if row["module"] == "quant_aux"}
    assert served == (set() if is_whole else {"scale", "zero_point"})
    for name, module in quantised.named_modules():
        if isinstance(module, torch.ao.nn.quantized.dynamic.Linear) and dtype == torch.qint8:
            assert tensors[f"{name}.weight"]["zeros"] == int((module.weight().dequantize() == 0).sum())
    assert not any("unsupported" in note["text"] for note in checkpoint["notes"])


def test_an_index_names_the_entries_of_its_shards_whatever_they_hold(tmp_path):
    quantised = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)))
    folder = tmp_path / "m"
    torchao_file(folder, "a.weight", (4, 6))
    (folder / "m.bin").rename(folder / "pytorch_model-00001-of-00002.bin")
    saved(folder, quantised.state_dict(), None, "pytorch_model-00002-of-00002.bin")
    weight_map = {"a.weight": "pytorch_model-00001-of-00002.bin"}
    weight_map |= {name: "pytorch_model-00002-of-00002.bin" for name in quantised.state_dict() if not name.endswith("dtype")}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    checkpoint, tensors, _ = rows_of(folder, "*.bin")
    assert checkpoint["params"] == 24 + sum(parameter.numel() for parameter in (torch.zeros(4 * 3 + 3), torch.zeros(3 * 2 + 2)))
    assert {"a._weight_qdata", "a._weight_scale", "0.weight", "1.bias", "1.scale"} <= {*tensors}
    assert not any(note["text"].startswith("not in the index") for note in checkpoint["notes"])
    del weight_map["1._packed_params._packed_params"]
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    checkpoint, tensors, _ = rows_of(folder, "*.bin")
    assert ("1.weight" in tensors, checkpoint["params"]) == (False, 24 + 15)
    assert any(note["text"].startswith("not in the index: 2 tensors, '1.weight', '1.bias'") for note in checkpoint["notes"])


def test_a_quantised_embedding_is_read(tmp_path):
    quantised = torch.ao.nn.quantized.Embedding(10, 12)
    for at, value in enumerate((torch.nn.Sequential(quantised).state_dict(), torch.nn.Sequential(quantised))):
        _, tensors, _ = read(saved(tmp_path / str(at), value, None))
        assert {name: row["params"] for name, row in tensors.items()} == {"0.weight": 120}


def test_what_torch_packs_in_another_way_is_no_smaller_model(tmp_path):
    linear = torch.nn.Linear(4, 4)
    lstm = torch.ao.quantization.quantize_dynamic(torch.nn.ModuleList([torch.nn.LSTM(4, 4)]), {torch.nn.LSTM}, torch.qint8)
    convolution = torch.ao.nn.quantized.Conv2d(3, 4, 3)
    for at, (value, what) in enumerate(
        (
            ({"a.weight": linear.weight, **lstm.state_dict()}, "kind of tensor .torch.ScriptObject. unsupported"),
            (torch.nn.Sequential(linear, lstm), "kind of tensor .torch.ScriptObject. unsupported: tensor 1.0"),
            (torch.nn.Sequential(linear, convolution), "kind of module .torch.*Conv2d. unsupported: tensor 1"),
            ({"a.weight": linear.weight, "b": (per_tensor(linear.weight),)}, "quantised tensors in a tuple. unsupported"),
        )
    ):
        checkpoint, _, _ = read(saved(tmp_path / str(at), value, None))
        assert (checkpoint["params"], checkpoint["zeros"]) == (None, None)
        assert re.search(what, unread_text(checkpoint))


def unread_text(checkpoint: Mapping[str, Any]) -> str:
    """The note that says what was not read."""
    (text,) = (note["text"] for note in checkpoint["notes"] if note["code"] == "unread")
    return str(text)


# Tensors without values.


def on_meta(state: dict[str, torch.Tensor], layers: tuple[int, ...]) -> dict[str, torch.Tensor]:
    named = tuple(f"layers.{layer}." for layer in layers)
    return {name: tensor.to("meta") if any(part in name for part in named) else tensor for name, tensor in state.items()}


def test_layers_on_the_meta_device_count_by_their_shapes_and_have_no_values(tmp_path, dense):
    rows = read(saved(tmp_path / "m", on_meta(dense_state(), (1,))))
    assert_as_dense(rows, dense)
    checkpoint, tensors, layers = rows
    unread = [row for name, row in tensors.items() if "layers.1." in name]
    assert {(row["zeros"], row["content_hash"], row["stored_bytes"]) for row in unread} == {(None, None, 0)}
    assert (checkpoint["zeros"], checkpoint["prunable_zeros"], layers[1]["zeros"]) == (None, None, None)
    assert (layers[0]["zeros"], layers[1]["is_zero_layer"]) == (0, None)
    texts = [note["text"] for note in checkpoint["notes"] if note["code"] == "no_values"]
    assert texts == [
        f"{len(unread)} tensors without values that are read (on torch's meta device): "
        "counted by their shape, their values are not known"
    ]


def test_a_model_on_the_meta_device_is_no_pruned_one(tmp_path):
    saved(tmp_path / "zoo/base", dense_state())
    saved(tmp_path / "zoo/meta", on_meta(dense_state(), (1,)))
    lh.ingest([tmp_path / "zoo"], warehouse=tmp_path / "w", base=tmp_path / "zoo/base")
    with lh.open(tmp_path / "w") as wh:
        rows = wh.sql(
            "SELECT reduction_ratio, removed_layers, zero_layers, sparsity FROM models WHERE model_id = 'zoo/meta'"
        ).rows()
    assert rows[0][0] == 0
    assert not rows[0][1]
    assert not rows[0][2]
    assert rows[0][3] is None


def test_two_names_of_one_tensor_without_values_count_once_and_two_tensors_twice(tmp_path):
    model = torch.nn.Module()
    with torch.device("meta"):
        model.first, model.second = torch.nn.Linear(6, 4, bias=False), torch.nn.Linear(6, 4, bias=False)
        model.third = torch.nn.Linear(6, 4, bias=False)
    model.third.weight = model.first.weight
    checkpoint, tensors, _ = read(saved(tmp_path / "m", model, None))
    assert checkpoint["params"] == 48
    assert [row["params"] for row in tensors.values()] == [24, 24, 0]


def test_a_buffer_without_values_is_no_parameter(tmp_path):
    state = {**dense_state(), "model.rotary_emb.inv_freq": torch.ones(8), "extra.ids": torch.arange(7)}
    plain, meta = (
        read(saved(tmp_path / str(at), value)) for at, value in enumerate((state, {k: v.to("meta") for k, v in state.items()}))
    )
    assert plain[0]["params"] == meta[0]["params"] == PARAMS
    assert parameters(plain[1]) == parameters(meta[1])


def test_files_that_differ_in_what_is_not_read_are_two_checkpoints(tmp_path):
    """What is not read has no hash, so that the file itself tells them apart."""
    base = dense_state()
    for name, layers in (("a", (1,)), ("b", (1,))):
        saved(tmp_path / "zoo" / name, on_meta(base, layers))
    lh.ingest([tmp_path / "zoo"], warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as wh:
        ids = [row[0] for row in wh.sql("SELECT DISTINCT checkpoint_id FROM current_checkpoints").rows()]
    assert len(ids) == 2


def p_meta(*shape: int, dtype: str = "float32") -> bytes:
    sizes, strides = (p_tuple(*map(p_int, values)) for values in (shape, (1,) * len(shape)))
    return p_call("torch._utils", "_rebuild_meta_tensor_no_storage", p_global("torch", dtype), sizes, strides, b"\x89")


def p_quantized(
    *, storage: str = "QInt8Storage", numel: int = 24, shape: tuple[int, ...] = (4, 6), scheme: bytes = b""
) -> bytes:
    persistent = p_tuple(p_text("storage"), p_global("torch", storage), p_text("0"), p_text("cpu"), p_int(numel)) + b"Q"
    strides = tuple(math.prod(shape[at + 1 :]) for at in range(len(shape)))
    per_one = p_tuple(p_global("torch", "per_tensor_affine"), b"G?\xb9\x99\x99\x99\x99\x99\x9a", p_int(0))
    sizes = (p_tuple(*map(p_int, shape)), p_tuple(*map(p_int, strides)))
    return p_call("torch._utils", "_rebuild_qtensor", persistent, p_int(0), *sizes, scheme or per_one, b"\x89", b"}")


CLAIMS: dict[str, tuple[bytes, str]] = {
    "unknown dtype": (p_meta(2, 2, dtype="float128"), "'x': unknown dtype torch.float128"),
    "negative": (p_meta(2, -2), "'x': negative size"),
    "too many elements": (p_meta(2**62, 2**62), "'x': limit exceeded: more than"),
    "many dimensions": (p_meta(*[1] * 65), "'x': limit exceeded: more than 64 dimensions"),
    "too many parameters": (p_meta(2**40, 2**10), "limit exceeded: 1125899906842624 elements of tensors without values"),
    "codes out of the storage": (p_quantized(shape=(5, 6)), "'x': needs 30 bytes of a storage of 24"),
    "half bytes out of the storage": (
        p_quantized(storage="QUInt4x2Storage", shape=(7, 7)),
        "'x': needs 25 bytes of a storage of 24",
    ),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_claims_that_cannot_be_true_are_refused(tmp_path, name):
    value, what = CLAIMS[name]
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "m.bin").write_bytes(
        torch_zip_bytes(p_dict({"w": p_tensor(key="1"), "x": value}), {"0": bytes(24), "1": bytes(24)})
    )
    with pytest.raises(InputError, match=what) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def test_codes_of_another_storage_have_no_size(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    value = p_quantized(storage="FloatStorage", numel=6)
    raw = torch_zip_bytes(p_dict({"w": p_tensor(key="1"), "x": value}), {"0": bytes(24), "1": bytes(24)})
    (folder / "m.bin").write_bytes(raw)
    checkpoint, tensors, _ = read(folder)
    assert (checkpoint["params"], [*tensors]) == (None, ["w"])
    assert re.search("kind of tensor .* unsupported: tensor x", unread_text(checkpoint))


def test_scales_that_give_no_number_leave_the_values_unknown(tmp_path):
    infinite = p_tuple(p_global("torch", "per_tensor_affine"), b"G\x7f\xf0\0\0\0\0\0\0", p_int(0))
    other = p_tuple(p_global("torch", "per_tensor_symmetric"), b"G?\xb9\x99\x99\x99\x99\x99\x9a", p_int(0))
    for at, scheme in enumerate((infinite, other)):
        folder = tmp_path / str(at)
        folder.mkdir()
        (folder / "m.bin").write_bytes(torch_zip_bytes(p_dict({"x": p_quantized(scheme=scheme)})))
        checkpoint, tensors, _ = read(folder)
        assert (checkpoint["params"], tensors["x"]["zeros"], tensors["x"]["content_hash"]) == (24, None, None)


# Classes of tensors.


def p_subclass(module: str, name: str, shape: tuple[int, ...], members: bytes) -> bytes:
    """A tensor of a class of its own, as torch pickles it."""
    sizes = p_tuple(*map(p_int, shape))
    claims = p_tuple(p_global(module, name), p_global("torch", "bfloat16"), sizes, p_tuple(p_int(1)), p_int(0))
    wrapper = p_global("torch._utils", "_rebuild_wrapper_subclass")
    return p_call("torch._tensor", "_rebuild_from_type_v2", wrapper, p_global(module, name), claims, members)


def p_bytes_tensor(key: str, *shape: int, storage: str = "CharStorage") -> bytes:
    strides = tuple(math.prod(shape[at + 1 :]) for at in range(len(shape)))
    return p_tensor(shape, strides, key=key, numel=math.prod(shape), storage=("torch", storage))


def torchao_file(folder: Path, name: str, shape: tuple[int, int], *, cls: str = "Int8Tensor", has_points: bool = True) -> None:
    codes = np.tile(np.array([0, 1, 2, 3], np.int8), 6)
    members = {
        "qdata": p_bytes_tensor("0", 4, 6),
        "scale": p_bytes_tensor("1", 4, 1, storage="FloatStorage"),
        "block_size": b"](" + p_int(1) + p_int(6) + b"e",
        "act_pre_scale": p_bytes_tensor("3", 6, storage="FloatStorage"),
        "other": p_bytes_tensor("3", 6, storage="FloatStorage"),
    }
    if has_points:
        members["zero_point"] = p_bytes_tensor("2", 4, 1)
    value = p_dict({name: p_subclass("torchao.quantization", cls, shape, p_dict(members))})
    storages = {"0": codes.tobytes(), "1": bytes(16), "2": np.arange(4, dtype=np.int8).tobytes(), "3": bytes(24)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "m.bin").write_bytes(torch_zip_bytes(value, storages))


@pytest.mark.parametrize("has_points", [True, False])
def test_a_pickled_weight_of_torchao_has_the_zeros_of_the_safetensors_form(tmp_path, has_points):
    torchao_file(tmp_path / "m", "a.weight", (4, 6), has_points=has_points)
    checkpoint, tensors, _ = read(tmp_path / "m")
    codes = np.tile(np.array([0, 1, 2, 3]), 6).reshape(4, 6)
    row = tensors["a._weight_qdata"]
    zeros = codes == np.arange(4)[:, np.newaxis] if has_points else codes == 0
    assert (row["params"], row["zeros"]) == (24, int(zeros.sum()))
    assert checkpoint["params"] == 24
    assert {row["module"] for name, row in tensors.items() if name != "a._weight_qdata"} == {"quant_aux"}
    assert not any("not executed" in note["text"] for note in checkpoint["notes"])


@pytest.mark.parametrize(("name", "shape"), [("a.weight", (4, 12)), ("experts.up", (4, 6))])
def test_a_tensor_of_a_class_that_is_not_read_counts_by_the_shape_that_it_claims(tmp_path, name, shape):
    torchao_file(tmp_path / "m", name, shape)
    checkpoint, tensors, _ = read(tmp_path / "m")
    assert {name: (row["params"], row["zeros"], row["content_hash"]) for name, row in tensors.items()} == {
        name: (math.prod(shape), None, None)
    }
    assert any("(torchao.quantization.Int8Tensor)" in note["text"] for note in checkpoint["notes"])


def test_two_names_of_one_tensor_of_a_class_count_once_and_two_tensors_twice(tmp_path):
    one, other = (p_subclass("a", "Codes", (4, 6), b"}") for _ in range(2))
    folder = tmp_path / "m"
    folder.mkdir()
    value = p_dict({"a.weight": one + b"q\x09", "b.weight": b"h\x09", "c.weight": other, "d": p_tensor()})
    (folder / "m.bin").write_bytes(torch_zip_bytes(value))
    _, tensors, _ = read(folder)
    assert {name: row["params"] for name, row in tensors.items()} == {"a.weight": 24, "b.weight": 0, "c.weight": 24, "d": 6}


@pytest.mark.parametrize(("shape", "zeros"), [((4, 6), 6), ((8, 6), None)])
def test_a_distributed_tensor_is_its_local_part_only_where_that_is_all_of_it(tmp_path, shape, zeros):
    members = p_dict({"_local_tensor": p_bytes_tensor("0", 4, 6), "_spec": p_call("torch.distributed.tensor", "Spec")})
    value = p_dict({"a.weight": p_subclass("torch.distributed.tensor", "DTensor", shape, members)})
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "m.bin").write_bytes(torch_zip_bytes(value, {"0": np.tile(np.arange(4, dtype=np.int8), 6).tobytes()}))
    _, tensors, _ = read(folder)
    assert (tensors["a.weight"]["shape"], tensors["a.weight"]["zeros"]) == (list(shape), zeros)


class Codes(torch.Tensor):
    """A tensor whose bytes mean what only its class knows."""


class QuantState:
    """What bitsandbytes keeps beside its packed bytes."""

    def __init__(self, shape: Any) -> None:
        self.shape, self.dtype, self.absmax = shape, torch.float16, torch.ones(1)


def packed_by_bitsandbytes(shape: Any) -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Linear(6, 8, bias=False))
    parameter = torch.nn.Parameter(torch.zeros(24, 1, dtype=torch.uint8), requires_grad=False)
    parameter.quant_state = QuantState(shape)
    model[0].weight = parameter
    return model


def test_a_pickled_module_of_bitsandbytes_counts_by_the_shape_in_its_state(tmp_path):
    checkpoint, tensors, _ = read(saved(tmp_path / "m", packed_by_bitsandbytes(torch.Size((8, 6))), None))
    row = tensors["0.weight"]
    assert (checkpoint["params"], row["shape"], row["dtype"], row["zeros"]) == (48, [8, 6], "F16", None)
    assert any("(packed by bitsandbytes)" in note["text"] for note in checkpoint["notes"])
    unknown = torch.nn.Sequential(packed_by_bitsandbytes(None)[0], torch.nn.Linear(2, 2))
    checkpoint, _, _ = read(saved(tmp_path / "n", unknown, None))
    assert (checkpoint["params"], "unsupported: tensor 0.weight" in unread_text(checkpoint)) == (None, True)


def test_codes_of_an_unknown_class_and_parameters_without_a_shape_are_no_smaller_model(tmp_path):
    plain = torch.ones(2, 2)
    packed = torch.zeros(3, dtype=torch.uint8).as_subclass(Codes)
    lazy = torch.nn.Sequential(torch.nn.LazyLinear(4), torch.nn.Linear(2, 2))
    for at, value in enumerate(({"a": plain, "b": packed}, lazy.state_dict(), lazy)):
        checkpoint, _, _ = read(saved(tmp_path / str(at), value, None))
        assert checkpoint["params"] is None
        assert re.search(r"unsupported: tensor (b|0\.weight)", unread_text(checkpoint))
    rows = read(saved(tmp_path / "plain", {"a": plain.as_subclass(Codes), "b": packed.to(torch.int8)}, None))
    assert rows[0]["params"] == 4


def test_two_tensors_of_one_name_are_refused(tmp_path):
    quantised = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(torch.nn.Linear(4, 4)), dtype=torch.qint8)
    with pytest.raises(InputError, match=r"two tensors are named '0\.weight'"):
        read(saved(tmp_path / "m", {**quantised.state_dict(), "0.weight": torch.ones(2)}, None))


# HQQ.


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """hqq/core/bitpack.py: slices of rows, the first in the high bits; three bits padded to ten slices in words."""
    if bits == 3:
        padded = np.zeros((-(-len(codes) // 10) * 10, codes.shape[1]), np.int32)
        padded[: len(codes)] = codes
        slices, shifts = np.split(padded, 10), range(27, -1, -3)
    else:
        slices, shifts = np.split(codes.astype(np.uint8), 8 // bits), range(8 - bits, -1, -bits)
    return sum(part << shift for part, shift in zip(slices, shifts, strict=True)).astype(slices[0].dtype)


def hqq(weight: tuple[int, int], bits: int, axis: int, group: int, dtype: torch.dtype) -> tuple[dict[str, Any], torch.Tensor]:
    """A module of HQQ, and its values as HQQ computes them."""
    chance = np.random.default_rng(bits)
    elements = math.prod(weight)
    matrix = (elements // group, group) if axis == 1 else (group, elements // group)
    codes = chance.integers(0, 1 << bits, matrix)
    groups = (matrix[0], 1) if axis == 1 else (1, matrix[1])
    scale = torch.tensor(chance.choice([0.01, 0.5, 1e-7, 0.0], groups)).to(dtype)
    zero = torch.tensor(chance.choice([0.0, 1.0, 0.5, float(2**bits - 1)], groups)).to(dtype)
    values = ((torch.tensor(codes).to(dtype) - zero) * scale).reshape(weight)
    described = {"shape": torch.Size(weight), "nbits": bits, "axis": axis, "group_size": group, "packing": f"{bits}bit"}
    return {"W_q": torch.tensor(pack(codes, bits)), "scale": scale, "zero": zero, **described, "quant_scale": False}, values


FORMS = [(bits, axis, torch.float16) for bits in (8, 4, 3, 2, 1) for axis in (0, 1)]
FORMS += [(4, 1, torch.bfloat16), (2, 1, torch.float32)]


@pytest.mark.parametrize("is_pickle", [True, False])
@pytest.mark.parametrize(("bits", "axis", "dtype"), FORMS)
def test_modules_of_hqq_have_their_shapes_and_zeros(tmp_path, dense, bits, axis, dtype, is_pickle):
    state, zeros = dense_state(), {}
    modules: dict[str, dict[str, Any]] = {}
    decoded = {}
    for name, tensor in state.items():
        module, _, part = name.rpartition(".")
        if name in LINEAR:
            modules[module], values = hqq(tuple(tensor.shape), bits, axis, 16, dtype)
            zeros[f"{module}.W_q"] = int((values == 0).sum())
            decoded[name] = values.float()
        else:
            modules.setdefault(module, {})[part] = tensor
    if is_pickle:
        rows = read(saved(tmp_path / "m", modules, name="qmodel.pt"))
    else:
        rows = rows_of(write(tmp_path / "m", dict(as_entries(modules))))
    assert_as_dense(rows, dense)
    assert {name: rows[1][name]["zeros"] for name in zeros} == zeros
    assert sum(zeros.values()) > 0
    assert any("codes of hqq" in note["text"] for note in rows[0]["notes"])
    values_rows = read(saved(tmp_path / "values", {**state, **decoded}))[1]
    for name in LINEAR:
        packed, plain = rows[1][f"{name.removesuffix('.weight')}.W_q"], values_rows[name]
        assert (packed["signature"], packed["sketch"]) == (plain["signature"], plain["sketch"])


def as_entries(modules: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Entry]]:
    """Modules of HQQ as its tools write them to safetensors: every value as a tensor."""
    codes = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.int32: "I32", torch.uint8: "U8"}
    for module, members in modules.items():
        for key, value in members.items():
            if isinstance(value, torch.Tensor):
                raw = value.contiguous().view(torch.uint8).numpy().tobytes()
                yield f"{module}.{key}", (codes[value.dtype], tuple(value.shape), raw)
            elif isinstance(value, bool):
                yield f"{module}.{key}", ("U8", (), bytes([value]))
            elif isinstance(value, int):
                yield f"{module}.{key}", ("I32", (), value.to_bytes(4, "little"))
            elif isinstance(value, str):
                yield f"{module}.{key}", ("U8", (len(value),), value.encode())
            else:
                yield f"{module}.{key}", ("I64", (len(value),), b"".join(extent.to_bytes(8, "little") for extent in value))


def module_of_hqq(**changes: Any) -> dict[str, Any]:
    module, _ = hqq((8, 32), 4, 1, 16, torch.float16)
    return {key: value for key, value in {**module, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    "changes",
    [
        {"scale": None, "zero": None},
        {"axis": None},
        {"nbits": 5},
        {"nbits": None},
        {"zero": torch.zeros(16, 1)},
        {"scale": torch.zeros(15, 1).half()},
        {"scale": None, "meta_scale": {"scale": torch.ones(2)}},
    ],
)
def test_a_form_of_hqq_that_is_not_read_has_its_shape_and_no_zeros(tmp_path, changes):
    bits = changes.get("nbits", 4)
    codes = {"W_q": torch.zeros(12, 16, dtype=torch.uint8)} if bits == 5 else {}
    checkpoint, tensors, _ = read(saved(tmp_path / "m", {"a": module_of_hqq(**changes, **codes)}, None))
    assert checkpoint["params"] == 256
    assert (tensors["a.W_q"]["weight_shape"], tensors["a.W_q"]["zeros"]) == ([8, 32], None)
    assert {row["module"] for name, row in tensors.items() if name != "a.W_q"} <= {"quant_aux"}
    assert any("packed by hqq" in note["text"] for note in checkpoint["notes"])


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"shape": torch.Size((8, 320))}, "W_q of 128 bytes is too short for shape"),
        ({"shape": "8, 32", "meta": {}}, "nothing says the shape"),
        ({"shape": torch.Size((8, -32))}, "nothing says the shape"),
    ],
)
def test_a_module_of_hqq_that_contradicts_itself_has_no_size(tmp_path, changes, what):
    checkpoint, _, _ = read(saved(tmp_path / "m", {"a": module_of_hqq(**changes)}, None))
    assert (checkpoint["params"], what in unread_text(checkpoint)) == (None, True)


def test_a_flat_state_dict_and_a_pickled_module_of_hqq_are_read(tmp_path):
    module, values = hqq((8, 32), 4, 1, 16, torch.float16)
    flat = {f"a.{key}": value for key, value in module.items()}
    codes, meta = torch.nn.Parameter(module["W_q"], requires_grad=False), {**module}
    del meta["W_q"]
    whole = torch.nn.ModuleDict({"a": torch.nn.Module(), "b": torch.nn.Linear(2, 2, bias=False)})
    whole["a"].W_q, whole["a"].meta = codes, meta
    for at, value in enumerate(({**flat, "b.weight": torch.ones(2, 2)}, whole)):
        checkpoint, tensors, _ = read(saved(tmp_path / str(at), value, None))
        assert (checkpoint["params"], tensors["a.W_q"]["zeros"]) == (256 + 4, int((values == 0).sum()))
        assert {*tensors} == {"a.W_q", "a.scale", "a.zero", "b.weight"}
        assert not any("not a tensor" in note["text"] for note in checkpoint["notes"])


def test_other_kinds_of_tensors_beside_modules_of_hqq_are_read(tmp_path):
    modules = {
        "a": {**module_of_hqq(), "bias": torch.ones(8, device="meta")},
        "b": {"weight": torch.ones(2, 3, device="meta")},
        "c": {"weight": per_tensor(torch.ones(4, 4))},
        "d": torch.ones(5),
    }
    checkpoint, tensors, _ = read(saved(tmp_path / "m", modules, None))
    assert checkpoint["params"] == 256 + 8 + 6 + 16 + 5
    assert (tensors["b.weight"]["zeros"], tensors["c.weight"]["zeros"], tensors["a.bias"]["zeros"]) == (None, 0, None)


def test_an_older_form_of_hqq_with_its_values_in_meta_is_read(tmp_path):
    module, values = hqq((8, 32), 4, 1, 16, torch.float16)
    older = {"W_q": module.pop("W_q"), "meta": module, "bias": torch.ones(8)}
    checkpoint, tensors, _ = read(saved(tmp_path / "m", {"state_dict": {"a": older, "b": {"weight": torch.ones(3)}}}, None))
    assert checkpoint["params"] == 256 + 8 + 3
    assert tensors["a.W_q"]["zeros"] == int((values == 0).sum())


@pytest.mark.skipif(not FORMATS.is_dir(), reason=f"no checkpoints in {FORMATS}, which is not part of the project")
@pytest.mark.parametrize("name", ["torchao-int8-pickle", "hqq-1bit-g32", "hqq-4bit-g64"])
def test_every_weight_of_a_pickle_of_a_library_has_the_zeros_that_the_library_counts(name):
    expected = json.loads((FORMATS / name / "expected.json").read_text())
    checkpoint, tensors, _ = read(FORMATS / name)
    assert checkpoint["params"] == expected["params"]
    suffixes = (".W_q", "._weight_qdata", ".weight")
    for weight, zeros in expected["zeros_by_weight"].items():
        module = weight.removesuffix(".weight")
        row = next(tensors[module + suffix] for suffix in suffixes if module + suffix in tensors)
        assert row["zeros"] == zeros
