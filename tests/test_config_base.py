"""A base that is a config and nothing else: ratios, removed blocks and cut widths against the model that it describes."""

from __future__ import annotations

import json
import resource

import pytest
import torch
from safetensors.torch import save_file

import layerhouse as lh
from layerhouse.errors import InputError, UsageError
from layerhouse.ingest.config_base import config_base_rows
from layerhouse.tests.family_models import MODELS
from layerhouse.tests.running import layerhouse
from layerhouse.tests.tiny_models import (
    EXPLICIT,
    TinyModel,
    build,
    save,
)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A base's config alone, an untouched copy, one with a block cut out, and one with narrower MLPs."""
    root = tmp_path_factory.mktemp("config_base")
    model = build(TinyModel("llama", {**EXPLICIT, "tie_word_embeddings": False}))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (root / "base").mkdir()
    model.config.architectures = ["LlamaForCausalLM"]
    config = json.loads(model.config.to_json_string())
    (root / "base/config.json").write_text(json.dumps(config))
    last = config["num_hidden_layers"] - 1
    cut = {name: tensor for name, tensor in state.items() if f"layers.{last}." not in name}
    narrow = {
        name: tensor[:96] if "gate_proj" in name or "up_proj" in name else tensor[:, :96] if "down_proj" in name else tensor
        for name, tensor in state.items()
    }
    for name, tensors in {"same": state, "cut": cut, "narrow": narrow}.items():
        folder = root / "zoo" / name
        folder.mkdir(parents=True)
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config))
    return (
        root,
        sum(tensor.numel() for tensor in state.values()),
        {name: sum(t.numel() for t in part.values()) for name, part in {"same": state, "cut": cut, "narrow": narrow}.items()},
    )


def test_ratios_stand_against_the_model_that_the_config_describes(zoo):
    root, params, kept = zoo
    report = lh.ingest(root / "zoo", warehouse=root / "w", base=root / "base/config.json")
    assert report.count("failed") == 0
    with lh.open(root / "w") as wh:
        rows = {row["model_id"]: row for row in wh.models().to_dicts()}
        assert set(rows) == {"zoo/same", "zoo/cut", "zoo/narrow"}
        for name, count in kept.items():
            row = rows[f"zoo/{name}"]
            assert (row["base_params"], row["params"], row["reduction_ratio"]) == (params, count, (params - count) / params)
        assert (rows["zoo/cut"]["num_removed_layers"], rows["zoo/cut"]["removed_layers"]) == (1, None)
        narrow = wh.sql("SELECT intermediate_size, base_intermediate_size FROM layer_pruning WHERE model_id = 'zoo/narrow'")
        assert set(narrow.rows()) == {(96, 160)}
        relations = dict(
            wh.sql(
                "SELECT relation, count(*) FROM tensor_matches JOIN current_checkpoints USING (checkpoint_id) "
                "WHERE model_id = 'zoo/narrow' GROUP BY relation"
            ).rows()
        )
        assert relations["sliced"] == 12
        assert set(relations) == {"sliced", None}
        bases = wh.sql("SELECT source_kind, container, stats_level, file_bytes, params FROM checkpoints WHERE model_id IS NULL")
        assert bases.rows() == [("config", "config", "none", None, params)]
    again = lh.ingest(root / "zoo", warehouse=root / "w", base=root / "base/config.json")
    assert [event.kind for event in again.events] == ["unchanged"] * 3


@pytest.mark.parametrize("name", ["gpt2", "qwen3_moe", "mixtral", "phi3", "gemma2", "t5"])
def test_a_config_gives_the_rows_of_the_saved_model(name, tmp_path):
    model = build(MODELS[name][0])
    save(model, tmp_path / "model")
    checkpoint, _, layers = config_base_rows(tmp_path / "model/config.json", "config.json")
    lh.ingest(tmp_path / "model", warehouse=tmp_path / "w", stats="none")
    with lh.open(tmp_path / "w") as wh:
        columns = ("params", "embedding_params", "lm_head_params", "layer_params", "num_layers", "macs_per_token")
        assert wh.sql(f"SELECT {', '.join(columns)} FROM checkpoints").row(0) == tuple(checkpoint[name] for name in columns)
        sizes = ("stack", "layer_index", "params", "num_heads", "num_kv_heads", "head_dim", "intermediate_size", "num_experts")
        stored = wh.sql(f"SELECT {', '.join(sizes)} FROM layers ORDER BY stack, layer_index").rows()
        assert stored == sorted(tuple(row[name] for name in sizes) for row in layers)


def test_nothing_is_allocated_for_a_config_of_any_size(tmp_path):
    config = {**EXPLICIT, "model_type": "llama", "hidden_size": 65536, "intermediate_size": 262144, "vocab_size": 1000000}
    (tmp_path / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    checkpoint, _, _ = config_base_rows(tmp_path / "config.json", "config.json")
    assert checkpoint["params"] > 300_000_000_000
    assert not torch.cuda.is_initialized()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[]", "no config of a model: model_type is missing"),
        ('{"model_type": "nothing"}', "transformers makes no 'nothing' of this config: "),
        ('{"model_type": "llama", "num_attention_heads": 0}', "transformers makes no 'llama' of this config: "),
        ("{", "cut off"),
    ],
)
def test_what_is_no_config_is_one_line(tmp_path, text, what):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError) as caught:
        config_base_rows(tmp_path / "config.json", "config.json")
    assert what in str(caught.value)
    (tmp_path / "m").mkdir()
    save_file({"a": torch.ones(2, 2)}, tmp_path / "m/model.safetensors")
    with pytest.raises(UsageError, match="--base"):
        lh.ingest(tmp_path / "m", warehouse=tmp_path / "w", base=tmp_path / "config.json")
    done = layerhouse("ingest", "m", "--base", "config.json", "-w", "w", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


SMALL = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 100,
}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"num_hidden_layers": 10**9}, "limit exceeded: num_hidden_layers is 1000000000, over 100000"),
        ({"num_hidden_layers": 99_999}, "limit exceeded: modules of the model, over 100000"),
        ({"num_hidden_layers": float("inf")}, "limit exceeded: num_hidden_layers, over 100000"),
        ({"model_type": "mixtral", "num_local_experts": 10**9}, "limit exceeded: num_local_experts is 1000000000"),
        ({"model_type": "gpt2", "n_layer": 10**9}, "limit exceeded: n_layer is 1000000000"),
        ({"text_config": {"num_layers": [10**9]}}, "limit exceeded: num_layers is 1000000000"),
        ({"num_labels": 10**9}, "limit exceeded: num_labels is 1000000000"),
        ({"max_position_embeddings": 10**12}, "limit exceeded: max_position_embeddings is 1000000000000, over 16777216"),
        ({"hidden_size": 10**9}, "parameters of the model, over 100000000000000"),
        ({"vocab_size": 10**13}, "parameters of the model, over 100000000000000"),
        ({"hidden_size": 10**15}, "transformers makes no 'llama' of this config"),
        ({"intermediate_size": 10**30}, "transformers makes no 'llama' of this config"),
    ],
)
def test_a_config_of_a_giant_ends_by_a_named_limit(tmp_path, change, what):
    (tmp_path / "config.json").write_text(json.dumps(SMALL | change))
    before = resource.getrusage(resource.RUSAGE_SELF)
    with pytest.raises(InputError) as caught:
        config_base_rows(tmp_path / "config.json", "config.json")
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert what in caught.value.what
    assert after.ru_utime - before.ru_utime < 60


def test_a_giant_as_the_base_of_an_ingest_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SMALL | {"num_hidden_layers": 10**9}))
    put_small_model(tmp_path / "zoo/A")
    done = layerhouse("ingest", "zoo", "--base", "config.json", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "layerhouse: --base config.json: limit exceeded: num_hidden_layers is 1000000000, over 100000; --limit-factor raises it"
    ]


def put_small_model(folder):
    folder.mkdir(parents=True)
    save_file({"w": torch.ones(2, 2)}, folder / "model.safetensors")
