"""The demo's checkpoints, written without torch and transformers, are what these would have written."""

from __future__ import annotations

import json
import pkgutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from layerhouse import demo
from layerhouse import demo_checkpoints as checkpoints
from layerhouse.demo_pickle import Call, Global, pickled, write_torch_zip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    demo.write_study(folder)
    return folder


@pytest.fixture(scope="module")
def base(study):
    """The base as safetensors reads it."""
    return load_file(study / demo.BASE / "model.safetensors")


def test_the_base_is_a_llama_of_transformers(study, base):
    model = transformers.AutoModelForCausalLM.from_pretrained(study / demo.BASE, dtype="auto")
    loaded = model.state_dict()
    assert [*loaded] == [*checkpoints.tiny_llama()]
    assert {name: tensor.dtype for name, tensor in loaded.items()} == dict.fromkeys(loaded, torch.bfloat16)
    assert all(torch.equal(loaded[name], base[name]) for name in loaded)
    assert torch.isfinite(model(torch.tensor([[1, 5, 9]])).logits).all()


def test_the_configs_are_those_that_transformers_writes(study, tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(study / demo.BASE, dtype="auto")
    model.save_pretrained(tmp_path)
    for name in ("config.json", "generation_config.json"):
        written = json.loads((tmp_path / name).read_text("utf-8"))
        del written["transformers_version"]
        assert json.loads((study / demo.BASE / name).read_text("utf-8")) == written


def test_weights_are_normal_and_norms_are_one(base):
    for name, tensor in base.items():
        if name.endswith("norm.weight"):
            assert (tensor == 1).all()
        else:
            assert abs(tensor.float().std() / checkpoints.INITIALIZER_RANGE - 1) < 0.02
            assert (tensor != 0).all()


def test_masks_leave_the_greatest_magnitudes(study, base):
    half = load_file(study / "baselines/Magnitude_5000/model.safetensors")
    groups = load_file(study / "baselines/Magnitude_2of4/model.safetensors")
    for name, tensor in base.items():
        if not name.endswith("_proj.weight"):
            assert torch.equal(half[name], tensor) and torch.equal(groups[name], tensor)
            continue
        for masked in (half[name], groups[name]):
            assert torch.equal(masked[masked != 0], tensor[masked != 0])
            assert int((masked == 0).sum()) == tensor.numel() // 2
        assert tensor[half[name] == 0].abs().max() <= half[name][half[name] != 0].abs().min()
        kept = (groups[name].view(-1, 4) != 0).sum(dim=1)
        assert (kept == 2).all()
        magnitudes = tensor.abs().view(-1, 4).sort(dim=1).values
        assert torch.equal(groups[name].abs().view(-1, 4).sort(dim=1).values[:, 2:], magnitudes[:, 2:])


def test_removed_blocks_are_gone_and_the_others_renumbered(study, base):
    cut = load_file(study / "baselines/ShortGPT_remove_2/model.safetensors")
    assert len(cut) == len(base) - 9 * len(demo.REMOVED)
    for new, old in enumerate((0, 1, 2, 3, 6, 7)):
        name = "layers.{}.mlp.up_proj.weight"
        assert torch.equal(cut[f"model.{name.format(new)}"], base[f"model.{name.format(old)}"])


def test_narrowed_layers_keep_whole_units_of_greatest_norm(study, base):
    narrow = load_file(study / demo.SHOWN_MODEL / "model.safetensors")
    for index, (groups, neurons) in enumerate(demo.HEAD_KEPT):
        up, down, gate = (f"model.layers.{index}.mlp.{name}_proj.weight" for name in ("up", "down", "gate"))
        keys, queries, out = (f"model.layers.{index}.self_attn.{name}_proj.weight" for name in "kqo")
        best = base[gate].float().norm(dim=1).topk(neurons).indices.sort().values
        assert torch.equal(narrow[up], base[up][best]) and torch.equal(narrow[down], base[down][:, best])
        norms = base[keys].float().view(4, -1).norm(dim=1)
        best = norms.topk(groups).indices.sort().values
        assert torch.equal(narrow[keys], base[keys].view(4, -1)[best].view(-1, 128))
        assert torch.equal(narrow[queries], base[queries].view(4, -1)[best].view(-1, 128))
        assert torch.equal(narrow[out], base[out].view(128, 4, -1)[:, best].reshape(128, -1))


def test_the_whole_model_loads_in_torch_with_its_classes_allowed_and_no_others(study):
    path = study / "results/LLM-Pruner_2000/pytorch_model.bin"
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    assert {name.rpartition(".")[0] for name in names} == {
        "torch.nn.modules.container",
        "torch.nn.modules.linear",
        "torch.nn.modules.sparse",
        "transformers.models.llama.configuration_llama",
        "transformers.models.llama.modeling_llama",
    }
    with torch.serialization.safe_globals([pkgutil.resolve_name(name) for name in names]):
        loaded = torch.load(path, weights_only=True)
    assert [*loaded] == ["model", "tokenizer"]
    assert isinstance(loaded["model"], transformers.LlamaForCausalLM)
    assert loaded["model"].config.num_key_value_heads == checkpoints.KV_HEADS
    state = loaded["model"].state_dict()
    expected = checkpoints.narrowed(checkpoints.tiny_llama(), demo.PRUNER_KEPT)
    assert [*state] == [*expected]
    for name, tensor in state.items():
        assert tensor.dtype == torch.bfloat16
        assert np.array_equal(tensor.float().numpy(), expected[name])


def test_a_state_dict_loads_in_torch_as_weights_only(tmp_path):
    values = np.array([[1.5, -2.0, 0.0]], np.float32)
    parameter = checkpoints._parameter("0", values.shape)
    plain = {"w": parameter, "none": None, "yes": True, "size": -3, "rate": 0.25, "names": ["a", "é"], "pair": (1, ())}
    write_torch_zip(tmp_path / "x.pt", plain, {"0": checkpoints.bfloat16_bytes(values)})
    loaded = torch.load(tmp_path / "x.pt", weights_only=True)
    assert loaded.pop("w").tolist() == [[1.5, -2.0, 0.0]]
    assert loaded == {key: value for key, value in plain.items() if key != "w"}


def test_a_value_without_opcodes_is_refused():
    assert pickled(Call(Global("a.b.c"), ())) == b"\x80\x02ca.b\nc\n(tR."
    with pytest.raises(TypeError, match="set"):
        pickled({1, 2})


def test_rounding_to_bfloat16_is_that_of_torch():
    bits = np.random.default_rng(0).integers(0, 0x7F000000, 100_000, dtype=np.uint32)
    values = (
        np.concatenate([bits, bits | 0x80000000, [0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF]])
        .astype(np.uint32)
        .view(np.float32)
    )
    assert np.array_equal(checkpoints.rounded_to_bfloat16(values), torch.from_numpy(values).bfloat16().float().numpy())
