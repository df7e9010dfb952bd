"""The layer map as a picture: the text of each line, and what is drawn for unknown numbers."""

from __future__ import annotations

import functools

import pytest

import layerhouse as lh
from layerhouse import demo
from layerhouse.tests.pruned_models import layer_of, state_of, tuned, write_model
from layerhouse.tests.running import layerhouse
from layerhouse.tests.test_kept_measures import PACKINGS, masked, packed
from layerhouse.tests.test_layouts import write
from layerhouse.tests.tiny_models import COMMON, GROUPED, TinyModel
from layerhouse.warehouse.answers.comparing import PICTURE_SQL, pictures
from layerhouse.warehouse.render.picture import bar, layer_picture, ranges

LAYER = {
    "stack": "text",
    "base_layer_index": 0,
    "layer_index": 0,
    "match": "exact",
    "match_confidence": 1.0,
    "is_removed": False,
    "attention_params": 30,
    "base_attention_params": 40,
    "mlp_params": 60,
    "base_mlp_params": 60,
    "attention_nonzero_params": None,
    "base_attention_nonzero_params": None,
    "mlp_nonzero_params": None,
    "base_mlp_nonzero_params": None,
    "params": 90,
    "base_params": 100,
    "zeros": None,
    "base_nonzero_params": None,
    "kept_share": 0.9,
    "kept_level": "light",
    "gone": None,
    "changes": None,
    "is_unchanged": None,
    "num_heads": 3,
    "base_num_heads": 4,
    "num_kv_heads": 2,
    "base_num_kv_heads": 2,
    "intermediate_size": 160,
    "base_intermediate_size": 160,
}
MODEL = {
    "model_id": "m",
    "kept_by": "params",
    "verdict": None,
    "stack": "text",
    "base_params": 1000,
    "params": 900,
    "reduction_ratio": 0.1,
    "base_num_layers": 2,
    "num_layers": 1,
    "strategy": "non_uniform",
    "retention_mean": 0.9,
    "retention_std": 0.1,
}


@pytest.mark.parametrize(
    ("share", "unicode", "ascii_"),
    [
        (0.0, "··········", ".........."),
        (0.001, "▏·········", "#........."),
        (0.5, "█████·····", "#####....."),
        (0.7625, "███████▋··", "########.."),
        (1.0, "██████████", "##########"),
        (1.7, "██████████", "##########"),
        (None, "??????????", "??????????"),
    ],
)
def test_a_bar_shows_its_share(share, unicode, ascii_):
    assert (bar(share, is_unicode=True), bar(share, is_unicode=False)) == (unicode, ascii_)


@pytest.mark.parametrize(
    ("share", "zero_share", "unicode", "ascii_"),
    [
        (0.5, 0.5, "█████░░░░░", "#####:::::"),
        (0.25, 0.25, "██▌░░·····", "###::....."),
        (0.0, 1.0, "░░░░░░░░░░", "::::::::::"),
        (0.99, 0.01, "█████████▉", "##########"),
        (0.5, 0.001, "█████░····", "#####:...."),
        (1.0, 0.0, "██████████", "##########"),
    ],
)
def test_what_is_zero_is_drawn_apart(share, zero_share, unicode, ascii_):
    assert (bar(share, zero_share, is_unicode=True), bar(share, zero_share, is_unicode=False)) == (unicode, ascii_)


def test_runs_of_numbers_are_ranges():
    assert (ranges([3, 0, 1, 2, 7, 9, 10]), ranges([]), ranges([5])) == ("0-3, 7, 9-10", "", "5")


def test_every_block_has_a_line_and_removed_blocks_are_listed_below():
    removed = {**LAYER, "base_layer_index": 1, "layer_index": None, "is_removed": True, "kept_level": "removed"}
    unknown = dict.fromkeys(LAYER) | {"stack": "text", "layer_index": 2, "match": "none", "is_removed": False}
    drawn = layer_picture(MODEL, [LAYER, removed, unknown], base_name="b", is_unicode=True).splitlines()
    assert drawn[:2] == [
        "m against b",
        "kept by params: 1,000 → 900 parameters, 10.00% gone; text 2 → 1 layers; non_uniform; "
        "kept of a block 90.00% on average, deviation 0.1000",
    ]
    assert drawn[4].split() == [
        "text",
        "0",
        "0",
        "exact",
        "100%",
        "███████▌··",
        "75%",
        "██████████",
        "100%",
        "4→3",
        "2",
        "160",
        "light",
    ]
    assert drawn[5].split() == [
        "text",
        "1",
        "-",
        "exact",
        "100%",
        "··········",
        "0%",
        "··········",
        "0%",
        "4→0",
        "2→0",
        "160→0",
        "removed",
    ]
    assert drawn[6].split() == ["text", "-", "2", "none", "-", "??????????", "?", "??????????", "?", "-", "-", "-", "-"]
    assert drawn[8:] == ["removed: 1 (text 1)", "light: 1 (text 0)", "level not known: 1 (text layer 2)"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("picture") / "study"
    demo.write_study(root)
    lh.ingest([root / "baselines", root / "results"], warehouse=root / "w", base=root / demo.BASE)
    return root


def test_compare_draws_a_picture_or_writes_its_table(study):
    drawn = layerhouse("compare", "baselines/ShortGPT_remove_2", demo.BASE, "-w", "w", cwd=study, PYTHONIOENCODING="utf-8")
    assert drawn.returncode == 0
    head = (
        "baselines/ShortGPT_remove_2 against baselines/Tiny-Base\nkept by nonzero: 1,738,880 → 1,369,728 parameters that are "
    )
    assert drawn.stdout.startswith(head)
    assert drawn.stdout.endswith("\n\nremoved: 2 (text 4-5)\nuntouched: 6 (text 0-3, 6-7)\ntensors: 57 identical, 18 removed\n")
    plain = layerhouse("compare", "baselines/ShortGPT_remove_2", "-w", "w", cwd=study, PYTHONIOENCODING="ascii")
    assert plain.stdout.isascii()
    assert "##########" in plain.stdout
    table = layerhouse("compare", "baselines/ShortGPT_remove_2", "-w", "w", "-f", "csv", cwd=study)
    assert len(table.stdout.splitlines()) == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x",), "no model 'x'; there is "),
        (("results/HeadPrune_2000", "x"), "no base 'x'; there is "),
        ((demo.BASE,), "baselines/Tiny-Base is a base itself; name a model that was made from it"),
        (("results/HeadPrune_2000",) * 2, "results/HeadPrune_2000: name another model to compare it with"),
    ],
)
def test_an_unknown_pair_is_an_error_of_one_line(study, arguments, message):
    done = layerhouse("compare", *arguments, "-w", "w", cwd=study)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr


def test_layers_draws_a_picture_with_an_option(study):
    drawn = layerhouse("layers", "results/*", "-w", "w", "--picture", cwd=study, PYTHONIOENCODING="utf-8").stdout
    assert drawn.count(" against baselines/Tiny-Base\n") == 2
    table = layerhouse("layers", "results/HeadPrune_2000", "-w", "w", cwd=study).stdout
    assert table.startswith("model ")
    refused = layerhouse("layers", "results/*", "-w", "w", "--picture", "-f", "csv", cwd=study)
    assert refused.returncode == 2


TOWERS = {
    "text_config": {**GROUPED, "model_type": "llama"},
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 28,
        "patch_size": 14,
    },
}


def in_order(state, order, part=".layers."):
    """The weights with these blocks, in this order, of the part of the model whose names contain a text."""
    rest = {name: tensor for name, tensor in state.items() if part not in name or layer_of(name) is None}
    blocks = {
        name.replace(f".layers.{old}.", f".layers.{new}."): tensor.clone()
        for new, old in enumerate(order)
        for name, tensor in state.items()
        if part in name and layer_of(name) == old
    }
    return rest | blocks


def without_attention(state, layers):
    return {name: tensor for name, tensor in state.items() if layer_of(name) not in layers or "self_attn" not in name}


def refilled(state):
    """Masked weights of which block 1 has new values in place of its zeros."""
    return {name: tensor + 0.01 * (tensor == 0) if layer_of(name) == 1 else tensor for name, tensor in state.items()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The pictures of models that were made of two bases, by name: each its lines from the table on."""
    root = tmp_path_factory.mktemp("drawn")
    state, config = state_of(TinyModel("llama", {**COMMON, "num_hidden_layers": 8, "num_key_value_heads": 2}))
    half = masked(state, 0.5)
    half |= {name: tensor for name, tensor in state.items() if layer_of(name) == 2}
    pack, declared = PACKINGS["gptq"]
    made = {
        "masked": (half, {}),
        "twice": (in_order(state, (0, 1, 2, 2, 3, 4, 5, 6, 7)), {"num_hidden_layers": 9}),
        "reordered": (in_order(state, (0, 2, 1, 3, 4, 5, 6, 7)), {}),
        "tuned": (tuned(state), {}),
        "half precision": ({name: tensor.bfloat16() for name, tensor in state.items()}, {}),
        "embedding": ({**state, "model.embed_tokens.weight": state["model.embed_tokens.weight"] * 2}, {}),
        "no attention": (without_attention(state, (1, 3)), {}),
        "dropped": (state, {"drop_attn_list": [1, 3]}),
        "base": (state, {}),
    }
    for name, (weights, changes) in made.items():
        write_model(root, name, weights, {**config, **changes})
    write(root / "models/packed", packed(state, pack), {**config, "quantization_config": declared})
    lh.ingest([root / "models"], warehouse=root / "w", base=root / "models/base", threads=1)
    write_model(root / "filled", "refilled", refilled(half), config)
    lh.ingest([root / "filled/models/refilled"], warehouse=root / "w", base=root / "models/masked", threads=1)
    towers, config = state_of(TinyModel("llava", TOWERS, auto="AutoModelForImageTextToText"))
    cut = in_order(in_order(towers, (0, 1, 3), "language_model.layers."), (0, 1, 3), "vision_tower.encoder.layers.")
    write_model(root / "towers", "whole", towers, config)
    write_model(root / "towers", "cut", cut, config)
    lh.ingest([root / "towers/models"], warehouse=root / "w", base=root / "towers/models/whole", threads=1)
    with lh.open(root / "w") as wh:

        @functools.cache
        def draw(by=None):
            texts = pictures(wh.connection_for(PICTURE_SQL), ("*",), is_unicode=True, by=by)
            return {text.partition(" against ")[0].rpartition("/")[2]: text.splitlines() for text in texts}

        yield draw


def last_lines(lines):
    return lines[len(lines) - lines[::-1].index("") :]


def test_what_happened_to_blocks_is_summed_up(drawn):
    found = {name: last_lines(lines) for name, lines in drawn().items()}
    assert found == {
        "masked": [
            "medium: 7 (text 0-1, 3-7)",
            "49.9% of the values zero in 7 of 8 blocks (text 0-1, 3-7)",
            "untouched: 1 (text 2)",
        ],
        "twice": ["duplicated: text 2 twice", "untouched: 7 (text 0-1, 3-7)"],
        "reordered": ["reordered: 2 (text 1-2)", "untouched: 6 (text 0, 3-7)"],
        "tuned": ["other values: 8 (text 0-7)"],
        "half precision": ["another type: 8 (text 0-7)"],
        "embedding": ["every block as it was"],
        "no attention": ["medium: 2 (text 1, 3)", "attention gone: 2 (text 1, 3)", "untouched: 6 (text 0, 2, 4-7)"],
        "dropped": ["attention gone: 2 (text 1, 3)", "untouched: 6 (text 0, 2, 4-7)"],
        "packed": ["quantised: 8 (text 0-7)"],
        "refilled": ["grown: 1 (text 1)", "refilled: 1 (text 1)", "untouched: 7 (text 0, 2-7)"],
        "cut": ["removed: 2 (text 2; vision 2)", "untouched: 6 (text 0-1, 3; vision 0-1, 3)"],
    }


def test_a_masked_model_is_drawn_by_what_is_not_zero(drawn):
    lines = drawn()["masked"]
    assert lines[1].startswith(
        "kept by nonzero: 357,440 → 206,912 parameters that are not zero, 42.11% gone; 357,440 → 357,440 "
    )
    assert " ".join(lines[6].split()) == "text 1 1 similar 100% █████░░░░░ 50% █████░░░░░ 50% 4 2 160 medium masked"
    assert " ".join(lines[7].split()) == "text 2 2 exact 100% ██████████ 100% ██████████ 100% 4 2 160 untouched"
    assert "█ left, ░ left and zero, · gone" in lines
    by_params = drawn("params")["masked"]
    assert by_params[1].startswith("kept by params: 357,440 → 357,440 parameters, 0.00% gone; text 8 → 8 layers; masked;")
    assert " ".join(by_params[6].split()) == "text 1 1 similar 100% █████░░░░░ 100% █████░░░░░ 100% 4 2 160 untouched masked"
    assert last_lines(by_params)[0] == "49.9% of the values zero in 7 of 8 blocks (text 0-1, 3-7)"


def test_bytes_and_macs_are_drawn_by_block(drawn):
    by_bytes = drawn("bytes")
    assert " ".join(by_bytes["packed"][5].split()[5:]) == "██▊······· 27% 4 2 160 medium quantised"
    assert last_lines(by_bytes["packed"])[0] == "medium: 8 (text 0-7)"
    assert last_lines(by_bytes["half precision"])[0] == "medium: 8 (text 0-7)"
    dropped = drawn("macs")["dropped"]
    assert " ".join(dropped[6].split()[5:]) == "███████▏·· 71% 4 2 160 medium attention gone"


def test_an_added_block_is_not_a_negative_share_that_is_gone(drawn):
    assert "12.07% added; text 8 → 9 layers" in drawn()["twice"][1]


def test_the_stack_stands_beside_every_layer_number(drawn):
    rows = [line.split()[:3] for line in drawn()["cut"][5:13]]
    assert rows == [
        ["text", "0", "0"], ["text", "1", "1"], ["text", "2", "-"], ["text", "3", "2"],
        ["vision", "0", "0"], ["vision", "1", "1"], ["vision", "2", "-"], ["vision", "3", "2"],
    ]  # fmt: skip
