"""Where blocks went: every subset of them, stacked, reordered, one base after another, and bases that do not fit."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import layerhouse as lh
from layerhouse.ingest.compare.match_layers import compare_layers
from layerhouse.ingest.measure.signatures import project
from layerhouse.tests.pruned_models import passed_texts
from layerhouse.tests.tiny_models import EXPLICIT, TinyModel, build

BLOCKS = 12
ROLES = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), "attention"),
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), "mlp"),
    **dict.fromkeys(("attention_norm", "mlp_norm"), "norm"),
}
SINGLES = [tuple(block for block in range(BLOCKS) if block != gone) for gone in range(BLOCKS)]
RUNS = [
    tuple(block for block in range(BLOCKS) if not first <= block < last)
    for first, last in itertools.combinations(range(BLOCKS + 1), 2)
    if last - first < BLOCKS
]
GENERATOR = np.random.default_rng(0)
SUBSETS = [tuple(sorted(GENERATOR.choice(BLOCKS, GENERATOR.integers(1, BLOCKS), replace=False).tolist())) for _ in range(200)]


def state_of(layers=4, vocab=96, hidden=64, seed=0):
    """A tiny Llama and its config; norms have values of their own, as trained ones do."""
    arguments = {**EXPLICIT, "num_hidden_layers": layers, "vocab_size": vocab, "hidden_size": hidden}
    model = build(TinyModel("llama", {**arguments, "tie_word_embeddings": False}))
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in model.state_dict().items():
        moved = 1 + 0.1 * torch.randn(tensor.shape, generator=generator) if "norm" in name else tensor.detach().clone()
        state[name] = moved if seed == 0 or "norm" in name else 0.02 * torch.randn(tensor.shape, generator=generator)
    return state, json.loads(model.config.to_json_string(use_diff=False))


def with_blocks(state, blocks):
    """The model that has these blocks, each given as (its number, the base's)."""
    answer = {name: tensor for name, tensor in state.items() if ".layers." not in name}
    for number, block in blocks:
        prefix = f"model.layers.{block}."
        answer |= {
            f"model.layers.{number}.{name.removeprefix(prefix)}": tensor.clone()
            for name, tensor in state.items()
            if name.startswith(prefix)
        }
    return answer


def tuned(state, share=0.05):
    generator = torch.Generator().manual_seed(7)
    return {name: tensor * (1 + share * torch.randn(tensor.shape, generator=generator)) for name, tensor in state.items()}


def write(folder, name, state, config, **declared):
    path = folder / "models" / name
    path.mkdir(parents=True)
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({**config, **declared}))


def ingest(folder, *names, base=None, **options):
    roots = [folder / "models" / name for name in names] or [folder / "models"]
    named = None if base is None else folder / "models" / base
    return lh.ingest(roots, warehouse=folder / "w", threads=1, base=named, **options)


def models(folder):
    with lh.open(folder / "w") as wh:
        return {row["model_id"].removeprefix("models/"): row for row in wh.models().to_dicts()}


def layer_map(folder, name):
    with lh.open(folder / "w") as wh:
        layers = wh.layers(f"models/{name}")
    return {row["layer_index"]: row["base_layer_index"] for row in layers.to_dicts() if row["layer_index"] is not None}


# Rows alone


@pytest.fixture(scope="module", params=["plain", "tuned"])
def measured(request, tmp_path_factory):
    """The stored tensors of a base and of a child that has all of its blocks, plain or after tuning."""
    folder = tmp_path_factory.mktemp("blocks")
    state, config = state_of(BLOCKS)
    write(folder, "base", state, config)
    write(folder, "child", state if request.param == "plain" else tuned(state), config)
    ingest(folder)
    with lh.open(folder / "w") as wh:
        base, child = (wh.tensors(f"models/{name}").to_dicts() for name in ("base", "child"))
    return child, base, request.param


def rows_with(child, blocks):
    """Rows of the model made of these blocks, renumbered."""
    outside = [row for row in child if row["layer_index"] is None]
    inside = [
        {**row, "layer_index": number} for number, block in enumerate(blocks) for row in child if row["layer_index"] == block
    ]
    return outside + inside


def places(rows):
    kept = {row["layer_index"]: row["base_layer_index"] for row in rows if row["layer_index"] is not None}
    removed = {row["base_layer_index"] for row in rows if row["layer_index"] is None}
    return kept, removed


@pytest.mark.parametrize("subsets", [SINGLES, RUNS, SUBSETS], ids=["one block gone", "a run gone", "any subset"])
def test_whichever_blocks_are_removed_they_are_found(measured, subsets):
    child, base, kind = measured
    for subset in subsets:
        rows, notes = compare_layers(rows_with(child, subset), base)
        assert places(rows) == (dict(enumerate(subset)), set(range(BLOCKS)) - set(subset))
        assert {row["match"] for row in rows} == {"exact" if kind == "plain" else "similar"}
        assert all(0 < row["match_confidence"] <= 1 for row in rows)
        assert notes == []


@pytest.mark.parametrize(
    "blocks",
    [
        (*range(8), *range(4, 12)),
        tuple(block for block in range(12) for _ in range(2)),
        (0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11),
        tuple(reversed(range(12))),
        (3, 9, 0, 6),
    ],
    ids=["two overlapping slices", "each block twice", "two swapped", "reversed", "some, in another order"],
)
def test_blocks_that_occur_twice_or_in_another_order_are_found(measured, blocks):
    child, base, _ = measured
    rows, notes = compare_layers(rows_with(child, blocks), base)
    assert places(rows) == (dict(enumerate(blocks)), set(range(BLOCKS)) - set(blocks))
    assert notes == []


def made_row(stack, layer, role, value, size=64):
    name = f"{stack}.{layer}.{ROLES[role]}.{role}.weight"
    return {
        "name": name,
        "canonical_name": name,
        "stack": stack,
        "module": ROLES[role],
        "role": role,
        "part": "weight",
        "layer_index": layer,
        "expert_index": None,
        "dtype": "BF16",
        "shape": [size],
        "weight_shape": None,
        "is_parameter": True,
        "content_hash": str(hash(value.tobytes())),
        "signature": project(value),
    }


def test_encoder_and_decoder_are_matched_separately():
    generator = np.random.default_rng(4)
    values = {(stack, block, role): generator.normal(size=64) for stack in "ed" for block in range(6) for role in ROLES}
    stacks = {"e": "encoder", "d": "decoder"}
    kept = {"e": (0, 2, 5), "d": (1, 2, 3, 4)}
    base = [made_row(stacks[stack], block, role, value) for (stack, block, role), value in values.items()]
    for noise in (0.0, 0.1):
        child = [
            made_row(stacks[stack], number, role, values[stack, block, role] + noise * generator.normal(size=64))
            for stack, blocks in kept.items()
            for number, block in enumerate(blocks)
            for role in ROLES
        ]
        rows, _ = compare_layers(child, base)
        for stack, blocks in kept.items():
            own = [row for row in rows if row["stack"] == stacks[stack]]
            assert places(own) == (dict(enumerate(blocks)), set(range(6)) - set(blocks))


def test_blocks_whose_channels_have_common_scales_are_distinguished_in_any_order():
    generator = np.random.default_rng(5)
    common = {role: np.exp(generator.normal(size=64)) for role in ROLES}
    blocks = [{role: scale * np.exp(0.1 * generator.normal(size=64)) for role, scale in common.items()} for _ in range(8)]
    base = [made_row("text", index, role, value) for index, block in enumerate(blocks) for role, value in block.items()]
    order = (5, 2, 7, 0, 1, 6, 3)
    child = [
        made_row("text", number, role, value * (1 + 0.01 * generator.normal(size=64)))
        for number, block in enumerate(order)
        for role, value in blocks[block].items()
    ]
    rows, _ = compare_layers(child, base)
    assert places(rows) == (dict(enumerate(order)), {4})


# Through the warehouse


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A base of six layers and models that lack its layers 2 and 3, named and declared in several ways."""
    folder = tmp_path_factory.mktemp("matching")
    state, config = state_of(6)
    kept = (0, 1, 4, 5)
    write(folder, "base", state, config)
    write(folder, "holes", with_blocks(state, zip(kept, kept, strict=True)), config, num_hidden_layers=4)
    write(folder, "renumbered", with_blocks(state, enumerate(kept)), config, num_hidden_layers=4)
    write(folder, "stale", with_blocks(state, enumerate(kept)), config)
    moved = with_blocks(state, enumerate(kept))
    moved = {name: tensor + 0.01 * torch.randn_like(tensor) if "norm" in name else tensor for name, tensor in moved.items()}
    write(folder, "cast", {name: tensor.bfloat16() for name, tensor in moved.items()}, config, num_hidden_layers=4)
    return folder, ingest(folder, base="base")


@pytest.mark.parametrize(
    ("name", "match"), [("holes", "exact"), ("renumbered", "exact"), ("stale", "exact"), ("cast", "similar")]
)
def test_removed_layers_are_found_by_content_however_the_others_are_numbered(study, name, match):
    folder, _ = study
    numbers = (0, 1, 4, 5) if name == "holes" else range(4)
    assert models(folder)[name]["removed_layers"] == [2, 3]
    assert layer_map(folder, name) == dict(zip(numbers, (0, 1, 4, 5), strict=True))
    with lh.open(folder / "w") as wh:
        layers = wh.layers(f"models/{name}")
    assert set(layers["match"]) == {match}
    assert (layers["match_confidence"].max() == 1.0) == (match == "exact")


def test_a_layer_count_that_differs_from_the_configs_is_noted(study):
    folder, _ = study
    assert "num_hidden_layers is 6 in the config, and 4 layers are there" in models(folder)["stale"]["status_note"]


def test_without_a_base_only_missing_layer_numbers_are_reported(study, tmp_path):
    folder, _ = study
    lh.ingest([folder / "models/holes", folder / "models/stale"], warehouse=tmp_path / "w", threads=1, base=None)
    with lh.open(tmp_path / "w") as wh:
        rows = {row["model_id"]: row for row in wh.models().to_dicts()}
    assert "layers 2, 3 missing by number, of layers 0 to 5" in rows["models/holes"]["status_note"]
    assert [row["removed_layers"] for row in rows.values()] == [None, None]


def test_a_base_with_fewer_layers_and_another_vocabulary_does_not_fit_and_one_line_says_so(tmp_path):
    write(tmp_path, "base", *state_of(4, vocab=96))
    write(tmp_path, "child", *state_of(6, vocab=120, seed=3))
    report = ingest(tmp_path, base="base")
    assert passed_texts(report, "child") == ["compared with models/base: base does not fit: 6 vs 4 layers, vocab 120 vs 96"]
    row = models(tmp_path)["child"]
    assert [row[key] for key in ("base_params", "removed_layers", "num_removed_layers", "reduction_ratio")] == [None] * 4
    assert layer_map(tmp_path, "child") == dict.fromkeys(range(6))


def test_with_another_hidden_size_shapes_are_compared_and_no_layer_is_reported_as_removed(tmp_path):
    state, config = state_of(4)
    write(tmp_path, "base", state, config)
    turn = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(1)))[0][:, :48]
    turned = {}
    for name, tensor in state.items():
        if "norm" in name:
            continue
        reads = not ("o_proj" in name or "down_proj" in name)
        turned[name] = tensor @ turn if reads else turn.T @ tensor
    turned |= {f"model.layers.{index}.attn_shortcut_Q": turn.T @ turn for index in range(4)}
    write(tmp_path, "sliced", turned, config)
    report = ingest(tmp_path, base="base")
    (first, *rest) = passed_texts(report, "sliced")
    assert first == "compared with models/base: values are not comparable: hidden size changed from 64 to 48"
    assert rest == ["compared with models/base: 4 layers of 4 placed by position: neither hashes nor signatures tell"]
    row = models(tmp_path)["sliced"]
    assert (row["strategy"], row["removed_layers"]) == ("sliced", [])


def test_a_layer_of_another_model_among_tuned_ones_leaves_those_similar(tmp_path):
    state, config = state_of(6)
    other, _ = state_of(6, seed=9)
    child = tuned(state) | {name: tensor for name, tensor in other.items() if name.startswith("model.layers.3.")}
    write(tmp_path, "base", state, config)
    write(tmp_path, "child", child, config)
    ingest(tmp_path, base="base")
    with lh.open(tmp_path / "w") as wh:
        layers = wh.layers("models/child").select("layer_index", "base_layer_index", "match").rows()
    assert layers == [(index, index, "positional" if index == 3 else "similar") for index in range(6)]


def bases(folder):
    return {name: row["base_checkpoint_id"] for name, row in models(folder).items()}


def test_the_base_that_was_named_last_is_shown_whichever_came_before(tmp_path):
    state, config = state_of(4)
    write(tmp_path, "a", state, config)
    write(tmp_path, "b", tuned(state, 0.01), config)
    write(tmp_path, "child", with_blocks(state, enumerate((0, 2, 3))), config, num_hidden_layers=3)
    ids = {}
    for base in ("a", "b", "a", "a"):
        ingest(tmp_path, base=base, units=True)
        row = models(tmp_path)[base]
        ids[base] = row["checkpoint_id"]
        assert bases(tmp_path) == dict.fromkeys(("a", "b", "child"), ids[base])
        assert (row["reduction_ratio"], row["removed_layers"]) == (0.0, [])
        assert models(tmp_path)["child"]["removed_layers"] == [1]
        with lh.open(tmp_path / "w") as wh:
            kept = wh.query("unit_pruning", models=["models/child"])
        assert set(kept["num_unknown"]) == {0}
        assert (kept["num_exact"].sum() > 0) == (base == "a")
    before = sorted((tmp_path / "w/commits").iterdir())
    ingest(tmp_path, base="a", units=True)
    assert sorted((tmp_path / "w/commits").iterdir()) == before


def test_a_refused_base_does_not_replace_the_previous_base(tmp_path):
    state, config = state_of(4)
    write(tmp_path, "base", state, config)
    write(tmp_path, "child", with_blocks(state, enumerate((0, 2, 3))), config)
    write(tmp_path, "wrong", *state_of(6, vocab=120, seed=3))
    ingest(tmp_path, "base", "child", base="base")
    report = ingest(tmp_path, "child", base="wrong")
    assert passed_texts(report, "child") == ["compared with models/wrong: base does not fit: 3 vs 6 layers, vocab 96 vs 120"]
    assert models(tmp_path)["child"]["removed_layers"] == [1]


def test_many_stored_models_are_compared_from_rows_of_several_commits(tmp_path):
    state, config = state_of(6)
    write(tmp_path, "base", state, config)
    kept = {f"m{gone}": tuple(block for block in range(6) if block != gone) for gone in range(6)}
    for name, blocks in kept.items():
        write(tmp_path, name, with_blocks(state, enumerate(blocks)), config)
        ingest(tmp_path, name)
    report = ingest(tmp_path, base="base")
    assert {event.where: event.kind for event in report.events} == {
        "models/base": "taken",
        **{f"models/{name}": "unchanged" for name in kept},
    }
    assert {name: models(tmp_path)[name]["removed_layers"] for name in kept} == {f"m{gone}": [gone] for gone in range(6)}
