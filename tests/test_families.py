"""Every family file against tiny real models of the family: every tensor is placed, and every template is used."""

from __future__ import annotations

import marshal
import shutil
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

import layerhouse as lh
from layerhouse.errors import InputError, UsageError
from layerhouse.ingest.model.family import NUMBER_MARK
from layerhouse.ingest.model.family_files import load_families, read_families
from layerhouse.ingest.model.layer_rows import SIZE_WORDS, layer_rows
from layerhouse.ingest.model.parameters import count_parameters
from layerhouse.ingest.model.placement import place_tensors
from layerhouse.tests.family_models import MODELS
from layerhouse.tests.layouts import LAYOUTS
from layerhouse.tests.tiny_models import (
    HIDDEN,
    TinyModel,
    build,
    save,
    shape_refs,
    state_refs,
)
from layerhouse.vocabulary import FusedLayout, Module, Role, Stack

FILES = Path(__file__).parents[1] / "ingest/model/families"
FAMILIES = {family.name: family for family in load_families()}
CASES = [
    pytest.param(name, number, form, id=f"{name}-{number}-{form}")
    for name, models in MODELS.items()
    for number in range(len(models))
    for form in ("saved", "state_dict")
]
LINEAR_AXES = {"Linear": 1, "Conv1D": 0}
UNBUILT_TYPES = {"RefinedWeb", "RefinedWebModel", "stablelm_epoch"}
"""Values of model_type in old files of families whose tiny models have the current one."""
MAIN_ROLES = {"q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj"}
ALIKE = {"mistral": "llama", "gemma": "llama", "granite": "llama"}
"""Families whose tiny models have the tensor names of another family, which is chosen without a config."""


@cache
def forms(name, number):
    """A tiny model of a family: tensors as saved and as a state dict, config, model, and the input axes of linear weights."""
    model = build(MODELS[name][number])
    with TemporaryDirectory() as folder:
        saved, config = save(model, Path(folder))
    axes = {
        f"{path}.weight": LINEAR_AXES[type(module).__name__]
        for path, module in model.named_modules()
        if type(module).__name__ in LINEAR_AXES
    }
    # The state dict's references have addresses of memory, so the model has to outlive them.
    return {"saved": saved, "state_dict": state_refs(model.state_dict())}, config, model, axes


def models_of(name):
    """Tensors in each form, and the config, of every tiny model or hand-written layout of a family."""
    for number in range(len(MODELS.get(name, ()))):
        refs_by_form, config, *_ = forms(name, number)
        for refs in refs_by_form.values():
            yield refs, config
    for layout in LAYOUTS.get(name, ()):
        yield shape_refs(layout.shapes), layout.config


def walk(family, families):
    """Raise AssertionError unless every tensor of the family's models is placed, and every required template used."""
    used = set()
    for refs, config in models_of(family.name):
        placement = place_tensors(refs, config, families)
        assert placement.family == family.name
        assert not placement.unplaced
        assert not placement.notes
        used |= {(tensor.template.name, tensor.part) for tensor in placement.placed}
    assert family.required <= used


def types_in(config):
    """Values of model_type in a config and in the configs inside it."""
    inner = (value for value in config.values() if isinstance(value, dict))
    return {config["model_type"]} | {kind for part in inner if part.get("model_type") for kind in types_in(part)}


def test_every_family_has_models_and_every_model_a_family():
    assert set(MODELS) | set(LAYOUTS) == set(FAMILIES)
    assert set(MODELS) & set(LAYOUTS) == {"mixtral"}  # which others write by other names
    built = {kind for name in MODELS for number in range(len(MODELS[name])) for kind in types_in(forms(name, number)[1])}
    built |= {
        layout.config["model_type"] for layouts in LAYOUTS.values() for layout in layouts if "model_type" in layout.config
    }
    named = {model_type for family in FAMILIES.values() for model_type in family.model_types}
    assert named - built == UNBUILT_TYPES


@pytest.mark.parametrize("name", FAMILIES)
def test_no_tensor_is_unplaced_and_no_template_unused(name):
    walk(FAMILIES[name], FAMILIES.values())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_template_that_is_removed_makes_the_walk_fail(name):
    family = FAMILIES[name]
    inside = [other for other in FAMILIES.values() if family.towers and not other.towers]
    for template in family.templates:
        if template.required_parts:
            shorter = replace(family, templates=tuple(other for other in family.templates if other is not template))
            with pytest.raises(AssertionError):
                walk(shorter, [shorter, *inside])


def test_a_line_that_is_removed_from_a_file_makes_the_walk_fail(tmp_path):
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
    measured = {(row["stack"], row["layer_index"]): {word: row[word] for word in SIZE_WORDS} for row in rows}
    assert measured == MODELS[name][number].expected()
    assert {row["is_zero_layer"] for row in rows} == {False}
    assert notes == []


@pytest.mark.parametrize(("name", "number"), [(name, number) for name in LAYOUTS for number in range(len(LAYOUTS[name]))])
def test_layers_of_hand_written_layouts_are_measured(name, number):
    layout = LAYOUTS[name][number]
    rows, notes = layer_rows(place_tensors(shape_refs(layout.shapes), layout.config), layout.config)
    assert [{word: row[word] for word in SIZE_WORDS} for row in rows] == list(layout.layers)
    assert notes == []


@pytest.mark.parametrize(("name", "number", "form"), CASES)
def test_parameters_are_those_of_the_model(name, number, form):
    refs, config, model, _ = forms(name, number)
    placement = place_tensors(refs[form], config)
    totals = count_parameters(placement, config)
    assert totals.params == sum(parameter.numel() for parameter in model.parameters())
    rows, _ = layer_rows(placement, config)
    assert totals.layer_params == sum(row["params"] for row in rows if row["stack"] == placement.main_stack)
    assert all(
        row["params"] == row["attention_params"] + row["mlp_params"] + row["norm_params"] + row["other_params"] for row in rows
    )
    assert totals.notes == ()
    head = model.get_output_embeddings()
    if head is None:
        assert (totals.tied_embeddings, totals.lm_head_params, totals.virtual) == (None, 0, None)
        return
    embedding = model.get_input_embeddings()
    assert totals.embedding_params == embedding.weight.numel()
    assert totals.lm_head_params == sum(parameter.numel() for parameter in head.parameters())
    assert totals.tied_embeddings is (head.weight is embedding.weight)
    assert totals.tie_evidence == {
        (True, "saved"): "config",
        (True, "state_dict"): "shared storage",
    }.get((totals.tied_embeddings, form))
    assert (totals.virtual is not None) is (totals.tied_embeddings and form == "saved")


@pytest.mark.parametrize("name", MODELS)
def test_axes_are_those_of_the_modules(name):
    for number, tiny in enumerate(MODELS[name]):
        refs, config, _, axes = forms(name, number)
        placed = {tensor.ref.name: tensor for tensor in place_tensors(refs["state_dict"], config).placed}
        hidden = {stack: sizes["hidden_size"] for (stack, _), sizes in tiny.expected().items()}
        assert axes
        for tensor_name, axis in axes.items():
            if placed[tensor_name].module != "embedding":
                assert (placed[tensor_name].input_axis, placed[tensor_name].output_axis) == (axis, 1 - axis)
        for tensor in placed.values():
            if tensor.residual_axis is not None:
                assert tensor.ref.shape[tensor.residual_axis] == hidden[tensor.stack]
            elif tensor.part == "weight" and tensor.role in MAIN_ROLES:
                pytest.fail(f"{tensor.ref.name} has no residual axis")


def test_both_layouts_of_experts_give_the_same_layers():
    refs, config, *_ = forms("mixtral", 0)
    saved, fused = (layer_rows(place_tensors(refs[form], config), config)[0] for form in ("saved", "state_dict"))
    assert [{**row, "role_params": None} for row in saved] == [{**row, "role_params": None} for row in fused]
    assert saved[0]["role_params"]["gate_proj"] * 2 == fused[0]["role_params"]["gate_up_proj"]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_recognised_by_tensor_names_alone(name):
    refs, config = next(models_of(name))
    assert place_tensors(refs, None).family == ALIKE.get(name, name)
    if "model_type" in config:
        assert place_tensors(refs, {"model_type": config["model_type"]}).family == name


@pytest.mark.parametrize("name", [name for name in MODELS if FAMILIES[name].roots and FAMILIES[name].head])
def test_names_of_a_model_without_head_are_placed(name):
    refs, config = next(models_of(name))
    root = FAMILIES[name].roots[0]
    headless = [replace(ref, name=ref.name.removeprefix(root)) for ref in refs if ref.name.startswith(root)]
    placement = place_tensors(headless, config)
    assert placement.family == name
    assert not placement.unplaced
    totals = count_parameters(placement, {**config, "architectures": ["SomeModel"]})
    assert (totals.tied_embeddings, totals.lm_head_params, totals.virtual, totals.notes) == (None, 0, None, ())


def child_with_tensor(fields):
    """A family file that extends Llama by one tensor."""
    return f'name = "x"\nextends = "llama"\nmodel_types = []\n[tensors]\n"a" = {{ {fields} }}'


def test_a_new_family_is_one_file(tmp_path):
    """BioGPT has no family file: with one, its tensors are placed and its layers measured."""
    arguments = {"vocab_size": 96, "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = build(TinyModel("biogpt", {**arguments, "intermediate_size": 160}))
    refs, config = save(model, tmp_path / "model")
    assert place_tensors(refs, config).family is None
    shutil.copytree(FILES, tmp_path / "families")
    block = "biogpt.layers.{layer}."
    tensors = {
        "biogpt.embed_tokens": 'module = "embedding", role = "embed_tokens", transposed = true, residual = "outputs"',
        "biogpt.embed_positions": 'module = "embedding", role = "embed_positions"',
        f"{block}self_attn_layer_norm": 'module = "norm", role = "attention_norm", bias = "always"',
        **{
            f"{block}self_attn.{role}": f'module = "attention", role = "{role}", residual = "inputs", bias = "always"'
            for role in ("q_proj", "k_proj", "v_proj")
        },
        f"{block}self_attn.out_proj": 'module = "attention", role = "o_proj", residual = "outputs", bias = "always"',
        f"{block}final_layer_norm": 'module = "norm", role = "mlp_norm", bias = "always"',
        f"{block}fc1": 'module = "mlp", role = "up_proj", residual = "inputs", bias = "always"',
        f"{block}fc2": 'module = "mlp", role = "down_proj", residual = "outputs", bias = "always"',
        "biogpt.layer_norm": 'module = "norm", role = "final_norm", bias = "always"',
        "output_projection": 'module = "lm_head", role = "lm_head"',
    }
    text = """
name = "biogpt"
model_types = ["biogpt"]
root = "biogpt."
head = "output_projection"
embedding = "biogpt.embed_tokens"
tied_by_default = true
[config]
num_layers = "num_hidden_layers"
num_heads = "num_attention_heads"
hidden_size = "hidden_size"
intermediate_size = "intermediate_size"
[tensors]
"""
    lines = "\n".join(f'"{key}" = {{ {value} }}' for key, value in tensors.items())
    (tmp_path / "families/biogpt.toml").write_text(text + lines)
    placement = place_tensors(refs, config, read_families(tmp_path / "families"))
    assert (placement.family, placement.unplaced) == ("biogpt", ())
    rows, notes = layer_rows(placement, config)
    assert ([row["num_heads"] for row in rows], [row["intermediate_size"] for row in rows], notes) == ([4, 4], [160, 160], [])
    assert count_parameters(placement, config).params == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 5", "name: expected str, found 5"),
        ("model_types = []", "name: missing"),
        ('name = "x"', "model_types: missing"),
        ('name = "x"\ncolour = 1', "colour: unknown key; there is config, drops, "),
        ('name = "llama"', "name: 'llama' is also the family of llama.toml"),
        ('name = "x"\nextends = "y"', "extends: 'y' is no other family; there is apertus, "),
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
            "tensors.a.{block}.b: a number is {layer}, {expert} or {number}, each once at most, or itself",
        ),
        (
            'name = "x"\nextends = "llama"\nmodel_types = []\n[tensors]\n"a" = { module = "mlp", role = "b", stack = "c" }',
            "tensors.a.stack: 'c'; it is one of text, decoder, ",
        ),
        *(
            (child_with_tensor(f'module = "mlp", role = "b", {key} = "c"'), f"tensors.a.{key}: 'c'; it is one of {choices}")
            for key, choices in (
                ("fused", "qkv, qkv_thirds, qkv_grouped, q_gate, gate_up, experts"),
                ("residual", "inputs, outputs"),
                ("part", "weight, bias"),
            )
        ),
        *(
            (
                child_with_tensor(f'module = "{module}", role = "b"'),
                f"tensors.a.module: '{module}'; it is one of attention, mlp, ",
            )
            for module in ("other", "adapter", "quant_aux")
        ),
        ('name = "x"\nextends = "llama"\nmodel_types = []\n[stacks.top]\n', "stacks.top: unknown key; there is audio, "),
        ('name = "x"\nextends = "llama"\nmodel_types = []\n[towers.top]\n', "towers.top: unknown key; there is audio, "),
        ('name = "x"\nextends = "llama"\nmodel_types = []\n[towers]\ntext = 1', "towers.text: expected a table"),
        ('name = "x"\nextends = "llama"\nmodel_types = []\n[towers.text]\nconfig = "a"', "names: missing"),
        (
            'name = "x"\nextends = "llama"\nmodel_types = []\n[config]\nnum_heads = 4',
            "config.num_heads: expected a key or a list of keys, found 4",
        ),
        ('name = "x"\nmodel_types = []\nconfig = 5', "config: expected dict, found 5"),
        ("name", "no TOML: "),
    ],
)
def test_a_file_that_is_wrong_is_refused(tmp_path, text, message):
    shutil.copytree(FILES, tmp_path, dirs_exist_ok=True)
    (tmp_path / "zz.toml").write_text(text, "utf-8")
    with pytest.raises(InputError) as raised:
        read_families(tmp_path)
    assert str(raised.value).startswith(f"{raised.value.where}: {message}")


def test_families_that_extend_each_other_are_refused(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.toml").write_text(f'name = "{name}"\nextends = "{other}"\nmodel_types = []', "utf-8")
    with pytest.raises(InputError, match="is no other family"):
        read_families(tmp_path)


def test_files_of_layerhouse_use_the_words_of_the_vocabulary_and_every_one_of_them():
    templates = [template for family in FAMILIES.values() for template in family.templates]
    towers = [tower for family in FAMILIES.values() for tower in family.towers]
    assert {template.role for template in templates} == set(Role)
    assert {template.module for template in templates} == set(Module) - {Module.OTHER, Module.ADAPTER, Module.QUANT_AUX}
    assert {part.stack for part in (*templates, *towers)} == set(Stack) - {Stack.AUDIO}
    assert {template.fused for template in templates} == {None, *FusedLayout}
    assert all(isinstance(template.module, Module) and isinstance(template.stack, Stack) for template in templates)
    assert all(template.fused is None or isinstance(template.fused, FusedLayout) for template in templates)


def test_own_files_may_have_roles_of_their_own(tmp_path):
    shutil.copytree(FILES, tmp_path / "families")
    text = 'name = "nano"\nmodel_types = ["nano"]\n[tensors]\n"nano.{layer}.mix" = { module = "mlp", role = "mixer_of_mine" }'
    (tmp_path / "families/nano.toml").write_text(text)
    placement = place_tensors(shape_refs({"nano.3.mix.weight": (4, 4)}), None, read_families(tmp_path / "families"))
    (tensor,) = placement.placed
    assert (placement.family, tensor.role) == ("nano", "mixer_of_mine")
    assert tensor.canonical_name == "text.3.mlp.mixer_of_mine.weight"


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_hold_plain_text_that_other_processes_can_be_sent(name):
    """Headers are read by another process, which answers in marshal: it refuses members of an enum."""
    refs, config = next(models_of(name))
    placement = place_tensors(refs, config)
    rows, notes = layer_rows(placement, config)
    virtual = count_parameters(placement, config).virtual
    tensors = [*placement.placed, *([virtual] if virtual else [])]
    words = [(tensor.canonical_name, tensor.stack, tensor.module, tensor.role, tensor.part) for tensor in tensors]
    assert marshal.loads(marshal.dumps((rows, notes, words, placement.main_stack)))[2] == words


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_no_two_templates_of_a_family_claim_one_name(family):
    claims = Counter(
        (NUMBER_MARK.sub("{}", name), template.literals) for template in family.templates for name in template.file_names
    )
    assert [name for name, count in claims.items() if count > 1] == []


def test_own_family_files_are_read_or_refused_before_any_model(tmp_path, monkeypatch):
    own = tmp_path / "own"
    own.mkdir()
    (own / "nano.toml").write_text('name = "nano"\nmodel_types = ["nano"]\nextends = "llama"\n')
    monkeypatch.setenv("LAYERHOUSE_FAMILIES", str(own))
    assert {family.name for family in load_families()} == {*FAMILIES, "nano"}
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/nano.toml").write_text("name")
    for folder, what in (("broken", r"LAYERHOUSE_FAMILIES: nano.toml: no TOML"), ("absent", "no folder of family files")):
        monkeypatch.setenv("LAYERHOUSE_FAMILIES", str(tmp_path / folder))
        with pytest.raises(UsageError, match=what):
            lh.ingest(tmp_path, warehouse=tmp_path / "w")
    assert not (tmp_path / "w").exists()
