"""Any two models beside each other: made of stored rows at once, shown like a stored comparison, and nothing is written."""

from __future__ import annotations

import json

import pytest
import torch

import layerhouse as lh
from layerhouse.errors import NotFoundError, UsageError
from layerhouse.ingest.study.layer_map import match_by_blocks, match_by_position
from layerhouse.tests.pruned_models import (
    Kept,
    choose,
    cut_llama,
    ingest_models,
    kept_by_layer,
    prune,
    state_of,
    tuned,
    write_model,
)
from layerhouse.tests.running import layerhouse
from layerhouse.tests.study_files import (
    ANALYSIS,
    FULL,
    HALF,
    ORIGINAL,
    REMOVAL,
    RESULT,
    base,
    put_all,
    removal,
    result,
    structure,
)
from layerhouse.tests.tiny_models import EXPLICIT, TinyModel

BASE, CUT, OTHER, SHORT, TUNED = (f"models/{name}" for name in ("base", "cut", "other", "short", "tuned"))
TABLES = ("checkpoints", "layer_matches", "tensor_matches", "unit_matches", "models", "layer_pruning", "kept_units")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A base and four models of it: two that are cut in different ways, one without two layers, a tuned one; and what is
    compared with no model: an adapter, a copy, words that are not read."""
    folder = tmp_path_factory.mktemp("pairs")
    state, config = state_of(TinyModel("llama", EXPLICIT))
    write_model(folder, "base", state, config)
    write_model(folder, "cut", prune(state, kept_by_layer(4), cut_llama), config)
    write_model(folder, "other", prune(state, {1: Kept((1,), choose(3, 90, 160))}, cut_llama), config)
    kept_layers = {0: 0, 3: 1}
    short = {
        name.replace(f".{index}.", f".{kept_layers.get(index, index)}."): tensor
        for name, tensor in state.items()
        for index in [next((int(part) for part in name.split(".") if part.isdigit()), 0)]
        if index in kept_layers
    }
    write_model(folder, "short", short, {**config, "num_hidden_layers": 2})
    write_model(folder, "tuned", tuned(state), config)
    write_model(folder, "copy", state, config)
    blob = {f"{name.removesuffix('.weight')}.blob": torch.zeros(9, dtype=torch.uint8) for name in state if "_proj" in name}
    unread = {**{name: tensor for name, tensor in state.items() if "_proj" not in name}, **blob}
    write_model(folder, "unread", unread, {**config, "quantization_config": {"quant_method": "zipnn9"}})
    adapter = {
        f"base_model.model.{name.removesuffix('.weight')}.lora_A.weight": torch.ones(4, 64)
        for name in state
        if "q_proj" in name
    }
    write_model(folder, "adapter", adapter, {"peft_type": "LORA", "base_model_name_or_path": "base"})
    put_all(folder / "models/results only", {RESULT: result(10.0)})
    ingest_models(folder, base=folder / BASE, units=True)
    return folder


@pytest.fixture(scope="module")
def wh(zoo):
    with lh.open(zoo / "w") as opened:
        yield opened


def everything(wh):
    """What stands in the tables and the views made of them."""
    return {table: wh.connection_for(table).sql(f"SELECT * FROM {table} ORDER BY ALL").fetchall() for table in TABLES}


def pairs_of(frame):
    return frame.select("base_layer_index", "layer_index", "match").rows()


def test_comparing_siblings_changes_nothing(zoo, wh):
    commits, before = sorted((zoo / "w/commits").iterdir()), everything(wh)
    for pair in ((CUT, OTHER), (OTHER, CUT), (BASE, CUT), (SHORT, TUNED)):
        assert len(wh.compare(*pair)) in (2, 4)
    assert layerhouse("compare", CUT, OTHER, "-w", zoo / "w").returncode == 0
    assert everything(wh) == before
    wh.refresh()
    assert everything(wh) == before
    assert sorted((zoo / "w/commits").iterdir()) == commits


def test_siblings_are_beside_each_other(wh):
    frame = wh.compare(CUT, OTHER)
    assert [row[:2] for row in pairs_of(frame)] == [(index, index) for index in range(4)]
    assert frame["match"][3] == "exact"
    own, other = ({row["layer_index"]: row for row in wh.layers(model).to_dicts()} for model in (CUT, OTHER))
    for row in frame.to_dicts():
        index = row["layer_index"]
        assert (row["params"], row["base_params"]) == (own[index]["params"], other[index]["params"])
        assert row["reduction_ratio"] == (row["base_params"] - row["params"]) / row["base_params"]


def test_a_pair_made_of_rows_is_that_which_an_ingest_makes_of_rows(zoo, wh, tmp_path):
    """The same tables, but for what only values tell."""
    ingest_options = {"warehouse": tmp_path / "w", "threads": 1, "units": True, "compare": "rows"}
    lh.ingest([zoo / CUT, zoo / OTHER], base=zoo / OTHER, **ingest_options)
    names = {row[1]: row[0] for row in wh.sql("SELECT model_id, checkpoint_id FROM models").rows()}
    with lh.open(tmp_path / "w") as ingested:
        renamed = {row[1]: row[0] for row in ingested.sql("SELECT model_id, checkpoint_id FROM models").rows()}
        assert names.keys() >= renamed.keys()
        from layerhouse.compare_call import compared

        with compared(wh, CUT, OTHER) as (shown, _):
            for table in ("layer_matches", "tensor_matches", "unit_matches", "kept_units"):
                columns = "* EXCLUDE (commit_id, ingested_at)" if table != "kept_units" else "* EXCLUDE (model_id)"
                where = "base_checkpoint_id <> checkpoint_id ORDER BY ALL"
                sql = f"SELECT {columns} FROM {table} WHERE {where}"
                made = shown.connection_for(sql).sql(sql).fetchall()
                assert made
                assert made == ingested.connection_for(sql).sql(sql).fetchall()


def test_a_stored_pair_is_shown_with_what_its_values_told(zoo, wh, tmp_path):
    """Also where the model was compared with another base since."""
    lh.ingest([zoo / TUNED], base=zoo / BASE, warehouse=tmp_path / "w", threads=1)
    lh.ingest([zoo / TUNED], base=zoo / OTHER, warehouse=tmp_path / "w", threads=1)
    done = layerhouse("compare", TUNED, BASE, "-w", tmp_path / "w")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"{TUNED} against {BASE}"
    assert "tensors: 39 changed" in done.stdout
    assert done.stderr == ""


def test_what_values_alone_tell_is_said(zoo):
    done = layerhouse("compare", TUNED, CUT, "-w", zoo / "w")
    assert done.returncode == 0
    count = 39 - 3 * 7  # of three layers all tensors but the norms are cut
    what = f"how {count} tensors differ, only their values tell"
    assert done.stderr.splitlines()[0] == f"{what}; they are read by: layerhouse ingest {TUNED} --base {CUT}"


def test_layers_that_the_other_lacks_are_added_and_removed(wh):
    """That is known as both were compared with the base: the layers themselves are like none of the other model."""
    removed, added = wh.compare(SHORT, OTHER), wh.compare(OTHER, SHORT)
    assert pairs_of(removed) == [(0, 0, "exact"), (1, None, "exact"), (2, None, "exact"), (3, 1, "exact")]
    assert sorted(pairs_of(added), key=lambda row: row[1]) == [
        (0, 0, "exact"),
        (None, 1, "similar"),
        (None, 2, "exact"),
        (1, 3, "exact"),
    ]
    from layerhouse.compare_call import compared

    with compared(wh, OTHER, SHORT) as (shown, texts):
        sql = "SELECT relation, count(*) FROM tensor_matches GROUP BY relation ORDER BY relation"
        assert shown.connection_for(sql).sql(sql).fetchall() == [("added", 18), ("identical", 21)]
        assert texts == []


def test_the_table_has_the_columns_of_a_stored_comparison(zoo):
    headers = []
    for pair in ((CUT,), (CUT, BASE), (CUT, OTHER)):
        done = layerhouse("compare", *pair, "-w", zoo / "w", "-f", "csv")
        assert done.returncode == 0
        headers.append(done.stdout.splitlines()[0])
    assert len(set(headers)) == 1
    own, with_base = (layerhouse("compare", *pair, "-w", zoo / "w", "-f", "json").stdout for pair in ((CUT,), (CUT, BASE)))
    assert json.loads(own) == json.loads(with_base)


def test_the_picture_of_a_pair_names_both_and_counts_tensors_and_units(zoo):
    done = layerhouse("compare", SHORT, BASE, "-w", zoo / "w")
    lines = done.stdout.splitlines()
    assert lines[0] == f"{SHORT} against {BASE}"
    assert lines[-4:] == [
        "tensors: 21 identical, 18 removed",
        "heads: 8 of 16 unchanged",
        "KV groups: 4 of 8 unchanged",
        "neurons: 320 of 640 unchanged",
    ]


@pytest.mark.parametrize(
    ("pair", "text"),
    [
        ((CUT, CUT), f"{CUT}: name another model to compare it with"),
        ((BASE, "models/copy"), f"{BASE} and models/copy are one checkpoint: whatever was read of both is equal"),
        (("models/adapter", CUT), "models/adapter is an adapter: it adds to a base, and is compared with no model"),
        ((CUT, "models/adapter"), "models/adapter is an adapter: it adds to a base, and is compared with no model"),
        (
            (CUT, "models/results only"),
            "models/results only: the warehouse has only results of this model, no structure to compare",
        ),
        ((CUT, "models/unread"), "models/unread is not comparable: its parameters are unread, "),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(wh, pair, text):
    with pytest.raises(UsageError) as caught:
        wh.compare(*pair)
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


def test_unknown_models_are_named(wh):
    for pair, kind in ((("x", BASE), "model"), ((CUT, "x"), "base")):
        with pytest.raises(NotFoundError, match=f"no {kind} 'x'"):
            wh.compare(*pair)


def test_another_architecture_is_refused_with_the_reason(tmp_path):
    for name, arguments in (("a", EXPLICIT), ("b", {**EXPLICIT, "vocab_size": 32, "hidden_size": 32})):
        write_model(tmp_path, name, *state_of(TinyModel("llama", arguments)))
    ingest_models(tmp_path)
    done = layerhouse("compare", "models/a", "models/b", "-w", tmp_path / "w")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("layerhouse: models/a is not comparable with models/b: hidden size 64 vs 32, vocab 96 vs 32")


# Analyses


def test_analyses_are_compared_by_the_base_that_they_share(tmp_path):
    put_all(tmp_path / "results/A", {ANALYSIS: structure(FULL, HALF, FULL), ORIGINAL: base(), REMOVAL: removal(2, of=4)})
    put_all(tmp_path / "results/B", {ANALYSIS: structure(FULL, FULL, HALF, FULL), ORIGINAL: base()})
    put_all(tmp_path / "results/C", {ANALYSIS: structure(HALF, HALF, HALF)})
    put_all(tmp_path / "results/D", {ANALYSIS: structure(FULL, FULL)})
    lh.ingest([tmp_path / "results"], warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as wh:
        frame = wh.compare("results/A", "results/B")
        columns = ("base_layer_index", "layer_index", "match", "reduction_ratio", "level")
        assert frame.select(columns).rows() == [
            (0, 0, "positional", 0.0, "untouched"),
            (1, 1, "positional", 500 / 1024, "medium"),
            (2, None, "positional", 1.0, "removed"),
            (3, 2, "positional", 0.0, "untouched"),
        ]
        assert pairs_of(wh.compare("results/C", "results/A")) == [(index, index, "positional") for index in range(3)]
        assert {row[2] for row in pairs_of(wh.compare("results/D", "results/C"))} == {"none"}


def rows_of_map(*blocks, match="exact", confidence=1.0, stack="text"):
    return [
        {"stack": stack, "layer_index": index, "base_layer_index": block, "match": match, "match_confidence": confidence}
        for index, block in enumerate(blocks)
    ]


def layers_of(count, stack="text"):
    return [{"stack": stack, "layer_index": index} for index in range(count)]


def test_maps_to_one_base_give_the_map_of_a_pair_as_sure_as_the_less_sure():
    sides = (layers_of(2), layers_of(3))
    maps = (rows_of_map(0, 3), rows_of_map(0, 1, 3, match="similar", confidence=0.8))
    assert match_by_blocks(*sides, *maps) == [
        {"stack": "text", "layer_index": 0, "base_layer_index": 0, "match": "similar", "match_confidence": 0.8},
        {"stack": "text", "layer_index": 1, "base_layer_index": 2, "match": "similar", "match_confidence": 0.8},
        {"stack": "text", "layer_index": None, "base_layer_index": 1, "match": "similar", "match_confidence": 0.8},
    ]
    assert match_by_blocks(*sides, maps[0], rows_of_map(0, 1)) == []
    assert match_by_blocks(*sides, maps[0], rows_of_map(0, None, 3)) == []
    assert match_by_blocks(*sides, [], []) == []


def test_each_stack_is_matched_by_itself():
    rows = match_by_position([*layers_of(2), *layers_of(1, "vision")], [*layers_of(2), *layers_of(2, "vision")])
    assert [(row["stack"], row["layer_index"], row["base_layer_index"], row["match"]) for row in rows] == [
        ("text", 0, 0, "positional"),
        ("text", 1, 1, "positional"),
        ("vision", 0, None, "none"),
        ("vision", None, 0, "none"),
        ("vision", None, 1, "none"),
    ]
