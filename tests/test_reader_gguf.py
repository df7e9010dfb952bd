"""GGUF headers, written by the gguf package and by hand."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

import layerhouse as lh
from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.gguf import BLOCK_TYPES, PLAIN_TYPES
from layerhouse.ingest.checkpoint.containers.registry import read_weight_file
from layerhouse.tests.test_layouts import rows_of
from layerhouse.tests.tiny_models import EXPLICIT, TinyModel, build
from layerhouse.tests.weight_files import stored_values


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def info(name: str, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def file_of(
    infos: list[bytes], data: bytes = b"", keys: list[bytes] | None = None, version: int = 3, tensors: int | None = None
) -> bytes:
    keys = keys or []
    head = b"GGUF" + struct.pack("<IQQ", version, len(infos) if tensors is None else tensors, len(keys))
    head += b"".join(keys) + b"".join(infos)
    return head + bytes(-len(head) % 32) + data


def test_the_tables_are_those_of_ggml():
    sizes = {kind.value: (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}
    assert {number: entry for number, entry in sizes.items() if number not in PLAIN_TYPES} == BLOCK_TYPES
    assert {number: sizes[number][0] for number in PLAIN_TYPES} == PLAIN_TYPES


def write(path: Path) -> dict[str, np.ndarray]:
    """A file of the gguf package with plain and quantised tensors, arrays and a vocabulary."""
    generator = np.random.default_rng(0)
    plain = {
        "token_embd.weight": generator.standard_normal((96, 64)).astype(np.float32),
        "blk.0.attn_q.weight": generator.standard_normal((64, 64)).astype(np.float16),
        "output_norm.weight": np.ones(64, np.float32),
    }
    plain["blk.0.attn_q.weight"][:, ::2] = 0
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length([256])
    writer.add_head_count(4)
    writer.add_layer_norm_rms_eps(float("nan"))
    writer.add_token_list([f"token{i}" for i in range(96)])
    for name, values in plain.items():
        writer.add_tensor(name, values)
    blocks = gguf.quants.quantize(generator.standard_normal((64, 256)).astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blk.0.ffn_down.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return plain


def test_tensors_keys_and_bytes_are_those_that_were_written(tmp_path):
    plain = write(tmp_path / "m.gguf")
    contents = read_weight_file(tmp_path / "m.gguf", "m.gguf")
    tensors = {tensor.name: tensor for tensor in contents.tensors}
    for name, values in plain.items():
        assert tensors[name].shape == values.shape
        assert stored_values(tensors[name]) == values.tobytes()
    packed = tensors["blk.0.ffn_down.weight"]
    assert (packed.shape, packed.elements, packed.logical_bytes) == ((64, 256), 16384, 16384 // 32 * 34)
    assert contents.config is not None
    wanted = {"model_type": "gguf", "general.architecture": "llama", "block_count": 1, "embedding_length": 64}
    assert wanted.items() <= contents.config.items()
    assert contents.config["feed_forward_length"] == [256]
    assert not [key for key in contents.config if key.startswith("tokenizer") or key.endswith("rms_epsilon")]


def stored_bytes(path, name):
    """A tensor's blocks as the file has them."""
    reader = gguf.GGUFReader(path)
    return next(tensor.data for tensor in reader.tensors if tensor.name == name)


def test_block_quantised_tensors_are_counted_with_their_zeros(tmp_path):
    (tmp_path / "m").mkdir()
    write(tmp_path / "m" / "m.gguf")
    checkpoint, tensors, _ = rows_of(tmp_path / "m", "*.gguf")
    assert checkpoint["params"] == 96 * 64 + 64 * 64 + 64 + 64 * 256
    assert (checkpoint["container"], checkpoint["zeros"]) == ("gguf", sum(row["zeros"] or 0 for row in tensors.values()))
    row = tensors["blk.0.ffn_down.weight"]
    assert (row["dtype"], row["shape"], row["weight_shape"], row["params"]) == ("Q8_0", [64, 256], None, 16384)
    values = gguf.quants.dequantize(stored_bytes(tmp_path / "m/m.gguf", row["name"]), gguf.GGMLQuantizationType.Q8_0)
    assert (row["zeros"], row["mean"], row["logical_bytes"]) == (int((values == 0).sum()), None, 17408)
    assert tensors["blk.0.attn_q.weight"]["zeros"] == 2048
    assert "1 weights are codes of gguf Q8_0" in next(n["text"] for n in checkpoint["notes"] if n["code"] == "quantised")


def test_a_type_that_is_not_known_has_its_shape_and_no_values(tmp_path):
    """As a later version of ggml may write it: its bytes are those up to the next tensor."""
    infos = [info("output_norm.weight", (64,), 0, 0), info("blk.0.ffn_up.weight", (64, 8), 199, 256)]
    infos.append(info("blk.0.ffn_down.weight", (8, 64), 0, 608))
    (tmp_path / "m").mkdir()
    (tmp_path / "m/m.gguf").write_bytes(file_of(infos, bytes(608 + 2048)))
    checkpoint, tensors, (layer,) = rows_of(tmp_path / "m", "*.gguf")
    row = tensors["blk.0.ffn_up.weight"]
    assert (row["dtype"], row["shape"], row["params"], row["stored_bytes"]) == ("ggml type 199", [8, 64], 512, 352)
    assert (row["zeros"], row["content_hash"]) == (None, None)
    assert (checkpoint["params"], checkpoint["zeros"], layer["params"], layer["intermediate_size"]) == (1088, None, 1024, 8)
    assert any("gguf ggml type 199" in note["text"] for note in checkpoint["notes"] if note["code"] == "no_values")


def test_a_file_without_tensors_or_keys_is_valid(tmp_path):
    (tmp_path / "m.gguf").write_bytes(file_of([]))
    assert read_weight_file(tmp_path / "m.gguf", "m.gguf").tensors == ()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (file_of([], version=1), "GGUF version 1 is not read"),
        (file_of([], version=0x03000000), "big-endian GGUF is not read"),
        (file_of([], tensors=1 << 40), "limit exceeded: 1099511627776 tensors"),
        (file_of([info("a", (32,), 0, 0)]), "cut off: tensor 'a' ends at byte"),
        (file_of([info("a", (32,), 0, 0)], bytes(128))[:60], "cut off"),
        (file_of([info("a", (31,), 2, 0)], bytes(128)), "do not fill blocks of 32"),
        (file_of([info("a", (8,), 0, 5)], bytes(128)), "no multiple of the alignment 32"),
        (file_of([info("a", (32,), 0, 0), info("b", (8,), 0, 64)], bytes(256)), "tensor 'b': overlaps tensor 'a'"),
        (file_of([info("a", (8,), 0, 0), info("a", (8,), 0, 32)], bytes(256)), "duplicate tensor name 'a'"),
        (file_of([info("a", (1 << 40, 1 << 40), 0, 0)]), "limit exceeded"),
        (file_of([text("a") + struct.pack("<I", 1 << 30)]), "limit exceeded: 1073741824 dimensions"),
        (file_of([], keys=[text("k") + struct.pack("<I", 77)]), "value of unknown kind 77"),
        (
            file_of([], keys=[text("k") + struct.pack("<IIQ", 9, 0, 1 << 50)]),
            "limit exceeded: 1125899906842624 items of key 'k'",
        ),
        (file_of([], keys=[text("k") + struct.pack("<IIQ", 9, 9, 1)]), "has items of kind 9"),
        (file_of([], keys=[struct.pack("<Q", 1 << 50)]), "limit exceeded: 1125899906842624 bytes of one text"),
        (file_of([], keys=[text("k") + struct.pack("<II", 4, 1)] * 2), "duplicate key 'k'"),
        (file_of([], keys=[text("general.alignment") + struct.pack("<II", 4, 0)]), "no multiple of 8"),
    ],
)
def test_impossible_headers_are_refused_in_one_line(tmp_path, raw, message):
    (tmp_path / "m.gguf").write_bytes(raw)
    with pytest.raises(InputError, match=message):
        read_weight_file(tmp_path / "m.gguf", "m.gguf")


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    module = name.removesuffix(".weight")
    if not module.startswith("model.layers."):
        return f"{GGUF_NAMES[module]}.weight"
    _, _, layer, inner = module.split(".", 3)
    return f"blk.{layer}.{GGUF_NAMES[inner]}.weight"


def test_the_same_weights_give_the_rows_of_safetensors(tmp_path):
    model = build(TinyModel("llama", {**EXPLICIT, "tie_word_embeddings": False}))
    model.save_pretrained(tmp_path / "plain")
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    (tmp_path / "packed").mkdir()
    writer = gguf.GGUFWriter(tmp_path / "packed/m.gguf", "llama")
    writer.add_block_count(4)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(160)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(16)
    for name, values in state.items():
        writer.add_tensor(gguf_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    lh.ingest([tmp_path / "plain", tmp_path / "packed"], warehouse=tmp_path / "w", base=tmp_path / "plain")
    with lh.open(tmp_path / "w") as wh:
        of_layer = "layer_index, params, attention_params, mlp_params, norm_params, zeros, num_heads, num_kv_heads, head_dim, "
        of_layer += "intermediate_size, hidden_size, macs_per_token, is_zero_layer"
        of_tensor = "canonical_name, module, role, dtype, shape, params, zeros, l2_norm, content_hash, signature"
        of_model = (
            "params, embedding_params, lm_head_params, layer_params, num_layers, macs_per_token, removed_layers, sparsity"
        )

        def rows(model_id):
            which = f"SELECT checkpoint_id FROM current_checkpoints WHERE model_id = '{model_id}'"
            return (
                wh.sql(f"SELECT {of_layer} FROM layers WHERE checkpoint_id = ({which}) ORDER BY layer_index").rows(),
                wh.sql(f"SELECT {of_tensor} FROM tensors WHERE checkpoint_id = ({which}) ORDER BY canonical_name").rows(),
                wh.sql(f"SELECT {of_model} FROM models WHERE model_id = '{model_id}'").rows(),
            )

        assert rows(f"{tmp_path.name}/packed") == rows(f"{tmp_path.name}/plain")
        matches = wh.sql("SELECT DISTINCT match, layer_index = base_layer_index FROM layer_matches").rows()
        assert matches == [("exact", True)]
