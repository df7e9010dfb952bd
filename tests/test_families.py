"""Every family file against tiny real models of it, both ways: no tensor unplaced, no template unused."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from layerhouse.ingest.family_files import load_families, read_families
from layerhouse.ingest.layers import layer_rows
from layerhouse.ingest.names import place_tensors
from layerhouse.ingest.parameters import count_parameters
from layerhouse.tests.tiny_models import HIDDEN, LAYERS, MODELS, TinyModel, build, save, state_refs
from layerhouse.warehouse.errors import InputError

FILES = Path(__file__).parents[1] / "ingest/families"
FAMILIES = {family.name: family for family in load_families()}
CASES = [
    pytest.param(name, number, form, id=f"{name}-{number}-{form}")
    for name, models in MODELS.items()
    for number in range(len(models))
    for form in ("saved", "state_dict")
]
LINEAR_AXES = {"Linear": 1, "Conv1D": 0}


@cache
def forms(name, number):
    """A tiny model of a family as saved and as a state dict: each with its config; its parameters; its linear modules' axes."""
    model = build(MODELS[name][number])
    with TemporaryDirectory() as folder:
        saved, config = save(model, Path(folder))
    axes = {
        f"{path}.weight": LINEAR_AXES[type(module).__name__]
        for path, module in model.named_modules()
        if type(module).__name__ in LINEAR_AXES
    }
    # The state dict's references name memory by address, so the model has to outlive them.
    return {"saved": saved, "state_dict": state_refs(model.state_dict())}, config, model, axes


def walk(family, families):
    """Raise AssertionError unless every tensor of the family's tiny models is placed, and every required template used."""
    used = set()
    for number in range(len(MODELS[family.name])):
        refs_by_form, config, *_ = forms(family.name, number)
        for refs in refs_by_form.values():
            placement = place_tensors(refs, config, families)
            assert placement.family == family.name
            assert not placement.unplaced
            assert not placement.notes
            used |= {(tensor.template.name, tensor.part) for tensor in placement.placed}
    assert family.required <= used


def test_every_family_has_tiny_models_and_every_tiny_model_a_family():
    assert set(MODELS) == set(FAMILIES)
    for name, family in FAMILIES.items():
        assert {model.model_type for model in MODELS[name]} == set(family.model_types)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_tensor_is_unplaced_and_no_template_unused(name):
    walk(FAMILIES[name], FAMILIES.values())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_template_that_is_taken_out_is_missed(name):
    family = FAMILIES[name]
    for template in family.templates:
        if template.required_parts:
            shorter = replace(family, templates=tuple(other for other in family.templates if other is not template))
            with pytest.raises(AssertionError):
                walk(shorter, [shorter if other is family else other for other in FAMILIES.values()])


def test_a_line_taken_out_of_a_file_is_missed(tmp_path):
    shutil.copytree(FILES, tmp_path, dirs_exist_ok=True)
    lines = (tmp_path / "gpt2.toml").read_text("utf-8").splitlines()
    (tmp_path / "gpt2.toml").write_text("\n".join(line for line in lines if "mlp.c_fc" not in line), "utf-8")
    mutated = {family.name: family for family in read_families(tmp_path)}
    walk(mutated["llama"], mutated.values())
    with pytest.raises(AssertionError):
        walk(mutated["gpt2"], mutated.values())


@pytest.mark.parametrize(("name", "number", "form"), CASES)
def test_layers_are_measured_as_the_config_says(name, number, form):
    refs, config, *_ = forms(name, number)
    rows, notes = layer_rows(place_tensors(refs[form], config), config)
    assert [row["layer_index"] for row in rows] == list(range(LAYERS))
    expected = MODELS[name][number].sizes
    for row in rows:
        assert {key: row[key] for key in expected} == expected
        assert row["is_zero_layer"] is False
    assert notes == []


@pytest.mark.parametrize(("name", "number", "form"), CASES)
def test_parameters_are_those_of_the_model(name, number, form):
    refs, config, model, _ = forms(name, number)
    placement = place_tensors(refs[form], config)
    totals = count_parameters(placement, config)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    assert totals.params == sum(parameter.numel() for parameter in model.parameters())
    assert totals.embedding_params == embedding.weight.numel()
    assert totals.lm_head_params == sum(parameter.numel() for parameter in head.parameters())
    assert totals.tied_embeddings is (head.weight is embedding.weight)
    assert totals.tie_evidence == {
        (True, "saved"): "config",
        (True, "state_dict"): "shared storage",
    }.get((totals.tied_embeddings, form))
    assert (totals.virtual is not None) is (totals.tied_embeddings and form == "saved")
    rows, _ = layer_rows(placement, config)
    assert totals.layer_params == sum(row["params"] for row in rows)
    assert all(
        row["params"] == row["attention_params"] + row["mlp_params"] + row["norm_params"] + row["other_params"] for row in rows
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_axes_are_those_of_the_modules(name):
    for number, tiny in enumerate(MODELS[name]):
        refs, config, _, axes = forms(name, number)
        placed = {tensor.ref.name: tensor for tensor in place_tensors(refs["state_dict"], config).placed}
        assert axes
        for tensor_name, axis in axes.items():
            if placed[tensor_name].module != "embedding":
                assert (placed[tensor_name].input_axis, placed[tensor_name].output_axis) == (axis, 1 - axis)
        for tensor in placed.values():
            if tensor.residual_axis is not None:
                assert tensor.ref.shape[tensor.residual_axis] == tiny.hidden_size
            elif tensor.part == "weight" and tensor.module in ("attention", "mlp", "expert"):
                pytest.fail(f"{tensor.ref.name} has no residual axis")


def test_both_layouts_of_experts_give_the_same_layers():
    refs, config, *_ = forms("mixtral", 0)
    saved, fused = (layer_rows(place_tensors(refs[form], config), config)[0] for form in ("saved", "state_dict"))
    assert [{**row, "role_params": None} for row in saved] == [{**row, "role_params": None} for row in fused]
    assert saved[0]["role_params"]["gate_proj"] * 2 == fused[0]["role_params"]["gate_up_proj"]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_known_by_its_names_alone(name):
    refs, config, *_ = forms(name, 0)
    found = place_tensors(refs["saved"], None).family
    assert found == ("llama" if name in ("mistral", "gemma") else name), "Mistral and Gemma name their tensors as Llama does"
    assert place_tensors(refs["saved"], {"model_type": config["model_type"]}).family == name


@pytest.mark.parametrize("name", FAMILIES)
def test_names_of_a_model_without_head_are_placed(name):
    refs, config, *_ = forms(name, 0)
    root = FAMILIES[name].root
    headless = [replace(ref, name=ref.name.removeprefix(root)) for ref in refs["saved"] if ref.name.startswith(root)]
    placement = place_tensors(headless, config)
    assert placement.family == name
    assert not placement.unplaced
    totals = count_parameters(placement, {**config, "architectures": ["SomeModel"]})
    assert (totals.tied_embeddings, totals.lm_head_params, totals.virtual, totals.notes) == (None, 0, None, ())


def test_a_new_family_is_one_file(tmp_path):
    """GPT-J, which has no file: its tensors are placed and its layers measured once it has."""
    tiny = TinyModel("gptj", {"vocab_size": 96, "n_embd": HIDDEN, "n_layer": 2, "n_head": 4, "n_inner": 160, "rotary_dim": 8})
    model = build(tiny)
    refs, config = save(model, tmp_path / "model")
    assert place_tensors(refs, config).family is None
    shutil.copytree(FILES, tmp_path / "families")
    tensors = {
        "transformer.wte": 'module = "embedding", role = "embed_tokens"',
        "transformer.h.{layer}.ln_1": 'module = "norm", role = "attention_norm", bias = "always"',
        **{
            f"transformer.h.{{layer}}.attn.{role}": f'module = "attention", role = "{role}", residual = "inputs"'
            for role in ("q_proj", "k_proj", "v_proj")
        },
        "transformer.h.{layer}.attn.out_proj": 'module = "attention", role = "o_proj", residual = "outputs"',
        "transformer.h.{layer}.mlp.fc_in": 'module = "mlp", role = "up_proj", residual = "inputs", bias = "always"',
        "transformer.h.{layer}.mlp.fc_out": 'module = "mlp", role = "down_proj", residual = "outputs", bias = "always"',
        "transformer.ln_f": 'module = "norm", role = "final_norm", bias = "always"',
        "lm_head": 'module = "lm_head", role = "lm_head", bias = "always"',
    }
    text = """
name = "gptj"
model_types = ["gptj"]
root = "transformer."
head = "lm_head"
embedding = "transformer.wte"
tied_by_default = false
[config]
num_layers = "n_layer"
num_heads = "n_head"
hidden_size = "n_embd"
intermediate_size = "n_inner"
[tensors]
"""
    (tmp_path / "families/gptj.toml").write_text(text + "\n".join(f'"{key}" = {{ {value} }}' for key, value in tensors.items()))
    placement = place_tensors(refs, config, read_families(tmp_path / "families"))
    assert (placement.family, placement.unplaced) == ("gptj", ())
    rows, notes = layer_rows(placement, config)
    assert ([row["num_heads"] for row in rows], [row["intermediate_size"] for row in rows], notes) == ([4, 4], [160, 160], [])
    assert count_parameters(placement, config).params == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = 5", "name: expected str, found 5"),
        ("model_types = []", "name: missing"),
        ('name = "x"', "model_types: missing"),
        ('name = "x"\ncolour = 1', "colour: unknown key; there is config, drops, "),
        ('name = "llama"', "name: 'llama' is also the family of llama.toml"),
        ('name = "x"\nextends = "y"', "extends: 'y' is no other family; there is gemma, "),
        ('name = "x"\nextends = "x"', "extends: 'x' is no other family"),
        ('name = "x"\nextends = "llama"\nmodel_types = ["llama"]', "model_types: 'llama' belongs to llama"),
        ('name = "x"\nextends = "llama"\nmodel_types = []\ndrops = ["z"]', "drops: no 'z' is inherited"),
        (
            'name = "x"\nextends = "llama"\nmodel_types = []\nhead = "model.norm"',
            "head: 'model.norm' is no tensor of module lm_head",
        ),
        ('name = "x"\nextends = "llama"\nmodel_types = []\n[config]\nhiden_size = "d"', "config.hiden_size: unknown key"),
        ('name = "x"\nextends = "llama"\nmodel_types = []\n[tensors]\n"a" = 1', "tensors.a: expected a table"),
        ('name = "x"\nextends = "llama"\nmodel_types = []\n[tensors]\n"a" = { module = "mlp" }', "tensors.a.role: missing"),
        (
            'name = "x"\nextends = "llama"\nmodel_types = []\n[tensors]\n"a" = { module = "mpl", role = "b" }',
            "tensors.a.module: 'mpl'; it is one of attention, mlp, ",
        ),
        (
            'name = "x"\nextends = "llama"\nmodel_types = []\n[tensors]\n"a" = { module = "mlp", role = "b", swap = true }',
            "tensors.a.swap: unknown key",
        ),
        (
            'name = "x"\nextends = "llama"\nmodel_types = []\n[tensors]\n"a.{block}.b" = { module = "mlp", role = "b" }',
            "tensors.a.{block}.b: {layer} and {expert} stand once at most, and for every number",
        ),
        (
            'name = "x"\nextends = "llama"\nmodel_types = []\n[tensors]\n"a.0.b" = { module = "mlp", role = "b" }',
            "tensors.a.0.b: {layer} and {expert} stand once at most, and for every number",
        ),
        ("name", "no TOML: "),
    ],
)
def test_a_file_that_is_wrong_is_refused(tmp_path, text, says):
    shutil.copytree(FILES, tmp_path, dirs_exist_ok=True)
    (tmp_path / "zz.toml").write_text(text, "utf-8")
    with pytest.raises(InputError) as raised:
        read_families(tmp_path)
    assert str(raised.value).startswith(f"{raised.value.where}: {says}")


def test_families_that_extend_each_other_are_refused(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.toml").write_text(f'name = "{name}"\nextends = "{other}"\nmodel_types = []', "utf-8")
    with pytest.raises(InputError, match="is no other family"):
        read_families(tmp_path)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_no_two_templates_of_a_family_claim_one_name(family):
    claims = Counter(name for template in family.templates for name in replace(family, templates=(template,)).table)
    assert [name for name, count in claims.items() if count > 1] == []
