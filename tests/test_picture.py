"""The layer map as a picture: the text of each line, and what is drawn for unknown numbers."""

from __future__ import annotations

import pytest

import layerhouse as lh
from layerhouse import demo
from layerhouse.tests.running import layerhouse
from layerhouse.warehouse.render.picture import bar, layer_picture, ranges

LAYER = {
    "base_layer_index": 0,
    "layer_index": 0,
    "match": "exact",
    "match_confidence": 1.0,
    "is_removed": False,
    "attention_params": 30,
    "base_attention_params": 40,
    "mlp_params": 60,
    "base_mlp_params": 60,
    "level": "light",
    "num_heads": 3,
    "base_num_heads": 4,
    "num_kv_heads": 2,
    "base_num_kv_heads": 2,
    "intermediate_size": 160,
    "base_intermediate_size": 160,
}
MODEL = {
    "model_id": "m",
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


def test_runs_of_numbers_are_ranges():
    assert (ranges([3, 0, 1, 2, 7, 9, 10]), ranges([]), ranges([5])) == ("0-3, 7, 9-10", "", "5")


def test_every_block_has_a_line_and_removed_blocks_are_listed_below():
    removed = {**LAYER, "base_layer_index": 1, "layer_index": None, "is_removed": True, "level": "removed"}
    unknown = dict.fromkeys(LAYER) | {"layer_index": 2, "match": "none", "is_removed": False}
    drawn = layer_picture(MODEL, [LAYER, removed, unknown], base_name="b", is_unicode=True).splitlines()
    assert drawn[:2] == [
        "m against b",
        "1,000 → 900 parameters, 10.00% gone; 2 → 1 layers; non_uniform; kept of a block 90.00% on average, deviation 0.1000",
    ]
    assert drawn[4].split() == [
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
    assert drawn[6].split() == ["-", "2", "none", "-", "??????????", "?", "??????????", "?", "-", "-", "-", "-"]
    assert drawn[8:] == ["removed: 1 (1)", "light: 1 (0)"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("picture") / "study"
    demo.write_study(root)
    lh.ingest([root / "baselines", root / "results"], warehouse=root / "w", base=root / demo.BASE)
    return root


def test_compare_draws_a_picture_or_writes_its_table(study):
    drawn = layerhouse("compare", "baselines/ShortGPT_remove_2", demo.BASE, "-w", "w", cwd=study, PYTHONIOENCODING="utf-8")
    assert drawn.returncode == 0
    assert drawn.stdout.startswith("baselines/ShortGPT_remove_2 against baselines/Tiny-Base\n1,738,880 → 1,369,728 parameters")
    assert drawn.stdout.endswith("\n\nremoved: 2 (4-5)\ntensors: 57 identical, 18 removed\n")
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
