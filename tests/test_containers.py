"""torch's containers of all versions, SliceGPT's pairs of files, and files of other kinds."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile

import pytest
import torch

import layerhouse as lh
from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.registry import read_weight_file
from layerhouse.ingest.checkpoint.weight_set import find_weight_set
from layerhouse.ingest.checkpoint.weight_set_reader import read_weight_set
from layerhouse.ingest.discover import discover
from layerhouse.tests.family_models import MODELS
from layerhouse.tests.study_files import put
from layerhouse.tests.test_reader_torch_zip import assert_same
from layerhouse.tests.tiny_models import build
from layerhouse.tests.weight_files import (
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
    torch_zip_bytes,
    zip_bytes,
)

MAGIC = p_file(p_int(0x1950A86A20F9469CFC6C))
MACHINE = p_file(p_dict({"protocol_version": b"M\xe9\x03", "little_endian": b"\x88"}))


def legacy(value: bytes, *, keys=("0",), storages=None, version: int = 1001, machine: bytes = MACHINE) -> bytes:
    """A file of torch's old format: `storages` are (count, bytes) in the order of the keys."""
    head = MAGIC + p_file(p_int(version)) + machine + p_file(value) + p_file(b"](" + b"".join(map(p_text, keys)) + b"e")
    blocks = [(6, bytes(range(24)))] if storages is None else storages
    return head + b"".join(struct.pack("<q", count) + raw for count, raw in blocks)


ONE = p_dict({"w": p_tensor()})


def read(tmp_path, content: bytes, name: str = "m.bin"):
    (tmp_path / name).write_bytes(content)
    return read_weight_file(tmp_path / name, f"shown/{name}")


def refusal(tmp_path, content: bytes, name: str = "m.bin") -> str:
    with pytest.raises(InputError) as caught:
        read(tmp_path, content, name)
    assert "\n" not in str(caught.value)
    return caught.value.what


# Torch's old format


@pytest.mark.parametrize("protocol", range(1, 6))
def test_the_old_format_gives_the_tensors_of_the_new_one(tmp_path, protocol):
    base = torch.arange(60, dtype=torch.float32).reshape(6, 10)
    names = "bool uint8 int8 int16 int32 int64 float16 bfloat16 float32 float64 complex64 float8_e4m3fn uint16"
    state = {name: base.to(getattr(torch, name)) for name in names.split()}
    state |= {"columns": base[:, 2:5], "transposed": base.t(), "stepped": base[::2, ::3], "tied": base}
    state |= {"empty": torch.zeros(0, 5), "scalar": torch.tensor(2.5), "parameter": torch.nn.Parameter(base.clone())}
    for name, is_new in (("new.bin", True), ("old.bin", False)):
        torch.save(state, tmp_path / name, _use_new_zipfile_serialization=is_new, pickle_protocol=protocol)
    old, new = (read_weight_file(tmp_path / name, name) for name in ("old.bin", "new.bin"))
    assert (old.container, old.skipped) == ("torch legacy", ())
    assert_same(old.tensors, state)
    assert [(ref.shape, ref.strides, ref.storage_bytes, ref.storage_offset) for ref in old.tensors] == [
        (ref.shape, ref.strides, ref.storage_bytes, ref.storage_offset) for ref in new.tensors
    ]
    refs = {ref.name: ref for ref in old.tensors}
    assert refs["tied"].place == refs["float32"].place != refs["parameter"].place


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_a_whole_model_in_the_old_format(tmp_path):
    model = save_vanished(tmp_path / "m.bin", _use_new_zipfile_serialization=False)
    contents = read_weight_file(tmp_path / "m.bin", "m.bin")
    assert (contents.container, contents.class_path) == ("torch legacy, pickled whole model", "vanished.Model")
    assert_same(contents.tensors, model.state_dict())


def test_pickles_longer_than_the_first_bytes_that_are_read(tmp_path):
    contents = read(tmp_path, legacy(p_dict({"text": p_text("x" * (3 << 20)), "w": p_tensor()})))
    assert stored_values(contents.tensors[0]) == bytes(range(24))


def test_a_view_of_a_storage_as_torch_before_0_4_wrote_it(tmp_path):
    def viewed(offset: int, count: int) -> bytes:
        view = p_tuple(p_text("7"), p_int(offset), p_int(count))
        parts = (p_text("storage"), p_global("torch", "FloatStorage"), p_text("0"), p_text("cpu"), p_int(6), view)
        shape = (p_tuple(p_int(2)), p_tuple(p_int(1)))
        return p_dict({"w": p_call("torch._utils", "_rebuild_tensor", p_tuple(*parts) + b"Q", p_int(1), *shape)})

    (ref,) = read(tmp_path, legacy(viewed(2, 4))).tensors
    assert stored_values(ref) == bytes(range(12, 20))
    assert refusal(tmp_path, legacy(viewed(2, 2))) == "tensor 'w': reaches out of its view of 2 elements from 2 on"
    assert refusal(tmp_path, legacy(viewed(4, 3))) == "tensor 'w': its view of 3 elements from 4 on reaches out of its storage"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (legacy(ONE)[:-10], f"cut off: expected {len(legacy(ONE))} bytes, found {len(legacy(ONE)) - 10}; fetch it again"),
        (legacy(ONE)[:60], "pickle: cut off: an argument of 13 bytes, 5 are left, at byte 50; the file has 60 bytes"),
        (legacy(ONE) + b"x", f"1 trailing bytes: expected {len(legacy(ONE))} bytes, found {len(legacy(ONE)) + 1}"),
        (legacy(ONE, version=1000), "torch's old format of version 1000: only 1001 is read"),
        (legacy(ONE, storages=[(7, bytes(24))]), "storage '0' has 7 elements, the pickle claims 6"),
        (legacy(ONE, storages=[(-1, bytes(24))]), "storage '0' has -1 elements, the pickle claims 6"),
        (legacy(ONE, keys=()), f"32 trailing bytes: expected {len(legacy(ONE, keys=())) - 32} bytes, found"),
        (legacy(ONE, keys=("0", "0")), "damaged: the list of storage keys names one twice"),
        (legacy(ONE, keys=("0", "1")), "storage '1' is listed, and the pickle says nothing of its type"),
        (legacy(p_dict({"w": p_tensor(numel=2**70)})), "storage '0' claims 1180591620717411303424 elements"),
        (legacy(p_dict({"w": p_tensor(storage=("os", "system"))})), "storage '0' of unknown type os.system"),
        (legacy(p_dict({"w": p_tensor(offset=1)})), "tensor 'w': needs 28 bytes of a storage of 24"),
        (legacy(p_dict({"w": p_tensor(), "v": p_tensor(numel=5)})), "pickle: storage '0' is claimed with two types or sizes"),
        (
            legacy(ONE, machine=p_file(p_dict({"little_endian": b"\x89"}))),
            "written on a big-endian machine: only little-endian files are read",
        ),
        (legacy(ONE, machine=p_file(b"N")), "damaged: no description of the machine after the version"),
    ],
)
def test_what_the_old_format_claims_is_checked(tmp_path, content, what):
    assert refusal(tmp_path, content).startswith(what)


def test_a_hostile_pickle_in_the_old_format_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hostile = p_dict({"w": p_tensor(), "x": p_call("os", "system", p_text("touch sentinel"))})
    contents = read(tmp_path, legacy(hostile))
    assert [ref.name for ref in contents.tensors] == ["w"]
    assert contents.skipped[0] == "skipped, not executed: os.system"
    assert [path.name for path in tmp_path.iterdir()] == ["m.bin"]


# Other containers


def tar_bytes(*names: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 5
            archive.addfile(member, io.BytesIO(b"12345"))
    return buffer.getvalue()


def test_unsupported_containers_are_refused_with_advice(tmp_path):
    cut = torch_zip_bytes(p_dict({"w": p_tensor(numel=6000, shape=(6000,), strides=(1,))}), {"0": bytes(24000)})[:9000]
    lines = {
        tar_bytes("./sys_info", "./pickle", "./storages", "./tensors"): "a tar archive of torch before 0.1.10 is not read by "
        "this version: 10240 bytes that begin with 2e 2f 73 79 73 5f 69 6e 66 6f 00 00 00 00 00 00; no torch of today reads it "
        "safely: where it can be loaded, save its state_dict() as safetensors",
        tar_bytes("a.safetensors"): "a tar archive is not read by this version: 10240 bytes that begin with ",
        pickle.dumps({"a": [1]}): "a plain pickle is not read by this version: 24 bytes that begin with 80 04 ",
        zip_bytes({"m/data.pkl": b"", "m/code/a.py": b""}): "a TorchScript archive is not read by this version: 216 bytes that "
        "begin with 50 4b 03 04 ",
        zip_bytes({"a.txt": b"x"}): "a zip file without a folder that holds data.pkl, 109 bytes that begin with ",
        cut: "a truncated zip file of 9000 bytes where a torch zip file was expected, its end record is missing; fetch it "
        "again (its pickle tells of at least 24",
        b"<html>": "an HTML page, 6 bytes that begin with b'<html>', where a torch zip file was expected; fetch it again: the",
        b'{"message": "rate limit"}': "JSON text, 25 bytes that begin with ",
        b"": "an empty file of 0 bytes where a torch zip file was expected; fetch it again",
    }
    for content, what in lines.items():
        said = refusal(tmp_path, content)
        assert said.startswith(what)
        assert said.count(";") >= 1
        assert "weights_only" not in said


def test_none_entries_next_to_a_model_give_no_note(tmp_path):
    contents = read(tmp_path, torch_zip_bytes(p_dict({"model": ONE, "tokenizer": b"N", "step": p_int(3)})))
    assert contents.skipped == ("not taken: step (int)",)
    assert read(tmp_path, torch_zip_bytes(p_dict({"w": p_tensor(), "bias": b"N"}))).skipped == ()


# SliceGPT


def sliced_state(width: int = 44) -> dict:
    """A Llama whose residual stream was sliced from 64, with its rotations and without norms."""
    torch.manual_seed(0)
    state = {"model.embed_tokens.weight": torch.randn(96, width), "lm_head.weight": torch.randn(96, 64)}
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        out = 64 if layer == 1 else width
        shapes = {"self_attn.q_proj": (64, width), "self_attn.k_proj": (32, width), "self_attn.v_proj": (32, width)}
        shapes |= {"self_attn.o_proj": (width, 64), "mlp.gate_proj": (160, width), "mlp.up_proj": (160, width)}
        shapes |= {"mlp.down_proj": (out, 160)}
        state |= {f"{prefix}.{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
        state |= {f"{prefix}.attn_shortcut_Q": torch.randn(width, width), f"{prefix}.mlp_shortcut_Q": torch.randn(width, out)}
    return state


def slicing(width: int = 44) -> dict:
    inputs = {str(layer): width for layer in range(2)}
    return {"hidden_size": 64, "layers_num": 2, "embedding_dimensions": {"0": width}, "attention_input_dimensions": inputs}


def save_pair(folder, stem: str, width: int = 44, config: dict | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(sliced_state(width), folder / f"{stem}.pt")
    if config is not None:
        put(folder / f"{stem}.json", config)


def notes_of(folder) -> tuple[str, ...]:
    files = list(folder.glob("*.pt"))
    return read_weight_set(find_weight_set(folder, files, "shown"), "shown").notes


DECLARED = "the name declares 0.25 sliced, the tensors 0.3125: hidden size 64 to 44"


def test_name_json_and_tensors_of_a_pair_are_compared(tmp_path):
    cases = {
        "same": ("tiny_0.25", 48, slicing(48), ()),
        "ratio": ("tiny_0.25", 44, slicing(), (DECLARED,)),
        "other": ("tiny_0.3125", 44, slicing(40), ("tiny_0.3125.json declares embeddings of 40, the tensors have 44",)),
        "alone": (
            "tiny_0.25",
            44,
            None,
            ("sliced, without its tiny_0.25.json: the hidden size before is not known; sliced to 44",),
        ),
        "unlike": (
            "tiny_0.25",
            44,
            {"a": 1},
            ("sliced, without its tiny_0.25.json: the hidden size before is not known; sliced to 44",),
        ),
    }
    for name, (stem, width, config, notes) in cases.items():
        save_pair(tmp_path / name, stem, width, config)
        assert notes_of(tmp_path / name) == notes, name
    torch.save({"w": torch.ones(2)}, tmp_path / "plain.pt")
    put(tmp_path / "plain.json", {"a": 1})
    assert notes_of(tmp_path) == ()


def test_a_json_that_leads_out_of_the_folder_is_not_read(tmp_path):
    put(tmp_path / "secret.json", slicing())
    save_pair(tmp_path / "m", "tiny_0.25")
    (tmp_path / "m/tiny_0.25.json").symlink_to(tmp_path / "secret.json")
    assert notes_of(tmp_path / "m") == ("tiny_0.25.json not read: a link that leads out of this folder",)


def test_each_pair_in_a_folder_is_a_model(tmp_path):
    out = tmp_path / "out"
    save_pair(out / "both", "tiny_0.25", config=slicing())
    save_pair(out / "both", "tiny_0.5", 32, slicing(32))
    save_pair(out / "one", "tiny_0.25", config=slicing())
    put(out / "both/config.json", {"model_type": "llama", "num_attention_heads": 4})
    discovery = discover([out])
    assert [(model.model_id, model.sliced_name) for model in discovery.models] == [
        ("out/both/tiny_0.25", "tiny_0.25"),
        ("out/both/tiny_0.5", "tiny_0.5"),
        ("out/one", "tiny_0.25"),
    ]
    assert discovery.remarks == []
    assert [model.model_id for model in discover([out / "both"]).models] == ["both/tiny_0.25", "both/tiny_0.5"]


def test_a_pair_and_its_base_in_a_warehouse(tmp_path):
    base = build(MODELS["llama"][0])
    base.save_pretrained(tmp_path / "base")
    save_pair(tmp_path / "sliced/one", "tiny_0.25", config=slicing())
    report = lh.ingest([tmp_path / "sliced"], warehouse=tmp_path / "warehouse", base=str(tmp_path / "base"))
    assert [event.what for event in report.events if event.kind == "failed"] == []
    warehouse = lh.open(tmp_path / "warehouse")
    columns = "method, declared_ratio, params, container"
    ((*row,),) = warehouse.sql(f"SELECT {columns} FROM models WHERE model_id = 'sliced/one'").rows()
    params = sum(tensor.numel() for tensor in sliced_state().values())
    assert row == ["SliceGPT", 0.25, params, "torch zip"]
    ((declared, note),) = warehouse.sql("SELECT declared, notes::VARCHAR FROM checkpoints WHERE model_id = 'sliced/one'").rows()
    assert json.loads(declared)["metadata"]["slicing"] == slicing()
    assert DECLARED in note
    added = "SELECT sum(tensors.params) FROM tensors JOIN checkpoints USING (checkpoint_id) WHERE module = 'rotation'"
    assert warehouse.sql(added).rows() == [(3 * 44 * 44 + 44 * 64,)]
    changes = "SELECT n_added, added_params FROM checkpoint_changes"
    assert warehouse.sql(changes).rows() == [(4, 3 * 44 * 44 + 44 * 64)]
    ((ratio,),) = warehouse.sql("SELECT reduction_ratio FROM models WHERE model_id = 'sliced/one'").rows()
    assert ratio == 1 - params / sum(tensor.numel() for tensor in base.state_dict().values())


def test_a_sliced_model_that_dill_pickled_with_its_class(tmp_path):
    """dill pickles a class that no module has as the call that creates it."""
    namespace = p_dict({"__module__": p_text("slicing_script")})
    made = p_call("dill._dill", "_create_type", p_global("builtins", "type"), p_text("SlicedLlama"), p_tuple(), namespace)
    parameters = p_dict({"attn_shortcut_Q": p_tensor()})
    model = made + b")\x81" + p_dict({"_parameters": parameters, "_modules": b"}"}) + b"b"
    contents = read(tmp_path, torch_zip_bytes(model), "sliced.pt")
    assert [ref.name for ref in contents.tensors] == ["attn_shortcut_Q"]
    assert contents.class_path == "slicing_script.SlicedLlama"
    assert "skipped, not executed: dill._dill._create_type" in contents.skipped


def test_a_config_or_an_index_without_weights_is_a_failure_of_its_folder(tmp_path):
    put(tmp_path / "results/a/config.json", {"model_type": "llama"})
    put(tmp_path / "results/b/model.safetensors.index.json", {"weight_map": {"w": "model-00001-of-00001.safetensors"}})
    save_pair(tmp_path / "results/c", "tiny_0.25")
    remarks = discover([tmp_path / "results"]).remarks
    assert [(remark.where, remark.is_failure) for remark in remarks] == [
        (f"{tmp_path}/results/a", True),
        (f"{tmp_path}/results/b", True),
    ]
    assert remarks[0].what == "config.json without weights; fetch them, or take the folder out"
