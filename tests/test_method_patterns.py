"""Users' own rules for names: what they declare, and that none can backtrack exponentially."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

import layerhouse as lh
from layerhouse.errors import UsageError
from layerhouse.ingest.declarations.declare import Declaration
from layerhouse.ingest.declarations.method_patterns import compile_method_pattern, declare_by_patterns
from layerhouse.tests.running import layerhouse


@pytest.mark.parametrize(
    ("pattern", "name", "declared"),
    [
        (r"^(?P<method>[A-Za-z]+)@(?P<ratio>[0-9.]+)$", "zoo/Mine@0.3", Declaration("Mine", 0.3)),
        (r"(?P<ratio>\d+)pct", "a/x-25pct", Declaration(None, 0.25)),
        (r"(?P<method>Cut)_(?P<ratio>[0-9]{4})", "Cut_1937", Declaration("Cut", 0.1937)),
        (r"(?P<method>Drop)(?P<removed>[0-9]+)", "Drop12", Declaration("Drop", None, 12)),
        (r"(?P<method>Drop)(?P<removed>[0-9]*)", "Drop", Declaration("Drop")),
        (r"(?P<ratio>[0-9]+)$", "a101", Declaration(None, None)),
        (r"(?P<method>X)", "y", None),
    ],
)
def test_a_pattern_says_what_a_name_declares(pattern, name, declared):
    assert declare_by_patterns([compile_method_pattern(pattern)], name) == declared


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (r"(?P<method>", "missing"),
        (r"Wanda", "it has no named group"),
        (r"(?P<name>x)", "there is no group 'name'"),
        (r"(?P<method>(a+)+)$", "a repetition stands within another"),
        (r"(?P<method>(?:a|b*)*)", "a repetition stands within another"),
        (r"(?P<method>(a{1,9}b?){2,})", "a repetition stands within another"),
        (r"(?P<method>a)(?=b)", "it looks around or refers to a group"),
        (r"(?P<method>a+)\1", "it looks around or refers to a group"),
        (r"(?P<method>" + ".*a" * 9 + ")", "it repeats too much"),
        (r"(?P<method>" + "a" * 500 + ")", "it is too long"),
    ],
)
def test_an_invalid_or_exponential_pattern_is_refused(pattern, why):
    with pytest.raises(UsageError) as caught:
        compile_method_pattern(pattern)
    assert why in str(caught.value)


@pytest.mark.parametrize("pattern", [r"(?P<method>[*+(]+x)", r"(?P<method>\(a\+\)\+)", r"(?P<method>a(?:b)c+)"])
def test_escapes_and_classes_are_not_repetitions(pattern):
    assert compile_method_pattern(pattern).groupindex == {"method": 1}


def put(folder, tensors, config=None):
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))


def test_declared_values_are_listed_next_to_measured_ones(tmp_path):
    name = "model.layers.0.mlp.up_proj.weight"
    base = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    half = base.clone().flatten()
    half[torch.randperm(64 * 64, generator=torch.Generator().manual_seed(1))[: 32 * 64]] = 0
    half = half.reshape(64, 64)
    zoo = tmp_path / "zoo"
    put(zoo / "base", {name: base})
    put(zoo / "Mine@0.5", {name: half})
    put(zoo / "Mine@0.9", {name: half})
    put(zoo / "x-wanda-0.5", {name: base.clone()})
    put(zoo / "dense-1:4", {name: base + 1})
    sparse = {"quantization_config": {"sparsity_config": {"global_sparsity": 48.05}}}
    put(zoo / "stated", {name: half}, sparse)
    put(zoo / "noted", {name: base[:48].clone()})
    (zoo / "noted/description.txt").write_text("- Training Parameters: \n  - base_model: x\n  - pruning_ratio: 0.25\n")
    done = layerhouse(
        "ingest",
        "zoo",
        "--base",
        "zoo/base",
        "-w",
        "w",
        "--method-pattern",
        "^(?P<method>Mine)@(?P<ratio>[0-9.]+)$",
        cwd=tmp_path,
    )
    assert done.returncode == 0
    with lh.open(tmp_path / "w") as wh:
        rows = {row["model_id"]: row for row in wh.query("declared").to_dicts()}
        stated = {key: (row["declared_ratio"], row["config_sparsity"], row["noted_ratio"]) for key, row in rows.items()}
        assert stated == {
            "zoo/Mine@0.5": (0.5, None, None),
            "zoo/Mine@0.9": (0.9, None, None),
            "zoo/x-wanda-0.5": (0.5, None, None),
            "zoo/stated": (None, 0.4805, None),
            "zoo/noted": (None, None, 0.25),
        }
        assert {key: row["finding"] for key, row in rows.items()} == {
            "zoo/Mine@0.5": "agrees",
            "zoo/Mine@0.9": "less is gone",
            "zoo/x-wanda-0.5": "nothing is gone",
            "zoo/stated": "agrees",
            "zoo/noted": "agrees",
        }
        notes = dict(wh.sql("SELECT model_id, status_note FROM models").rows())
        for unpruned in ("zoo/x-wanda-0.5", "zoo/dense-1:4"):
            assert "the name declares a cut; no zeros stored, no mask found" in notes[unpruned]
        assert "no zeros stored" not in (notes["zoo/Mine@0.5"] or "")
    refused = layerhouse("ingest", "zoo", "-w", "w", "--method-pattern", "(?P<method>(a+)+)", cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
